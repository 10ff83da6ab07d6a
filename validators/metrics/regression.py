"""Endpoints of a measurement (a volume, a diameter, an age), in its own unit.

    >>> found = regression.side(table, "mae", settings)
    >>> found.value, found.gating(0.025)

Rules
-----
1. Numbers outside the range of the settings count as its end, of the reference standard too; so
   the range should hold every value that occurs, and little more: no error is larger than it.
2. A failed or withheld prediction has an error as large as the range. In the bias it widens the
   interval to both sides; in the concordance it is the value that makes it worst, in every
   bootstrap replicate (`validators.intervals.agreement`).
3. The unit is the case; every case weighs alike, and patients are clusters.
4. Error is prediction minus reference: a positive bias is a prediction that is too high.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from validators.intervals.agreement import concordance, judged
from validators.intervals.band import band_mean
from validators.intervals.bootstrap import Statistic, resampled, units_of
from validators.intervals.limits import WITHIN, limit_of_agreement
from validators.intervals.mean import mean
from validators.metrics.figure import Figure, Matrix, Series
from validators.metrics.measure import Measure, Side, Undefined
from validators.metrics.regression_table import RegressionTable
from validators.protocol.tasks import RegressionSettings

_LIMITS = {"lower_limit": -1.0, "upper_limit": 1.0}
_GROUPS, _FEWEST = 10, 5
_LIMIT_WHY = "limits of agreement describe single cases; the bias and the mean error can decide"

MEASURES: Mapping[str, Measure] = {
    of.name: of
    for of in (
        Measure("mae", "Mean absolute error", "lower", 0.0, None, 0.0),
        Measure("bias", "Bias", "band", None, None, 0.0),
        Measure("ccc", "Concordance correlation coefficient", "higher", -1.0, 1.0, 1.0),
        Measure("rmse", "Root mean squared error", "lower", 0.0, None, 0.0, gates=False,
                why_not="a few large errors rule it, so few cohorts can bound it; the mean "
                        "absolute error can decide"),
        Measure("lower_limit", "Lower limit of agreement", "band", None, None, 0.0, gates=False,
                why_not=_LIMIT_WHY),
        Measure("upper_limit", "Upper limit of agreement", "band", None, None, 0.0, gates=False,
                why_not=_LIMIT_WHY),
    )
}  # fmt: skip
"""What is measured; `measures` adds unit and scale."""


def measures(settings: RegressionSettings) -> Mapping[str, Measure]:
    """Every metric of a protocol with these settings, by name."""
    found = {}
    for name, of in MEASURES.items():
        low, high = _scale(name, settings) or (None, None)
        unit = "" if name == "ccc" else settings.unit
        found[name] = replace(of, low=low, high=high, unit=unit)
    return found


def side(
    table: RegressionTable,
    metric: str,
    settings: RegressionSettings,
    *,
    failed_is_right: bool = False,
) -> Side | Undefined:
    """One metric with its uncertainty. Raises ValueError for a name that `MEASURES` lacks."""
    if metric not in MEASURES:
        raise ValueError(f"{metric} is no metric of a measurement")
    reference, prediction = _within(table, settings)
    error, width = prediction - reference, settings.highest - settings.lowest
    if metric == "bias":
        return band_mean(error, (-width, width), table.patient, failed_is_right=failed_is_right)
    if metric == "mae":
        return mean(
            np.abs(error), (0.0, width), table.patient, higher_is_better=False,
            failed_is_right=failed_is_right,
        )  # fmt: skip
    patient = np.arange(table.n) if table.patient is None else table.patient
    if metric == "ccc":
        ends = settings.lowest, settings.highest
        statistic = concordance(
            reference, prediction, patient, ends, failed_is_right=failed_is_right
        )  # fmt: skip
    else:
        worst = 0.0 if failed_is_right else width * _LIMITS.get(metric, 1.0)
        error = np.where(np.isnan(error), worst, error)
        if metric == "rmse":
            statistic = _root_mean_square(error, patient)
        else:
            statistic = limit_of_agreement(error, patient, _LIMITS[metric])
    return _resampled(table, metric, statistic, settings)


def figures(table: RegressionTable, settings: RegressionSettings) -> tuple[Figure | Matrix, ...]:
    """Bland-Altman and observed against predicted, as means of at most ten groups of cases.

    Failed cases have no prediction to draw and are left out. Equal values stay in one group.
    """
    kept = ~table.failed
    if not kept.any():
        return ()
    left = table.subset(kept)
    reference, prediction = _within(left, settings)
    unit = f" ({settings.unit})" if settings.unit else ""
    shown = (
        f"{int(kept.sum())} of {table.n} cases, those with a prediction, in groups of equal size"
    )
    return (
        _bland_altman(left, reference, prediction, unit, shown),
        Figure(
            name="observed",
            title="Reference standard by prediction",
            x_label=f"Mean prediction{unit}",
            y_label=f"Mean reference standard{unit}",
            series=(_binned("cases in groups", prediction, reference),),
            guide="diagonal",
            x_range=(settings.lowest, settings.highest),
            y_range=(settings.lowest, settings.highest),
            explanation=f"On the diagonal predictions are right on average; {shown}.",
        ),
    )


def _bland_altman(
    table: RegressionTable,
    reference: NDArray[np.float64],
    prediction: NDArray[np.float64],
    unit: str,
    shown: str,
) -> Figure:
    middle, error = (prediction + reference) / 2, prediction - reference
    lines = {"bias": float(error.mean())}
    patient = np.arange(table.n) if table.patient is None else table.patient
    everyone = np.ones((1, int(patient.max()) + 1), dtype=np.int64)
    for label, sign in (("lower limit", -1.0), ("upper limit", 1.0)):
        limit = float(limit_of_agreement(error, patient, sign)(everyone)[0])
        if not np.isnan(limit):
            lines[label] = limit
    ends = float(middle.min()), float(middle.max())
    return Figure(
        name="bland_altman",
        title="Error by size (Bland-Altman)",
        x_label=f"Mean of prediction and reference standard{unit}",
        y_label=f"Prediction minus reference standard{unit}",
        series=(
            _binned("cases in groups", middle, error),
            *(Series(label=label, points=((ends[0], y), (ends[1], y)))
              for label, y in lines.items()),
        ),
        guide="zero",
        explanation="Between the limits lie about 95 % of the errors of single cases; a slope of "
        f"the points is an error that grows with size; {shown}.",
    )  # fmt: skip


def _binned(label: str, across: NDArray[np.float64], up: NDArray[np.float64]) -> Series:
    """Means of `up` by means of `across` in groups, with the range of most cases as a band."""
    order = np.argsort(across, kind="stable")
    across, up = across[order], up[order]
    cuts = {0, len(across)}
    count = max(1, min(_GROUPS, len(across) // _FEWEST))
    for cut in np.linspace(0, len(across), count + 1)[1:-1].astype(int):
        cuts.add(int(np.searchsorted(across, across[cut], side="left")))
    edges = sorted(cuts)
    inside = [slice(a, b) for a, b in pairwise(edges)]
    means = [float(up[of].mean()) for of in inside]
    halves = [WITHIN * float(up[of].std()) for of in inside]
    return Series(
        label=label,
        points=tuple((float(across[of].mean()), y) for of, y in zip(inside, means, strict=True)),
        low=tuple(y - half for y, half in zip(means, halves, strict=True)),
        high=tuple(y + half for y, half in zip(means, halves, strict=True)),
        style="points",
    )


def _within(
    table: RegressionTable, settings: RegressionSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ends = settings.lowest, settings.highest
    return np.clip(table.reference, *ends), np.clip(table.prediction, *ends)


def _scale(metric: str, settings: RegressionSettings) -> tuple[float, float] | None:
    """The lowest and highest value; None where there is none to speak of."""
    width = settings.highest - settings.lowest
    if metric in _LIMITS:
        return None
    if metric == "ccc":
        return -1.0, 1.0
    return (-width, width) if metric == "bias" else (0.0, width)


def _root_mean_square(error: NDArray[np.float64], patient: NDArray[np.int64]) -> Statistic:
    sums = np.stack([np.bincount(patient), np.bincount(patient, error**2)])

    def statistic(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        n, squares = sums @ drawn.T
        return np.asarray(np.sqrt(squares / n))

    return statistic


def _resampled(
    table: RegressionTable, metric: str, statistic: Statistic, settings: RegressionSettings
) -> Side | Undefined:
    patient = np.arange(table.n) if table.patient is None else table.patient
    patients = int(patient.max()) + 1
    clusters = None if table.patient is None else patients
    scale, lower = _scale(metric, settings), MEASURES[metric].direction == "lower"
    found = resampled(
        statistic,
        np.zeros(patients, dtype=np.int64),
        n=table.n,
        clusters=clusters,
        scale=scale,
        guard="none" if scale is None else "lowest" if lower else "highest",
        units=units_of(patient),
    )
    if isinstance(found, str):
        value = float(statistic(np.ones((1, patients), dtype=np.int64))[0])
        return Undefined(found, table.n, clusters, None if np.isnan(value) else value)
    return judged(found) if metric == "ccc" else found
