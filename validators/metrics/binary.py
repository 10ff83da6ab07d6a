"""Binary endpoints, with what a failed prediction counts as.

A failed or withheld prediction is wrong: not above the threshold where the reference is
positive, above it where it is negative; last (first) in the ranking; the worst probability. So a
model can't gain by staying silent (85 right of 100 against a goal of .80 fails; 85 of 90 passes).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from validators.cases import CaseTable
from validators.evidence import CalibrationBin, Interval
from validators.intervals.auc import area, logit_interval
from validators.intervals.proportion import exact, proportion

_CLIP = 1e-6
_BINS = 10


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `note` says why there is none."""

    value: float | None
    interval: Interval | None
    n: int
    clusters: int | None
    note: str = ""


def worst_scores(table: CaseTable) -> NDArray[np.float64]:
    """The scores with every failed prediction at the wrong end."""
    return np.where(table.failed, np.where(table.positive, 0.0, 1.0), table.score)


def right(table: CaseTable, threshold: float) -> NDArray[np.bool_]:
    """Which cases were decided as the reference says; failed ones were not."""
    return ~table.failed & ((table.score >= threshold) == table.positive)


def _patients(table: CaseTable, chosen: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    return None if table.patient is None else table.patient[chosen]


def share_right(
    table: CaseTable, threshold: float, level: float, *, of_positives: bool
) -> Estimate:
    """Sensitivity (of positives) or specificity (of negatives) at the threshold."""
    chosen = table.positive if of_positives else ~table.positive
    share = proportion(right(table, threshold)[chosen], _patients(table, chosen), level)
    low, high = exact(share, level)
    method = "Clopper-Pearson" if share.clusters is None else (
        "Clopper-Pearson on the effective sample size (Korn-Graubard)"
    )  # fmt: skip
    interval = Interval(low=low, high=high, level=level, method=method)
    return Estimate(share.estimate, interval, share.n, share.clusters)


def auc(table: CaseTable, level: float) -> Estimate:
    """The area under the ROC curve; failed cases rank last among positives, first among others."""
    score = np.where(table.failed, np.where(table.positive, -1.0, 2.0), table.score)
    found = area(score, table.positive, table.patient)
    low, high = logit_interval(found, level)
    method = ("DeLong" if found.clusters is None else "Obuchowski") + ", logit scale"
    interval = Interval(low=low, high=high, level=level, method=method)
    return Estimate(found.estimate, interval, len(score), found.clusters)


def brier(table: CaseTable, level: float) -> Estimate:
    """The mean squared error of the probability (Brier 1950); cluster-robust t interval."""
    loss = (worst_scores(table) - table.reference) ** 2
    n = len(loss)
    mean = float(loss.mean())
    code = np.arange(n) if table.patient is None else np.unique(
        table.patient, return_inverse=True)[1]  # fmt: skip
    sums = np.bincount(code, weights=loss - mean)
    units = len(sums)
    clusters = None if table.patient is None else units
    if units < 2:
        return Estimate(mean, None, n, clusters, "one patient: no interval")
    error = math.sqrt(units / (units - 1) * float(sums @ sums)) / n
    half = float(stats.t.ppf((1 + level) / 2, units - 1)) * error
    interval = Interval(
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        level=level,
        method="t" if clusters is None else "cluster-robust t",
    )
    return Estimate(mean, interval, n, clusters)


def calibration_slope(table: CaseTable, level: float) -> Estimate:
    """The slope of the reference on the logit of the score (Cox 1958); 1 is calibrated.

    Logistic regression by Newton's method with a cluster-robust (sandwich) variance. Failed
    cases are left out: they have no probability to calibrate. None where scores do not vary or
    separate the classes.
    """
    chosen = ~table.failed
    y = table.reference[chosen].astype(float)
    clipped = np.clip(table.score[chosen], _CLIP, 1 - _CLIP)
    x = np.column_stack([np.ones(len(y)), np.log(clipped / (1 - clipped))])
    clusters = None if table.patient is None else len(np.unique(table.patient[chosen]))
    if len(y) < 3 or np.ptp(x[:, 1]) == 0 or y.min() == y.max():
        return Estimate(None, None, len(y), clusters, "scores or classes do not vary")
    beta = np.zeros(2)
    for _ in range(50):
        fitted = 1 / (1 + np.exp(-np.clip(x @ beta, -35, 35)))
        information = x.T @ (x * (fitted * (1 - fitted))[:, None])
        if np.linalg.cond(information) > 1e12:
            return Estimate(None, None, len(y), clusters, "the scores separate the classes")
        step = np.linalg.solve(information, x.T @ (y - fitted))
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            break
    else:
        return Estimate(None, None, len(y), clusters, "the scores separate the classes")
    code = np.arange(len(y)) if table.patient is None else np.unique(
        table.patient[chosen], return_inverse=True)[1]  # fmt: skip
    gradient = np.zeros((int(code.max()) + 1, 2))
    np.add.at(gradient, code, x * (y - fitted)[:, None])
    units = len(gradient)
    bread = np.linalg.inv(information)
    variance = bread @ (gradient.T @ gradient) @ bread * units / max(units - 1, 1)
    half = float(stats.t.ppf((1 + level) / 2, max(units - 2, 1))) * math.sqrt(variance[1, 1])
    interval = Interval(
        low=float(beta[1] - half), high=float(beta[1] + half), level=level,
        method="robust t" if clusters is None else "cluster-robust t",
    )  # fmt: skip
    return Estimate(float(beta[1]), interval, len(y), clusters)


def failure_rate(table: CaseTable, level: float) -> Estimate:
    """The share of cases without a usable prediction."""
    share = proportion(table.failed, table.patient, level)
    low, high = exact(share, level)
    interval = Interval(low=low, high=high, level=level, method="Clopper-Pearson")
    return Estimate(share.estimate, interval, share.n, share.clusters)


def roc_curve(table: CaseTable, points: int = 200) -> tuple[tuple[float, float], ...]:
    """(1 - specificity, sensitivity), thinned to evenly spaced places of the exact curve."""
    score = np.where(table.failed, np.where(table.positive, -1.0, 2.0), table.score)
    order = np.argsort(-score, kind="stable")
    hits, last = table.positive[order], np.append(np.diff(score[order]) != 0, True)
    tpr = np.cumsum(hits)[last] / hits.sum()
    fpr = np.cumsum(~hits)[last] / (~hits).sum()
    keep = np.unique(np.linspace(0, len(tpr) - 1, min(points, len(tpr))).astype(int))
    return ((0.0, 0.0), *((float(fpr[i]), float(tpr[i])) for i in keep))


def calibration_bins(table: CaseTable) -> tuple[CalibrationBin, ...]:
    """Ten bins of equal size by score: mean score against the observed share."""
    chosen = ~table.failed
    order = np.argsort(table.score[chosen], kind="stable")
    score, reference = table.score[chosen][order], table.reference[chosen][order]
    return tuple(
        CalibrationBin(n=len(part), mean_score=float(score[part].mean()),
                       observed=float(reference[part].mean()))
        for part in np.array_split(np.arange(len(score)), _BINS)
        if len(part)
    )  # fmt: skip
