"""A mask from a NIfTI file (`.nii`, `.nii.gz`; versions 1 and 2 of the format).

    >>> grid = read_nifti(Path("p.nii.gz"), structures=2, where="t.csv: prediction_path, row 1")
    >>> grid.labels.shape, grid.spacing

Rules
-----
1. The affine is the sform if it has a code, else the qform if it has one, else what the spacing
   alone gives (nibabel's rule). Lengths are in mm, or without a unit and then taken as mm; a file
   in metres or microns is refused, not converted, for such a unit is mostly a mistake.
2. Values are scaled as the header says (slope, intercept). Each must then lie within 0.001 of a
   whole number and is that one: a scale stored in 32 bits moves labels by less. NaN, complex and
   colour values are refused.
3. A fourth and further axis must have one volume. A file of two axes is a 2D image; one slice on
   three axes has a thickness, so it is 3D.
4. The header is checked before a voxel is read: the number of voxels (`mask_grid`), and that data
   begin within 16 MiB. The data are read in blocks and kept as small numbers, so memory grows
   with the number of voxels and not with what a damaged or hostile file unpacks to.
5. The content decides whether it is packed. The file holds exactly the data that its header tells
   of; a checksum of gzip must fit.
6. Extensions and the text of the header are never read; a message holds no value of a voxel.
"""

import gzip
import logging
import math
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.mask_grid import (
    Affine,
    Grid,
    Labels,
    check_affine,
    check_labels,
    check_size,
    spacing_of,
)

_WHOLE = 1e-3
_BLOCK = 1 << 22
_LATEST_START = 1 << 24
_VERSIONS: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
_SILENT = logging.Logger(__name__, logging.CRITICAL + 1)


def read_nifti(path: Path, structures: int, where: str) -> Grid:
    """The labels, 0 to `structures`, with their place in the patient, on the axes of the file.

    `where` begins each message. Raises Invalid for whatever breaks the module's rules.
    """
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            header, affine = read_header(stream, where)
            shape = shape_of(header, where)
            check_affine(affine, where)
            labels = _labels(stream, header, structures, where)
    except (OSError, EOFError, zlib.error):
        raise Invalid(f"{where} is damaged or cut short; write it again") from None
    flat = 2 if len(shape) == 2 else None
    return Grid(labels.reshape(shape, order="F"), spacing_of(affine, flat), affine, flat)


def read_header(stream: BufferedIOBase, where: str) -> tuple[Any, Affine]:
    """The header, checked, and its affine; the stream then stands at the data."""
    first = stream.read(4)
    kind = next((_VERSIONS[size] for size in _VERSIONS for order in ("little", "big")
                 if first == size.to_bytes(4, order)), None)  # fmt: skip
    if kind is None:
        raise Invalid(f"{where} is no NIfTI file, in spite of its name; write it again")
    try:
        header = kind(first + stream.read(kind.sizeof_hdr - 4), check=False)
        _check_spacing(header, where)
        header.check_fix(_SILENT, 40)
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        start, unit = int(header.get_data_offset()), header.get_xyzt_units()[0]
    except (HeaderDataError, WrapStructError, ValueError, KeyError, OverflowError):
        raise Invalid(f"{where} has a damaged NIfTI header; write it again") from None
    if header["magic"] != header.single_magic:
        raise Invalid(f"{where} is one half of a .hdr and .img pair; write it as one .nii file")
    if unit not in ("mm", "unknown"):
        raise Invalid(f"{where} has lengths in {unit}, not in mm; write it again in mm")
    if not kind.sizeof_hdr <= start <= _LATEST_START:
        raise Invalid(
            f"{where} has its data elsewhere than behind the header and within 16 MiB; write it "
            "again without extensions"
        )
    stream.read(start - kind.sizeof_hdr)
    return header, affine


def _check_spacing(header: Any, where: str) -> None:
    """Before the header's small faults are mended: nibabel would make 1 mm of a missing spacing."""
    steps = header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))]
    if header["sform_code"] == 0 and not (steps > 0).all():
        raise Invalid(f"{where} has no positive spacing and no sform; write it again")


def shape_of(header: Any, where: str) -> tuple[int, ...]:
    shape = tuple(int(size) for size in header.get_data_shape())
    if len(shape) < 2 or any(size != 1 for size in shape[3:]):
        raise Invalid(f"{where} must hold one 2D or 3D volume of labels; write each by itself")
    check_size(shape, where)
    return shape[:3]


def _labels(stream: BufferedIOBase, header: Any, structures: int, where: str) -> Labels:
    kind = header.get_data_dtype()
    scale = scale_of(header, where)
    if kind.kind not in "iuf":
        raise Invalid(f"{where} must hold whole numbers, not complex numbers or colours")
    voxels = math.prod(int(size) for size in header.get_data_shape())
    labels = np.empty(voxels, dtype=np.min_scalar_type(structures))
    for start in range(0, voxels, _BLOCK):
        count = min(_BLOCK, voxels - start)
        data = stream.read(count * kind.itemsize)
        if len(data) < count * kind.itemsize:
            raise EOFError
        found = np.frombuffer(data, dtype=kind)
        if kind.kind == "f" or scale != (1.0, 0.0):
            found = _whole(found.astype(np.float64), scale, where)
        check_labels(found, structures, where)
        labels[start : start + count] = found
    if stream.read(1):
        raise Invalid(f"{where} holds more data than its header tells of; write it again")
    return labels


def scale_of(header: Any, where: str) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise Invalid(f"{where} has an intercept that is no number; write it again") from None
    return (1.0, 0.0) if slope is None or intercept is None else (float(slope), float(intercept))


def _whole(
    values: NDArray[np.float64], scale: tuple[float, float], where: str
) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        values = values * scale[0] + scale[1]
        whole = np.rint(values)
        near = np.abs(values - whole) <= _WHOLE
    if not near.all():
        raise Invalid(
            f"{where} has values that are not whole numbers; turn probabilities into labels first"
        )
    return whole
