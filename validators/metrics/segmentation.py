"""Endpoints of a segmentation, one structure at a time: `dice_liver`, `hd95_liver` and so on.

Rules
-----
1. The unit is the case; every case weighs alike, and patients are clusters.
2. Distances and volume errors are cut off where the settings say, so each measure has a worst
   value, which a failed prediction gets. A volume error is bad in both directions: a failed
   prediction widens its interval to both sides.
3. The limits of agreement (Bland & Altman 1986: mean -+ 1.96 standard deviations of the volume
   error; interval by the patient bootstrap) are shown and decide nothing. A failed case has the
   lowest error in the lower limit and the highest in the upper one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from validators.intervals.band import band_mean
from validators.intervals.bootstrap import Statistic, resampled
from validators.intervals.mean import mean
from validators.metrics.figure import Figure, Matrix, Series
from validators.metrics.measure import Measure, Side, Undefined
from validators.metrics.segmentation_table import KINDS, SegmentationTable
from validators.protocol.tasks import SegmentationSettings

_LIMITS = {"lower_limit": -1.0, "upper_limit": 1.0}
_WITHIN = 1.959963984540054
_GRID = 40
_LIMIT_WHY = "limits of agreement describe single cases; the mean volume error can decide"

MEASURES: Mapping[str, Measure] = {
    of.name: of
    for of in (
        Measure("dice", "Dice", "higher", 0.0, 1.0, 1.0),
        Measure("nsd", "Normalised surface distance", "higher", 0.0, 1.0, 1.0),
        Measure("hd95", "95 % Hausdorff distance", "lower", 0.0, None, 0.0, "mm"),
        Measure("volume_error", "Relative volume error", "band", None, None, 0.0),
        Measure("lower_limit", "Lower limit of agreement of the volume error", "band", None, None,
                0.0, gates=False, why_not=_LIMIT_WHY),
        Measure("upper_limit", "Upper limit of agreement of the volume error", "band", None, None,
                0.0, gates=False, why_not=_LIMIT_WHY),
    )
}  # fmt: skip
"""What is measured of a structure, by kind; `measures` names them for the structures asked for."""


def measures(settings: SegmentationSettings) -> Mapping[str, Measure]:
    """Every metric of a protocol with these settings, by name, with the ends of its scale."""
    found = {}
    for name, (kind, structure) in _names(settings).items():
        low, high = _scale(kind, settings)
        of = MEASURES[kind]
        found[name] = replace(of, name=name, label=f"{of.label}, {structure}", low=low, high=high)
    return found


def side(
    table: SegmentationTable,
    metric: str,
    settings: SegmentationSettings,
    *,
    failed_is_right: bool = False,
) -> Side | Undefined:
    """One metric with its uncertainty. Raises ValueError for a name that `measures` lacks."""
    asked = _names(settings).get(metric)
    if asked is None:
        raise ValueError(f"{metric} is no metric of these structures")
    kind, structure = asked
    if kind in _LIMITS:
        return _limit(table, kind, structure, settings, failed_is_right=failed_is_right)
    values, scale = _values(table, kind, structure, settings), _scale(kind, settings)
    if kind == "volume_error":
        return band_mean(values, scale, table.patient, failed_is_right=failed_is_right)
    higher = MEASURES[kind].direction == "higher"
    return mean(
        values, scale, table.patient, higher_is_better=higher, failed_is_right=failed_is_right
    )


def figures(
    table: SegmentationTable, settings: SegmentationSettings
) -> tuple[Figure | Matrix, ...]:
    """For each kind of value, the share of cases at or below it; one line a structure.

    Failed cases have the worst value. Read at 41 values, so no single case is drawn.
    """
    return tuple(_shares(table, kind, settings) for kind in KINDS)


def _shares(table: SegmentationTable, kind: str, settings: SegmentationSettings) -> Figure:
    low, high = _scale(kind, settings)
    grid = np.linspace(low, high, _GRID + 1)
    worst = low if MEASURES[kind].direction == "higher" else high
    series = []
    for structure in settings.structures:
        values = _values(table, kind, structure.name, settings)
        sorted_values = np.sort(np.where(np.isnan(values), worst, values))
        share = np.searchsorted(sorted_values, grid, side="right") / table.n
        points = tuple(zip(grid.tolist(), share.tolist(), strict=True))
        series.append(Series(label=structure.name, points=points))
    label = MEASURES[kind].label
    unit = f" ({MEASURES[kind].unit})" if MEASURES[kind].unit else ""
    better = {"higher": "the farther to the right", "lower": "the farther to the left",
              "band": "the steeper at 0"}[MEASURES[kind].direction]  # fmt: skip
    return Figure(
        name=kind, title=label, x_label=f"{label}{unit}", y_label="Share of cases at or below",
        series=tuple(series), x_range=(low, high), y_range=(0.0, 1.0),
        explanation=f"A line is the better {better} it rises; failed cases have the worst value.",
    )  # fmt: skip


def _names(settings: SegmentationSettings) -> dict[str, tuple[str, str]]:
    return {
        f"{kind}_{structure.name}": (kind, structure.name)
        for structure in settings.structures
        for kind in MEASURES
    }


def _scale(kind: str, settings: SegmentationSettings) -> tuple[float, float]:
    if kind == "hd95":
        return 0.0, settings.maximum_distance
    cap = settings.maximum_volume_error
    if kind == "volume_error":
        return -cap, cap
    # The standard deviation of n >= 2 values within +-cap is at most sqrt(2) cap.
    reach = cap * (1 + _WITHIN * 2**0.5)
    return (-reach, reach) if kind in _LIMITS else (0.0, 1.0)


def _values(
    table: SegmentationTable, kind: str, structure: str, settings: SegmentationSettings
) -> NDArray[np.float64]:
    return np.clip(table.values[f"{kind}_{structure}"], *_scale(kind, settings))


def _limit(
    table: SegmentationTable, kind: str, structure: str, settings: SegmentationSettings, *,
    failed_is_right: bool,
) -> Side | Undefined:  # fmt: skip
    sign, cap = _LIMITS[kind], settings.maximum_volume_error
    values = _values(table, "volume_error", structure, settings)
    values = np.where(np.isnan(values), 0.0 if failed_is_right else sign * cap, values)
    patient = np.arange(table.n) if table.patient is None else table.patient
    clusters = int(patient.max()) + 1
    found = resampled(
        _limit_statistic(values, patient, sign), np.zeros(clusters, dtype=np.int64), n=table.n,
        clusters=None if table.patient is None else clusters, scale=None, guard="none",
    )  # fmt: skip
    if isinstance(found, str):
        shown = clusters if table.patient is not None else None
        return Undefined(found, table.n, shown, _limit_value(values, sign))
    return cast(Side, found)


def _limit_value(values: NDArray[np.float64], sign: float) -> float | None:
    return None if len(values) < 2 else float(values.mean() + sign * _WITHIN * values.std(ddof=1))


def _limit_statistic(
    values: NDArray[np.float64], patient: NDArray[np.int64], sign: float
) -> Statistic:
    centre = values.mean()
    sums = np.stack([np.bincount(patient, (values - centre) ** power) for power in (0, 1, 2)])

    def statistic(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        n, first, second = sums @ drawn.T
        variance = np.maximum(second - first**2 / n, 0) / (n - 1)
        return np.asarray(centre + first / n + sign * _WITHIN * np.sqrt(variance))

    return statistic
