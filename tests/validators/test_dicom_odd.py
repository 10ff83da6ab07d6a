"""DICOM files without preamble, and enhanced files that hold several volumes (4D)."""

from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from registry.trust.errors import Invalid
from tests.validators.dicom_made import (
    IN_STACK,
    ROOT,
    TIME,
    enhanced,
    header,
    noise,
    save,
    statement,
    with_pixels,
)
from tests.validators.ingest_made import made_contract, table
from validators.cohort.ingest import ingest
from validators.cohort.quality import read_quality
from validators.contract.dicom_file import read_header, stored
from validators.contract.dicom_open import is_dicom
from validators.contract.dicom_series import Parts, parts_of, read_picture

PIXELS = noise((6, 8), 3)


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_file_without_preamble_is_read_as_the_one_with_it(
    tmp_path: Path, syntax: str, meta: bool
) -> None:
    made = with_pixels(header("1", 1, RescaleSlope=1, RescaleIntercept=0), PIXELS)
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        made.PixelData = PIXELS.astype(">i2").tobytes()
        made["PixelData"].VR = "OW"
    whole = tmp_path / "whole"
    pydicom.dcmwrite(whole, made, enforce_file_format=True)
    data = whole.read_bytes()
    if not meta:
        length = int.from_bytes(data[140:144], "little")
        data = data[:132] + data[144 + length :]
    bare = tmp_path / "bare"
    bare.write_bytes(data[132:])
    assert is_dicom(bare)
    found = read_header(bare)
    assert found.patient == "P1"
    assert (stored(found)[0] == PIXELS).all()
    assert (stored(read_header(whole))[0] == PIXELS).all()


def test_a_file_that_names_no_syntax_is_refused_unless_its_pixels_are_plain(
    tmp_path: Path,
) -> None:
    made = with_pixels(header("1", 1), PIXELS)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([b"\xff\xd8\xff\xe0" + b"x" * 90])
    made["PixelData"].is_undefined_length = True
    data = save(made, tmp_path / "packed").read_bytes()
    length = int.from_bytes(data[140:144], "little")
    (tmp_path / "packed").write_bytes(data[144 + length :])
    with pytest.raises(Invalid, match="names no transfer syntax"):
        stored(read_header(tmp_path / "packed"))
    made = with_pixels(header("1", 1), PIXELS)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = save(made, tmp_path / "deflated").read_bytes()
    (tmp_path / "deflated").write_bytes(data[132:])
    with pytest.raises(Invalid, match="deflated"):
        read_header(tmp_path / "deflated")
    for start in (b"\x08\0\x05\0CS", b"\x02\0\0\0UL", b"P1;19521224;Geheim", b"", b"\x08\0"):
        (tmp_path / "short").write_bytes(start)
        if is_dicom(tmp_path / "short"):
            with pytest.raises(Invalid):
                read_header(tmp_path / "short")


def parts(path: Path) -> Parts:
    return parts_of([read_header(path)])


B_VALUE, DIRECTION = 0x00189087, 0x00189075


def test_an_enhanced_file_is_split_by_the_dimension_that_tells_its_frames_apart(
    tmp_path: Path,
) -> None:
    order = [(place, time) for place in (3, 1, 2) for time in (2, 1)]
    pixels = enhanced(
        tmp_path / "4d",
        [{"height": 2.0 * place, "indices": [place, time]} for place, time in order],
        (IN_STACK, TIME),
    )
    found = parts(tmp_path / "4d")
    assert [volume.id for volume in found.volumes] == [f"{ROOT}.7#1", f"{ROOT}.7#2"]
    for time, volume in enumerate(found.volumes, 1):
        rows = [order.index((place, time)) for place in (1, 2, 3)]
        assert (read_picture(volume, "stored").values[0] == pixels[rows]).all()


def test_b_values_and_directions_split_it_together_and_without_dimensions_the_b_value_does(
    tmp_path: Path,
) -> None:
    frames = [
        {"height": 2.0 * place, "indices": [place, b, direction]}
        for b, direction in ((1, 1), (2, 1), (2, 2), (2, 3)) for place in (1, 2, 3)
    ]  # fmt: skip
    enhanced(tmp_path / "both", frames, (IN_STACK, B_VALUE, DIRECTION))
    assert len(parts(tmp_path / "both").volumes) == 4
    frames = [
        {"height": 2.0 * place, "MRDiffusionSequence": {"DiffusionBValue": b}}
        for place in (1, 2, 3) for b in (1000.0, 0.0)
    ]  # fmt: skip
    enhanced(tmp_path / "plain", frames)
    assert len(parts(tmp_path / "plain").volumes) == 2


def test_what_can_not_be_divided_soundly_is_refused_with_its_reason(tmp_path: Path) -> None:
    frames = [{"height": 2.0 * place, "indices": [place, time]}
              for time in (1, 2) for place in (1, 2, 3)]  # fmt: skip
    enhanced(tmp_path / "missing", [dict(frame) for frame in frames[:-1]], (IN_STACK, TIME))
    enhanced(tmp_path / "untold", [{"height": frame["height"]} for frame in frames])
    for name in ("missing", "untold"):
        assert parts(tmp_path / name).volumes == ()
        assert "two slices lie at one place" in parts(tmp_path / name).refused[0][1]
    enhanced(tmp_path / "part", [dict(frame) for frame in frames], (IN_STACK, TIME),
             InConcatenationTotalNumber=2)  # fmt: skip
    with pytest.raises(Invalid, match="concatenation"):
        read_header(tmp_path / "part")


def test_each_volume_of_an_enhanced_file_is_a_case_that_the_table_names(tmp_path: Path) -> None:
    source = tmp_path / "src"
    statement(source)
    frames = [{"height": 2.0 * place, "indices": [place, time]}
              for time in (1, 2) for place in (1, 2, 3)]  # fmt: skip
    pixels = enhanced(source / "4d", frames, (IN_STACK, TIME))
    contract = made_contract(
        {"name": "mr", "dtype": "float32", "shape": [1, 3, 6, 8], "image": {"modality": ["MR"]}}
    )
    by_series = table(tmp_path / "series.csv", [
        {"series": f"{ROOT}.7#{n}", "reference": n % 2} for n in (1, 2)
    ])  # fmt: skip
    staged = ingest(source, tmp_path / "out", contract=contract, half="all", reference=by_series)
    assert staged.table()["reference"].to_pylist() == [1, 0]
    from safetensors.numpy import load_file

    assert (load_file(staged.block(0))["mr"][:, 0] == pixels.reshape(2, 3, 6, 8)).all()
    assert read_quality(staged)["noted"]["series split into several volumes"] == 1
    by_file = table(tmp_path / "file.csv", [{"instance": f"{ROOT}.7.1", "reference": 1}])
    with pytest.raises(Invalid, match="several volumes"):
        ingest(source, tmp_path / "none", contract=contract, half="all", reference=by_file)
