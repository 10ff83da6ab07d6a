"""A DICOM-SEG lies where highdicom says, or is refused."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest

from registry.trust.errors import Invalid
from tests.validators.dicom_made import (
    REAL,
    noise,
    real_pair,
    save,
    segmentation,
    volume_of,
    with_pixels,
    write_series,
)
from validators.cohort.dicom_mask import read_mask
from validators.contract.dicom_file import read_header


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_lies_where_highdicom_says(tmp_path: Path, kind: str):
    paths = write_series(tmp_path / "ct", "3", noise((6, 8, 8)))
    in_order = sorted(paths, key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    mask = np.zeros((6, 8, 8), dtype=np.uint8)
    mask[1:4, 2:5, 3:7] = 1
    written = mask if kind != "FRACTIONAL" else mask * 0.75 + (1 - mask) * 0.25
    seg = segmentation(in_order, written, tmp_path / "seg", kind=kind)
    volume = volume_of(paths)
    read = read_mask(read_header(seg), volume)
    assert (read.values[0] == mask).all()
    if kind == "BINARY":
        theirs = highdicom.seg.segread(seg).get_volume(combine_segments=True)
        for index in zip(*np.nonzero(theirs.array), strict=True):
            place = theirs.affine @ np.array([*index, 1.0])
            own = np.rint(np.linalg.solve(volume.affine, place)[:3]).astype(int)
            assert read.values[0][tuple(own)] == 1
        assert read.values.sum() == theirs.array.sum()


def test_one_of_several_segments_is_named(tmp_path: Path):
    paths = write_series(tmp_path / "ct", "4", noise((3, 8, 8)))
    paths.sort(key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    mask = np.zeros((3, 8, 8, 2), dtype=np.uint8)
    mask[0, 1, 1, 0] = mask[2, 5, 5:7, 1] = 1
    seg = read_header(segmentation(paths, mask, tmp_path / "seg"))
    volume = volume_of(paths)
    assert read_mask(seg, volume, "2").values.sum() == 2
    assert read_mask(seg, volume, "part 1").values.sum() == 1
    for asked, said in ((None, "2 segments"), ("3", "no segment")):
        with pytest.raises(Invalid, match=said):
            read_mask(seg, volume, asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"FrameOfReferenceUID": "1.2.3"}, "frames of reference"),
        ({"PixelSpacing": [0.5, 0.8]}, "pixel spacings"),
        ({"ImagePositionPatient": [-9.0, -20.0, None]}, "shifted"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "orientations"),
        ({"height": 100.0}, "outside the image"),
        ({"size": (9, 8)}, "rows or columns"),
    ],
)
def test_a_mask_of_another_grid_is_refused(tmp_path: Path, change: dict, said: str):
    paths = write_series(tmp_path / "ct", "5", noise((3, 8, 8)))
    paths.sort(key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    mask = np.zeros((3, 8, 8), dtype=np.uint8)
    mask[1, 2, 2] = 1
    seg = read_header(segmentation(paths, mask, tmp_path / "seg"))
    moved = []
    for number, path in enumerate(paths):
        image = pydicom.dcmread(path)
        position = list(image.ImagePositionPatient)
        for name, value in change.items():
            if name == "ImagePositionPatient":
                image.ImagePositionPatient = [*value[:2], position[2]]
            elif name == "height":
                image.ImagePositionPatient = [*position[:2], position[2] + value]
            elif name == "size":
                with_pixels(image, noise(value))
            else:
                setattr(image, name, value)
        moved.append(save(image, tmp_path / "moved" / str(number)))
    with pytest.raises(Invalid, match=said):
        read_mask(seg, volume_of(moved))


@real_pair
def test_the_real_pair_has_its_gap_and_its_mask_at_the_right_place():
    volume = volume_of(sorted((REAL / "dicom/ct_77654033").iterdir()))
    assert (volume.missing, volume.uneven) == (161, True)
    path = REAL / "dicom/seg_image_ct_binary.dcm"
    mask = read_mask(read_header(path), volume).values[0]
    seg = highdicom.seg.segread(path)
    instances = [plane.header.instance for plane in volume.planes]
    theirs = seg.get_pixels_by_source_instance(instances, combine_segments=True)
    assert mask.any()
    assert (mask == theirs).all()
