"""Endpoints of a binary question, with what a failed prediction counts as.

Rules
-----
1. A score at or above the threshold is positive.
2. A failed or withheld prediction is wrong: not positive where the reference is, positive where
   it is not; last (first) in the ranking; the worst probability. So a model can't gain by
   silence (85 right of 100 against a goal of .80 is open; 85 of 90 would pass).
3. Bounds are the least favourable over what the failed predictions could have been
   (`validators.intervals.influence`), so a failure never improves one.
"""

import math

import numpy as np
from numpy.typing import NDArray

from validators.cases import CaseTable
from validators.intervals.estimated import Estimated, by_patient, robust_error
from validators.intervals.influence import Box, Floats
from validators.intervals.share import Share, share
from validators.metrics.estimate import checked_weight, number_of_patients
from validators.metrics.measure import Undefined

_ROC_POINTS = 2000


def right(table: CaseTable, threshold: float) -> NDArray[np.bool_]:
    """Which cases were decided as the reference standard says; failed, undecided ones were not."""
    decided = ~table.failed & ((table.score >= threshold) == table.positive)
    return np.asarray(decided if table.undecided is None else decided & ~table.undecided)


def share_right(
    table: CaseTable, threshold: float, chosen: NDArray[np.bool_], *, failed_is_right: bool = False
) -> Share:
    """The share of `chosen` cases that were decided right: the sensitivity of positives."""
    patient = None if table.patient is None else table.patient[chosen]
    return share(
        right(table, threshold)[chosen],
        table.failed[chosen],
        patient,
        failed_is_right=failed_is_right,
        clusters=None if table.patient is None else int(table.patient.max()) + 1,
    )


def brier_side(
    table: CaseTable, weight: Floats | None = None, *, failed_is_right: bool = False
) -> Estimated | Undefined:
    """The Brier score. Unit: the case; variance between patients' sums of deviations.

    Failed cases count 1, the worst (0 with `failed_is_right`). `weight` ([n]): sampling weights.
    """
    n, clusters = table.n, number_of_patients(table.patient)
    of_case = checked_weight(table, weight)
    loss = (table.score - table.reference) ** 2
    loss = np.where(table.failed, 0.0 if failed_is_right else 1.0, loss)
    value = float(of_case @ loss / of_case.sum())
    parts = of_case * (loss - value) / of_case.sum()
    if table.patient is not None:
        parts = by_patient(parts, table.patient, int(table.patient.max()) + 1)
    units = len(parts)
    if units < 2:
        return Undefined("one patient gives no interval", n, clusters, value)
    box = Box(parts, parts)
    error = robust_error(box)
    if error < 1e-12:
        why = "the loss does not vary, so it gives no interval"
        return Undefined(why, n, clusters, value)
    influence = box.scaled(math.sqrt(units / (units - 1)))
    return Estimated(value, n, clusters, (value, value), error, units - 1, influence=influence)


def roc_curve(table: CaseTable) -> tuple[tuple[float, float], ...]:
    """(1 - specificity, sensitivity) at each threshold, from (0, 0) to (1, 1).

    Failed cases rank at the wrong end. At most 2,000 points, evenly spaced along the curve.
    """
    score = np.where(table.failed, np.where(table.positive, -1.0, 2.0), table.score)
    order = np.argsort(-score, kind="stable")
    hits, last = table.positive[order], np.append(np.diff(score[order]) != 0, True)
    tpr = np.cumsum(hits)[last] / hits.sum()
    fpr = np.cumsum(~hits)[last] / (~hits).sum()
    keep = np.unique(np.linspace(0, len(tpr) - 1, min(_ROC_POINTS, len(tpr))).astype(int))
    return ((0.0, 0.0), *((float(fpr[i]), float(tpr[i])) for i in keep))
