"""The patient bootstrap, for statistics whose variance has no formula here.

    >>> found = resampled(statistic, patient, strata, scale=(0.0, 1.0), n=len(patient))
    >>> found.gating(0.025)

Patients are drawn with replacement within strata (percentile interval, Efron 1979; Davison &
Hinkley 1997, 2.4), 2,000 times. A statistic is a function of how often each patient was drawn.

Rules
-----
1. The draws depend on the strata and the number of patients alone, never on a prediction: two
   statistics of one cohort see the same draws. So where the statistic with a failed prediction at
   its worst is no better for every possible weighting, no quantile is either: a withheld
   prediction never improves a bound.
2. Fewer than 30 patients, or a replicate without a value (a class that was not drawn): no interval.
3. No bound is better than the ideal value less what K perfect patients leave open (`mean.py`); so
   an interval never has zero width at the ideal.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
    """A statistic and its replicates, sorted; `scale` runs from lowest to highest value."""

    value: float
    n: int
    clusters: int | None
    replicates: Floats = field(repr=False)
    units: float
    scale: Pair
    higher_is_better: bool = True
    influence: Box | None = None

    method = "patient bootstrap, percentile"
    gap_method = "MOVER over bootstrap intervals"

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        low, high = (float(np.quantile(self.replicates, q)) for q in (tail, 1 - tail))
        lowest, highest = self.scale
        open_end = (highest - lowest) * (1 - tail ** (1 / self.units))
        if self.higher_is_better:
            low = min(low, highest - open_end)
        else:
            high = max(high, lowest + open_end)
        return max(lowest, min(low, self.value)), min(highest, max(high, self.value))

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of: failures are at the asked end already."""
        return self.gating(tail)


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
    scale: Pair,
    units: float | None = None,
    higher_is_better: bool = True,
) -> Resampled | str:
    """The statistic over all patients with its replicates, or why it has no interval."""
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
