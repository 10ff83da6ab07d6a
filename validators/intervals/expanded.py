"""The patient bootstrap where far fewer units than patients carry the information.

A hundred patients with ten events say about as much as ten; so the interval is that of
`validators.intervals.bootstrap` with two repairs, which depend on the design alone:

- The percentiles are those of the expanded percentile interval (Hesterberg 2015): at tail
  Phi(-t sqrt(u / (u - 1))) with t Student's quantile at u - 1, u being the independent units.
- No bound is nearer to its estimate than u equal units could show: on a scale from a to b the
  lower bound is at most a + (v - a) tail^(1/u), the upper one at least b - (b - v) tail^(1/u).
  At v = b this is exact (all of u right); so no interval has zero width, not even if every
  replicate is equal, as with risks that are all tied.

On an open scale (a slope) there is no such guard. There each bound is the wider one of the
percentile interval and its mirror image, the basic interval (Davison & Hinkley 1997, 2.4 and 5.2):
a slope from few events is too steep on average, and the percentiles alone would double that bias
(100 patients with 35 events: error of the lower bound .052; with both, .000).

Failed predictions: a statistic gives two values a replicate, for the lower and for the upper
bound, with the failed cases where that bound is worst (where a measure has a direction, both are
the same). If a withheld prediction lowers the first (raises the second) in every weighting, or
leaves it, it does so to the bound: quantile, guard and clipping all keep order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from validators.intervals.bootstrap import FEWEST_PATIENTS, draws, expanded_tail
from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair

_CELLS = 1_000_000
Bounds = Callable[[Floats], Floats]
"""[cases, r] of multiplicities -> [2, r]: for the lower and for the upper bound, or NaN."""


@dataclass(frozen=True, eq=False)
class Expanded:
    """A statistic with its replicates; `scale` is open (None) where the guard has no meaning."""

    value: float
    n: int
    clusters: int | None
    ends: Pair
    """The statistic with failed cases where the lower (upper) bound is worst."""
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)
    units: float
    scale: Pair | None
    influence: Box | None = None

    method = "patient bootstrap, expanded percentile"
    gap_method = "MOVER over bootstrap intervals"

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        outer = expanded_tail(tail, self.units)
        low = min(float(np.quantile(self.low, outer)), self.ends[0])
        high = max(float(np.quantile(self.high, 1 - outer)), self.ends[1])
        if self.scale is None:
            return min(low, 2 * self.value - high), max(high, 2 * self.value - low)
        lowest, highest = self.scale
        kept = tail ** (1 / self.units)
        low = min(low, lowest + (self.ends[0] - lowest) * kept)
        high = max(high, highest - (highest - self.ends[1]) * kept)
        return max(lowest, low), min(highest, high)

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of: failures are at the asked end already."""
        return self.gating(tail)


def expanded(
    bounds: Bounds,
    patient: NDArray[np.int64] | None,
    n: int,
    *,
    units: float,
    scale: Pair | None,
    value: float | None = None,
) -> Expanded | str:
    """The statistic over n cases with its replicates, or why it has no interval.

    `patient` holds codes 0, 1, …, or is None where cases are independent; `value` is shown in the
    place of the statistic of the lower bound.
    """
    code = np.arange(n) if patient is None else patient
    patients = int(code.max()) + 1
    if patients < FEWEST_PATIENTS:
        who = "cases" if patient is None else "patients"
        return f"{patients} {who} are too few to draw from; at least {FEWEST_PATIENTS} are needed"
    ends = bounds(np.ones((n, 1)))[:, 0]
    if not np.isfinite(ends).all():
        return "it has no value on these cases"
    columns = max(1, _CELLS // n)
    found = []
    for block in draws(np.zeros(patients, dtype=np.int64)):
        for start in range(0, len(block), columns):
            drawn = np.ascontiguousarray(block[start : start + columns].T, dtype=np.float64)
            found.append(bounds(drawn if patient is None else drawn[code]))
    low, high = np.concatenate(found, axis=1)
    if scale is not None:
        ends = np.clip(ends, *scale)  # of what rounding adds
    without = int((~np.isfinite(low) | ~np.isfinite(high)).sum())
    if without:
        return (
            f"in {without} of {len(low)} bootstrap draws it has no value: too few events, or too "
            "few cases are followed up for long enough"
        )
    return Expanded(
        value=float(ends[0]) if value is None else value, n=n,
        clusters=None if patient is None else patients, ends=(float(ends[0]), float(ends[1])),
        low=np.sort(low), high=np.sort(high), units=max(1.0, units), scale=scale,
    )  # fmt: skip
