"""What a binary result means in a clinic: predictive values, likelihood ratios, net benefit.

Rules
-----
1. Predictive values are re-computed at the prevalence that the protocol declares, by Bayes: the
   cohort's own share of positives says nothing of the clinic's (Mercaldo, Lau & Zhou 2007).
2. They and the likelihood ratios rise (the negative one falls) with both rates, so their bounds are
   taken where both rates' intervals at half the tail end: the error is at most the nominal one
   (Bonferroni), also where patients have cases of both classes. The logit interval of the paper
   missed .08 on one side instead of .025 (60 positives, sensitivity .95, prevalence .05).
3. Net benefit at the decision threshold t (Vickers & Elkin 2006): true positives less t / (1 - t)
   times false ones, a case; `validators.intervals.mean` bounds it. Scores at or above t are acted
   on, whatever the locked threshold. A failed prediction is the wrong decision, so that withholding
   never improves a bound.
4. Calibration-in-the-large: the intercept of the reference standard on the logit of the score with
   its slope held at 1 (Cox 1958; Steyerberg 2019, 15.3); sandwich variance over patients. ECE: mean
   distance of the ten bins from the diagonal; it depends on the bins, so it decides nothing. Both
   leave failed predictions out, so neither may decide.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.cases import CaseTable
from validators.evidence import Interval
from validators.intervals.mean import mean
from validators.metrics.binary import share_right
from validators.metrics.calibration import CLIP, calibration_bins
from validators.metrics.estimate import Estimate, number_of_patients
from validators.metrics.measure import Measure

_LEFT_OUT = "failed cases are left out of it"
_FROM_RATES = "it follows from sensitivity and specificity, which can decide"
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("ppv", "PPV at the declared prevalence", "higher", 0.0, 1.0, 1.0),
        Measure("npv", "NPV at the declared prevalence", "higher", 0.0, 1.0, 1.0),
        Measure("positive_likelihood_ratio", "positive likelihood ratio", "higher", 0.0, None,
                math.inf, "", False, _FROM_RATES),
        Measure("negative_likelihood_ratio", "negative likelihood ratio", "lower", 0.0, None, 0.0,
                "", False, _FROM_RATES),
        Measure("calibration_in_the_large", "calibration-in-the-large", "band", None, None, 0.0,
                "", False, _LEFT_OUT),
        Measure("ece", "expected calibration error", "lower", 0.0, 1.0, 0.0, "", False,
                "its bins decide its value"),
        Measure("net_benefit", "net benefit", "higher", None, 1.0, 1.0),
    )
}  # fmt: skip
NEED_PREVALENCE = frozenset({"ppv", "npv"})
_STEPS = 100


def estimate(
    table: CaseTable,
    metric: str,
    *,
    threshold: float,
    level: float,
    prevalence: float | None,
    decision_threshold: float | None,
) -> Estimate:
    """One of `MEASURES` with its interval at `level`, or why there is none."""
    tail = (1 - level) / 2
    if metric == "net_benefit":
        if decision_threshold is None:
            return _without(table, "the protocol names no decision threshold")
        return net_benefit(table, decision_threshold, tail, level)
    if metric == "calibration_in_the_large":
        return _in_the_large(table, level)
    if metric == "ece":
        return _ece(table)
    if metric in NEED_PREVALENCE and prevalence is None:
        return _without(table, "the protocol's intended use declares no prevalence")
    return _of_rates(table, metric, threshold, tail, level, prevalence or 0.5)


def net_benefit(table: CaseTable, at: float, tail: float, level: float) -> Estimate:
    """Net benefit a case of acting where the score is `at` or more."""
    odds = at / (1 - at)
    acted = np.where(table.failed, ~table.positive, table.score >= at)
    gain = np.where(acted, np.where(table.positive, 1.0, -odds), 0.0)
    found = mean(gain, (-odds, 1.0), table.patient)
    low, high = found.gating(tail)
    interval = Interval(low=low, high=high, level=level, method=found.method)
    return Estimate(found.value, interval, table.n, found.clusters)


def _of_rates(
    table: CaseTable, metric: str, threshold: float, tail: float, level: float, prevalence: float
) -> Estimate:
    """By the rectangle of both rates' intervals at half the tail each."""
    sides = [share_right(table, threshold, chosen) for chosen in (table.positive, ~table.positive)]
    value = _value(metric, sides[0].value, sides[1].value, prevalence)
    if value is None:
        return _without(table, "it is divided by a rate that is 0 in this cohort")
    low, high = zip(*(side.gating(tail / 2) for side in sides), strict=True)
    ends = [_value(metric, rates[0], rates[1], prevalence) for rates in (low, high)]
    if metric == "negative_likelihood_ratio":
        ends.reverse()
    clusters = number_of_patients(table.patient)
    if ends[0] is None or ends[1] is None:
        return Estimate(value, None, table.n, clusters, "its upper bound is infinite")
    interval = Interval(
        low=ends[0], high=ends[1], level=level, method="rectangle of both rates' intervals"
    )
    return Estimate(value, interval, table.n, clusters)


def _value(metric: str, sensitivity: float, specificity: float, p: float) -> float | None:
    """Rises with both rates; the negative likelihood ratio falls."""
    above, below = {
        "ppv": (sensitivity * p, sensitivity * p + (1 - specificity) * (1 - p)),
        "npv": (specificity * (1 - p), specificity * (1 - p) + (1 - sensitivity) * p),
        "positive_likelihood_ratio": (sensitivity, 1 - specificity),
        "negative_likelihood_ratio": (1 - sensitivity, specificity),
    }[metric]
    return above / below if below > 0 else None


def _in_the_large(table: CaseTable, level: float) -> Estimate:
    kept = ~table.failed
    y = table.reference[kept].astype(np.float64)
    patient = None if table.patient is None else table.patient[kept]
    clusters = number_of_patients(patient)
    if len(np.unique(y)) < 2:
        return Estimate(
            None, None, len(y), clusters, "the cases with a prediction are of one class"
        )
    offset = special.logit(np.clip(table.score[kept], CLIP, 1 - CLIP))
    value = _intercept(offset, y)
    residual = y - special.expit(offset + value)
    information = float((special.expit(offset + value) * special.expit(-offset - value)).sum())
    sums = residual
    if patient is not None:
        sums = np.asarray(np.bincount(patient, residual)[np.unique(patient)], dtype=np.float64)
    units = len(sums)
    if units < 3:
        return Estimate(value, None, len(y), clusters, "too few patients to judge by")
    error = math.sqrt(units / (units - 1) * float(sums @ sums)) / information
    half = -float(special.stdtrit(units - 1, (1 - level) / 2)) * error
    interval = Interval(
        low=value - half, high=value + half, level=level,
        method="robust t" if clusters is None else "cluster-robust t",
    )  # fmt: skip
    return Estimate(value, interval, len(y), clusters)


def _intercept(offset: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The root of sum(y - expit(a + offset)), which falls in a; by halving."""
    low, high = -60.0, 60.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = float((y - special.expit(offset + middle)).sum()) > 0
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2


def _ece(table: CaseTable) -> Estimate:
    bins = calibration_bins(table)
    n = sum(of.n for of in bins)
    if not n:
        return _without(table, "no case has a prediction")
    value = sum(of.n * abs(of.mean_score - of.observed) for of in bins) / n
    why = "shown without an interval: its bins decide its value"
    return Estimate(value, None, n, number_of_patients(table.patient), why)


def _without(table: CaseTable, why: str) -> Estimate:
    return Estimate(None, None, table.n, number_of_patients(table.patient), why)
