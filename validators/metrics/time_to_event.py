"""Endpoints of a time-to-event question: `harrell_c`, `auc_at_12`, `observed_expected_at_12` …

Rules
-----
1. The unit is the case. Discrimination reads `risk`, all else the probability by the horizon.
2. All but Harrell's C weigh by the inverse probability of being followed up, estimated from all
   cases; this asks that censoring says nothing of the event (validators.intervals.follow_up).
   Harrell's C depends on the censoring of the cohort; Uno's does not.
3. A failed prediction is discordant in every comparable pair; its squared error is 1; its net
   benefit is that of the wrong decision. So it lowers (raises) the measure in each replicate.
4. A failed prediction has no calibration. For observed / expected the mean of the others stands
   for it in the value, and the interval reaches from all failed probabilities 1 to all 0: it
   contains, in each replicate, what any probability would have given, so silence only widens it.
   The slope has no such range: with a failed case whose status is known it has a value of the
   others, and no interval, so that it can't pass.
5. Intervals: the patient bootstrap (validators.intervals.bootstrap), censoring estimated anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from validators.intervals.bootstrap import Bounds, by_case, resampled
from validators.intervals.follow_up import FollowUp, follow_up
from validators.intervals.proportion import Pair
from validators.metrics import time_to_event_statistics as statistics
from validators.metrics.measure import Measure, Side, Undefined
from validators.metrics.time_to_event_figures import figures
from validators.metrics.time_to_event_statistics import Loss, independent_units
from validators.metrics.time_to_event_table import TimeToEventTable, written
from validators.protocol.tasks import TimeToEventSettings

__all__ = ["MEASURES", "figures", "measures", "side", "value_of"]

_OVERALL = (
    Measure("harrell_c", "Harrell's C", "higher", 0.0, 1.0, 1.0),
    Measure("uno_c", "Uno's C", "higher", 0.0, 1.0, 1.0),
    Measure("integrated_brier", "integrated Brier score", "lower", 0.0, 1.0, 0.0),
)
_AT_HORIZON = (
    Measure("auc_at", "AUC", "higher", 0.0, 1.0, 1.0),
    Measure("brier_at", "Brier score", "lower", 0.0, 1.0, 0.0),
    Measure("observed_expected_at", "observed / expected events", "band", 0.0, None, 1.0),
    Measure("calibration_slope_at", "calibration slope", "band", None, None, 1.0),
    Measure("net_benefit_at", "net benefit", "higher", None, 1.0, 1.0),
)
MEASURES: Mapping[str, Measure] = {of.name: of for of in (*_OVERALL, *_AT_HORIZON)}
"""What is measured, by kind; `measures` names those at a horizon for the horizons asked for."""


def measures(settings: TimeToEventSettings) -> Mapping[str, Measure]:
    """Every metric of a protocol with these settings, by name."""
    found = {of.name: of for of in _OVERALL}
    if len(settings.horizons) < 2:
        del found["integrated_brier"]
    for kind, horizon in _names(settings).values():
        of = MEASURES[kind]
        name = f"{kind}_{written(horizon)}"
        label = f"{written(horizon)}-{settings.unit.removesuffix('s')} {of.label}"
        found[name] = replace(of, name=name, label=label)
        if kind == "net_benefit_at":
            found[name] = replace(found[name], low=-_odds(settings))
    return found


def side(
    table: TimeToEventTable,
    metric: str,
    settings: TimeToEventSettings,
    *,
    failed_is_right: bool = False,
) -> Side | Undefined:
    """One metric with its uncertainty. Raises ValueError for a name that `measures` lacks."""
    if metric not in measures(settings):
        raise ValueError(f"{metric} is no metric of these horizons")
    clusters = None if table.patient is None else int(table.patient.max()) + 1
    asked = _asked(table, metric, settings, failed_is_right)
    if isinstance(asked, str):
        return Undefined(asked, table.n, clusters)
    value, why_open = _first(asked, table.n), asked.why_open
    if value is None:
        return Undefined(asked.why_none, table.n, clusters)
    if why_open:
        return Undefined(why_open, table.n, clusters, value)
    found = resampled(
        by_case(asked.bounds, table.patient, table.n), np.zeros(clusters or table.n, np.int64),
        n=table.n, clusters=clusters, scale=asked.scale,
        guard="mirror" if asked.scale is None else "both", units=asked.units, value=value,
        rare="too few events, or too few cases are followed up for long enough",
    )  # fmt: skip
    if isinstance(found, str):
        return Undefined(found, table.n, clusters, value)
    if found.scale is None and found.low[0] == found.high[-1]:
        return Undefined("it does not vary between draws", table.n, clusters, value)
    return found


def value_of(table: TimeToEventTable, metric: str, settings: TimeToEventSettings) -> float | None:
    """One metric without its uncertainty, or None."""
    asked = _asked(table, metric, settings, False)
    return None if isinstance(asked, str) else _first(asked, table.n)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A statistic, and what its interval needs."""

    bounds: Bounds
    units: float
    why_none: str = ""
    scale: Pair | None = (0.0, 1.0)
    value: float | None = None
    """Where it is not the statistic itself."""
    why_open: str = ""
    """Why it has a value and no interval, if so."""


def _first(asked: _Asked, n: int) -> float | None:
    """The value on all cases, clipped of what rounding adds."""
    if asked.value is not None:
        return asked.value
    found = float(asked.bounds(np.ones((n, 1)))[0, 0])
    if not np.isfinite(found):
        return None
    return found if asked.scale is None else float(np.clip(found, *asked.scale))


def _asked(
    table: TimeToEventTable, metric: str, settings: TimeToEventSettings, failed_is_right: bool
) -> _Asked | str:
    seen = follow_up(table.time, table.event)
    if metric in ("harrell_c", "uno_c"):
        return _concordance(table, seen, metric, settings.maximum_follow_up, failed_is_right)
    if metric == "integrated_brier":
        return _integrated(table, seen, settings, failed_is_right)
    kind, horizon = _names(settings)[metric]
    if kind == "auc_at":
        return _auc(table, seen, horizon, settings.unit, failed_is_right)
    if horizon not in table.probabilities:
        return f"the cases have no probability_{written(horizon)}"
    lost = _lost(horizon, settings.unit)
    units = _units_at(table, seen, horizon)
    probability = table.probabilities[horizon]
    if kind == "brier_at":
        loss = statistics.brier_loss(probability, horizon, failed_is_right=failed_is_right)
        return _Asked(statistics.mean_bounds(seen, [loss]), units, lost)
    if kind == "net_benefit_at":
        odds = _odds(settings)
        acted, silent = probability >= (settings.action_threshold or 0.0), np.isnan(probability)
        benefit = Loss(
            horizon,
            np.where(silent, float(failed_is_right), acted),
            np.where(silent, 0.0 if failed_is_right else -odds, -odds * acted),
        )
        return _Asked(statistics.mean_bounds(seen, [benefit]), units, lost, (-odds, 1.0))
    if kind == "observed_expected_at":
        return _observed_expected(table, seen, horizon, units, lost)
    return _slope(table, seen, horizon, units)


def _concordance(
    table: TimeToEventTable, seen: FollowUp, metric: str, until: float, failed_is_right: bool
) -> _Asked:
    ones = np.ones((table.n, 1))
    if metric == "harrell_c":
        earlier = table.event.astype(float)
        bounds = statistics.harrell_bounds(seen, table.risk, failed_is_right=failed_is_right)
    else:
        earlier = statistics.uno_weights(seen, until, ones)[:, 0]
        bounds = statistics.uno_bounds(seen, table.risk, until, failed_is_right=failed_is_right)
    # A pair takes two patients, so there are half as many independent pairs as patients.
    units = min(
        independent_units(table.patient, earlier), independent_units(table.patient, ones[:, 0]) / 2
    )
    return _Asked(
        bounds, units,
        "no two cases can be compared: none had the event while another was followed up longer",
    )  # fmt: skip


def _auc(
    table: TimeToEventTable, seen: FollowUp, horizon: float, unit: str, failed_is_right: bool
) -> _Asked | str:
    known, of_known = seen.known_by(horizon, np.ones((table.n, 1)))
    by = seen.had_event(horizon)
    at = f"{written(horizon)} {unit}"
    if not by.any():
        return f"no case has the event by {at}"
    if by[known].all():
        return f"no case is known to be free of the event at {at}"
    weights = np.zeros(table.n)
    weights[known] = of_known[:, 0]
    units = min(
        independent_units(table.patient, weights, by),
        independent_units(table.patient, weights, ~by),
        independent_units(table.patient, weights) / (1 if table.patient is None else 2),
    )
    bounds = statistics.auc_bounds(seen, table.risk, horizon, failed_is_right=failed_is_right)
    return _Asked(bounds, units)


def _integrated(
    table: TimeToEventTable, seen: FollowUp, settings: TimeToEventSettings, failed_is_right: bool
) -> _Asked | str:
    """The Brier scores at the horizons, by the trapezium rule over their time."""
    horizons = settings.horizons
    absent = [at for at in horizons if at not in table.probabilities]
    if absent:
        return f"the cases have no probability_{written(absent[0])}"
    gaps = np.diff(horizons) / (horizons[-1] - horizons[0])
    shares = (np.append(gaps, 0.0) + np.append(0.0, gaps)) / 2
    losses = [
        statistics.brier_loss(
            table.probabilities[at], at, float(share), failed_is_right=failed_is_right
        )
        for at, share in zip(horizons, shares, strict=True)
    ]
    units = min(_units_at(table, seen, at) for at in horizons)
    lost = _lost(horizons[-1], settings.unit)
    return _Asked(statistics.mean_bounds(seen, losses), units, lost)


def _observed_expected(
    table: TimeToEventTable, seen: FollowUp, horizon: float, units: float, lost: str
) -> _Asked | str:
    probability = table.probabilities[horizon]
    share = float(statistics.observed(seen, horizon, np.ones((table.n, 1)))[0])
    if not np.isfinite(share):
        return lost
    lowest = float(np.nan_to_num(probability, nan=0.0).mean())
    if lowest <= 0:
        return "no case has a probability above 0"
    return _Asked(
        statistics.ratio_bounds(seen, probability, horizon), units, scale=(0.0, 1 / lowest),
        value=share / float(np.nanmean(probability)),
    )  # fmt: skip


def _slope(table: TimeToEventTable, seen: FollowUp, horizon: float, units: float) -> _Asked | str:
    probability, known = table.probabilities[horizon], seen.is_known(horizon)
    start = statistics.slope(seen, probability, horizon)
    if isinstance(start, str):
        return start
    by, alike = seen.had_event(horizon), known.astype(float)
    rarer = min(independent_units(table.patient, alike, chosen) for chosen in (by, ~by))
    filled = np.where(table.failed, 0.5, probability)  # of cases that weigh nothing
    silent = int((table.failed & known).sum())
    return _Asked(
        statistics.slope_bounds(seen, filled, horizon, start), min(units, rarer), scale=None,
        value=float(start[1]),
        why_open=f"{silent} predictions failed, and they could have had any probability: the slope "
        "of the others decides nothing" if silent else "",
    )  # fmt: skip


def _units_at(table: TimeToEventTable, seen: FollowUp, horizon: float) -> float:
    known, of_known = seen.known_by(horizon, np.ones((table.n, 1)))
    weights = np.zeros(table.n)
    weights[known] = np.nan_to_num(of_known[:, 0])
    return independent_units(table.patient, weights)


def _lost(horizon: float, unit: str) -> str:
    return f"nobody is followed up to {written(horizon)} {unit}"


def _odds(settings: TimeToEventSettings) -> float:
    threshold = settings.action_threshold or 0.0
    return threshold / (1 - threshold)


def _names(settings: TimeToEventSettings) -> dict[str, tuple[str, float]]:
    return {
        f"{of.name}_{written(at)}": (of.name, at)
        for at in settings.horizons
        for of in _AT_HORIZON
        if of.name != "net_benefit_at" or settings.action_threshold is not None
    }
