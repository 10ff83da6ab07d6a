"""A mean of bounded values, one a case, with the uncertainty that patients allow.

Unit: the case; clusters: patients. The mean weights each case alike.

The interval is Gaffke's (2005; Learned-Miller & Thomas 2019): one more patient is added, with all
cases at the end of the scale that the bound looks to, and the bound is the quantile at `tail` of
the mean when patients have random weights (exponential, 10,000 draws; the added patient's size is
the mean cluster size seen from a case).

- Of values that are 0 or 1 in independent cases it is Clopper & Pearson's exact interval.
- It never has zero width, and it minds what was not seen: a hundred good segmentations don't
  exclude a three-per-cent chance of an empty one. Student's t on the ratio estimator did: where
  3 % of patients have the worst value, its one-sided error for Dice with 100 patients was .095
  (2,000 cohorts; nominal .025). This bound's is .000 there, and .033 at most in all conditions of
  bench/segmentation_coverage.py (400 cohorts, so within their noise: .008).
- Where more than 5,000 patients have `few_values`, the sorted patients of equal value share the sum
  of their weights (`validators.intervals.gamma_path`): the same bound with other draws, and 100,000
  cases take .02 s instead of 7. Each weight belongs to a place in the order, and no value of a
  place falls when a value rises, so the law below holds here too.
- Failed predictions have the asked end of the scale. The weights depend on the number of patients
  alone and each draw rises with every value, so a withheld prediction never improves a bound.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from validators.intervals.gamma_path import sums_at
from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair

_DRAWS = 10_000
_SEED = 20261128
_BLOCK = 4_100_000
_MANY_PATIENTS, _MANY_SIZES = 5000, 64


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean on `scale` (lowest, highest); failed cases are at the asked end."""

    value: float
    n: int
    clusters: int | None
    drawn: tuple[Floats, Floats] = field(repr=False)
    """Means under random weights, sorted: with a patient at the lowest value, at the highest."""
    scale: Pair
    influence: Box | None = field(default=None, repr=False)

    gap_method = "MOVER over Gaffke bounds"

    @property
    def method(self) -> str:
        """The interval's name."""
        return "Gaffke" if self.clusters in (None, self.n) else "Gaffke, by patient"

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        low, high = (
            float(np.quantile(of, q)) for of, q in zip(self.drawn, (tail, 1 - tail), strict=True)
        )
        return max(self.scale[0], min(low, self.value)), min(self.scale[1], max(high, self.value))

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of: failures are at the asked end already."""
        return self.gating(tail)


def mean(
    values: Floats,
    scale: Pair,
    patient: NDArray[np.int64] | None = None,
    *,
    higher_is_better: bool = True,
    failed_is_right: bool = False,
    weight: Floats | None = None,
    few_values: bool = False,
) -> Mean:
    """The mean of `values` ([n], NaN where the prediction failed), each within `scale`.

    Failed cases are at the worst end of the scale, or at the best with `failed_is_right`.
    `weight` ([n], above 0) are sampling weights. `few_values`: cases have a handful of values
    (a matter of the metric, never of the predictions). `influence` is indexed by the codes in
    `patient`.
    """
    n, failed = len(values), np.isnan(values)
    code = np.arange(n) if patient is None else patient
    of_case = np.ones(n) if weight is None else weight
    total = int(code.max()) + 1
    sizes = np.asarray(np.bincount(code, of_case, total), dtype=np.float64)
    ends = [of_case * np.where(failed, end, values) for end in scale]
    sums = [np.asarray(np.bincount(code, of, total), dtype=np.float64) for of in ends]
    low, high = (float(of.sum() / of_case.sum()) for of in ends)
    asked = int(failed_is_right == higher_is_better)
    present = sizes > 0
    count = int(present.sum())
    factor = math.sqrt(count / max(count - 1, 1)) / float(of_case.sum())
    deviation = Box(sums[0] - high * sizes, sums[1] - low * sizes)
    drawn = _drawn_by_value if few_values and _large(sizes[present]) else _drawn
    return Mean(
        value=(low, high)[asked],
        n=n,
        clusters=None if patient is None else count,
        drawn=drawn(sums[asked][present], sizes[present], scale),
        scale=scale,
        influence=deviation.scaled(factor),
    )


def _drawn(sums: Floats, sizes: Floats, scale: Pair) -> tuple[Floats, Floats]:
    """Means with one more patient at either end, sorted; `sums` and `sizes` are [patients]."""
    added = float((sizes**2).sum() / sizes.sum())
    both, low, high = np.column_stack([sums, sizes]), [], []
    for weight, of_added in _weights(len(sizes)):
        whole, total = (weight @ both).T
        more = of_added * added
        total = total + more
        low.append((whole + more * scale[0]) / total)
        high.append((whole + more * scale[1]) / total)
    return np.sort(np.concatenate(low)), np.sort(np.concatenate(high))


def _large(sizes: Floats) -> bool:
    """Whether `_drawn_by_value` is worth it; a matter of the design alone."""
    return len(sizes) > _MANY_PATIENTS and len(np.unique(sizes)) <= _MANY_SIZES


def _drawn_by_value(sums: Floats, sizes: Floats, scale: Pair) -> tuple[Floats, Floats]:
    """As `_drawn`, with one draw for all patients of equal size and sum."""
    whole, total = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for place, size in enumerate(np.unique(sizes)):
        of_size, counts = np.unique(np.round(sums[sizes == size], 9), return_counts=True)
        edges = np.cumsum(counts)
        path = sums_at(int(edges[-1]), edges.tolist(), replicates=_DRAWS, key=(place,))
        whole += of_size @ np.diff(path, axis=0, prepend=0.0)
        total += size * path[-1]
    more = np.random.default_rng([_SEED, len(sizes)]).standard_exponential(_DRAWS)
    more *= float((sizes**2).sum() / sizes.sum())
    return (
        np.sort((whole + more * scale[0]) / (total + more)),
        np.sort((whole + more * scale[1]) / (total + more)),
    )


def _weights(patients: int) -> Iterator[tuple[Floats, Floats]]:
    """Blocks of weights ([some, patients]) and of the added patient's ([some])."""
    if _DRAWS * (patients + 1) <= _BLOCK:
        yield from _few(patients)
    else:
        yield from _blocks(patients)


@lru_cache(maxsize=2)
def _few(patients: int) -> tuple[tuple[Floats, Floats], ...]:
    """The weights of a small cohort, kept: every metric of it uses them."""
    return tuple(_blocks(patients))


def _blocks(patients: int) -> Iterator[tuple[Floats, Floats]]:
    rng = np.random.default_rng([_SEED, patients])
    rows = max(1, _BLOCK // (patients + 1))
    for start in range(0, _DRAWS, rows):
        drawn = rng.standard_exponential((min(rows, _DRAWS - start), patients + 1))
        yield np.ascontiguousarray(drawn[:, 1:]), drawn[:, 0]
