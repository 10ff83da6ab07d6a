"""An estimate with a standard error that has a formula: recalibration, ratios, slopes.

The interval is Student's t. A `ratio` has its error on the log scale; its lower bound is that of
the plain scale and its upper bound that of the log scale, the wider one each: the log scale alone
missed in .054 of cohorts (observed / expected, 100 cases of which some 10 positive; 500 cohorts).

Failed predictions: `ends` are the lowest and the highest value, and `error` is no smaller than any
standard error, over all predictions that could have stood in their place. So each bound lies at
or beyond that of every completion, and a withheld prediction never narrows the interval, on
either side. Who makes one has to compute `ends` and `error` so; without failures both ends are the
value.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair

_LARGEST_LOG = 700.0


@dataclass(frozen=True, eq=False)
class Estimated:
    """A value, its standard error, and what failed predictions leave open of both."""

    value: float
    n: int
    clusters: int | None
    ends: Pair
    error: float
    """Of the logarithm, if it is a `ratio`."""
    freedom: int
    ratio: bool = False
    influence: Box | None = field(default=None, repr=False)

    gap_method = "MOVER over robust t intervals"

    @property
    def method(self) -> str:
        """The interval's name."""
        by = "robust t" if self.clusters is None else "cluster-robust t"
        return f"{by}, wider of plain and log scale" if self.ratio else by

    def gating(self, tail: float) -> Pair:
        """The interval that both limits of a band are judged by."""
        half = -float(special.stdtrit(self.freedom, tail)) * self.error
        if not self.ratio:
            return self.ends[0] - half, self.ends[1] + half
        return self.ends[0] * max(0.0, 1 - half), self.ends[1] * math.exp(min(half, _LARGEST_LOG))

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of: over all that failures leave open."""
        return self.gating(tail)


def robust_error(parts: Box) -> float:
    """The root of the sum over patients of the largest squares, times K / (K - 1)."""
    units = len(parts.low)
    largest = float(np.maximum(parts.low**2, parts.high**2).sum())
    return math.sqrt(units / (units - 1) * largest)


def within(value: float, ends: Pair) -> float:
    """The value moved into the range of what failed predictions could make of it."""
    return min(max(value, ends[0]), ends[1])


def by_patient(of_cases: Floats, code: NDArray[np.int64], patients: int) -> Floats:
    """Sums over the cases of each patient; `code` holds 0 … patients - 1."""
    return np.asarray(np.bincount(code, of_cases, patients), dtype=np.float64)
