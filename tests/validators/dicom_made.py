"""DICOM series made for tests: a patient's name and private tags in every header."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from validators.contract.dicom_file import read_header
from validators.contract.dicom_series import Volume, parts_of

SECRETS = ("Geheim^Gertrud", "19521224", "20240317", "Dr^Behandelnd", "ACC-4711", "PRIVATE-NOTE")
"""What must never be in a staged file."""
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
IN_STACK, TIME = 0x00209057, 0x00209128
"""Dimensions of an enhanced file."""
ROOT = "1.2.826.0.1.3680043.8.498.77"
CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128", "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1", "OT": "1.2.840.10008.5.1.4.1.1.7",
}  # fmt: skip


def header(series: str, number: int, modality: str = "CT", **values: Any) -> Dataset:
    """A header with everything that must not leave."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = CLASSES[modality]
    made.SOPInstanceUID = f"{ROOT}.{series}.{number}"
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.SeriesInstanceUID = f"{ROOT}.{series}"
    made.StudyInstanceUID = f"{ROOT}.9{series}"
    made.FrameOfReferenceUID = f"{ROOT}.8{series}"
    made.Modality = modality
    made.PatientName, made.PatientBirthDate, made.StudyDate = SECRETS[:3]
    made.PatientID = f"P{series}"
    made.PatientSex, made.PatientAge = "F", "071Y"
    made.ReferringPhysicianName, made.AccessionNumber = SECRETS[3:5]
    made.Manufacturer = "SIEMENS Healthineers Serial 12345"
    made.BodyPartExamined = "CHEST"
    made.add_new((0x0009, 0x0010), "LO", "MAKER")
    made.add_new((0x0009, 0x1001), "LO", SECRETS[5])
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    for name, value in values.items():
        setattr(made, name, value)
    return made


def with_pixels(made: Dataset, pixels: NDArray[Any]) -> Dataset:
    """The same with pixels [rows, columns] of an integer type."""
    made.Rows, made.Columns = pixels.shape[-2:]
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    return made


def save(made: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    series: str,
    volume: NDArray[np.int16],
    *,
    step: float = 2.0,
    heights: Sequence[float] | None = None,
    modality: str = "CT",
    **values: Any,
) -> list[Path]:
    """An axial series, its files named and numbered in another order than it lies in space."""
    names = np.random.default_rng(len(volume)).permutation(len(volume))
    paths = []
    for number, pixels in enumerate(volume):
        height = heights[number] if heights is not None else number * step
        made = header(
            series, number, modality,
            **{
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "ImagePositionPatient": [-10.0, -20.0, 5.0 + height],
                "PixelSpacing": [0.5, 0.75], "RescaleSlope": 1, "RescaleIntercept": -1024,
                "InstanceNumber": int(names[number]),
            } | values,
        )  # fmt: skip
        paths.append(save(with_pixels(made, pixels), folder / f"f{names[number]:03d}-{series}"))
    return paths


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.int16]:
    """Smooth grey values, as a scanner gives."""
    values = np.random.default_rng(seed).integers(200, 1800, shape)
    return values.astype(np.int16)


def enhanced(
    path: Path, frames: list[dict[str, Any]], pointers: tuple[int, ...] = (), **more: Any
) -> NDArray[np.int16]:
    """An enhanced MR file. A frame has its height, indices, and values by functional group."""
    pixels = noise((len(frames), 6, 8), 5)
    made = with_pixels(header("7", 1, "MR", NumberOfFrames=len(frames), **more), pixels)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = ENHANCED

    def item(**values: Any) -> Dataset:
        inside = Dataset()
        for name, value in values.items():
            setattr(inside, name, value)
        return inside

    made.DimensionIndexSequence = [item(DimensionIndexPointer=pointer) for pointer in pointers]
    plane = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    made.SharedFunctionalGroupsSequence = [
        item(PlaneOrientationSequence=[plane],
             PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5])])
    ]  # fmt: skip
    groups = []
    for frame in frames:
        group = item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, frame.pop("height")])])
        if indices := frame.pop("indices", None):
            group.FrameContentSequence = [item(DimensionIndexValues=indices)]
        for sequence, values in frame.items():
            setattr(group, sequence, [item(**values)])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    save(made, path)
    return pixels


def statement(folder: Path) -> None:
    """`cohort.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.yaml").write_text(
        "title: Made\nlicence: none\ncitation: none\nreference_standard: made up\n"
    )


REAL = Path(os.environ.get("TOUCHSTONE_SHARED_DATA", Path(__file__).parents[3] / "shared/data"))
real_pair = pytest.mark.skipif(
    not (REAL / "dicom").is_dir(), reason=f"the real CT and DICOM-SEG are not at {REAL / 'dicom'}"
)


def volume_of(paths: list[Path]) -> Volume:
    parts = parts_of([read_header(path) for path in paths])
    assert not parts.refused, parts.refused
    (volume,) = parts.volumes
    return volume


def segmentation(paths: list[Path], mask: np.ndarray, path: Path, **how: object) -> Path:
    """A DICOM-SEG that highdicom writes."""
    images = [pydicom.dcmread(p) for p in paths]
    for image in images:
        image.PatientName = "A"
        image.StudyTime, image.StudyID, image.SliceThickness = "", "1", 2
        image.PositionReferenceIndicator = ""
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number, segment_label=f"part {number}",
            segmented_property_category=codes.SCT.Organ, segmented_property_type=codes.SCT.Lung,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, (mask.shape[3] if mask.ndim == 4 else 1) + 1)
    ]  # fmt: skip
    made = highdicom.seg.Segmentation(
        source_images=images, pixel_array=mask, segment_descriptions=described,
        segmentation_type=how.get("kind", "BINARY"), series_instance_uid=highdicom.UID(),
        series_number=2, sop_instance_uid=highdicom.UID(), instance_number=1, manufacturer="m",
        manufacturer_model_name="m", software_versions="1", device_serial_number="1",
        max_fractional_value=200,
    )  # fmt: skip
    made.save_as(path)
    return path
