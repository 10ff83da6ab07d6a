"""The columns that the tables of several task types have in common, checked and read-only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseColumns:
    """Patients, groups and counts of a table; one row a case.

    `patient` holds one code a cluster, or None where cases are independent; any whole numbers may
    be given, they are recoded 0, 1, … in their order.
    """

    patient: NDArray[np.int64] | None = field(default=None, repr=False)
    attributes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict, repr=False)
    failed_by_code: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)

    def _check_columns(self, failed: NDArray[np.bool_]) -> None:
        n = len(failed)
        if not n:
            raise Invalid("there is no case to score")
        if self.patient is not None:
            given = column("patient", self.patient, n)
            if given.dtype.kind not in "iu":
                raise Invalid(f"patients must be whole-number codes, not {given.dtype.name}")
            self._set("patient", locked(np.unique(given, return_inverse=True)[1].astype(np.int64)))
        groups = {name: column(name, of, n).astype(np.str_) for name, of in self.attributes.items()}
        self._set("attributes", {name: locked(of) for name, of in groups.items()})
        for name in ("failed_by_code", "excluded"):
            if any(count < 0 for count in getattr(self, name).values()):
                raise Invalid(f"{name} holds a negative count")
        missing, coded = int(failed.sum()), sum(self.failed_by_code.values())
        if coded > missing:
            raise Invalid(f"{coded} cases have a failure code, and only {missing} failed")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _chosen_patients(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64] | None:
        return None if self.patient is None else self.patient[chosen]


def column(name: str, given: Any, n: int) -> NDArray[Any]:
    """`given` as an array of n rows. Raises Invalid if it has another number."""
    values = np.asarray(given)
    if values.ndim != 1 or len(values) != n:
        rows = len(values) if values.ndim else 0
        raise Invalid(f"the column {name} has {rows} rows, and there are {n} cases")
    return values


def locked(values: NDArray[Any]) -> NDArray[Any]:
    """A read-only view."""
    view = values.view()
    view.flags.writeable = False
    return view
