"""The table of a measurement: one row a case.

    >>> table = read_regression(Path("predictions.csv"), settings, ("site",), True, {})

Columns: `case`, `patient`, `reference` and `prediction` (numbers in the unit of the settings),
`failure` and attributes as in `validators.table`.

Rules
-----
1. Both numbers are finite; the reference standard is never missing.
2. A case without a prediction needs a code in `failure`.
3. The numbers are kept as they are; `validators.metrics.regression` moves those outside the range
   of the settings to its end.
4. Columns are read-only; messages and `repr` hold no value of a case.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.case_columns import CaseColumns, column, locked
from validators.numbers import numbers
from validators.protocol.tasks import RegressionSettings
from validators.table import check_cases, check_mapping, failures, groups, patients, read_columns
from validators.table_file import open_table


@dataclass(frozen=True, eq=False)
class RegressionTable(CaseColumns):
    """n cases; `prediction` is NaN where it failed or was withheld.

    Raises Invalid for whatever breaks the module's rules.
    """

    reference: NDArray[np.float64] = field(repr=False)
    prediction: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.reference))
        for name in ("reference", "prediction"):
            self._set(name, _finite(name, column(name, getattr(self, name), n)))
        if missing := int(np.isnan(self.reference).sum()):
            raise Invalid(f"{missing} of {n} cases have no reference standard")
        self._check_columns(self.failed)

    @property
    def n(self) -> int:
        """Number of cases, failed ones included."""
        return len(self.reference)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""
        return np.isnan(self.prediction)

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen cases ([n]), patients recoded; attributes and counts of codes are dropped."""
        return type(self)(
            reference=self.reference[chosen],
            prediction=self.prediction[chosen],
            patient=self._chosen_patients(chosen),
        )


def read_regression(
    path: Path,
    settings: RegressionSettings,
    attributes: tuple[str, ...],
    clustered: bool,
    columns: Mapping[str, str],
) -> RegressionTable:
    """The cases of a table (CSV or Parquet), checked; Invalid in one line that says what to do.

    `settings` decides nothing here: its range is applied where the measures are computed.
    """
    needed = ["case", *(["patient"] if clustered else []), "reference", "prediction", *attributes]
    check_mapping(columns, [*needed, "patient", "failure"])
    file = open_table(path)
    wanted, data = read_columns(file, needed, columns)
    check_cases(file, data["case"])
    reference, prediction = (
        numbers(file, wanted[name], data[name], -np.inf, np.inf)
        for name in ("reference", "prediction")
    )
    if empty := int(np.isnan(reference).sum()):
        raise Invalid(
            f"{path.name}: {wanted['reference']} is empty in {empty} rows; a case without a "
            "reference standard can't be scored, so leave those rows out and say so"
        )
    failure = failures(file, data.get("failure"), len(reference))
    where, absent, declared = (
        f"{path.name}: {wanted['prediction']}",
        np.isnan(prediction),
        failure != "",
    )
    if undeclared := int((absent & ~declared).sum()):
        raise Invalid(
            f"{where} is empty or NaN in {undeclared} rows; fill them, or declare the predictions "
            "failed with a code in a column `failure` (they then count as the worst)"
        )
    if both := int((~absent & declared).sum()):
        raise Invalid(
            f"{where}: {both} rows have a prediction and a failure code; keep one of the two"
        )
    return RegressionTable(
        reference=reference,
        prediction=prediction,
        patient=patients(file, wanted["patient"], data["patient"]) if clustered else None,
        attributes={name: groups(file, wanted[name], data[name]) for name in attributes},
        failed_by_code=dict(sorted(Counter(failure[failure != ""].tolist()).items())),
    )


def _finite(name: str, given: NDArray[Any]) -> NDArray[np.float64]:
    if given.dtype.kind not in "fiu":
        raise Invalid(f"the column {name} must hold numbers, not {given.dtype.name}")
    values = given.astype(np.float64)
    if infinite := int(np.isinf(values).sum()):
        raise Invalid(f"{name} is infinite in {infinite} of {len(values)} cases")
    return locked(values)
