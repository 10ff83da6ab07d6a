"""The patient bootstrap, for statistics whose variance has no formula here.

    >>> found = resampled(statistic, patient, strata, scale=(0.0, 1.0), n=len(patient))
    >>> found.gating(0.025)

Patients are drawn with replacement within strata (percentile interval, Efron 1979; Davison &
Hinkley 1997, 2.4), 2,000 times. A statistic is a function of how often each patient was drawn.
The percentiles are those of the expanded percentile interval (Hesterberg 2015), which pays with
Student's t for the few units that the spread is estimated from.

Rules
-----
1. The draws depend on the strata and the number of patients alone, never on a prediction: two
   statistics of one cohort see the same draws. So where the statistic with a failed prediction at
   its worst is no better for every possible weighting, no quantile is either: a withheld
   prediction never improves a bound.
2. Fewer than 30 patients, or a replicate without a value (a class that was not drawn): no interval.
3. No bound is better than the ideal value less what K perfect patients leave open (`mean.py`), and
   none is nearer to the value than q = tail^(1/K) allows: from the ideal, the farther bound is at
   least 1/q times as far as the value, the nearer one at most q times. So no interval has zero
   width, not even where all replicates are equal (each prediction the same). Both keep order: a
   worse value has no better bound. An open scale has no such guard; it is for what is only shown.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair

REPLICATES = 2000
FEWEST_PATIENTS = 30
_SEED = 20261128
_BLOCK = 4_000_000

Statistic = Callable[[NDArray[np.int64]], Floats]
"""[replicates, patients] of multiplicities -> [replicates] of values, NaN where undefined."""


@dataclass(frozen=True, eq=False)
class Resampled:
    """A statistic and its replicates, sorted.

    `scale` runs from the lowest to the highest value; None: it is open.
    """

    value: float
    n: int
    clusters: int | None
    replicates: Floats = field(repr=False)
    units: float
    scale: Pair | None
    higher_is_better: bool = True
    influence: Box | None = None

    method = "patient bootstrap, expanded percentile"
    gap_method = "MOVER over bootstrap intervals"

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        outer = expanded_tail(tail, self.units)
        low, high = (float(np.quantile(self.replicates, q)) for q in (outer, 1 - outer))
        low, high = min(low, self.value), max(high, self.value)
        if self.scale is None:
            return low, high
        (lowest, highest), kept = self.scale, float(tail ** (1 / self.units))
        if self.higher_is_better:
            away = highest - self.value
            low = min(low, lowest + (highest - lowest) * kept, highest - away / kept)
            high = max(high, highest - away * kept)
        else:
            away = self.value - lowest
            low = min(low, lowest + away * kept)
            high = max(high, highest - (highest - lowest) * kept, lowest + away / kept)
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


def replicates_of(
    statistic: Statistic, strata: NDArray[np.int64], replicates: int = REPLICATES
) -> Floats:
    """The statistic in each replicate, in the order of the draws; [replicates]."""
    return np.concatenate([statistic(block) for block in draws(strata, replicates)])


def resampled(
    statistic: Statistic,
    strata: NDArray[np.int64],
    *,
    n: int,
    clusters: int | None,
    scale: Pair | None,
    units: float | None = None,
    higher_is_better: bool = True,
) -> Resampled | str:
    """The statistic over all patients with its replicates, or why it has no interval.

    `units` are the patients of equal weight that the cases are worth (`units_of`), if not all.
    """
    patients = len(strata)
    if patients < FEWEST_PATIENTS:
        who = "cases" if clusters is None else "patients"
        return f"{patients} {who} are too few to draw from; at least {FEWEST_PATIENTS} are needed"
    value = float(statistic(np.ones((1, patients), dtype=np.int64))[0])
    if np.isnan(value):
        return "it has no value on these cases"
    drawn = replicates_of(statistic, strata)
    without = int(np.isnan(drawn).sum())
    if without:
        return (
            f"in {without} of {len(drawn)} bootstrap draws it has no value: too few cases of one "
            "kind"
        )
    return Resampled(
        value, n, clusters, np.sort(drawn), float(patients) if units is None else units, scale,
        higher_is_better,
    )  # fmt: skip
