"""Concordance of two scales, and the worst that failed predictions could make of it.

    concordance = 1 - observed / expected

Observed is the mean squared difference of prediction and reference, expected the same if
predictions had met the references of random cases. On measurements this is Lin's concordance
correlation coefficient (1989, variances with 1/n); on class numbers 0, 1, … it is Cohen's kappa
with quadratic weights (Cohen 1968; Fleiss & Cohen 1973 for the identity). 1 is perfect, 0 is
chance, and it is never below -1.

A failed prediction changes both parts, so no single value is the worst of all: where most cases
disagree, chance would be worse still. The worst completion is therefore searched for in every
bootstrap replicate. For a ratio O / E of two sums over cases it is found by raising g from
O / E of any completion to that of the completion with the largest O - g E, until nothing rises
(Dinkelbach 1967). For a fixed g each failed case can be chosen by itself, and as

    (y - x)^2 - g ((y - mean reference)^2 + variance of reference)

is a parabola in the prediction y, its largest value lies at an end of the scale or, where g > 1,
at the vertex (on classes: the class next to it). So the value with a failed prediction is at most
that with any other one in its place, for every weighting of the patients.

The concordance is undefined where the reference does not vary; that depends on no prediction.

The interval is that of the bootstrap, and never narrower than n independent cases of a normal
distribution would give it (Lin 1989: on the scale of Fisher's z with variance 1 / (n - 3), here
with t). At 30 patients of one case the error of kappa's lower bound is .042 without this floor
and .025 with it (1,000 cohorts), at most .045 in all conditions of bench/multiclass_coverage.py
(400). The floor's width depends on n alone, so that a withheld prediction still never improves a
bound. The upper bound is less sure: where measurements are skewed (log-normal) and each patient
has one, its error is .10 at 30 patients, .07 at 100 and .04 at 400, so a small cohort may fail a
good model on it, and does not pass a poor one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.bootstrap import Resampled, Statistic
from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair

_STEPS = 50
_NO_SPREAD = 1e-12
_ENOUGH = 1e-13
_BLOCK = 4_000_000
_NEXT_TO_ONE = 1 - 1e-12


@dataclass(frozen=True, eq=False)
class Concordance(Resampled):
    """A concordance and its replicates; at least four cases."""

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        low, high = super().gating(tail)
        z = math.atanh(min(_NEXT_TO_ONE, max(-_NEXT_TO_ONE, self.value)))
        half = -float(special.stdtrit(self.n - 1, tail)) / math.sqrt(self.n - 3)
        return min(low, math.tanh(z - half)), max(high, math.tanh(z + half))


def judged(found: Resampled) -> Concordance:
    """A resampled concordance with the interval that it is judged by."""
    return Concordance(**vars(found))


def concordance(
    reference: Floats,
    prediction: Floats,
    patient: NDArray[np.int64],
    scale: Pair,
    *,
    steps: int | None = None,
    failed_is_right: bool = False,
) -> Statistic:
    """The concordance as a function of how often each patient was drawn, NaN where undefined.

    `reference` [n] lies within `scale`; `prediction` [n] too, NaN where it failed; `patient` [n]
    holds codes 0, 1, …. With `steps` a prediction is one of `steps` + 1 values at equal distances
    (classes). Failed predictions make the worst of it, or the best with `failed_is_right`.
    """
    # On the unit scale, where no square overflows and rounding is the same for every unit.
    x, y = ((values - scale[0]) / (scale[1] - scale[0]) for values in (reference, prediction))
    failed = np.isnan(y)
    known = ~failed
    gap, shown = np.where(failed, 0.0, y - x), np.where(failed, 0.0, y)
    sums = np.stack([
        np.bincount(patient, weights)
        for weights in (np.ones_like(x), x, x**2, known, gap**2, shown, shown**2)
    ])  # fmt: skip
    sought, of_patient = x[failed], patient[failed]
    sign = -1.0 if failed_is_right else 1.0

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        n, first, second, known, observed, of_y, of_square = sums @ drawn.T
        mean = first / n
        variance = second / n - mean**2
        defined = variance > _NO_SPREAD
        variance = np.where(defined, variance, 1.0)
        expected = of_square - 2 * mean * of_y + known * (mean**2 + variance)
        if not len(sought):
            return np.where(defined, np.clip(1 - observed / expected, -1, 1), np.nan)
        ratio = np.empty_like(mean)
        rows = max(1, _BLOCK // len(sought))
        for start in range(0, len(mean), rows):
            part = slice(start, start + rows)
            weight = drawn[part][:, of_patient].astype(np.float64)
            sums_of_known = observed[part, None], expected[part, None]
            moments = mean[part, None], variance[part, None]
            ratio[part] = _extreme(weight, sought, sums_of_known, moments, sign, steps)
        return np.where(defined, np.clip(1 - ratio, -1, 1), np.nan)

    return statistic


def _extreme(
    weight: Floats, x: Floats, known: tuple[Floats, Floats], moments: tuple[Floats, Floats],
    sign: float, steps: int | None,
) -> Floats:  # fmt: skip
    """The largest (sign 1) or smallest (-1) observed / expected over all completions; [rows].

    `weight` is [rows, failed cases] and `x` their references; all else is [rows, 1].
    """
    mean, variance = moments

    def parts(y: Floats) -> tuple[Floats, Floats]:
        return (y - x) ** 2, (y - mean) ** 2 + variance

    def ratio_of(y: Floats) -> Floats:
        observed, expected = (
            of + (weight * part).sum(axis=1, keepdims=True)
            for of, part in zip(known, parts(y), strict=True)
        )
        return np.asarray(observed / expected)

    def best_for(ratio: Floats) -> Floats:
        curve = np.where(np.abs(1 - ratio) > _NO_SPREAD, 1 - ratio, 1.0)
        vertex = np.clip((x - ratio * mean) / curve, 0.0, 1.0)
        if steps is not None:
            vertex = np.round(vertex * steps) / steps
        best, most = vertex, np.full_like(weight, -np.inf)
        for y in (np.zeros_like(vertex), np.ones_like(vertex), vertex):
            observed, expected = parts(y)
            gain = sign * (observed - ratio * expected)
            best, most = np.where(gain > most, y, best), np.maximum(gain, most)
        return best

    ratio = ratio_of(np.where(x < 0.5, 1.0, 0.0) if sign > 0 else x)
    for _ in range(_STEPS):
        found = ratio_of(best_for(ratio))
        risen = sign * (found - ratio)
        ratio = np.where(risen > 0, found, ratio)
        if (risen <= _ENOUGH).all():
            break
    return ratio[:, 0]
