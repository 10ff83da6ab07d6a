"""The patient bootstrap, for statistics whose variance has no formula here.

    >>> found = resampled(statistic, strata, n=len(patient), clusters=k, scale=(0.0, 1.0))
    >>> found.gating(0.025)

Patients are drawn with replacement within strata (percentile interval, Efron 1979; Davison &
Hinkley 1997, 2.4), 2,000 times. A statistic is a function of how often each patient was drawn.
The percentiles are those of the expanded percentile interval (Hesterberg 2015): at tail
Phi(-t sqrt(u / (u - 1))) with t Student's quantile at u - 1, u being the independent units. A
hundred patients with ten events say about as much as ten.

Rules
-----
1. The draws depend on the strata and the number of patients alone, never on a prediction: two
   statistics of one cohort see the same draws. So where the statistic with a failed prediction at
   its worst is no better for every possible weighting, no quantile is either: a withheld
   prediction never improves a bound. Where a failed prediction has no worst end (calibration), a
   statistic gives two values, one for the lower and one for the upper bound.
2. Fewer than 30 patients, or a replicate without a value (a class that was not drawn): no interval.
3. A guard keeps each interval from a width of zero, even where all replicates are equal (each
   prediction the same). It depends on the design and the value alone, and keeps order: a worse
   value has no better bound. With q = tail^(1/u), what u perfect units leave open (`mean.py`):

   - `highest`, `lowest` (the end of the scale that is ideal): no bound is better than the ideal
     less what u perfect units leave open; from the ideal the farther bound is at least 1/q times as
     far as the value, the nearer one at most q times.
   - `both`: no bound is nearer to the value than u equal units could show. On a scale from a to b
     the lower bound is at most a + (v - a) q, the upper one at least b - (b - v) q. At v = b this
     is exact (all of u right).
   - `mirror`, on an open scale: each bound is the wider one of the percentile interval and its
     mirror image, the basic interval (Davison & Hinkley 1997, 2.4 and 5.2). A slope from few events
     is too steep on average, a distance never below zero too large; the percentiles alone would
     double that bias (slope of 100 patients with 35 events: error of the lower bound .052; with
     both, .000).
   - `none`: on an open scale, for what is only shown.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair

REPLICATES = 2000
FEWEST_PATIENTS = 30
_SEED = 20261128
_BLOCK = 4_000_000
_CELLS = 1_000_000

Statistic = Callable[[NDArray[np.int64]], Floats]
"""[r, patients] of multiplicities -> [r] of values, or [2, r] for both bounds; NaN: undefined."""
Bounds = Callable[[Floats], Floats]
"""[cases, r] of multiplicities -> [2, r]: for the lower and for the upper bound, or NaN."""
Guard = Literal["highest", "lowest", "both", "mirror", "none"]


@dataclass(frozen=True, eq=False)
class Resampled:
    """A statistic and its replicates, sorted.

    `ends` and the replicates `low` and `high` are those of the lower and of the upper bound: the
    same where a measure has a direction. `scale` runs from the lowest to the highest value, or is
    None where it is open (`mirror` and `none`).
    """

    value: float
    n: int
    clusters: int | None
    ends: Pair
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)
    units: float
    scale: Pair | None
    guard: Guard
    method: str = "patient bootstrap, expanded percentile"
    influence: Box | None = None

    gap_method = "MOVER over bootstrap intervals"

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        outer = expanded_tail(tail, self.units)
        low = min(float(np.quantile(self.low, outer)), self.ends[0])
        high = max(float(np.quantile(self.high, 1 - outer)), self.ends[1])
        if self.scale is None:
            if self.guard == "mirror":
                return min(low, 2 * self.value - high), max(high, 2 * self.value - low)
            return low, high
        (lowest, highest), kept = self.scale, float(tail ** (1 / self.units))
        above_low, below_high = self.ends[0] - lowest, highest - self.ends[1]
        if self.guard == "highest":
            of_ideal = highest - (highest - self.ends[0]) / kept
            low = min(low, lowest + (highest - lowest) * kept, of_ideal)
        else:
            low = min(low, lowest + above_low * kept)
        if self.guard == "lowest":
            of_ideal = lowest + (self.ends[1] - lowest) / kept
            high = max(high, highest - (highest - lowest) * kept, of_ideal)
        else:
            high = max(high, highest - below_high * kept)
        return max(lowest, low), min(highest, high)

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of: failures are at the asked end already."""
        return self.gating(tail)


def expanded_tail(tail: float, units: float) -> float:
    """The normal tail at which t with `units` - 1 degrees of freedom has the error `tail`."""
    units = max(units, 2.0)
    t = float(special.stdtrit(units - 1, tail))
    return float(special.ndtr(t * math.sqrt(units / (units - 1))))


def draws(strata: NDArray[np.int64], replicates: int = REPLICATES) -> Iterator[NDArray[np.int64]]:
    """Multiplicities in blocks of [some replicates, patients]; `strata` is a code a patient."""
    patients = len(strata)
    members = [np.flatnonzero(strata == code) for code in np.unique(strata)]
    rng = np.random.default_rng([_SEED, patients, len(members)])
    rows = max(1, _BLOCK // max(patients, 1))
    for start in range(0, replicates, rows):
        count = min(rows, replicates - start)
        drawn = np.empty((count, patients), dtype=np.int64)
        for inside in members:
            size = len(inside)
            picked = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
            counted = np.bincount(picked.ravel(), minlength=count * size)
            drawn[:, inside] = counted.reshape(count, size)
        yield drawn


def units_of(patient: NDArray[np.int64]) -> float:
    """The patients of equal weight that the cases are worth, by their numbers of cases (Kish)."""
    sizes = np.bincount(patient).astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def by_case(bounds: Bounds, patient: NDArray[np.int64] | None, n: int) -> Statistic:
    """A statistic of how often each of n cases was drawn; `patient` holds codes 0, 1, … or None."""
    rows = max(1, _CELLS // n)

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        found = []
        for start in range(0, len(drawn), rows):
            times = np.ascontiguousarray(drawn[start : start + rows].T, dtype=np.float64)
            found.append(bounds(times if patient is None else times[patient]))
        return np.concatenate(found, axis=1)

    return statistic


def resampled(
    statistic: Statistic,
    strata: NDArray[np.int64],
    *,
    n: int,
    clusters: int | None,
    scale: Pair | None,
    guard: Guard,
    units: float | None = None,
    value: float | None = None,
    rare: str = "too few cases of one kind",
    replicates: int = REPLICATES,
) -> Resampled | str:
    """The statistic over all patients with its replicates, or why it has no interval.

    `strata` is a code a patient; `units` are the patients of equal weight that the cases are worth
    (`units_of`), if not all. `value` is shown in the place of the statistic (of the lower bound),
    `rare` is why a replicate may have no value.
    """
    patients = len(strata)
    if patients < FEWEST_PATIENTS:
        who = "cases" if clusters is None else "patients"
        return f"{patients} {who} are too few to draw from; at least {FEWEST_PATIENTS} are needed"
    ends = np.atleast_2d(statistic(np.ones((1, patients), dtype=np.int64)))[[0, -1], 0]
    if not np.isfinite(ends).all():
        return "it has no value on these cases"
    drawn = np.concatenate(
        [np.atleast_2d(statistic(block)) for block in draws(strata, replicates)], axis=1
    )
    if without := int((~np.isfinite(drawn)).any(axis=0).sum()):
        return f"in {without} of {drawn.shape[1]} bootstrap draws it has no value: {rare}"
    if scale is not None:
        ends = np.clip(ends, *scale)  # of what rounding adds
    low, high = np.sort(drawn, axis=1)[[0, -1]]
    shown = float(ends[0]) if value is None else value
    return Resampled(
        shown, n, clusters, (min(float(ends[0]), shown), max(float(ends[1]), shown)), low, high,
        max(1.0, float(patients) if units is None else units), scale, guard,
    )  # fmt: skip
