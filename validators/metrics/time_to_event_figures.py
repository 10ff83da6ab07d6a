"""What a time-to-event question draws: calibration, AUC over time, survival by third of the risk.

Curves are read off on a grid, and groups have at least ten cases, so that no line shows when a
single patient had the event.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from validators.intervals.follow_up import follow_up, kaplan_meier
from validators.intervals.influence import Floats
from validators.metrics.figure import Figure, Matrix, Series
from validators.metrics.time_to_event_statistics import auc_bounds
from validators.metrics.time_to_event_table import TimeToEventTable, written
from validators.protocol.tasks import TimeToEventSettings

BINS = 10
FEWEST = 10
_GRID = 40
_NORMAL = 1.959963984540054


def figures(table: TimeToEventTable, settings: TimeToEventSettings) -> tuple[Figure | Matrix, ...]:
    """Those of the three figures that the cases allow."""
    drawn = (
        _calibration(table, settings), _auc_over_time(table, settings), _by_third(table, settings)
    )  # fmt: skip
    return tuple(one for one in drawn if one is not None)


def observed_share(
    time: Floats, event: NDArray[np.bool_], horizon: float
) -> tuple[float, float, float] | None:
    """(share with the event by the horizon, lower, upper 95 % bound), or None if nobody is left.

    Kaplan & Meier with Greenwood's variance on the log-log scale (Kalbfleisch & Prentice 1980);
    where none or all had the event, the exact bound of n alike cases.
    """
    at, survival, variance = kaplan_meier(time, event)
    last = int(np.searchsorted(at, horizon, side="right")) - 1
    left = 1.0 if last < 0 else float(survival[last])
    if left > 0 and float(time.max()) < horizon:
        return None
    open_end = 0.025 ** (1 / len(time))
    if left == 1:
        return 0.0, 0.0, 1 - open_end
    if left == 0:
        return 1.0, open_end, 1.0
    spread = np.exp(_NORMAL * np.sqrt(variance[last]) / np.log(left))
    return 1 - left, float(1 - left**spread), float(1 - left ** (1 / spread))


def _calibration(table: TimeToEventTable, settings: TimeToEventSettings) -> Figure | None:
    horizon = settings.horizons[0]
    kept = ~table.failed
    if horizon not in table.probabilities or int(kept.sum()) < FEWEST:
        return None
    order = np.flatnonzero(kept)[np.argsort(table.probabilities[horizon][kept], kind="stable")]
    points, low, high = [], [], []
    for inside in _parts(order, table.probabilities[horizon], BINS):
        found = observed_share(table.time[inside], table.event[inside], horizon)
        if found is not None:
            points.append((float(table.probabilities[horizon][inside].mean()), found[0]))
            low.append(found[1])
            high.append(found[2])
    if not points:
        return None
    at = f"{written(horizon)} {settings.unit}"
    return Figure(
        name="calibration", title=f"Calibration at {at}",
        x_label=f"Mean predicted probability of the event by {at}",
        y_label="Observed share (Kaplan-Meier)", guide="diagonal",
        series=(Series(label="observed", points=tuple(points), low=tuple(low), high=tuple(high),
                       style="points"),),
        x_range=(0.0, 1.0), y_range=(0.0, 1.0),
        explanation="A calibrated model's points lie on the diagonal; bands are 95 %, cases taken "
        "as independent; failed cases are left out.",
    )  # fmt: skip


def _auc_over_time(table: TimeToEventTable, settings: TimeToEventSettings) -> Figure | None:
    seen = follow_up(table.time, table.event)
    points = []
    for horizon in _grid(settings.maximum_follow_up)[1:]:
        by, known = seen.had_event(horizon), seen.is_known(horizon)
        if min(int(by.sum()), int((known & ~by).sum())) >= FEWEST:
            bounds = auc_bounds(seen, table.risk, float(horizon), failed_is_right=False)
            points.append((float(horizon), float(bounds(np.ones((table.n, 1)))[0, 0])))
    if not points:
        return None
    return Figure(
        name="auc_over_time", title="AUC by horizon",
        x_label=f"Horizon ({settings.unit})", y_label="AUC",
        series=(Series(label="AUC", points=tuple(points)),),
        x_range=(0.0, settings.maximum_follow_up), y_range=(0.0, 1.0),
        explanation="How well the risk tells who has the event by each horizon from who does not; "
        "0.5 is chance; failed cases rank at the wrong end.",
    )  # fmt: skip


def _by_third(table: TimeToEventTable, settings: TimeToEventSettings) -> Figure | None:
    kept = np.flatnonzero(~table.failed)
    if len(kept) < 3 * FEWEST:
        return None
    parts = _parts(kept[np.argsort(table.risk[kept], kind="stable")], table.risk, 3)
    names = ("lowest third", "middle third", "highest third") if len(parts) == 3 else tuple(
        f"group {number} of {len(parts)}" for number in range(1, len(parts) + 1)
    )  # fmt: skip
    series = []
    for name, inside in zip(names, parts, strict=True):
        at, survival, _ = kaplan_meier(table.time[inside], table.event[inside])
        grid = _grid(settings.maximum_follow_up)
        grid = grid[grid <= table.time[inside].max()]
        curve = np.append(1.0, survival)[np.searchsorted(at, grid, side="right")]
        points = tuple(zip(grid.tolist(), curve.tolist(), strict=True))
        series.append(Series(label=f"{name} of the risk ({len(inside)})", points=points,
                             style="steps"))  # fmt: skip
    return Figure(
        name="survival_by_risk", title="Free of the event, by third of the predicted risk",
        x_label=f"Time ({settings.unit})", y_label="Share free of the event (Kaplan-Meier)",
        series=tuple(series), x_range=(0.0, settings.maximum_follow_up), y_range=(0.0, 1.0),
        explanation="The farther the curves lie apart, with the highest risk lowest, the better "
        "the risk separates; failed cases are left out.",
    )  # fmt: skip


def _parts(order: NDArray[np.int64], value: Floats, most: int) -> list[NDArray[np.int64]]:
    """`order` (ascending by `value`) in parts of about equal size, equal values in one part."""
    wanted = max(1, min(most, len(order) // FEWEST))
    ordered = value[order]
    cuts = {0, len(order)}
    for cut in np.linspace(0, len(order), wanted + 1)[1:-1].astype(int):
        place = int(np.searchsorted(ordered, ordered[cut], side="left"))
        if all(abs(place - other) >= FEWEST for other in cuts):
            cuts.add(place)
    return [order[start:end] for start, end in pairwise(sorted(cuts))]


def _grid(last: float) -> Floats:
    return np.linspace(0.0, last, _GRID + 1)
