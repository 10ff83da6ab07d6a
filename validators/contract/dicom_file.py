"""One DICOM file: the few things of its header that ingest needs, and its pixels.

    >>> header = read_header(path)
    >>> stored(header)        # [frames, rows, columns] or [frames, rows, columns, 3]

Rules
-----
1. A header is an allow-list: what is not a field of `Header` is never read into one, and nothing
   else of the file is handed on. `subject` and `seen` are for decisions and never written.
2. Any file gives a header, pixels or Invalid: one line without a value of the file
   (`validators.contract.dicom_open`).
3. Sizes are checked before anything is decoded.
4. MONOCHROME1 is turned, so that more is brighter. FOR PROCESSING, palettes and modality look-up
   tables are refused, and so is one part of an image in several files.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from registry.trust.errors import Invalid
from validators.contract.dicom_frames import Frame, frames_of
from validators.contract.dicom_open import dataset, guarded, plain_syntax
from validators.contract.dicom_uptake import NEEDED, uptake_factor
from validators.contract.in_memory import File

MODALITIES = ("CT", "MR", "PT", "MG", "DX", "CR", "US", "SC", "XC", "OT", "SEG")
LARGEST = 1 << 29
"""Values of one image, at most."""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SPLITTERS = ("TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "TriggerTime",
              "DiffusionBValue", "FrameReferenceTime")  # fmt: skip
_READ = (
    "SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID",
    "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation",
    "PresentationIntentType", "FrameOfReferenceUID", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "ImagerPixelSpacing", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "BurnedInAnnotation", "RecognizableVisualFeatures",
    "BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName", "PatientSex",
    "PatientAge", "PatientBirthDate", "StudyDate", "Manufacturer", "ReferencedSeriesSequence",
    "ConversionType", "DimensionIndexSequence", "InConcatenationTotalNumber", *_SPLITTERS, *NEEDED,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What ingest knows of one file. Nothing here is written as it stands."""

    path: File = field(repr=False)
    instance: str = field(repr=False)
    series: str = field(repr=False)
    study: str = field(repr=False)
    patient: str = field(repr=False)
    modality: str
    image_type: tuple[str, ...] = field(repr=False)
    rows: int
    columns: int
    samples: int
    bits: int
    inverted: bool
    space: str = field(repr=False)
    frames: tuple[Frame, ...] = field(repr=False)
    splitters: tuple[str, ...] = field(repr=False)
    refers_to: tuple[str, ...] = field(repr=False)
    burned_in: str = field(repr=False)
    secondary: bool
    uptake: float | None = field(repr=False)
    seen: str = field(repr=False)
    subject: dict[str, str] = field(repr=False)


def read_header(path: File) -> Header:
    """The header of an image or a segmentation. Raises Invalid for anything else."""
    return guarded(lambda: _header(path), "the DICOM header can't be read")


def stored(header: Header) -> NDArray[Any]:
    """The stored values, [frames, rows, columns] or [frames, rows, columns, 3]."""
    values = guarded(lambda: _decoded(header), "the pixels can't be decoded")
    shape = (len(header.frames), header.rows, header.columns)
    if values.size != math.prod(shape) * header.samples:
        raise Invalid("the pixels are not as many as the header says")
    values = values.reshape(shape if header.samples == 1 else (*shape, header.samples))
    if header.inverted:
        low, high = (
            (-(1 << (header.bits - 1)), (1 << (header.bits - 1)) - 1)
            if values.dtype.kind == "i"
            else (0, (1 << header.bits) - 1)
        )
        if values.min() < low or values.max() > high:
            raise Invalid("a pixel of a MONOCHROME1 image is outside its own range")
        values = (low + high - values.astype(np.int64)).astype(values.dtype)
    return values


def _header(path: File) -> Header:
    found = dataset(path, stop_before_pixels=True, specific_tags=list(_READ))
    missing = [name for name in ("SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
               if not found.get(name)]  # fmt: skip
    if missing:
        raise Invalid(f"it is no image: {missing[0]} is missing")
    modality = str(found.get("Modality", ""))
    sop_class = str(found.get("SOPClassUID", ""))
    photometric = str(found.get("PhotometricInterpretation", ""))
    _refuse(found, photometric)
    samples = int(found.get("SamplesPerPixel", 1) or 1)
    frames = int(found.get("NumberOfFrames", 1) or 1)
    rows, columns = int(found.Rows), int(found.Columns)
    if samples not in (1, 3) or min(rows, columns, frames) < 1:
        raise Invalid("the header's numbers of rows, columns, frames or samples are impossible")
    if rows * columns * frames * samples > LARGEST:
        raise Invalid(f"the image has more than {LARGEST} values")
    return Header(
        path=path,
        instance=str(found.SOPInstanceUID),
        series=str(found.SeriesInstanceUID),
        study=str(found.get("StudyInstanceUID", "")),
        patient=str(found.get("PatientID", "") or "").strip(),
        modality=modality if modality in MODALITIES else "another",
        image_type=_words(found.get("ImageType", None)),
        rows=rows,
        columns=columns,
        samples=samples,
        bits=int(found.get("BitsStored", 0) or found.get("BitsAllocated", 0) or 16),
        inverted=photometric == "MONOCHROME1",
        space=str(found.get("FrameOfReferenceUID", "")),
        frames=frames_of(found, frames),
        splitters=tuple(str(found.get(name, "")) for name in _SPLITTERS),
        refers_to=tuple(
            str(item.get("SeriesInstanceUID", ""))
            for item in found.get("ReferencedSeriesSequence", None) or ()
        ),
        burned_in=str(found.get("BurnedInAnnotation", "")),
        secondary=sop_class.startswith(_SECONDARY_CAPTURE)
        or modality in ("SC", "XC", "OT", "US")
        or "ConversionType" in found,
        uptake=uptake_factor(found) if modality == "PT" else None,
        seen=" ".join(
            str(found.get(name, "") or "")
            for name in ("BodyPartExamined", "StudyDescription", "SeriesDescription",
                         "ProtocolName", "RecognizableVisualFeatures")
        ).lower(),
        subject={
            name: str(found.get(name, "") or "")
            for name in ("PatientSex", "PatientAge", "PatientBirthDate", "StudyDate",
                         "Manufacturer")
        },
    )  # fmt: skip


def _refuse(found: Dataset, photometric: str) -> None:
    if str(found.get("PresentationIntentType", "")) == "FOR PROCESSING":
        raise Invalid("the image is FOR PROCESSING; ingest the one FOR PRESENTATION")
    if photometric == "PALETTE COLOR":
        raise Invalid("palette colours are not read; write it as RGB")
    if int(found.get("InConcatenationTotalNumber", 1) or 1) > 1:
        raise Invalid("the image is one part of several files (a concatenation); join them first")
    if found.get("ModalityLUTSequence"):
        raise Invalid("the image has a modality look-up table, which is not read")


def _words(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def _decoded(header: Header) -> NDArray[Any]:
    found = dataset(header.path)
    if str(found.get("SOPInstanceUID", "")) != header.instance:
        raise Invalid("the file changed while it was read")
    if not found.file_meta.get("TransferSyntaxUID"):
        values = len(header.frames) * header.rows * header.columns * header.samples
        found.file_meta.TransferSyntaxUID = plain_syntax(found, values)
    return np.asarray(found.pixel_array)
