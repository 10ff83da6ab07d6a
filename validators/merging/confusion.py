"""Right and wrong decisions by reference standard, with the sums that patients' alikeness needs.

    >>> merged = north.merge(south)
    >>> merged.positives.share()          # the same as over all cases of both hospitals

The interval of a share depends on patients' sizes m and right decisions r only through sums: of
m², m r and r² (the ratio estimator) and of r (r - 1) / (m - 1) over patients with several cases
(the correlation within patients), kept as a fraction. See `validators.intervals.share`.

Failed predictions count as wrong. What else they could have been moves each patient's deviation
r - p m by at most its failed cases plus the share of failed times m, so the root of the sum of
squares by at most the root of that one's (Minkowski). The correlation within patients is then
taken as anything up to 1. So the design effect ranges over every completion, and a withheld
prediction never raises the lower bound.
"""

from fractions import Fraction
from math import sqrt
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from registry.trust.errors import Invalid
from validators.contract.faults import fault
from validators.contract.schema import Strict
from validators.intervals.proportion import Pair
from validators.intervals.share import Share
from validators.merging.summary import Count, Hospitals, joined, moved_root, smallest
from validators.metrics.measure import Undefined

Flags = NDArray[np.bool_]


class ShareCounts(Strict):
    """The share of right decisions among the cases of one class.

    m, r and f are a patient's cases, right decisions and failed predictions; `several_…` are over
    patients with at least two cases of the class.
    """

    cases: Count
    right: Count
    failed: Count
    patients: Count
    size_squares: Count
    """Sum of m²."""
    size_times_right: Count
    """Sum of m r."""
    right_squares: Count
    """Sum of r²."""
    several_cases: Count
    several_right: Count
    several_alike: Fraction
    """Sum of r (r - 1) / (m - 1)."""
    several_with_right: Count
    """Patients with several cases and a right one."""
    several_with_wrong: Count
    failed_squares: Count
    """Sum of f²."""
    size_times_failed: Count
    """Sum of m f."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.right + self.failed > self.cases:
            raise fault("right", "there are more right and failed decisions than cases")
        if self.patients > self.cases or (self.patients == 0) != (self.cases == 0):
            raise fault("patients", "there must be one where cases are, and as many at most")
        # Cauchy & Schwarz: no patients' sizes and decisions have other sums.
        if (
            self.cases**2 > self.size_squares * self.patients
            or self.size_times_right**2 > self.size_squares * self.right_squares
            or self.several_alike < 0
            or not self.several_right <= self.several_cases <= self.cases
            or (self.several_cases == 0) != (self.cases == self.patients)
        ):
            raise fault("size_squares", "the sums can't come from these counts")
        return self

    def merge(self, other: "ShareCounts") -> "ShareCounts":
        """The counts of both."""
        names = ShareCounts.model_fields
        return ShareCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def share(self) -> Share | Undefined:
        """The share with its interval, as `validators.intervals.share.share` gives it."""
        if self.cases == 0:
            return Undefined("there is no case of this class", 0, 0)
        return Share(self.right / self.cases, self.cases, self.patients, self._design_effect())

    def _design_effect(self) -> Pair:
        n, k = self.cases, self.patients
        alike = self.size_squares / n
        if k == n or k < 2:
            return alike, alike
        if self.failed:
            return 1.0, max(alike, self._largest_ratio())
        ratio, correlation = 0.0, 1.0
        if 0 < self.right < n:
            p = Fraction(self.right, n)
            spread = p * (1 - p)
            ratio = float(self._deviation_squares(p) * k / ((k - 1) * n * spread))
            pairs = self.several_alike - 2 * p * self.several_right + p**2 * self.several_cases
            correlation = min(1.0, max(0.0, float(pairs / (self.several_cases * spread))))
        telling = min(self.several_with_right, self.several_with_wrong)
        effect = max(1.0, ratio, 1 + (alike - 1) * (telling * correlation + 1) / (telling + 1))
        return effect, effect

    def _deviation_squares(self, p: Fraction) -> Fraction:
        """The sum of (r - p m)²."""
        return self.right_squares - 2 * p * self.size_times_right + p**2 * self.size_squares

    def _largest_ratio(self) -> float:
        """The ratio estimator's design effect at the worst of what failed cases could have been."""
        n, k = self.cases, self.patients
        root = sqrt(self._deviation_squares(Fraction(self.right, n)))
        root += moved_root(
            self.failed / n, self.failed_squares, self.size_times_failed, self.size_squares
        )
        ends = (max(self.right, 1) / n, min(self.right + self.failed, n - 1) / n)
        spread = min(p * (1 - p) for p in ends)
        return root**2 * k / ((k - 1) * n * spread)


class Confusion(Hospitals):
    """Both classes. The sensitivity is `positives.share()`, the specificity `negatives.share()`."""

    schema_id: Literal["touchstone/merge/confusion/v1"] = "touchstone/merge/confusion/v1"
    threshold: float
    positives: ShareCounts
    negatives: ShareCounts

    def merge(self, other: "Confusion") -> "Confusion":
        """Both together. Raises Invalid for a hospital in both, or for two thresholds."""
        if self.threshold != other.threshold:
            raise Invalid(
                f"the thresholds {self.threshold:g} and {other.threshold:g} differ; decisions by "
                "two thresholds can't be added up"
            )
        return Confusion(
            hospitals=joined(self.hospitals, other.hospitals),
            threshold=self.threshold,
            positives=self.positives.merge(other.positives),
            negatives=self.negatives.merge(other.negatives),
        )

    @property
    def smallest_cell(self) -> int:
        """The smallest count that tells of people (`validators.merging.summary`, rule 5)."""
        sides = (self.positives, self.negatives)
        return smallest(
            tuple(side.patients for side in sides),
            tuple(n for side in sides for n in (side.right, side.cases - side.right, side.failed)),
        )


def confusion(
    hospital: str,
    positive: Flags,
    right: Flags,
    failed: Flags,
    patient: NDArray[np.int64] | None,
    threshold: float,
) -> Confusion:
    """The summary of one hospital's cases; all columns are [n], `right` is false where `failed`."""
    code = np.arange(len(positive)) if patient is None else patient
    return Confusion(
        hospitals=(hospital,),
        threshold=threshold,
        positives=_counts(right[positive], failed[positive], code[positive]),
        negatives=_counts(right[~positive], failed[~positive], code[~positive]),
    )


def _counts(right: Flags, failed: Flags, code: NDArray[np.int64]) -> ShareCounts:
    kept = np.unique(code, return_inverse=True)[1]
    m = np.bincount(kept)
    r, f = (np.bincount(kept[of], minlength=len(m)) for of in (right, failed))
    several = m > 1
    sizes, rights = m[several], r[several]
    pairs = zip(sizes.tolist(), rights.tolist(), strict=True)
    return ShareCounts(
        cases=len(right),
        right=int(r.sum()),
        failed=int(f.sum()),
        patients=len(m),
        size_squares=int((m**2).sum()),
        size_times_right=int((m * r).sum()),
        right_squares=int((r**2).sum()),
        several_cases=int(sizes.sum()),
        several_right=int(rights.sum()),
        several_alike=sum((Fraction(y * (y - 1), x - 1) for x, y in pairs), Fraction(0)),
        several_with_right=int((rights > 0).sum()),
        several_with_wrong=int((rights < sizes).sum()),
        failed_squares=int((f**2).sum()),
        size_times_failed=int((m * f).sum()),
    )
