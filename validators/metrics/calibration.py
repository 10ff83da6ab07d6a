"""Calibration of the probability: the slope, and the bins that the plot draws.

Failed cases are left out here, and only here: they have no probability to calibrate. Neither
number can gate.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.cases import CaseTable
from validators.evidence import CalibrationBin, Interval
from validators.metrics.estimate import Estimate, number_of_patients

CLIP = 1e-6
"""Scores nearer to 0 or 1 than this are moved here: their logit would be infinite."""
BINS = 10
_STEPS = 100


@dataclass(frozen=True)
class _Fit:
    """Intercept and slope on the standardised logit, and what their variance needs."""

    slope: float
    gradient: NDArray[np.float64]
    inverse: NDArray[np.float64]


def calibration_slope(table: CaseTable, level: float) -> Estimate:
    """The slope of the reference standard on the logit of the score (Cox 1958); 1 is calibrated.

    Logistic regression by maximum likelihood, with the sandwich variance over patients (Liang &
    Zeger 1986; over cases without clusters) and a t-quantile. None, with the reason, where all
    scores are equal, a class is absent, or the scores separate the classes: then no finite
    slope is the most likely one.
    """
    chosen = ~table.failed
    y = table.reference[chosen].astype(float)
    logit = special.logit(np.clip(table.score[chosen], CLIP, 1 - CLIP))
    patient = None if table.patient is None else table.patient[chosen]
    clusters = number_of_patients(patient)
    why = _no_slope(logit, y)
    scale = float(logit.std()) if not why else 1.0
    fit = None if why else _fit((logit - logit.mean()) / scale, y)
    if fit is None:
        return Estimate(None, None, len(y), clusters, why or "no finite slope was found")
    code = np.arange(len(y)) if patient is None else np.unique(patient, return_inverse=True)[1]
    sums = np.column_stack([np.bincount(code, part) for part in fit.gradient.T])
    units = len(sums)
    if units < 3:
        return Estimate(fit.slope / scale, None, len(y), clusters, "too few patients to judge by")
    variance = units / (units - 1) * (fit.inverse @ (sums.T @ sums) @ fit.inverse)[1, 1]
    half = -float(special.stdtrit(units - 2, (1 - level) / 2)) * math.sqrt(variance) / scale
    if half == 0:
        return Estimate(fit.slope / scale, None, len(y), clusters, "the variance is zero")
    slope = fit.slope / scale
    interval = Interval(
        low=slope - half, high=slope + half, level=level,
        method="robust t" if clusters is None else "cluster-robust t",
    )  # fmt: skip
    return Estimate(slope, interval, len(y), clusters)


def calibration_bins(table: CaseTable) -> tuple[CalibrationBin, ...]:
    """Ten bins of equal size by score: mean score against the observed share.

    Equal scores stay in one bin, so that the bins do not depend on the order of the cases.
    """
    chosen = ~table.failed
    if not chosen.any():
        return ()
    order = np.argsort(table.score[chosen], kind="stable")
    score, reference = table.score[chosen][order], table.reference[chosen][order]
    edges = {0, len(score)}
    for cut in np.linspace(0, len(score), BINS + 1)[1:-1].astype(int):
        edges.add(int(np.searchsorted(score, score[cut], "left")))
    places = sorted(edges)
    return tuple(
        CalibrationBin(
            n=end - start,
            mean_score=float(score[start:end].mean()),
            observed=float(reference[start:end].mean()),
        )
        for start, end in pairwise(places)
    )


def _no_slope(logit: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Why the most likely slope does not exist, or nothing."""
    positive, negative = logit[y == 1], logit[y == 0]
    if not len(positive) or not len(negative):
        return "the cases with a prediction are all of one class"
    if float(np.ptp(logit)) < 1e-9:
        return "all scores are equal"
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        return "the scores separate the classes, so no finite slope fits best"
    return ""


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> _Fit | None:
    """Newton's method with halved steps; the log-likelihood is concave, so it arrives."""
    design = np.column_stack([np.ones_like(x), x])
    beta = np.zeros(2)
    likelihood = -math.inf
    for _ in range(_STEPS):
        linear = design @ beta
        fitted = special.expit(linear)
        gradient = design * (y - fitted)[:, None]
        information = design.T @ (design * (fitted * (1 - fitted))[:, None])
        if np.linalg.cond(information) > 1e13:
            return None
        inverse = np.linalg.inv(information)
        step = inverse @ gradient.sum(axis=0)
        if float(np.abs(step).max()) < 1e-10:
            return _Fit(float(beta[1]), gradient, inverse)
        likelihood = _likelihood(linear, y)
        while _likelihood(design @ (beta + step), y) < likelihood and np.abs(step).max() > 1e-12:
            step = step / 2
        beta = beta + step
    return None


def _likelihood(linear: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float((y * linear - np.logaddexp(0, linear)).sum())
