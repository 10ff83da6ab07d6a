"""The table that evidence is computed from: one row a case, held in columns.

    >>> CaseTable(reference=np.array([0, 1]), score=np.array([0.2, np.nan]))

Rules
-----
1. The reference standard is 0 or 1, both classes occur, and it is never missing.
2. A score is a number in [0, 1]; NaN means that the prediction failed or was withheld.
3. Nothing here prints a value of a case: messages hold counts, `repr` holds sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid


@dataclass(frozen=True, eq=False)
class CaseTable:
    """n cases. `patient` holds one code a cluster, or None where cases are independent."""

    reference: NDArray[np.int8] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    patient: NDArray[np.int64] | None = field(default=None, repr=False)
    attributes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict, repr=False)
    failed_by_code: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.reference)
        columns: dict[str, Any] = {"score": self.score, **self.attributes}
        if self.patient is not None:
            columns["patient"] = self.patient
        for name, column in columns.items():
            if len(column) != n:
                raise Invalid(f"the column {name} has {len(column)} rows, the reference has {n}")
        if not np.isin(self.reference, (0, 1)).all():
            raise Invalid("the reference standard must be 0 or 1 in every row")
        positives = int(self.reference.sum())
        if positives in (0, n):
            only = "positive" if positives else "negative"
            raise Invalid(
                f"all {n} cases are {only}: sensitivity and specificity need cases of both classes"
            )
        known = self.score[~np.isnan(self.score)]
        outside = int(((known < 0) | (known > 1)).sum())
        if outside:
            raise Invalid(
                f"{outside} of {n} scores lie outside [0, 1]; a score is a probability of the "
                "positive reference"
            )

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""
        return np.isnan(self.score)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Which cases are positive by the reference standard."""
        return self.reference == 1
