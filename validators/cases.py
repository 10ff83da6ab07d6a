"""The table that evidence is computed from: one row a case, held in columns.

    >>> CaseTable(reference=np.array([0, 1]), score=np.array([0.2, np.nan]))

Rules
-----
1. The reference standard is 0 or 1, both classes occur, and it is never missing.
2. A score is a number in [0, 1]; NaN means that the prediction failed or was withheld.
3. `further` holds others' scores or ratings of the same cases (another model's, readers', the
   model's own under a perturbation), NaN where there is none; `weight` sampling weights above 0;
   `undecided` the answers that are neither positive nor negative and count as wrong at the locked
   threshold.
4. Columns are read-only: what was checked is what is computed on.
5. Nothing here prints a value of a case: messages hold counts, `repr` holds no column.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid


@dataclass(frozen=True, eq=False)
class CaseTable:
    """n cases. `patient` holds one code a cluster, or None where cases are independent; any whole
    numbers may be given, they are recoded 0, 1, … in their order.

    `failed_by_code` counts the failed predictions by their code, `excluded` the cases left out
    before sealing by their reason. Raises Invalid for whatever breaks the module's rules.
    """

    reference: NDArray[np.int8] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    patient: NDArray[np.int64] | None = field(default=None, repr=False)
    attributes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict, repr=False)
    failed_by_code: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    further: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    weight: NDArray[np.float64] | None = field(default=None, repr=False)
    undecided: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._set("reference", _reference(np.asarray(self.reference)))
        n = len(self.reference)
        self._set("score", _scores(np.asarray(self.score), n))
        if self.patient is not None:
            self._set("patient", _patients(np.asarray(self.patient), n))
        self._set(
            "attributes",
            {name: _groups(name, np.asarray(of), n) for name, of in self.attributes.items()},
        )
        self._set("further", {name: _further(name, of, n) for name, of in self.further.items()})
        if self.weight is not None:
            self._set("weight", _weights(np.asarray(self.weight), n))
        if self.undecided is not None:
            _same_length("undecided", np.asarray(self.undecided), n)
            self._set("undecided", _locked(np.asarray(self.undecided, dtype=bool)))
        for name in ("failed_by_code", "excluded"):
            if any(count < 0 for count in getattr(self, name).values()):
                raise Invalid(f"{name} holds a negative count")
        failed, coded = int(self.failed.sum()), sum(self.failed_by_code.values())
        if coded > failed:
            raise Invalid(f"{coded} cases have a failure code, and only {failed} have no score")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def n(self) -> int:
        """Number of cases, failed ones included."""
        return len(self.reference)

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen cases; attributes and counts of codes are dropped. Both classes must occur."""
        return replace(
            self,
            reference=self.reference[chosen],
            score=self.score[chosen],
            patient=None if self.patient is None else self.patient[chosen],
            attributes={},
            failed_by_code={},
            excluded={},
            further={name: of[chosen] for name, of in self.further.items()},
            weight=None if self.weight is None else self.weight[chosen],
            undecided=None if self.undecided is None else self.undecided[chosen],
        )

    def scored_by(self, score: NDArray[np.float64]) -> Self:
        """The same cases with other scores ([n], NaN where a prediction failed)."""
        return replace(self, score=score, failed_by_code={}, further={}, undecided=None)

    def with_undecided(self, undecided: NDArray[np.bool_]) -> Self:
        """The same cases, those marked that count as wrong for being undecided ([n])."""
        return replace(self, undecided=undecided)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""
        return np.isnan(self.score)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Which cases are positive by the reference standard."""
        return np.asarray(self.reference == 1)


def _reference(given: NDArray[Any]) -> NDArray[np.int8]:
    if given.ndim != 1 or not len(given):
        raise Invalid("there is no case to score: the reference standard must be one column")
    wrong = int((~np.isin(given, (0, 1))).sum())
    if wrong:
        raise Invalid(f"the reference standard is neither 0 nor 1 in {wrong} of {len(given)} cases")
    reference = given.astype(np.int8)
    positives = int(reference.sum())
    if positives in (0, len(reference)):
        only = "positive" if positives else "negative"
        raise Invalid(
            f"all {len(reference)} cases are {only}; cases of both classes are needed, so check "
            "that the right column was read as the reference standard"
        )
    return _locked(reference)


def _scores(given: NDArray[Any], n: int) -> NDArray[np.float64]:
    _same_length("score", given, n)
    if given.dtype.kind not in "fiub":
        raise Invalid(f"the scores must be numbers, not of type {given.dtype.name}")
    score = given.astype(np.float64)
    outside = int(((score < 0) | (score > 1)).sum())
    if outside:
        raise Invalid(
            f"{outside} of {n} scores lie outside [0, 1]; a score is the probability that the "
            "reference is positive"
        )
    return _locked(score)


def _further(name: str, given: NDArray[Any], n: int) -> NDArray[np.float64]:
    _same_length(name, np.asarray(given), n)
    values = np.asarray(given, dtype=np.float64)
    if infinite := int(np.isinf(values).sum()):
        raise Invalid(f"the column {name} is infinite in {infinite} of {n} cases")
    return _locked(values)


def _weights(given: NDArray[Any], n: int) -> NDArray[np.float64]:
    _same_length("weight", given, n)
    weight = given.astype(np.float64)
    if wrong := int((~np.isfinite(weight) | (weight <= 0)).sum()):
        raise Invalid(f"{wrong} of {n} sampling weights are no finite number above 0")
    return _locked(weight)


def _patients(given: NDArray[Any], n: int) -> NDArray[np.int64]:
    _same_length("patient", given, n)
    if given.dtype.kind not in "iu":
        raise Invalid(f"patients must be whole-number codes, not of type {given.dtype.name}")
    return _locked(np.unique(given, return_inverse=True)[1].astype(np.int64))


def _groups(name: str, given: NDArray[Any], n: int) -> NDArray[np.str_]:
    _same_length(name, given, n)
    return _locked(given.astype(np.str_))


def _same_length(name: str, column: NDArray[Any], n: int) -> None:
    if column.ndim != 1 or len(column) != n:
        rows = len(column) if column.ndim else 0
        raise Invalid(f"the column {name} has {rows} rows, the reference standard has {n}")


def _locked(column: NDArray[Any]) -> NDArray[Any]:
    view = column.view()
    view.flags.writeable = False
    return view
