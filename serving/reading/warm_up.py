"""Reading once, with files of our own, before the lockdown: what is imported late is imported then.

Rules
-----
1. Every way of reading is gone through: plain and compressed pixels, one slice and several, turned,
   resampled and fitted, uptake values, pictures.
2. What is not installed is left out; its compressions are refused as at an ingest.
"""

import contextlib
import importlib
import io
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from registry.trust.errors import Invalid
from serving.reading.cases import Sent, tensors_of
from validators.contract.dicom_open import guarded
from validators.contract.schema import Contract

_LATE = (
    "_strptime",
    "encodings.ascii",
    "encodings.cp1252",
    "encodings.gb18030",
    "encodings.gbk",
    "encodings.iso2022_jp",
    "encodings.iso2022_jp_2",
    "encodings.iso2022_kr",
    "encodings.euc_kr",
    "encodings.euc_jp",
    "encodings.shift_jis",
    "encodings.iso8859_1",
    "encodings.iso8859_2",
    "encodings.iso8859_3",
    "encodings.iso8859_4",
    "encodings.iso8859_5",
    "encodings.iso8859_6",
    "encodings.iso8859_7",
    "encodings.iso8859_8",
    "encodings.iso8859_9",
    "encodings.iso8859_15",
    "encodings.latin_1",
    "encodings.tis_620",
    "encodings.utf_8",
    "pydicom.pixels.decoders",
    "pydicom.pixels.decoders.gdcm",
    "pydicom.pixels.decoders.pillow",
    "pydicom.pixels.decoders.rle",
    "pydicom.values",
    "pydicom.multival",
)


def warm_up() -> None:
    """Import what reading needs, and read made-up files by every way that there is."""
    for name in _LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        import gdcm  # type: ignore[import-untyped]

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
    Image.init()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEG2000Lossless):
        _read(_contract([1, 8, 8], "OT"), [_file(pixels, syntax)])
    for kind in ("PNG", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        _read(_contract([1, 8, 8], "picture"), [stream.getvalue()])
    for modality, values in (("CT", "HU"), ("PT", "SUV")):
        form = {
            "orientation": "PSL",
            "spacing_mm": [1.0, 2.0, 1.5],
            "resample": "linear",
            "fit": "centre",
            "values": values,
        }
        volume = [
            _file(pixels, ExplicitVRLittleEndian, modality=modality, height=2.0 * number)
            for number in range(3)
        ]
        _read(_contract([1, 6, 4, 6], modality, **form), volume)
    with contextlib.suppress(Invalid):
        guarded(lambda: pydicom.dcmread(io.BytesIO(b"x" * 200)), "as meant")


def _read(contract: Contract, files: list[bytes]) -> None:
    tensors_of(contract, [Sent(memoryview(data)) for data in files], 1)


def _contract(shape: list[int], modality: str, **form: Any) -> Contract:
    image = {"modality": [modality], **form}
    tensor = {"name": "image", "dtype": "float32", "shape": shape, "image": image}
    score = {"name": "score", "dtype": "float32", "shape": [1]}
    return Contract.model_validate(
        {"id": "own", "version": "1", "inputs": [tensor], "outputs": [score], "score": "score"}
    )


def _file(pixels: Any, syntax: str, *, modality: str = "OT", height: float | None = None) -> bytes:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.SOPInstanceUID, made.SeriesInstanceUID = f"1.2.3.{int(height or 0)}", "1.2.4"
    made.SpecificCharacterSet, made.Modality = "ISO_IR 100", modality
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = pixels.tobytes()
    if height is not None:
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [0.0, 0.0, height]
        made.PixelSpacing, made.RescaleSlope, made.RescaleIntercept = [1.0, 1.0], 1.5, -1024
    if modality == "PT":
        made.Units, made.DecayCorrection, made.PatientWeight = "BQML", "START", 70
        made.CorrectedImage = ["ATTN", "DECY"]
        made.SeriesDate = made.AcquisitionDate = "20200101"
        made.SeriesTime = made.AcquisitionTime = "120000"
        dose = Dataset()
        dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = 3e8, 6586
        dose.RadiopharmaceuticalStartTime = "110000"
        made.RadiopharmaceuticalInformationSequence = [dose]
    if syntax == RLELossless:
        made.compress(RLELossless)
    elif syntax != ExplicitVRLittleEndian:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000")
        made.file_meta.TransferSyntaxUID = UID(syntax)
        made.PixelData = encapsulate([stream.getvalue()])
        made["PixelData"].VR = "OB"
    whole = io.BytesIO()
    pydicom.dcmwrite(whole, made, enforce_file_format=True)
    return whole.getvalue()
