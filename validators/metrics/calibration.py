"""Calibration of the probability: the slope, and the bins that the plot draws.

Failed cases are left out of the value and of the bins: they have no probability to calibrate. The
slope's interval reaches over all that they could have been (`validators.metrics.slope_range`).
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import special

from validators.cases import CaseTable
from validators.intervals.estimated import Estimated, by_patient, robust_error, within
from validators.intervals.influence import Box, Floats
from validators.metrics.estimate import checked_weight, number_of_patients
from validators.metrics.measure import Undefined
from validators.metrics.slope_range import slope_range

CLIP = 1e-6
"""Scores nearer to 0 or 1 than this are moved here: their logit would be infinite."""
FARTHEST = float(special.logit(1 - CLIP))
BINS = 10
_STEPS = 100


@dataclass(frozen=True)
class _Fit:
    """Intercept and slope on the standardised logit, and what their variance needs."""

    slope: float
    gradient: Floats
    inverse: Floats


def slope(table: CaseTable, weight: Floats | None = None) -> Estimated | Undefined:
    """The slope of the reference standard on the logit of the score (Cox 1958); 1 is calibrated.

    Logistic regression by maximum likelihood, with the sandwich variance over patients (Liang &
    Zeger 1986; over cases without clusters). Student's t on the patients of the rarer class less
    two: on all patients it missed in .090 of cohorts of 30 with some 3 positives. `weight` ([n])
    are sampling weights. Undefined, with the reason, where all scores are equal, a class is
    absent, or the scores separate the classes: then no finite slope is the most likely one.
    """
    of_case = checked_weight(table, weight)
    chosen = ~table.failed
    y = table.reference.astype(float)
    logit = special.logit(np.clip(table.score, CLIP, 1 - CLIP))
    known = logit[chosen]
    n, clusters = table.n, number_of_patients(table.patient)
    why = no_slope(known, y[chosen])
    scale = float(known.std()) if not why else 1.0
    fit = None if why else _fit((known - known.mean()) / scale, y[chosen], of_case[chosen])
    if fit is None:
        return Undefined(why or "no finite slope was found", n, clusters)
    value = fit.slope / scale
    code = np.arange(n) if table.patient is None else table.patient
    units, freedom = int(code.max()) + 1, max(freedom_of(table) - 1, 1)
    if units < 3:
        return Undefined("too few patients to judge by", n, clusters, value)
    if table.failed.any():
        found = slope_range(
            logit, y, table.failed, of_case, code, near=value,
            centre=float(special.logit(of_case @ y / of_case.sum())), farthest=FARTHEST,
        )  # fmt: skip
        if found is None:
            why = "too many predictions failed to bound it by any that could stand in their place"
            return Undefined(why, n, clusters, value)
        ends, error = found
        return Estimated(within(value, ends), n, clusters, ends, error, freedom)
    parts = by_patient((fit.gradient * of_case[:, None]) @ fit.inverse[1] / scale, code, units)
    box = Box(parts, parts)
    error = robust_error(box)
    if error == 0:
        return Undefined("the variance is zero", n, clusters, value)
    influence = box.scaled(math.sqrt(units / (units - 1)))
    return Estimated(value, n, clusters, (value, value), error, freedom, influence=influence)


def freedom_of(table: CaseTable) -> int:
    """Patients (cases, if independent) of the rarer class, less one; failed ones count."""
    code = np.arange(table.n) if table.patient is None else table.patient
    fewer = min(len(np.unique(code[of])) for of in (table.positive, ~table.positive))
    return max(fewer - 1, 1)


@dataclass(frozen=True)
class CalibrationBin:
    """Mean score against observed share in one bin of cases ordered by score."""

    n: int
    mean_score: float
    observed: float


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


def no_slope(logit: Floats, y: Floats) -> str:
    """Why the most likely slope does not exist, or nothing."""
    positive, negative = logit[y == 1], logit[y == 0]
    if not len(positive) or not len(negative):
        return "the cases with a prediction are all of one class"
    if float(np.ptp(logit)) < 1e-9:
        return "all scores are equal"
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        return "the scores separate the classes, so no finite slope fits best"
    return ""


def _fit(x: Floats, y: Floats, weight: Floats) -> _Fit | None:
    """Newton's method with halved steps; the log-likelihood is concave, so it arrives."""
    design = np.column_stack([np.ones_like(x), x])
    beta = np.zeros(2)
    likelihood = -math.inf
    for _ in range(_STEPS):
        linear = design @ beta
        fitted = special.expit(linear)
        gradient = design * (y - fitted)[:, None]
        information = design.T @ (design * (weight * fitted * (1 - fitted))[:, None])
        if np.linalg.cond(information) > 1e13:
            return None
        inverse = np.linalg.inv(information)
        step = inverse @ (weight @ gradient)
        if float(np.abs(step).max()) < 1e-10:
            return _Fit(float(beta[1]), gradient, inverse)
        likelihood = _likelihood(linear, y, weight)
        while (
            _likelihood(design @ (beta + step), y, weight) < likelihood
            and np.abs(step).max() > 1e-12
        ):
            step = step / 2
        beta = beta + step
    return None


def _likelihood(linear: Floats, y: Floats, weight: Floats) -> float:
    return float(weight @ (y * linear - np.logaddexp(0, linear)))
