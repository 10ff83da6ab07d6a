"""What follows from sensitivity and specificity: predictive values and likelihood ratios.

Rules
-----
1. Predictive values are re-computed at the prevalence that the protocol declares, by Bayes: the
   cohort's own share of positives says nothing of the clinic's (Mercaldo, Lau & Zhou 2007).
2. They and the likelihood ratios rise (the negative one falls) with both rates, so the bounds are
   taken where both rates' intervals at half the tail end: the error is at most the nominal one
   (Bonferroni), also where patients have cases of both classes, and no bound has zero width at a
   rate of 0 or 1. The logit interval of the paper, `logit_interval`, is what is commonly printed;
   it missed .08 on one side instead of .025 (60 positives, sensitivity .95, prevalence .05), so
   it is compared with in bench/binary_coverage.py and does not judge.
3. Failed predictions are wrong in both rates.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from validators.intervals.proportion import Pair
from validators.intervals.share import Share


@dataclass(frozen=True, eq=False)
class OfRates:
    """A predictive value or likelihood ratio; only the former depend on `prevalence`."""

    metric: str
    sensitivity: Share
    specificity: Share
    prevalence: float
    value: float
    clusters: int | None

    influence = None
    method = "rectangle of both rates' intervals"
    gap_method = "MOVER over rectangles of both rates' intervals"

    @property
    def n(self) -> int:
        """Cases of both classes."""
        return self.sensitivity.n + self.specificity.n

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by; a likelihood ratio may be infinite."""
        return self._ends(self.sensitivity.gating(tail / 2), self.specificity.gating(tail / 2))

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of."""
        rates = [of.compared(tail / 2, wide=wide) for of in (self.sensitivity, self.specificity)]
        return self._ends(rates[0], rates[1])

    def _ends(self, sensitivity: Pair, specificity: Pair) -> Pair:
        low, high = (
            of_rates(self.metric, *rates, self.prevalence)
            for rates in zip(sensitivity, specificity, strict=True)
        )
        ends = [math.inf if end is None else end for end in (low, high)]
        return min(ends), max(ends)


def of_rates(metric: str, sensitivity: float, specificity: float, p: float) -> float | None:
    """Rises with both rates; the negative likelihood ratio falls. None if divided by 0."""
    above, below = {
        "ppv": (sensitivity * p, sensitivity * p + (1 - specificity) * (1 - p)),
        "npv": (specificity * (1 - p), specificity * (1 - p) + (1 - sensitivity) * p),
        "positive_likelihood_ratio": (sensitivity, 1 - specificity),
        "negative_likelihood_ratio": (1 - sensitivity, specificity),
    }[metric]
    return above / below if below > 0 else None


def logit_interval(
    metric: str, found: Pair, sizes: Pair, prevalence: float, tail: float
) -> Pair | None:
    """Mercaldo, Lau & Zhou's (2007) interval of the PPV or NPV; None at a rate of 0 or 1.

    `found` and `sizes` are (sensitivity, specificity) and (positives, negatives). On the logit
    scale the value is the log odds of the prevalence and the log likelihood ratio (Simel 1991),
    whose variance is that of two independent log shares.
    """
    if not all(0 < rate < 1 for rate in found):
        return None
    sensitivity, specificity = found
    rates = {
        "ppv": (sensitivity, 1 - specificity),
        "npv": (specificity, 1 - sensitivity),
    }[metric]
    of = sizes if metric == "ppv" else sizes[::-1]
    variance = (1 - rates[0]) / (of[0] * rates[0]) + (1 - rates[1]) / (of[1] * rates[1])
    share = prevalence if metric == "ppv" else 1 - prevalence
    middle = float(special.logit(share)) + math.log(rates[0] / rates[1])
    half = -float(special.ndtri(tail)) * math.sqrt(variance)
    low, high = special.expit(np.array([middle - half, middle + half]))
    return float(low), float(high)
