"""A mean of bounded values, one a case, with the uncertainty that patients allow.

Unit: the case; clusters: patients. The mean weights each case alike; its variance is that of the
ratio estimator over patients' sums of deviations (linearised; Liang & Zeger 1986 with K/(K-1)),
and its interval Student's t on patients less one.

- One unit of the largest variance that the scale allows (a quarter of its squared width) is added,
  so that no interval has zero width.
- No bound goes beyond what K equal, perfect patients would show: with all K at the best value the
  share of patients at the worst one is below 1 - tail^(1/K) (exact), so the lower bound of the mean
  is at most that much away from the best. A hundred good segmentations don't exclude a
  three-per-cent chance of an empty one.
- Failed predictions: every bound ranges over what they could have been, as in
  `validators.intervals.influence`. Both repairs are constants of the design (scale, patients), so
  a withheld prediction never improves a bound.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean on the scale [`worst`, `best`] (best below worst where less is better)."""

    value: float
    n: int
    clusters: int | None
    variance: Pair
    """Of the mean: smallest and largest over what failed cases could have been."""
    units: float
    """Patients of equal weight that the cases are worth (Kish)."""
    scale: Pair
    """(lowest, highest) value that a case can have."""
    freedom: int
    higher_is_better: bool = True
    influence: Box | None = field(default=None, repr=False)

    gap_method = "MOVER over t intervals"

    @property
    def method(self) -> str:
        """The interval's name."""
        return "t, bounded" if self.clusters in (None, self.n) else "cluster-robust t, bounded"

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of."""
        lowest, highest = self.scale
        width = highest - lowest
        variance = self.variance[1 if wide else 0]
        stable = (variance * self.units + width**2 / 4 / self.units) / (self.units + 1)
        half = -float(special.stdtrit(self.freedom, tail)) * math.sqrt(stable)
        open_end = width * (1 - tail ** (1 / self.units))
        low = min(self.value - half, highest - open_end)
        high = max(self.value + half, lowest + open_end)
        return max(lowest, min(low, self.value)), min(highest, max(high, self.value))

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        wide, narrow = self.compared(tail, wide=True), self.compared(tail, wide=False)
        return (wide[0], narrow[1]) if self.higher_is_better else (narrow[0], wide[1])


def mean(
    values: Floats,
    scale: Pair,
    patient: NDArray[np.int64] | None = None,
    *,
    higher_is_better: bool = True,
    failed_is_right: bool = False,
) -> Mean:
    """The mean of `values` ([n], NaN where the prediction failed), each within `scale`.

    Failed cases are at the worst end of the scale, or at the best with `failed_is_right`.
    `influence` is indexed by the codes in `patient`.
    """
    n = len(values)
    failed = np.isnan(values)
    low, high = np.where(failed, scale[0], values), np.where(failed, scale[1], values)
    code = np.arange(n) if patient is None else patient
    total = int(code.max()) + 1
    sizes = np.bincount(code, minlength=total).astype(float)
    of_patient = Box(
        *(np.asarray(np.bincount(code, end, total), dtype=np.float64) for end in (low, high))
    )
    ends = float(low.mean()), float(high.mean())
    deviation = Box(of_patient.low - ends[1] * sizes, of_patient.high - ends[0] * sizes)
    count = int((sizes > 0).sum())
    factor = count / max(count - 1, 1) / n**2
    squares = deviation.squared().total()
    at_high = failed_is_right == higher_is_better
    return Mean(
        value=ends[1] if at_high else ends[0],
        n=n,
        clusters=None if patient is None else count,
        variance=(squares[0] * factor, squares[1] * factor),
        units=float(sizes.sum()) ** 2 / float((sizes**2).sum()),
        scale=scale,
        freedom=max(count - 1, 1),
        higher_is_better=higher_is_better,
        influence=deviation.scaled(math.sqrt(factor)),
    )
