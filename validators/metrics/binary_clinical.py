"""What a binary result means in a clinic: predictive values, likelihood ratios, net benefit.

Rules
-----
1. Predictive values and likelihood ratios: `validators.metrics.of_rates`.
2. Net benefit at the decision threshold t (Vickers & Elkin 2006): true positives less t / (1 - t)
   times false ones, a case; `validators.intervals.mean` bounds it. Scores at or above t are acted
   on, whatever the locked threshold. A failed prediction is the wrong decision, so that withholding
   never improves a bound.
3. ECE: mean distance of the ten bins from the diagonal; it depends on the bins, so it decides
   nothing. Calibration of the mean: `validators.metrics.recalibration`; the ICI and its curve:
   `validators.metrics.calibration_curve`.
"""

import math

import numpy as np

from validators.cases import CaseTable
from validators.intervals.influence import Floats
from validators.intervals.mean import Mean, mean
from validators.metrics.binary import share_right
from validators.metrics.calibration import calibration_bins
from validators.metrics.estimate import Estimate, checked_weight, number_of_patients, shown
from validators.metrics.measure import Undefined
from validators.metrics.of_rates import OfRates, of_rates

NEED_PREVALENCE = frozenset({"ppv", "npv"})
LIKELIHOOD_RATIOS = frozenset({"positive_likelihood_ratio", "negative_likelihood_ratio"})


def net_benefit_side(
    table: CaseTable, at: float, weight: Floats | None = None, *, failed_is_right: bool = False
) -> Mean:
    """Net benefit a case of acting where the score is `at` or more.

    `weight` ([n]) are sampling weights: an enriched cohort has them, or its net benefit is that
    of no clinic.
    """
    odds = at / (1 - at)
    silent = table.positive if failed_is_right else ~table.positive
    acted = np.where(table.failed, silent, table.score >= at)
    gain = np.where(acted, np.where(table.positive, 1.0, -odds), 0.0)
    weighted = weight is not None or table.weight is not None
    of_case = checked_weight(table, weight) if weighted else None
    return mean(gain, (-odds, 1.0), table.patient, weight=of_case, few_values=True)


def rates_side(
    table: CaseTable, metric: str, threshold: float, prevalence: float, *,
    failed_is_right: bool = False,
) -> OfRates | Undefined:  # fmt: skip
    """A predictive value or likelihood ratio with its uncertainty, or why it has no value."""
    sensitivity, specificity = (
        share_right(table, threshold, chosen, failed_is_right=failed_is_right)
        for chosen in (table.positive, ~table.positive)
    )
    clusters = number_of_patients(table.patient)
    value = of_rates(metric, sensitivity.value, specificity.value, prevalence)
    if value is None:
        why = "it is divided by a rate that is 0 in this cohort"
        return Undefined(why, table.n, clusters)
    return OfRates(metric, sensitivity, specificity, prevalence, value, clusters)


def likelihood_ratio(table: CaseTable, metric: str, threshold: float, tail: float) -> Estimate:
    """One of `LIKELIHOOD_RATIOS`; no interval where its upper bound is infinite."""
    found = rates_side(table, metric, threshold, prevalence=0.5)  # it depends on none
    if isinstance(found, OfRates) and found.gating(tail)[1] == math.inf:
        why = "its upper bound is infinite"
        return Estimate(found.value, None, table.n, found.clusters, why)
    return shown(found, tail)


def ece(table: CaseTable) -> Estimate:
    """The expected calibration error over ten bins, without an interval."""
    bins = calibration_bins(table)
    n, clusters = sum(of.n for of in bins), number_of_patients(table.patient)
    if not n:
        return Estimate(None, None, table.n, clusters, "no case has a prediction")
    value = sum(of.n * abs(of.mean_score - of.observed) for of in bins) / n
    why = "shown without an interval: its bins decide its value"
    if n < table.n:
        why += f"; {table.n - n} failed predictions are left out"
    return Estimate(value, None, n, clusters, why)
