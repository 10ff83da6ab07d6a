"""Scores in fixed bins by reference standard: the AUC of the binned scores pools exactly.

    >>> merged = north.merge(south)
    >>> merged.area()                     # that of all cases of both, scores rounded to bins

Bins are of equal width over [0, 1] and fixed beforehand. Two cases in one bin are a tie and count
half, so the AUC is that of scores rounded to bins. Pairs of cases from different hospitals are
compared too: that is another question than how well the model ranks within a hospital.

Several cases of one patient: how much they are alike is not in the bins, so there is a value and
no interval.
"""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from registry.trust.errors import Invalid
from validators.contract.faults import fault
from validators.intervals.auc import Area, area
from validators.intervals.influence import Floats
from validators.merging.summary import Count, Hospitals, joined, smallest
from validators.metrics.measure import Undefined

Bins = Annotated[tuple[Count, ...], Field(min_length=2, max_length=10_000)]


class ScoreHistogram(Hospitals):
    """Counts of cases by bin, from the lowest; failed predictions apart, by class."""

    schema_id: Literal["touchstone/merge/histogram/v1"] = "touchstone/merge/histogram/v1"
    positives: Bins
    negatives: Bins
    failed_positives: Count
    failed_negatives: Count
    one_case_a_patient: bool

    @model_validator(mode="after")
    def _same_bins(self) -> Self:
        if len(self.positives) != len(self.negatives):
            raise fault("negatives", "both classes must have the same bins")
        return self

    def merge(self, other: "ScoreHistogram") -> "ScoreHistogram":
        """Both together. Raises Invalid for a hospital in both, or for other bins."""
        bins = len(self.positives), len(other.positives)
        if bins[0] != bins[1]:
            raise Invalid(
                f"one summary has {bins[0]} bins, the other {bins[1]}; fix them beforehand"
            )
        return ScoreHistogram(
            hospitals=joined(self.hospitals, other.hospitals),
            positives=_added(self.positives, other.positives),
            negatives=_added(self.negatives, other.negatives),
            failed_positives=self.failed_positives + other.failed_positives,
            failed_negatives=self.failed_negatives + other.failed_negatives,
            one_case_a_patient=self.one_case_a_patient and other.one_case_a_patient,
        )

    def area(self) -> Area | Undefined:
        """The AUC of the binned scores; failed predictions rank at the wrong end."""
        positives, negatives = self._totals
        n = positives + negatives
        if 0 in (positives, negatives):
            which = "positive" if positives == 0 else "negative"
            return Undefined(f"there is no {which} case", n, None)
        levels = np.append(np.arange(len(self.positives), dtype=np.float64), np.nan)
        score = np.append(
            np.repeat(levels, (*self.positives, self.failed_positives)),
            np.repeat(levels, (*self.negatives, self.failed_negatives)),
        )
        found = area(score, np.arange(n) < positives)
        if self.one_case_a_patient:
            return found
        why = "patients have several cases, and how alike those are is not in the bins"
        return Undefined(why, n, None, found.value)

    @property
    def smallest_cell(self) -> int:
        """The smallest count that tells of people (`validators.merging.summary`, rule 5)."""
        failed = (self.failed_positives, self.failed_negatives)
        return smallest(self._totals, (*self.positives, *self.negatives, *failed))

    @property
    def _totals(self) -> tuple[int, int]:
        return (
            sum(self.positives) + self.failed_positives,
            sum(self.negatives) + self.failed_negatives,
        )


def score_histogram(
    hospital: str,
    score: Floats,
    positive: NDArray[np.bool_],
    patient: NDArray[np.int64] | None = None,
    *,
    bins: int = 100,
) -> ScoreHistogram:
    """The summary of one hospital's scores ([n] in [0, 1], NaN where the prediction failed)."""
    failed = np.isnan(score)
    place = np.minimum((np.where(failed, 0.0, score) * bins).astype(np.int64), bins - 1)

    def counted(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(int(n) for n in np.bincount(place[chosen & ~failed], minlength=bins))

    return ScoreHistogram(
        hospitals=(hospital,),
        positives=counted(positive),
        negatives=counted(~positive),
        failed_positives=int((positive & failed).sum()),
        failed_negatives=int((~positive & failed).sum()),
        one_case_a_patient=patient is None or len(np.unique(patient)) == len(patient),
    )


def _added(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))
