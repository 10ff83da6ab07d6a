"""One metric by hospital: each estimate, the whole without it, and a summary from five on.

    >>> found = by_site(table.attributes["site"], lambda chosen: side(table.subset(chosen)), 0.025)
    >>> found.summary.prediction if found.summary else found.reason

Rules
-----
1. Each hospital has its own estimate with the interval that judges it elsewhere, or a reason (no
   positive case). Beside it stands the estimate of all others (leave one site out): how much one
   hospital carries.
2. From five hospitals with a value there is a random-effects summary with a prediction interval.
   Below: the estimates only, with the reason.
3. Shares and AUCs are summarised on the logit scale, so that no interval leaves [0, 1]: the
   summary is then that of the median hospital. All else is summarised as it is.
4. A hospital's standard error is half its interval at one standard error (tail .159), which every
   estimate of `validators.metrics.measure` offers, failed predictions included. On the logit scale
   that gives the number of independent cases that a hospital is worth; half a case is added to
   both outcomes (Haldane 1956, Anscombe 1956), and all hospitals' variances are taken at their
   common value. With its own value each good hospital has less weight than a poor one of the same
   size: at 20 hospitals of 20 cases around .9 the mean's interval then covers in .34 of cohorts.
5. The average of hospitals and the value of all cases together are different questions: here each
   hospital counts by what it tells of the next one, not by its number of cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.auc import Area
from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair
from validators.intervals.share import Share
from validators.metrics.measure import Side, Undefined
from validators.outcome import Interval, Outcome
from validators.sites.prediction import prediction
from validators.sites.random_effects import RandomEffects, summarise
from validators.verdict import apart

Scale = Literal["logit", "identity"]
SideOf = Callable[[NDArray[np.bool_]], Side | Undefined]
_ONE_ERROR = float(special.ndtr(-1))


@dataclass(frozen=True)
class SiteEstimate:
    """One hospital; `without` is the estimate of all others. None with a reason in `note`."""

    site: str
    n: int
    clusters: int | None
    value: float | None
    interval: Interval | None
    without: float | None
    without_interval: Interval | None
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """What hospitals like these share; `mean` and both intervals are on the metric's own scale.

    `tau_squared` (between hospitals), Q and I² are on `scale`.
    """

    mean: float
    interval: Interval
    prediction: Interval
    tau_squared: float
    q: float
    q_p_value: float
    i_squared: float
    sites: int
    scale: Scale


@dataclass(frozen=True)
class Sites:
    """All hospitals, and the summary or the reason why there is none."""

    estimates: tuple[SiteEstimate, ...]
    summary: Summary | None
    reason: str = ""


def by_site(site: NDArray[np.str_], side_of: SideOf, tail: float) -> Sites:
    """The metric at each of the hospitals named in `site` ([n]), in the order of their names.

    `side_of` gives the metric among the chosen cases ([n] of booleans); error `tail` on each side.
    """
    names = [str(name) for name in np.unique(site)]
    alone = Undefined("there is no other site", 0, None)
    sides = [side_of(site == name) for name in names]
    rest = [side_of(site != name) if len(names) > 1 else alone for name in names]
    estimates = tuple(
        _estimate(*row, tail) for row in zip(names, sides, rest, strict=True)
    )  # fmt: skip
    found = [side for side in sides if not isinstance(side, Undefined)]
    scale: Scale = "logit" if all(isinstance(side, Share | Area) for side in found) else "identity"
    value, variance = on_scale(found, scale)
    varies = variance > 0
    fitted = summarise(value[varies], variance[varies])
    if isinstance(fitted, str):
        return Sites(estimates, None, fitted)
    another = prediction(fitted, value[varies], variance[varies], tail)
    return Sites(estimates, _summary(fitted, another, scale, tail))


def judge_prediction(summary: Summary | None, floor: float, note: str = "") -> tuple[Outcome, str]:
    """Whether another hospital like these reaches `floor`, by the prediction interval.

    For metrics where more is better. `note` says why there is no summary.
    """
    if summary is None:
        return "insufficient_evidence", f"no prediction for another site: {note or 'unknown'}"
    low, high = summary.prediction.low, summary.prediction.high
    said = (
        f"{100 * summary.prediction.level:.4g} % prediction interval for another site "
        f"{apart(low, floor)} to {apart(high, floor)}, from {summary.sites} sites"
    )
    if low >= floor:
        return "pass", f"{said}: shown to reach the floor {floor:g}"
    if high < floor:
        return "fail", f"{said}: shown to lie below the floor {floor:g}"
    return (
        "insufficient_evidence",
        f"{said} holds the floor {floor:g}: reached or not, it can't say",
    )


def on_scale(sides: Sequence[Side], scale: Scale) -> tuple[Floats, Floats]:
    """(estimates, variances) of the hospitals on `scale`; a variance of 0 where nothing varies."""
    bounds = [side.compared(_ONE_ERROR, wide=True) for side in sides]
    value = np.array([side.value for side in sides], dtype=np.float64)
    if scale == "identity" or not sides:
        return value, np.array([((high - low) / 2) ** 2 for low, high in bounds])
    size = np.array([_size(*pair) for pair in zip(value, bounds, strict=True)])
    events, misses = value * size + 0.5, (1 - value) * size + 0.5
    common = float(events.sum() / (events + misses).sum())
    return np.log(events / misses), 1 / (size * common * (1 - common))


def _size(value: float, bounds: Pair) -> float:
    """The independent cases that a share or AUC is worth, from its interval at one standard error.

    By the arm towards one half, for the other may touch the end of the scale. At an end it is
    read as Wilson's, n / (n + 1).
    """
    arm = bounds[0] if value >= 0.5 else bounds[1]
    if 0 < value < 1:
        error = max(abs(float(special.logit(value) - special.logit(arm))), 1e-9)
        return 1 / (error**2 * value * (1 - value))
    kept = arm if value >= 1 else 1 - arm
    return max(kept, 1e-9) / max(1 - kept, 1e-9)


def _estimate(
    name: str, side: Side | Undefined, rest: Side | Undefined, tail: float
) -> SiteEstimate:
    notes = []
    if isinstance(side, Undefined):
        notes.append(side.reason)
    if isinstance(rest, Undefined):
        notes.append(f"without this site: {rest.reason}")
    return SiteEstimate(
        name, side.n, side.clusters, side.value, _interval(side, tail),
        rest.value, _interval(rest, tail), "; ".join(notes),
    )  # fmt: skip


def _interval(side: Side | Undefined, tail: float) -> Interval | None:
    if isinstance(side, Undefined):
        return None
    low, high = side.gating(tail)
    return Interval(low=low, high=high, level=1 - 2 * tail, method=side.method)


def _summary(fitted: RandomEffects, another: Pair, scale: Scale, tail: float) -> Summary:
    def back(value: float) -> float:
        return float(special.expit(value)) if scale == "logit" else value

    def interval(pair: Pair, method: str) -> Interval:
        return Interval(
            low=back(pair[0]), high=back(pair[1]), level=1 - 2 * tail, method=f"{method}, {scale}"
        )

    return Summary(
        mean=back(fitted.mean),
        interval=interval(fitted.interval(tail), fitted.method),
        prediction=interval(another, "prediction: wider of t (k - 2) and confidence distribution"),
        tau_squared=fitted.tau_squared,
        q=fitted.q,
        q_p_value=fitted.q_p_value,
        i_squared=fitted.i_squared,
        sites=fitted.sites,
        scale=scale,
    )
