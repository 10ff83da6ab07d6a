"""Made-up images as a hospital's own systems would send them: DICOM instances, or a PNG.

    >>> made_files(contract.inputs[0], seed, 0)
    {'00.dcm': b'…', '01.dcm': b'…'}

Rules
-----
1. Everything follows from the contract and the seed: pixels as in `validators.contract.made_up`,
   identifiers by SHA-256 of the seed. No date, no name of a program, no patient.
2. They are not yet what the contract asks for, wherever it says how to get there: slices are in the
   wrong order, axes are a scanner's, and where the contract resamples or crops, spacing and size
   differ from it. So a machine that reads, turns or resamples otherwise gives another answer.
3. The modality is the first that the contract takes; `picture` is a PNG.
4. A mask, or a form that no such image has, is Invalid: then a bundle has no raw cases.
"""

import hashlib
import io
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.image import ImageForm
from validators.contract.made_up import bounds, make_case, plausible
from validators.contract.schema import Tensor

_CLASSES: Mapping[str, str] = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "XC": "1.2.840.10008.5.1.4.1.1.77.1.4",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}
_PLACED = ("CT", "MR", "PT")
_AXIS = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}
"""Of an axial series: slices lead to the head, rows to the back, columns to the left."""
_STEPS = 4095
"""Stored values of 12 bits where the meaning is a real number."""
_COARSER = 1.25
_FIRST_PATTERN = 3
"""Before it, made-up cases are flat."""


@dataclass(frozen=True)
class _Stored:
    """How values are stored: lowest and highest number, and what they mean."""

    low: int
    high: int
    slope: float = 1.0
    intercept: float = 0.0


def made_files(tensor: Tensor, seed: str, case: int) -> dict[str, bytes]:
    """The files of one image, by name. Raises Invalid (rule 4)."""
    form = tensor.image
    if form is None or form.mask:
        raise Invalid(f"{tensor.name} is a mask or no image: it is not made up as a file")
    shape, spacing = _before(tensor, form)
    stored = _stored(tensor, form)
    channels = tensor.shape[0]
    drawn = Tensor(name=tensor.name, dtype="int32", shape=(channels, *shape),
                   minimum=stored.low, maximum=stored.high)  # fmt: skip
    pixels = np.moveaxis(make_case(drawn, f"{seed}/raw", case + _FIRST_PATTERN), 0, -1)
    if form.modality[0] == "picture":
        return {"00.png": _png(pixels[0])}
    key = f"{seed}/{tensor.name}/{case}"
    count = shape[0]
    width = max(2, len(str(count - 1)))
    return {
        # Named from the last slice to the first: order comes from the positions alone.
        f"{count - 1 - place:0{width}d}.dcm": _instance(
            tensor, form, pixels[place], place, spacing, stored, key
        )
        for place in range(count)
    }


def files_of_a_case(tensor: Tensor) -> tuple[int, int]:
    """(files, bytes) that one case of the tensor takes, about."""
    assert tensor.image is not None
    shape, _ = _before(tensor, tensor.image)
    picture = tensor.image.modality[0] == "picture"
    return 1 if picture else shape[0], 2 * tensor.shape[0] * math.prod(shape)


def _before(tensor: Tensor, form: ImageForm) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Size and spacing of (slices, rows, columns) from which the contract's are reached."""
    wanted = tensor.shape[1:] if len(tensor.shape) == 4 else (1, *tensor.shape[1:])
    asked = form.spacing_mm or ()
    spacing = [2.0, 1.0, 1.0][: 3 - len(asked)] + list(asked)
    size = list(wanted)
    for axis in range(3):
        resampled = form.resample is not None and axis >= 3 - len(asked)
        if form.fit is None or size[axis] == 1:
            continue
        if resampled:
            spacing[axis] = round(spacing[axis] * _COARSER, 4)
            size[axis] = max(2, round(size[axis] / _COARSER))
        else:
            size[axis] = max(2, size[axis] + (3, -2, 2)[axis])
    if form.orientation is None:
        return tuple(size), tuple(spacing)
    places = [_AXIS[letter] for letter in form.orientation]
    turned = sorted(range(3), key=places.__getitem__)
    return tuple(size[axis] for axis in turned), tuple(spacing[axis] for axis in turned)


def _stored(tensor: Tensor, form: ImageForm) -> _Stored:
    usual = plausible(tensor)
    if form.values == "HU" and tensor.unit == "":
        usual = plausible(tensor.model_copy(update={"unit": "HU"}))
    if form.values == "SUV" and tensor.unit == "":
        usual = plausible(tensor.model_copy(update={"unit": "SUV"}))
    low, high = bounds(usual)
    whole = np.dtype(tensor.staged_type).kind in "iu"
    if form.values in ("SUV", "rescaled") and not whole:
        low = max(low, 0.0) if form.values == "SUV" else low
        slope = float(f"{(high - low) / _STEPS:.9g}")
        # One step from either end, so that rounding stays within the contract's limits.
        return _Stored(1, _STEPS - 1, slope, float(f"{low:.9g}"))
    limits = np.iinfo(tensor.staged_type) if whole else np.iinfo(np.int32)
    if form.values == "stored":
        small = form.modality[0] == "picture" or tensor.shape[0] == 3
        signed = usual.minimum is not None and usual.minimum < 0 and not small
        least, most = (-32768, 32767) if signed else (0, 255 if small else 65535)
        first = max(math.ceil(usual.minimum or 0), least, int(limits.min))
        last = first + _STEPS if usual.maximum is None else math.floor(usual.maximum)
        return _checked(first, min(last, most, int(limits.max)), 0, tensor)
    first, last = max(math.ceil(low), int(limits.min)), min(math.floor(high), int(limits.max))
    return _checked(first, last, min(first, -1024) if form.values == "HU" else first, tensor)


def _checked(first: int, last: int, intercept: int, tensor: Tensor) -> _Stored:
    if first > last:
        raise Invalid(f"no stored value of an image lies within the limits of {tensor.name}")
    return _Stored(first - intercept, last - intercept, 1.0, float(intercept))


def _instance(
    tensor: Tensor,
    form: ImageForm,
    pixels: NDArray[Any],
    place: int,
    spacing: tuple[float, ...],
    stored: _Stored,
    key: str,
) -> bytes:
    """One slice as a DICOM file."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    made = Dataset()
    meta = FileMetaDataset()
    modality = form.modality[0]
    made.SOPClassUID = UID(_CLASSES[modality])
    made.SOPInstanceUID = _uid(f"{key}/instance/{place}")
    made.StudyInstanceUID = _uid(f"{key}/study")
    made.SeriesInstanceUID = _uid(f"{key}/series")
    made.Modality = modality
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.PatientID, made.PatientName = "GOLDEN", "GOLDEN^VECTOR"
    made.PatientBirthDate = made.StudyDate = made.StudyTime = ""
    made.ImageComments = "Made up. Of no patient."
    made.BurnedInAnnotation = "NO"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = pixels.shape[2]
    made.PhotometricInterpretation = "MONOCHROME2"
    if pixels.shape[2] == 3:
        made.PhotometricInterpretation, made.PlanarConfiguration = "RGB", 0
    if modality in ("MG", "DX"):
        made.PresentationIntentType = "FOR PRESENTATION"
    signed = stored.low < 0
    kind = np.dtype("u1" if pixels.shape[2] == 3 else "<i2" if signed else "<u2")
    made.PixelRepresentation = int(signed)
    made.BitsAllocated = made.BitsStored = kind.itemsize * 8
    made.HighBit = made.BitsStored - 1
    made.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[2])]
    if modality in _PLACED or len(tensor.shape) == 4:
        made.FrameOfReferenceUID = _uid(f"{key}/space")
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = ["-20", "-30", _decimal(10 + place * spacing[0])]
    if form.values != "stored":
        made.RescaleSlope, made.RescaleIntercept = (
            _decimal(stored.slope), _decimal(stored.intercept),
        )  # fmt: skip
    if form.values == "SUV":
        made.Units, made.SUVType = "GML", "BW"
    made.PixelData = pixels.astype(kind).tobytes() + b"\0" * (pixels.size * kind.itemsize % 2)
    made["PixelData"].VR = "OB" if kind.itemsize == 1 else "OW"
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Given, for pydicom would write its own version.
    meta.ImplementationClassUID = _uid("touchstone/golden")
    meta.ImplementationVersionName = "TOUCHSTONE"
    made.file_meta, made.preamble = meta, b"\0" * 128
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def _uid(text: str) -> Any:
    from pydicom.uid import UID

    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    return UID(f"2.25.{number}")


def _decimal(value: float) -> str:
    return f"{value:.9g}"


def _png(pixels: NDArray[Any]) -> bytes:
    """[rows, columns, 1 or 3] as 8 bit grey or RGB, not compressed: alike by every zlib."""
    rows, columns, channels = pixels.shape
    lines = np.zeros((rows, 1 + columns * channels), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(rows, -1)
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2 if channels == 3 else 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 0)
    parts = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
