"""What each patient contributes to an estimate, and what failed predictions leave open.

A failed prediction could have been right or wrong. Everything that depends on it is therefore
held as a range over all such completions; without failures each range is one number. Ranges are
made by interval arithmetic, which has the law the verdict needs: fewer failures give a range
inside the old one. So a model can't gain by withholding a prediction, not even by making its
errors look less clustered.

The influence of patient k on an estimate is its share of the deviation (the linear term of the
infinitesimal jackknife); products of influences sum to variances and covariances.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Box:
    """A range for each patient."""

    low: Floats
    high: Floats

    def squared(self) -> "Box":
        """The range of the squares."""
        low, high = self.low**2, self.high**2
        across = (self.low < 0) & (self.high > 0)
        return Box(np.where(across, 0.0, np.minimum(low, high)), np.maximum(low, high))

    def times(self, other: "Box") -> "Box":
        """The range of the products."""
        corners = np.stack([self.low * other.low, self.low * other.high,
                            self.high * other.low, self.high * other.high])  # fmt: skip
        return Box(corners.min(axis=0), corners.max(axis=0))

    def mirrored(self) -> "Box":
        """The range of the values with the other sign."""
        return Box(-self.high, -self.low)

    def scaled(self, factor: float) -> "Box":
        """The range times a positive number."""
        return Box(self.low * factor, self.high * factor)

    def plus(self, other: "Box") -> "Box":
        """The range of the sums."""
        return Box(self.low + other.low, self.high + other.high)

    def total(self) -> tuple[float, float]:
        """The range of the sum over all patients."""
        return float(self.low.sum()), float(self.high.sum())


def long_tail(parts: Box, t: float) -> float:
    """How much further a bound on the side of large parts reaches, at a quantile `t`.

    Johnson (1978): by the third moment over the variance, which is never more than the largest
    part.
    """
    third, least = float((parts.high**3).sum()), parts.squared().total()[0]
    largest = max(0.0, float(parts.high.max()))
    ratio = largest if least <= 0 else min(largest, max(0.0, third) / least)
    return (2 * t * t + 1) / 6 * ratio


def widening_correlation(first: Box | None, second: Box | None) -> tuple[float, float]:
    """The range of the correlation of two estimates that may share patients, at most 0.

    A positive correlation would narrow the interval of a difference on the word of an estimate
    from few shared patients, so it is not used; a negative one is, for it widens. Two AUCs can
    really be so related: one patient's positive case in the group and negative case in the rest.
    """
    if first is None or second is None:
        return 0.0, 0.0
    cov_low, cov_high = first.times(second).total()
    first_low, first_high = first.squared().total()
    second_low, second_high = second.squared().total()
    return (
        _ratio(cov_low, first_low * second_low),
        _ratio(cov_high, first_high * second_high),
    )


def _ratio(covariance: float, product: float) -> float:
    if covariance >= 0:
        return 0.0
    return max(-1.0, covariance / math.sqrt(product)) if product > 0 else -1.0
