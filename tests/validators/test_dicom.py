"""DICOM series and segmentations: in order, at their place, in their units, or refused."""

import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest

from registry.trust.errors import Invalid
from tests.validators.dicom_made import (
    SECRETS,
    header,
    noise,
    save,
    volume_of,
    with_pixels,
    write_series,
)
from validators.cohort.kept import kept_of
from validators.cohort.suspicion import FACE, WRITING, shows_writing, suspicions
from validators.contract.dicom_file import read_header, stored
from validators.contract.dicom_open import is_dicom
from validators.contract.dicom_series import parts_of, read_picture


def refusal(paths: list[Path]) -> str:
    parts = parts_of([read_header(path) for path in paths])
    assert not parts.volumes
    return parts.refused[0][1]


def test_slices_are_in_the_order_of_their_positions_and_in_hounsfield_units(tmp_path: Path):
    values = noise((7, 4, 6))
    picture = read_picture(volume_of(write_series(tmp_path, "1", values)), "HU")
    assert (picture.values[0] == values.astype(np.int32) - 1024).all()
    assert np.allclose(picture.affine[:3, :3], [[0, 0, 0.75], [0, 0.5, 0], [2, 0, 0]])
    assert np.allclose(picture.affine[:3, 3], [-10, -20, 5])
    assert not picture.uneven


def test_highdicom_places_every_voxel_where_we_do(tmp_path: Path):
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    values = noise((5, 6, 8))
    paths = []
    for number, pixels in enumerate(values):
        made = header(
            "2", number, "MR", ImageOrientationPatient=[*turn[0], *turn[1]],
            ImagePositionPatient=list(np.array([3.0, -4, 5]) - turn[2] * 1.5 * number),
            PixelSpacing=[0.5, 0.75], InstanceNumber=number,
        )  # fmt: skip
        made.PatientName, made.StudyTime, made.SliceThickness = "A", "", 1.5
        made.StudyID = made.SeriesNumber = made.AcquisitionNumber = "1"
        made.PositionReferenceIndicator = ""
        paths.append(save(with_pixels(made, pixels), tmp_path / str(number)))
    picture = read_picture(volume_of(paths), "stored")
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    for index in np.ndindex(*theirs.array.shape):
        place = theirs.affine @ np.array([*index, 1.0])
        own = np.rint(np.linalg.solve(picture.affine, place)[:3]).astype(int)
        assert picture.values[0][tuple(own)] == theirs.array[index]


def test_a_missing_slice_is_counted_and_a_tilted_or_turned_one_refused(tmp_path: Path):
    gap = volume_of(write_series(tmp_path / "a", "1", noise((5, 4, 4)), heights=[0, 2, 4, 10, 12]))
    assert (gap.missing, gap.uneven) == (2, True)
    tilted = write_series(tmp_path / "b", "2", noise((3, 4, 4)))
    for number, path in enumerate(tilted):
        image = pydicom.dcmread(path)
        image.ImagePositionPatient[1] += number * 0.7
        image.save_as(path)
    assert "tilted gantry" in refusal(tilted)
    assert "impossible" in refusal(
        write_series(tmp_path / "c", "3", noise((2, 4, 4)), PixelSpacing=[0.0001, 0.5])
    )
    assert "right angles" in refusal(
        write_series(tmp_path / "d", "4", noise((2, 4, 4)),
                     ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0])
    )  # fmt: skip


def test_a_series_of_several_times_or_orientations_is_split(tmp_path: Path):
    paths = []
    for time in (1, 2):
        for number in range(3):
            made = header(
                "6", 10 * time + number, ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                ImagePositionPatient=[0, 0, 2.0 * number], PixelSpacing=[1, 1],
                TemporalPositionIdentifier=time, RescaleSlope=1, RescaleIntercept=0,
            )  # fmt: skip
            paths.append(save(with_pixels(made, noise((4, 4), time)), tmp_path / f"{time}{number}"))
    parts = parts_of([read_header(path) for path in paths])
    assert [len(v.planes) for v in parts.volumes] == [3, 3]
    assert sorted(v.id[-2:] for v in parts.volumes) == ["#1", "#2"]
    mixed = [*paths[:3], save(with_pixels(header(
        "6", 99, ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImagePositionPatient=[0, 0, 0],
        PixelSpacing=[1, 1]), noise((4, 4))), tmp_path / "sagittal")]  # fmt: skip
    assert len(parts_of([read_header(p) for p in mixed]).volumes) == 2
    for path in paths[3:]:
        image = pydicom.dcmread(path)
        image.TemporalPositionIdentifier = 1
        image.save_as(path)
    assert "one place" in refusal(paths)


def test_localizers_and_copies_are_left_out_and_counted(tmp_path: Path):
    paths = write_series(tmp_path, "7", noise((3, 4, 4)))
    paths.append(tmp_path / "copy")
    paths[-1].write_bytes(paths[0].read_bytes())
    scout = header("7", 50, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
                   ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImagePositionPatient=[0, 0, 0],
                   PixelSpacing=[1, 1])  # fmt: skip
    paths.append(save(with_pixels(scout, noise((4, 4))), tmp_path / "scout"))
    parts = parts_of([read_header(path) for path in paths])
    assert (len(parts.volumes), parts.copies, parts.localizers) == (1, 1, 1)


def test_monochrome1_is_turned_and_for_processing_refused(tmp_path: Path):
    pixels = noise((6, 6)).astype(np.uint16)
    made = header("8", 1, "DX", PhotometricInterpretation="MONOCHROME1",
                  ImagerPixelSpacing=[0.1, 0.1])  # fmt: skip
    path = save(with_pixels(made, pixels), tmp_path / "dx")
    read = read_header(path)
    assert (stored(read)[0] == 65535 - pixels).all()
    assert volume_of([path]).spacing == (0.1, 0.1)
    made.PresentationIntentType = "FOR PROCESSING"
    with pytest.raises(Invalid, match="FOR PROCESSING"):
        read_header(save(made, tmp_path / "raw"))


def test_an_enhanced_object_has_the_places_and_units_of_its_frames(tmp_path: Path):
    values = noise((3, 4, 4))
    made = header("9", 1, "PT", NumberOfFrames=3)
    shared, per_frame = pydicom.Dataset(), []
    item = pydicom.Dataset()
    item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [item]
    item = pydicom.Dataset()
    item.PixelSpacing = [2, 2]
    shared.PixelMeasuresSequence = [item]
    made.SharedFunctionalGroupsSequence = [shared]
    for number in (2, 0, 1):
        place, units, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0, 0, 3.0 * number]
        units.RescaleSlope, units.RescaleIntercept = 0.5 * (number + 1), 0
        group.PlanePositionSequence = [place]
        group.PixelValueTransformationSequence = [units]
        per_frame.append(group)
    made.PerFrameFunctionalGroupsSequence = per_frame
    path = save(with_pixels(made, values[[2, 0, 1]]), tmp_path / "pt")
    picture = read_picture(volume_of([path]), "rescaled")
    assert np.allclose(picture.values[0], values * np.array([0.5, 1, 1.5])[:, None, None])
    assert picture.values.dtype == np.float32
    with pytest.raises(Invalid, match="only CT"):
        read_picture(volume_of([path]), "HU")


def test_only_words_of_a_fixed_list_are_kept_of_a_header(tmp_path: Path):
    (path, *_) = write_series(tmp_path, "1", noise((1, 4, 4)))
    read = read_header(path)
    asked = ("sex", "age", "manufacturer", "study_month", "modality")
    assert kept_of(read, asked) == {
        "sex": "female", "age": "70-79", "manufacturer": "Siemens", "study_month": "2024-03",
        "modality": "CT",
    }  # fmt: skip
    assert not any(secret in repr(read) for secret in (*SECRETS, "P1"))
    image = pydicom.dcmread(path)
    image.PatientSex, image.PatientAge, image.Manufacturer = "Frau Geheim", "", "Gertrud & Co"
    image.StudyDate = ""
    image.save_as(path)
    found = kept_of(read_header(path), asked[:4])
    assert found == {"sex": "unknown", "age": "unknown", "manufacturer": "another",
                     "study_month": "unknown"}  # fmt: skip


def test_writing_and_faces_are_suspected(tmp_path: Path):
    from PIL import Image, ImageDraw

    for seed in range(20):
        plain = noise((1, 1, 128, 128), seed) / 8
        assert not shows_writing(plain)
        picture = Image.fromarray(plain[0, 0].astype(np.uint8))
        ImageDraw.Draw(picture).text((4, 5), "GEHEIM GERTRUD 24.12.52", fill=255)
        assert shows_writing(np.asarray(picture)[None, None])
    chest = read_header(write_series(tmp_path / "a", "1", noise((1, 4, 4)))[0])
    heart = read_header(
        write_series(tmp_path / "h", "9", noise((1, 4, 4)), BodyPartExamined="HEART",
                     StudyDescription="Linear, cardiac, early")[0]
    )  # fmt: skip
    head = read_header(
        write_series(tmp_path / "b", "2", noise((1, 4, 4)), BodyPartExamined="HEAD")[0]
    )
    silent = read_header(
        write_series(tmp_path / "c", "3", noise((1, 4, 4)), BodyPartExamined="")[0]
    )
    pixels = noise((1, 4, 8, 8))
    assert suspicions(chest, ("CT",), pixels) == suspicions(heart, ("CT",), pixels) == ()
    assert suspicions(head, ("CT",), pixels) == suspicions(silent, ("CT",), pixels) == (FACE,)
    assert suspicions(None, ("MR",), pixels) == (FACE,)
    assert suspicions(head, ("CT",), pixels[:, :1]) == ()
    screen = save(with_pixels(header("4", 1, "OT"), noise((8, 8)).astype(np.uint8)), tmp_path / "s")
    assert suspicions(read_header(screen), ("SC",), pixels[:, :1]) == (WRITING,)


def test_every_file_that_pydicom_ships_is_read_or_refused_in_one_line():
    folder = Path(pydicom.data.__file__).parent
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    outcomes = {path: attempt(path) for path in files if is_dicom(path)}
    for path, reason in outcomes.items():
        assert "\n" not in reason
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for element in pydicom.dcmread(path, force=True, stop_before_pixels=True):
                if element.VR in ("PN", "LO", "DA", "UI", "SH") and len(str(element.value)) > 3:
                    assert str(element.value) not in reason
    assert sum(reason == "" for reason in outcomes.values()) >= 78
    assert len(outcomes) >= 170


def attempt(path: Path) -> str:
    """Empty, or why the file is refused; a warning (it would quote the file) fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            parts = parts_of([read_header(path)])
            if parts.refused:
                return parts.refused[0][1]
            for volume in parts.volumes:  # a localizer leaves none
                read_picture(volume, "rescaled")
        except Invalid as error:
            return str(error)
    return ""
