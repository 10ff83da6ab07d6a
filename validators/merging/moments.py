"""A mean of bounded values that pools: sums of deviations from the mean, moved when it moves.

    >>> merged = north.merge(south)
    >>> merged.mean, merged.variance          # to rounding those of all cases of both hospitals

With m cases and the deviation e (the sum of its values less m times the mean), each patient adds
to the sums of m², m e and e². When the mean moves by d each e moves by d m, so the sums do not
need the cases again and lose no digits to cancellation (Chan, Golub & LeVeque 1979, for one case
a patient).

Rules
-----
1. The interval is Student's t on the ratio estimator's variance, and it is shown, never judged by:
   moments do not tell of rare, very bad cases (`validators.intervals.mean`, whose bound needs the
   values themselves). Where all values are equal there is none.
2. Failed predictions are at the worst end. What they could have been moves each e by at most the
   scale's width times (failed of this patient + share of failed times m), so the root of the sum
   of squares by at most the root of that one's (Minkowski): the variance is given as that range.
"""

from math import sqrt
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import special

from registry.trust.errors import Invalid
from validators.contract.faults import fault
from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair
from validators.merging.summary import Count, Hospitals, joined, moved_root, smallest
from validators.metrics.measure import Undefined


class Moments(Hospitals):
    """The sums of one metric. `scale` is its (lowest, highest) value."""

    schema_id: Literal["touchstone/merge/moments/v1"] = "touchstone/merge/moments/v1"
    metric: str
    scale: tuple[float, float]
    higher_is_better: bool
    cases: Annotated[int, Field(ge=1)]
    patients: Annotated[int, Field(ge=1)]
    failed: Count
    mean: float
    size_squares: Annotated[int, Field(ge=1)]
    """Sum of m²."""
    size_times_deviation: float
    """Sum of m e."""
    deviation_squares: Annotated[float, Field(ge=0)]
    """Sum of e²."""
    failed_squares: Count
    """Sum of f², f being a patient's failed predictions."""
    size_times_failed: Count
    """Sum of m f."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if not self.scale[0] < self.scale[1]:
            raise fault("scale", "its lowest value must be below its highest")
        if not self.scale[0] <= self.mean <= self.scale[1]:
            raise fault("mean", "it lies outside the scale")
        if self.patients > self.cases or self.failed > self.cases:
            raise fault("cases", "there are fewer cases than patients or failed predictions")
        if self.cases**2 > self.size_squares * self.patients:
            raise fault("size_squares", "the sums can't come from these counts")
        return self

    def merge(self, other: "Moments") -> "Moments":
        """Both together. Raises Invalid for a hospital in both, or for two metrics or scales."""
        for name in ("metric", "scale", "higher_is_better"):
            if getattr(self, name) != getattr(other, name):
                raise Invalid(f"the two summaries differ in {name}; they can't be added up")
        cases = self.cases + other.cases
        mean = (self.mean * self.cases + other.mean * other.cases) / cases
        mean = min(max(mean, self.scale[0]), self.scale[1])
        crosses, squares = zip(self._moved(mean), other._moved(mean), strict=True)
        return Moments(
            hospitals=joined(self.hospitals, other.hospitals),
            metric=self.metric,
            scale=self.scale,
            higher_is_better=self.higher_is_better,
            cases=cases,
            patients=self.patients + other.patients,
            failed=self.failed + other.failed,
            mean=mean,
            size_squares=self.size_squares + other.size_squares,
            size_times_deviation=sum(crosses),
            deviation_squares=sum(squares),
            failed_squares=self.failed_squares + other.failed_squares,
            size_times_failed=self.size_times_failed + other.size_times_failed,
        )

    @property
    def variance(self) -> Pair:
        """The ratio estimator's, least and largest over what failed cases could have been."""
        n, k = self.cases, self.patients
        moved = (self.scale[1] - self.scale[0]) * moved_root(
            self.failed / n, self.failed_squares, self.size_times_failed, self.size_squares
        )
        root, factor = sqrt(self.deviation_squares), k / max(k - 1, 1) / n**2
        return max(0.0, root - moved) ** 2 * factor, (root + moved) ** 2 * factor

    def shown(self, tail: float) -> Pair | Undefined:
        """The interval of the mean by t, with the largest variance. Not to judge by."""
        if self.patients < 2:
            why = "one patient gives no interval"
            return Undefined(why, self.cases, self.patients, self.mean)
        error = sqrt(self.variance[1])
        if error == 0:
            why = "the values do not vary, so they give no interval"
            return Undefined(why, self.cases, self.patients, self.mean)
        half = -float(special.stdtrit(self.patients - 1, tail)) * error
        return max(self.scale[0], self.mean - half), min(self.scale[1], self.mean + half)

    @property
    def smallest_cell(self) -> int:
        """The smallest count that tells of people (`validators.merging.summary`, rule 5)."""
        return smallest((self.patients,), (self.failed,))

    def _moved(self, mean: float) -> tuple[float, float]:
        """(sum of m e, sum of e²) around another mean."""
        d = self.mean - mean
        squares = self.deviation_squares + 2 * d * self.size_times_deviation
        return (
            self.size_times_deviation + d * self.size_squares,
            max(0.0, squares + d**2 * self.size_squares),
        )


def moments(
    hospital: str,
    metric: str,
    values: Floats,
    scale: tuple[float, float],
    patient: NDArray[np.int64] | None = None,
    *,
    higher_is_better: bool = True,
) -> Moments:
    """The summary of one hospital's `values` ([n], NaN where the prediction failed).

    Raises Invalid where there is no case.
    """
    if len(values) == 0:
        raise Invalid(f"the hospital {hospital} has no case of {metric}; leave it out")
    failed = np.isnan(values)
    worst = np.where(failed, scale[0 if higher_is_better else 1], values)
    code = np.arange(len(values)) if patient is None else np.unique(patient, return_inverse=True)[1]
    m, f = np.bincount(code), np.bincount(code[failed], minlength=int(code.max()) + 1)
    mean = min(max(float(worst.mean()), scale[0]), scale[1])
    e = np.bincount(code, worst - mean)
    return Moments(
        hospitals=(hospital,),
        metric=metric,
        scale=scale,
        higher_is_better=higher_is_better,
        cases=len(values),
        patients=len(m),
        failed=int(failed.sum()),
        mean=mean,
        size_squares=int((m**2).sum()),
        size_times_deviation=float(m @ e),
        deviation_squares=float(e @ e),
        failed_squares=int((f**2).sum()),
        size_times_failed=int((m * f).sum()),
    )
