"""What failed predictions leave open of a calibration slope: its ends, and its standard error.

    >>> slope_range(logit, reference, failed, weight, patient, centre=0.0)

Rules
-----
1. Any score could have stood where a prediction failed, so the slope is sought over all of them. A
   completion's slope lies above b where its likelihood, profiled over the intercept, still rises
   at b (it is concave). That holds for all at once if the least sum of u (y - p), over every
   profiled intercept and every place u of each failed case by itself, is above 0. The low end is
   the highest b, in steps of .001, for which it is; the high end is found likewise.
2. One more failure only lowers that sum, so the range only widens. u is the logit less `centre`,
   which has to depend on the reference standard alone for that.
3. The standard error is the largest over the range: residuals and places as ranges of each case,
   the information of the known cases at its least.
4. A probability can lie as far out as the logit reaches (13.8), so a failure weighs: one
   in 400 cases may widen the range by a tenth or two, one in 10,000 by .01.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.estimated import by_patient, robust_error
from validators.intervals.falling_root import falling_root
from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair

_STEP, _FARTHEST = 0.001, 20_000
_PLACES, _INTERCEPTS = 601, 3
_ROUNDS, _NOTHING, _FARTHEST_INTERCEPT = 60, 1e-11, 1000.0


@dataclass(frozen=True, eq=False)
class _Cases:
    """Known cases (u, y, w), and the weight of failed negatives and positives."""

    u: Floats
    y: Floats
    weight: Floats
    silent: Pair
    places: Floats
    """Where a failed case could lie, from the lowest to the highest."""
    found: list[float] = field(default_factory=list)
    """Intercepts so far: the next search starts at the last."""

    def intercept(self, b: float, place: float, start: float) -> float:
        """The profiled intercept with all failed cases at `place`, sought from `start`."""
        linear, silent = b * self.u, sum(self.silent)

        def excess(a: float) -> tuple[float, float]:
            p, q = special.expit(a + linear), float(special.expit(a + b * place))
            value = float(self.weight @ (self.y - p)) + self.silent[1] - silent * q
            return value, float(self.weight @ (p * (1 - p))) + silent * q * (1 - q)

        return falling_root(excess, _FARTHEST_INTERCEPT, start)

    def intercepts(self, b: float) -> Pair:
        """The least and the largest profiled intercept."""
        near = self.found[-1] if self.found else 0.0
        first = self.intercept(b, float(self.places[-1]), near)
        last = self.intercept(b, float(self.places[0]), first)
        self.found.append(first)
        return min(first, last), max(first, last)

    def extreme(self, b: float, sign: float) -> float:
        """The least (sign 1) sum of u (y - p), or the largest (-1) times -1."""
        found = []
        for a in np.linspace(*self.intercepts(b), _INTERCEPTS):
            known = float(self.weight @ (self.u * (self.y - special.expit(a + b * self.u))))
            p = special.expit(a + b * self.places)
            ends = [sign * self.places * (y - p) for y in (0.0, 1.0)]
            parts = [of * float(end.min()) for of, end in zip(self.silent, ends, strict=True)]
            found.append(sign * known + sum(parts))
        return min(found)


def slope_range(
    logit: Floats,
    reference: Floats,
    failed: NDArray[np.bool_],
    weight: Floats,
    code: NDArray[np.int64],
    *,
    near: float,
    centre: float,
    farthest: float,
) -> tuple[Pair, float] | None:
    """((lowest, highest) slope, largest standard error), or None where nothing bounds them.

    All arrays are [n], `logit` without meaning where `failed`; a score's logit lies within
    +-`farthest`; `near` is the slope of the known cases, where the search begins; `code` holds
    patients 0, 1, ….
    """
    known = ~failed
    cases = _Cases(
        u=logit[known] - centre,
        y=reference[known],
        weight=weight[known],
        silent=(
            float(weight[failed & (reference == 0)].sum()),
            float(weight[failed & (reference == 1)].sum()),
        ),
        places=np.linspace(-farthest - centre, farthest - centre, _PLACES),
    )
    step = round(near / _STEP)
    low = _last(lambda at: cases.extreme(at * _STEP, 1.0) > 0, step)
    high = _last(lambda at: cases.extreme(-at * _STEP, -1.0) > 0, -step)
    if low is None or high is None:
        return None
    ends = low * _STEP, -high * _STEP
    error = _largest_error(cases, ends, known, failed, reference, weight, code)
    return None if error is None else (ends, error)


def _last(holds: Callable[[int], bool], near: int) -> int | None:
    """The last step at which it holds (from some step on it does not), sought from `near`."""
    reach = 8
    while not holds(near - reach):
        reach *= 2
        if reach > _FARTHEST:
            return None
    low, high = near - reach, near + reach
    while holds(high):
        low, high = high, high + reach
        if high > near + _FARTHEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _largest_error(
    cases: _Cases, ends: Pair, known: NDArray[np.bool_], failed: NDArray[np.bool_],
    reference: Floats, weight: Floats, code: NDArray[np.int64],
) -> float | None:  # fmt: skip
    reached = [cases.intercepts(b) for b in np.linspace(*ends, _INTERCEPTS)]
    a = min(of[0] for of in reached), max(of[1] for of in reached)
    slopes = ends[0] * cases.u, ends[1] * cases.u
    linear = a[0] + np.minimum(*slopes), a[1] + np.maximum(*slopes)
    p = special.expit(linear[0]), special.expit(linear[1])
    spread = np.minimum(p[0] * (1 - p[0]), p[1] * (1 - p[1]))
    inside = (linear[0] < 0) & (linear[1] > 0)
    most = np.where(inside, 0.25, np.maximum(p[0] * (1 - p[0]), p[1] * (1 - p[1])))
    least = cases.weight * spread
    if least.sum() <= 0:
        return None
    middle = float(least @ cases.u / least.sum())
    information = float(least @ (cases.u - middle) ** 2)
    if information < _NOTHING:
        return None
    centre = _means(cases, least, cases.weight * most)
    residual = Box(cases.y - p[1], cases.y - p[0])
    place = Box(cases.u - centre[1], cases.u - centre[0])
    parts = residual.times(place)
    farthest = max(abs(float(cases.places[end]) - of) for end in (0, -1) for of in centre)
    patients = int(code.max()) + 1
    silent = by_patient(weight * failed * farthest, code, patients)
    of_known = code[known]
    total = Box(
        by_patient(cases.weight * parts.low, of_known, patients) - silent,
        by_patient(cases.weight * parts.high, of_known, patients) + silent,
    )
    return robust_error(total.scaled(1 / information))


def _means(cases: _Cases, least: Floats, most: Floats) -> Pair:
    """The range of the mean place when each case has a weight between `least` and `most`.

    Failed cases have any weight up to a quarter, at either end. The mean is largest where all
    above it weigh the most and all below the least, so each end is found by letting it rise (fall).
    """
    u = np.append(cases.u, cases.places[[0, -1]])
    silent = 0.25 * sum(cases.silent)
    lower, upper = np.append(least, [0.0, 0.0]), np.append(most, [silent, silent])
    found = []
    for sign in (-1.0, 1.0):
        mean = float(lower @ u / lower.sum())
        for _ in range(_ROUNDS):
            of = np.where(sign * (u - mean) > 0, upper, lower)
            new = float(of @ u / of.sum())
            if sign * (new - mean) <= _NOTHING:
                break
            mean = new
        found.append(mean)
    return found[0], found[1]
