"""Mask files named by a table: read, checked and compared.

A file is NIfTI (`.nii`, `.nii.gz`; `validators.metrics.mask_nifti`) or a NumPy archive (`.npz`)
with `mask`, whole numbers on a 2D or 3D grid, and `spacing`, in mm along each axis. In both 0 is
outside, and k is the k-th structure of the protocol. The two files of a row are of one kind and lie
on one grid (`validators.metrics.mask_grid`). Paths are relative to the table's folder and stay
inside it. A message names a row, and the files where two do not fit, never what a file holds.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.mask_grid import Grid, Labels, check_labels, check_size, differences
from validators.metrics.mask_nifti import read_nifti
from validators.metrics.masks import Mask, Spacing
from validators.protocol.tasks import SegmentationSettings
from validators.table_file import TableFile

Row = Callable[
    [Mapping[str, Mask], Mapping[str, Mask], Spacing, SegmentationSettings], dict[str, float]
]
_MOST_BYTES = 16
"""Of one number."""


def compare_files(
    file: TableFile, references: Sequence[str], predictions: Sequence[str],
    failure: NDArray[np.str_], settings: SegmentationSettings, columns: Sequence[str], row_of: Row,
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """{column: values} for `columns`, NaN for cases with a failure code.

    Raises Invalid for a missing, damaged or unfit file, a path that leaves the table's folder, a
    missing prediction without a code, or a code beside a prediction.
    """
    empty = np.array([path == "" for path in predictions])
    where = f"{file.path.name}: prediction_path"
    if undeclared := int((empty & (failure == "")).sum()):
        raise Invalid(
            f"{where} is empty in {undeclared} rows; name a file, or declare the predictions "
            "failed with a code in a column `failure` (they then count as the worst)"
        )
    if both := int((~empty & (failure != "")).sum()):
        raise Invalid(f"{where}: {both} rows have a file and a failure code; keep one of the two")
    names = [structure.name for structure in settings.structures]
    rows: list[dict[str, float]] = []
    for number, pair in enumerate(zip(references, predictions, strict=True), start=1):
        reference = _read(file, number, "reference_path", pair[0], len(names)).turned(None)
        if empty[number - 1]:
            rows.append({})
            continue
        prediction = _read(file, number, "prediction_path", pair[1], len(names)).turned(reference)
        if found := differences(reference, prediction):
            raise Invalid(
                f"{file.path.name}: in row {number} the two masks, {Path(pair[0]).name} and "
                f"{Path(pair[1]).name}, differ in {', '.join(found)}; bring the prediction to the "
                "grid of the reference first"
            )
        try:
            rows.append(row_of(_by_name(reference.labels, names),
                               _by_name(prediction.labels, names), reference.spacing,
                               settings))  # fmt: skip
        except Invalid as error:
            raise Invalid(f"{file.path.name}: in row {number} {error.message}") from None
    return {
        name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)
        for name in columns
    }


def _by_name(labels: Labels, names: Sequence[str]) -> dict[str, Mask]:
    return {name: np.asarray(labels == label) for label, name in enumerate(names, start=1)}


def _read(file: TableFile, number: int, column: str, name: str, structures: int) -> Grid:
    where = f"{file.path.name}: the file that {column} names in row {number}"
    folder = file.path.resolve().parent
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder) or not path.is_file():
        raise Invalid(f"{where} does not exist in the table's folder")
    if name.lower().endswith((".nii", ".nii.gz")):
        return read_nifti(path, structures, where)
    labels, spacing = _arrays(path, where)
    if labels.dtype.kind not in "biu" or labels.ndim not in (2, 3):
        raise Invalid(f"{where} must hold whole numbers on a 2D or 3D grid as `mask`")
    labels = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
    check_labels(labels, structures, where)
    if spacing.dtype.kind not in "fiu" or spacing.shape != (labels.ndim,):
        raise Invalid(f"{where} must hold {labels.ndim} numbers of mm as `spacing`")
    return Grid(labels, tuple(float(step) for step in spacing))


def _arrays(path: Path, where: str) -> tuple[Labels, NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in ("mask", "spacing"):
                check_size(_shape_of(archive, name), where)
            return archive["mask"], archive["spacing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError,
            BadZipFile, zlib.error):  # fmt: skip
        raise Invalid(
            f"{where} is no NumPy archive (.npz) with `mask` and `spacing`, nor NIfTI (.nii, "
            ".nii.gz) by its name; write it again"
        ) from None


def _shape_of(archive: NpzFile, name: str) -> tuple[int, ...]:
    """The shape that an array's header tells of, before the array is unpacked."""
    if archive.zip is None:
        raise ValueError("the archive is closed")
    with archive.zip.open(f"{name}.npy") as stream:
        first = read_magic(stream) == (1, 0)
        shape, _, kind = (read_array_header_1_0 if first else read_array_header_2_0)(stream)
    if kind.itemsize > _MOST_BYTES:
        raise ValueError("no number has so many bytes")
    return shape
