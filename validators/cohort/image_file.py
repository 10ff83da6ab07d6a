"""An image of a file that is not DICOM: NIfTI, PNG or TIFF.

    >>> picture = read_image(Path("p1.nii.gz"), "ct")

Rules
-----
1. The content decides what a file is. Its size is checked before a pixel is decoded, and a packed
   file is unpacked no further than its header tells of.
2. NIfTI (the rules of `validators.metrics.mask_nifti`): one volume, placed by its affine, turned
   from NIfTI's space (right, front, head) to DICOM's. Whole numbers stay whole.
3. PNG and TIFF are read by `validators.contract.picture_file`.
4. Archives (ZIP and the like) are refused: unpack them yourself.
"""

import gzip
import math
import zlib
from collections.abc import Collection
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.dicom_open import guarded
from validators.contract.harmonise import Picture, axes_of, oriented
from validators.contract.picture_file import kind_of, read_picture_file
from validators.metrics.mask_grid import check_affine
from validators.metrics.mask_nifti import read_header, scale_of, shape_of

_BLOCK = 1 << 22
_TO_DICOM = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_image(path: Path, name: str) -> Picture:
    """The image in the file; `name` is the tensor's, for the message. Raises Invalid."""
    return guarded(lambda: _read(path, name), f"the file of {name} can't be read")


def read_mask_file(path: Path, name: str, image: Picture) -> Picture:
    """A mask, 0 or 1, that lies on the grid of `image`. Raises Invalid where it does not."""
    values = (_on_grid(path, name, image) != 0).astype(np.uint8)
    return Picture(values, image.affine, image.spacing, image.uneven)


def read_label_file(path: Path, name: str, image: Picture, labels: Collection[int]) -> Picture:
    """A map of these labels (0 is outside), uint8, that lies on the grid of `image`.

    Raises Invalid where it does not, or holds another number.
    """
    values = _on_grid(path, name, image)
    made = np.zeros(values.shape, dtype=np.uint8)
    for label in labels:
        made[values == label] = label
    if ((made == 0) & (values != 0)).any():
        raise Invalid(f"the mask {name} has labels that no structure of the contract has")
    return Picture(made, image.affine, image.spacing, image.uneven)


def _on_grid(path: Path, name: str, image: Picture) -> NDArray[Any]:
    """The values of a mask's file, turned to the image's axes, if they lie on its grid."""
    mask = read_image(path, name)
    if mask.affine is not None and image.affine is not None:
        mask = oriented(mask, "".join(axes_of(image.affine)))
    if mask.values.shape[0] != 1 or mask.values.shape[1:] != image.values.shape[1:]:
        raise Invalid(f"the mask {name} and the image differ in size")
    if mask.affine is not None and image.affine is not None:
        step = np.abs(image.affine[:3, :3]).max()
        ends = np.array([[0, 0, 0, 1], [*(np.array(image.values.shape[1:]) - 1), 1]]).T
        if np.abs((mask.affine - image.affine) @ ends).max() > 0.1 * step:
            raise Invalid(f"the mask {name} does not lie on the image")
    elif (mask.affine is None) != (image.affine is None):
        raise Invalid(f"of mask {name} and image only one has a place in space")
    return mask.values


def _read(path: Path, name: str) -> Picture:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        raise Invalid(f"the file of {name} is a ZIP archive; unpack it first")
    if (kind := kind_of(start)) is not None:
        return read_picture_file(path, name, kind)
    try:
        packed = start[:2] == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as unpacked:
            return _nifti(unpacked, name)
    except (OSError, EOFError, zlib.error):
        raise Invalid(f"the file of {name} is damaged or cut short; write it again") from None


def _nifti(stream: BufferedIOBase, name: str) -> Picture:
    where = f"the file of {name}"
    header, affine = read_header(stream, where)
    shape = shape_of(header, where)
    check_affine(affine, where)
    kind = header.get_data_dtype()
    count = math.prod(shape)
    if kind.kind not in "iuf":
        raise Invalid(f"{where} holds complex numbers or colours; write grey values")
    values = np.empty(count, dtype=kind.newbyteorder("="))
    for start in range(0, count, _BLOCK):
        data = stream.read(min(_BLOCK, count - start) * kind.itemsize)
        part = np.frombuffer(data, dtype=kind)
        if len(part) < min(_BLOCK, count - start):
            raise EOFError
        values[start : start + len(part)] = part
    slope, intercept = scale_of(header, where)
    made: NDArray[Any] = values
    if (slope, intercept) != (1.0, 0.0):
        made = (values * slope + intercept).astype(np.float32)
    array = made.reshape(shape if len(shape) == 3 else (*shape, 1), order="F")
    place = (_TO_DICOM @ affine)[:, [2, 1, 0, 3]]
    return Picture(array.transpose(2, 1, 0)[np.newaxis], place, None, array.shape[2] == 1)
