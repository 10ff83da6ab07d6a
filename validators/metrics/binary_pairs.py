"""A binary question asked of two models on the same cases.

    >>> found = paired(candidate, comparator, "auc", BinarySettings(threshold=0.5))
    >>> found.value, found.gating(0.025)

Rules
-----
1. value = candidate - comparator; both tables hold the same cases, row by row.
2. A failed prediction of the candidate is wrong, one of the comparator right: no bound is better
   for the candidate because either was silent (`validators.intervals.paired`).
3. Both models are asked at the candidate's locked threshold, unless the comparator has its own.
"""

import numpy as np

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.intervals.paired import paired_areas, paired_shares
from validators.metrics.binary import right
from validators.metrics.binary_measures import BinarySettings
from validators.metrics.measure import Side


def paired(
    candidate: CaseTable,
    comparator: CaseTable,
    metric: str,
    settings: BinarySettings,
    *,
    comparator_threshold: float | None = None,
) -> Side:
    """The difference of sensitivity, specificity or AUC with its uncertainty.

    Raises Invalid where the tables do not hold the same cases, ValueError for another metric.
    """
    _check(candidate, comparator)
    if metric == "auc":
        return paired_areas(
            candidate.score, comparator.score, candidate.positive, candidate.patient
        )  # fmt: skip
    if metric not in ("sensitivity", "specificity"):
        raise ValueError(f"{metric} has no difference of two models on the same cases")
    chosen = candidate.positive if metric == "sensitivity" else ~candidate.positive
    at = settings.threshold if comparator_threshold is None else comparator_threshold
    patient = candidate.patient
    if patient is not None:
        patient = np.unique(patient[chosen], return_inverse=True)[1].astype(np.int64)
    return paired_shares(
        right(candidate, settings.threshold)[chosen],
        (right(comparator, at) | comparator.failed)[chosen],
        patient,
    )


def _check(candidate: CaseTable, comparator: CaseTable) -> None:
    both = candidate.patient, comparator.patient
    same = np.array_equal(candidate.reference, comparator.reference)
    if both[0] is None or both[1] is None:
        same = same and both[0] is both[1]
    else:
        same = same and np.array_equal(both[0], both[1])
    if not same:
        raise Invalid(
            "the comparator's table does not hold the same cases in the same order as the "
            "candidate's, so nothing can be compared; score both on one cohort"
        )
