"""One DICOM file: the few things of its header that ingest needs, and its pixels.

    >>> header = read_header(path)
    >>> stored(header)        # [frames, rows, columns] or [frames, rows, columns, 3]

Rules
-----
1. A header is an allow-list: what is not a field of `Header` is never read into one, and nothing
   else of the file is handed on. `subject` and `seen` are for decisions and never written.
2. Any file gives a header, pixels or Invalid: one line without a value of the file. pydicom's own
   messages quote the file, so they are not passed on.
3. Sizes are checked before anything is decoded. Deflated files are refused: how far they unfold
   can't be known before.
4. MONOCHROME1 is turned, so that more is brighter. FOR PROCESSING, palettes and modality look-up
   tables are refused.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from registry.trust.errors import Invalid
from validators.cohort.dicom_uptake import NEEDED, uptake_factor

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
    "ConversionType", *_SPLITTERS, *NEEDED,
)  # fmt: skip
Result = TypeVar("Result")


@dataclass(frozen=True)
class Frame:
    """Where one frame lies, and what its stored values mean."""

    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False
    """Whether the header gives a slope or an intercept."""


@dataclass(frozen=True)
class Header:
    """What ingest knows of one file. Nothing here is written as it stands."""

    path: Path = field(repr=False)
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


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's preamble."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_header(path: Path) -> Header:
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


def guarded(read: Callable[[], Result], what: str) -> Result:
    """What `read` gives; whatever it raises becomes Invalid, without the file's own words."""
    try:
        with quiet():
            return read()
    except Invalid:
        raise
    except MemoryError as error:
        raise Invalid(f"{what}: it needs more memory than there is") from error
    except Exception as error:  # noqa: BLE001
        # pydicom and its decoders raise nearly everything on a damaged file.
        raise Invalid(f"{what} ({type(error).__name__})") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log of pydicom: they quote values of the file."""
    logger = logging.getLogger("pydicom")
    before, validation = logger.level, pydicom.config.settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        try:
            yield
        finally:
            logger.setLevel(before)
            pydicom.config.settings.reading_validation_mode = validation


def dataset(path: Path, **how: Any) -> Dataset:
    """The file, opened by pydicom; a deflated one is not."""
    syntax = read_file_meta_info(path).get("TransferSyntaxUID", "")
    if syntax == DeflatedExplicitVRLittleEndian:
        raise Invalid("the file is deflated; write it in another transfer syntax")
    return pydicom.dcmread(path, **how)


def _header(path: Path) -> Header:
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
        frames=_frames(found, frames),
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
    if found.get("ModalityLUTSequence"):
        raise Invalid("the image has a modality look-up table, which is not read")


def _frames(found: Dataset, count: int) -> tuple[Frame, ...]:
    """One for each frame; places of enhanced objects come from their functional groups."""
    shared = _first(found, "SharedFunctionalGroupsSequence")
    per_frame = found.get("PerFrameFunctionalGroupsSequence", None) or ()
    if not per_frame:
        return (_frame(found, shared, None),) * count
    if len(per_frame) != count:
        raise Invalid("the header describes another number of frames than it counts")
    return tuple(_frame(found, shared, group) for group in per_frame)


def _frame(found: Dataset, shared: Dataset | None, own: Dataset | None) -> Frame:
    def value(sequence: str, name: str) -> Any:
        for group in (own, shared):
            item = _first(group, sequence) if group is not None else None
            if item is not None and item.get(name, None) is not None:
                return item[name].value
        return found.get(name, None)

    orientation = _numbers(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    position = _numbers(value("PlanePositionSequence", "ImagePositionPatient"), 3)
    spacing = _numbers(value("PixelMeasuresSequence", "PixelSpacing"), 2)
    if spacing is None:
        spacing = _numbers(found.get("ImagerPixelSpacing", None), 2)
    slope = value("PixelValueTransformationSequence", "RescaleSlope")
    intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
    return Frame(
        orientation,
        position,
        (spacing[0], spacing[1]) if spacing else None,
        _number(slope, 1.0),
        _number(intercept, 0.0),
        not (slope is None and intercept is None),
    )


def _first(group: Dataset | None, name: str) -> Dataset | None:
    items = group.get(name, None) if group is not None else None
    return items[0] if items else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or value == "":
        return None
    numbers = tuple(float(n) for n in value)
    if len(numbers) != count or not all(math.isfinite(n) and abs(n) < 1e6 for n in numbers):
        raise Invalid("an orientation, position or spacing in the header is impossible")
    return numbers


def _words(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def _number(value: Any, default: float) -> float:
    if value is None or value == "":
        return default
    number = float(value)
    if not math.isfinite(number):
        raise Invalid("a slope or intercept in the header is impossible")
    return number


def _decoded(header: Header) -> NDArray[Any]:
    found = dataset(header.path)
    if str(found.get("SOPInstanceUID", "")) != header.instance:
        raise Invalid("the file changed while it was read")
    return np.asarray(found.pixel_array)
