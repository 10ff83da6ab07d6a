"""The table of a multiclass or ordinal question: one row a case.

    >>> table = read_multiclass(Path("predictions.csv"), settings, ("site",), True, {})

Columns: `case`, `patient`, `reference` (the name of a class), one probability a class named
`score_<class>`, or `prediction` (the name of a class), or both; `failure` and attributes as in
`validators.table`.

Rules
-----
1. The probabilities of a case sum to 1, give or take .001.
2. What was decided is `prediction` where the file has it; else the class of the largest
   probability, and of equal ones the first (the least severe of an ordinal question).
3. A case without a prediction needs a code in `failure`. It has neither decision nor
   probabilities; a case that has one and not the other is an error.
4. Columns are read-only; messages and `repr` hold no value of a case.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.case_columns import CaseColumns, column, locked
from validators.numbers import MISSING, numbers
from validators.protocol.tasks import ClassSettings
from validators.table import (
    check_cases,
    check_mapping,
    failures,
    groups,
    patients,
    read_columns,
)
from validators.table_file import TableFile, count, open_table

FAILED = -1
"""The decision of a case whose prediction failed or was withheld."""
_SUM_WITHIN = 1e-3
_SHOWN = 12


@dataclass(frozen=True, eq=False)
class MulticlassTable(CaseColumns):
    """n cases of `len(names)` classes, which are numbered 0, 1, … in the order of `names`.

    `reference` [n]; `prediction` [n], FAILED where there is none; `probability` [n, classes], NaN
    in the rows of failed cases, or None where only decisions are known. Raises Invalid for
    whatever breaks the module's rules.
    """

    names: tuple[str, ...]
    reference: NDArray[np.int64] = field(repr=False)
    prediction: NDArray[np.int64] = field(repr=False)
    probability: NDArray[np.float64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.reference))
        for name, first in (("reference", 0), ("prediction", FAILED)):
            self._set(name, _codes(name, column(name, getattr(self, name), n), self.names, first))
        if self.probability is not None:
            self._set("probability", _probabilities(np.asarray(self.probability), self.names, n))
            absent = np.isnan(self.probability[:, 0])
            if unlike := int((absent != self.failed).sum()):
                raise Invalid(
                    f"{unlike} of {n} cases have a decision or probabilities, and not the other"
                )
        self._check_columns(self.failed)

    @property
    def n(self) -> int:
        """Number of cases, failed ones included."""
        return len(self.reference)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""
        return np.asarray(self.prediction == FAILED)

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen cases ([n]), patients recoded; attributes and counts of codes are dropped."""
        return type(self)(
            names=self.names,
            reference=self.reference[chosen],
            prediction=self.prediction[chosen],
            probability=None if self.probability is None else self.probability[chosen],
            patient=self._chosen_patients(chosen),
        )


def decided(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of the largest of [n, classes] probabilities, the first of equal ones."""
    absent = np.isnan(probability).any(axis=1)
    return np.where(absent, FAILED, np.where(np.isnan(probability), 0, probability).argmax(axis=1))


def read_multiclass(
    path: Path,
    settings: ClassSettings,
    attributes: tuple[str, ...],
    clustered: bool,
    columns: Mapping[str, str],
) -> MulticlassTable:
    """The cases of a table (CSV or Parquet), checked; Invalid in one line that says what to do."""
    scores = [f"score_{name}" for name in settings.names]
    basic = ["case", *(["patient"] if clustered else []), "reference", *attributes]
    check_mapping(columns, [*basic, "prediction", *scores, "patient", "failure"])
    file = open_table(path)

    def given(name: str) -> bool:
        return name in columns or columns.get(name, name) in file.names

    wanted_scores = scores if any(given(name) for name in scores) else []
    optional = [name for name in ("prediction", "failure") if given(name)]
    if not wanted_scores and "prediction" not in optional:
        raise Invalid(
            f"{path.name} has neither a column 'prediction' nor one probability a class "
            f"({_listed(scores)}); name them with --column prediction=COLUMN"
        )
    wanted, data = read_columns(file, [*basic, *wanted_scores], columns, optional)
    check_cases(file, data["case"])
    reference = _classes(file, wanted["reference"], data["reference"], settings.names)
    if empty := int((reference == FAILED).sum()):
        raise Invalid(
            f"{path.name}: {wanted['reference']} is empty in {empty} rows; a case without a "
            "reference standard can't be scored, so leave those rows out and say so"
        )
    failure = failures(file, data.get("failure"), len(reference))
    probability = prediction = None
    if wanted_scores:
        of_class = [numbers(file, wanted[name], data[name], 0.0, 1.0) for name in wanted_scores]
        for name, values in zip(wanted_scores, of_class, strict=True):
            _declared(file, wanted[name], np.isnan(values), failure)
        probability = np.column_stack(of_class)
        if unlike := int((np.abs(probability.sum(axis=1) - 1) > _SUM_WITHIN).sum()):
            raise Invalid(
                f"{path.name}: the probabilities do not sum to 1 in {unlike} rows; put logits "
                "through a softmax first, and write at least four decimals"
            )
    if "prediction" in data:
        prediction = _classes(file, wanted["prediction"], data["prediction"], settings.names)
        _declared(file, wanted["prediction"], prediction == FAILED, failure)
    elif probability is not None:
        prediction = decided(probability)
    assert prediction is not None, "a table without either was refused above"
    return MulticlassTable(
        names=settings.names,
        reference=reference,
        prediction=prediction,
        probability=probability,
        patient=patients(file, wanted["patient"], data["patient"]) if clustered else None,
        attributes={name: groups(file, wanted[name], data[name]) for name in attributes},
        failed_by_code=dict(sorted(Counter(failure[failure != ""].tolist()).items())),
    )


def _classes(
    file: TableFile, name: str, data: pa.Array, names: tuple[str, ...]
) -> NDArray[np.int64]:
    """The number of each row's class, FAILED where the cell is empty."""
    position = pc.index_in(data, pa.array(names))
    missing = pc.and_(pc.is_null(position), pc.is_in(pc.utf8_lower(data), pa.array(MISSING)))
    if odd := position.null_count - count(missing):
        raise Invalid(
            f"{file.path.name}: {name} is no class of the protocol in {odd} rows; the classes are "
            f"{_listed(names)}"
        )
    codes: NDArray[np.int64] = pc.fill_null(position, FAILED).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


def _declared(
    file: TableFile, name: str, absent: NDArray[np.bool_], failure: NDArray[np.str_]
) -> None:
    where, declared = f"{file.path.name}: {name}", failure != ""
    if undeclared := int((absent & ~declared).sum()):
        raise Invalid(
            f"{where} is empty or NaN in {undeclared} rows; fill them, or declare the predictions "
            "failed with a code in a column `failure` (they then count as wrong)"
        )
    if both := int((~absent & declared).sum()):
        raise Invalid(
            f"{where}: {both} rows have a prediction and a failure code; keep one of the two"
        )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _codes(name: str, given: NDArray[Any], names: tuple[str, ...], first: int) -> NDArray[np.int64]:
    if given.dtype.kind not in "iu":
        raise Invalid(f"the column {name} must hold whole numbers, not {given.dtype.name}")
    if outside := int(((given < first) | (given >= len(names))).sum()):
        raise Invalid(f"{name} is none of {len(names)} classes in {outside} of {len(given)} cases")
    return locked(given.astype(np.int64))


def _probabilities(given: NDArray[Any], names: tuple[str, ...], n: int) -> NDArray[np.float64]:
    if given.shape != (n, len(names)):
        raise Invalid(f"the probabilities must be a table of {n} cases by {len(names)} classes")
    if given.dtype.kind not in "fiu":
        raise Invalid(f"the probabilities must be numbers, not {given.dtype.name}")
    values = given.astype(np.float64)
    absent = np.isnan(values)
    if some := int((absent.any(axis=1) & ~absent.all(axis=1)).sum()):
        raise Invalid(f"{some} of {n} cases have some of their probabilities only")
    if outside := int(((values < 0) | (values > 1)).any(axis=1).sum()):
        raise Invalid(f"{outside} of {n} cases have a probability outside [0, 1]")
    if unlike := int((np.abs(values.sum(axis=1) - 1) > _SUM_WITHIN).sum()):
        raise Invalid(f"the probabilities do not sum to 1 in {unlike} of {n} cases")
    return locked(values)
