"""The table of a segmentation: one row a case, four values a structure.

    >>> row = segmentation_row({"liver": reference}, {"liver": mask}, (3.0, 0.7, 0.7), settings)
    >>> table = read_segmentation(Path("predictions.csv"), settings, (), True, {})

Rules
-----
1. For each structure: `dice_…`, `nsd_…` in [0, 1], `hd95_…` in mm, `volume_error_…` relative
   (`validators.metrics.masks` says how each is computed).
2. A case has all of its values, or none: then its prediction failed or was withheld.
3. Columns are read-only; messages and `repr` hold no value of a case.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.case_columns import CaseColumns, column, locked
from validators.metrics.mask_file import compare_files
from validators.metrics.masks import Mask, Spacing, compare
from validators.numbers import declared, numbers
from validators.protocol.tasks import SegmentationSettings
from validators.table import check_cases, check_mapping, failures, groups, patients, read_columns
from validators.table_file import open_table

KINDS: Mapping[str, tuple[float, float]] = {
    "dice": (0.0, 1.0), "nsd": (0.0, 1.0), "hd95": (0.0, np.inf), "volume_error": (-np.inf, np.inf),
}  # fmt: skip
"""What is measured of each structure, and the range of its values."""
_PATHS = ("reference_path", "prediction_path")


@dataclass(frozen=True, eq=False)
class SegmentationTable(CaseColumns):
    """n cases; `values` maps `dice_liver` and so on to a column, NaN where the case failed.

    Raises Invalid for whatever breaks the module's rules.
    """

    values: Mapping[str, NDArray[np.float64]] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.values:
            raise Invalid("there is no structure to score")
        n = len(np.atleast_1d(next(iter(self.values.values()))))
        checked = {name: _values(name, column(name, of, n)) for name, of in self.values.items()}
        self._set("values", checked)
        absent = np.array([np.isnan(of) for of in checked.values()])
        if some := int((absent.any(axis=0) & ~absent.all(axis=0)).sum()):
            raise Invalid(f"{some} of {n} cases have some of their values only")
        self._check_columns(self.failed)

    @property
    def n(self) -> int:
        """Number of cases, failed ones included."""
        return len(self.failed)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""
        return np.isnan(next(iter(self.values.values())))

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen cases ([n]), patients recoded; attributes and counts of codes are dropped."""
        values = {name: of[chosen] for name, of in self.values.items()}
        return type(self)(values=values, patient=self._chosen_patients(chosen))


def segmentation_row(
    reference: Mapping[str, Mask],
    prediction: Mapping[str, Mask],
    spacing: Spacing,
    settings: SegmentationSettings,
) -> dict[str, float]:
    """The values of one case, by the names of the table's columns; masks by structure.

    Raises Invalid if a structure has no mask or two masks don't fit.
    """
    row: dict[str, float] = {}
    for structure in settings.structures:
        name = structure.name
        for whose, masks in (("reference", reference), ("prediction", prediction)):
            if name not in masks:
                raise Invalid(f"the {whose} has no mask of {name!r}; give an empty one if it is so")
        found = compare(
            reference[name], prediction[name], spacing, tolerance=structure.tolerance,
            maximum_distance=settings.maximum_distance,
            maximum_volume_error=settings.maximum_volume_error,
        )  # fmt: skip
        row |= {f"{kind}_{name}": float(getattr(found, kind)) for kind in KINDS}
    return row


def read_segmentation(
    path: Path,
    settings: SegmentationSettings,
    attributes: tuple[str, ...],
    clustered: bool,
    columns: Mapping[str, str],
) -> SegmentationTable:
    """The cases of a table (CSV or Parquet), checked.

    It holds the values of each structure, or `reference_path` and `prediction_path` of mask files
    (`validators.metrics.mask_file`), which are compared here. A case without values, or without a
    prediction's path, needs a code in `failure`.
    """
    names = [f"{kind}_{of.name}" for of in settings.structures for kind in KINDS]
    basic = ["case", *(["patient"] if clustered else []), *attributes]
    check_mapping(columns, [*basic, *names, *_PATHS, "patient", "failure"])
    file = open_table(path)
    from_files = _PATHS[0] in columns or _PATHS[0] in file.names
    needed = [*basic, *(_PATHS if from_files else names)]
    wanted, data = read_columns(file, needed, columns)
    check_cases(file, data["case"])
    failure = failures(file, data.get("failure"), len(data["case"]))
    values: Mapping[str, NDArray[np.float64]]
    if from_files:
        pairs = [data[name].to_pylist() for name in _PATHS]
        values = compare_files(file, pairs[0], pairs[1], failure, settings, names, segmentation_row)
    else:
        values = {
            name: declared(file, wanted[name], numbers(file, wanted[name], data[name],
                            *KINDS[name.removesuffix(f"_{of.name}")]), failure)
            for of in settings.structures for name in (f"{kind}_{of.name}" for kind in KINDS)
        }  # fmt: skip
    return SegmentationTable(
        values=values,
        patient=patients(file, wanted["patient"], data["patient"]) if clustered else None,
        attributes={name: groups(file, wanted[name], data[name]) for name in attributes},
        failed_by_code=dict(sorted(Counter(failure[failure != ""].tolist()).items())),
    )


def _values(name: str, given: NDArray[np.float64]) -> NDArray[np.float64]:
    kind = next((kind for kind in KINDS if name.startswith(f"{kind}_")), None)
    if kind is None:
        raise Invalid(f"the column {name} is none of {', '.join(f'{kind}_…' for kind in KINDS)}")
    if given.dtype.kind not in "fiu":
        raise Invalid(f"the column {name} must hold numbers, not {given.dtype.name}")
    values = given.astype(np.float64)
    low, high = KINDS[kind]
    if outside := int(((values < low) | (values > high) | np.isinf(values)).sum()):
        raise Invalid(f"{outside} of {len(values)} values of {name} are not possible")
    return locked(values)
