"""From a request's files to tensors: multipart, cases, and a locked process for each request."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from registry.trust.errors import TouchstoneError
from serving.reading import process as reading
from serving.reading.child import answer
from serving.reading.form import Form, read_form
from serving.reading.readers import Readers
from serving.sandbox import wrapping
from serving.sandbox.launch import LockedProcess
from tests.serving.hospital_made import CT
from tests.serving.test_serve_images import series
from tests.validators.dicom_made import noise
from validators.contract.dicom_file import read_header
from validators.contract.dicom_series import parts_of, read_picture
from validators.contract.harmonise import tensor_of
from validators.contract.schema import Contract

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def test_more_images_than_are_held_at_once_are_turned_away() -> None:
    readers = Readers(1 << 20)
    with (
        readers.place(),
        readers.place(),
        pytest.raises(TouchstoneError) as raised,
        readers.place(),
    ):
        pass
    assert raised.value.status == 429
    readers.close()


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another modality": ({"modality": "MR"}, "input_modality", "takes CT, not MR"),
    "another spacing": ({"PixelSpacing": [0.9, 0.9]}, "input_image", "allows no resampling"),
    "a slice is missing": ({"heights": [0, 2, 4, 8]}, "input_image", "equally far apart"),
    "no Hounsfield units": ({"RescaleSlope": None, "RescaleIntercept": None}, "input_image",
                            "no Hounsfield units"),
    "another size": ({"values": noise((4, 6, 7))}, "input_image", "is not fitted"),
    "too few slices": ({"values": noise((3, 6, 8))}, "input_image", "is not fitted"),
    "a tilted gantry": ({"ImageOrientationPatient": [1, 0, 0, 0, 0.9, 0.4359]}, "input_image",
                        "tilted gantry"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_image_that_does_not_fit_is_explained(tmp_path: Path, fault: str) -> None:
    """As the locked process answers; the next test sends one through the door."""
    change, code, said = FAULTS[fault]
    data = [path.read_bytes() for path in series(tmp_path, **change)]
    asked = {"contract": CT.model_dump(mode="json"), "most": 9,
             "files": [[0, "ct", len(one)] for one in data]}  # fmt: skip
    header, _ = answer(asked, bytearray(b"".join(data)))
    assert header["code"] == code
    assert said in header["refused"]


def picture(shape: Sequence[int], *modality: str) -> Contract:
    image = {"name": "image", "dtype": "float32", "shape": list(shape),
             "image": {"modality": list(modality)}}  # fmt: skip
    return Contract.model_validate(
        {"id": "x", "version": "1", "inputs": [image], "score": "p",
         "outputs": [{"name": "p", "dtype": "float32", "shape": [1]}]}
    )  # fmt: skip


def related(*files: bytes, kind: str = "application/dicom") -> tuple[str, bytearray]:
    body = bytearray()
    for data in files:
        body += b"--b\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + data + b"\r\n"
    return f'multipart/related; type="{kind}"; boundary=b', body + b"--b--\r\n"


def read(contract: Contract, content_type: str, body: bytearray) -> reading.Answered:
    form = read_form(contract, content_type, body)
    return reading.read(reading.start(), contract, form.files)


def test_a_stow_part_needs_no_type_of_its_own_and_no_number_can_come_with_it() -> None:
    body = bytearray(b"--b\r\n\r\nDICOM\r\n--b--\r\n")
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    (file,) = read_form(picture([1, 8, 8], "CT"), kind, body).files
    assert (bytes(file.data), file.case, file.input) == (b"DICOM", None, "")
    with pytest.raises(TouchstoneError, match="takes numbers beside the image"):
        read_form(CT, kind, body)


def test_stow_parts_are_grouped_into_series(tmp_path: Path) -> None:
    first, second = series(tmp_path, "1"), series(tmp_path, "2", noise((4, 6, 8), 9))
    contract = picture([1, 4, 6, 8], "CT")
    order = [second[0], first[0], *second[1:], *first[1:]]
    answered = read(contract, *related(*(path.read_bytes() for path in order)))
    assert answered.files == ((0, 2, 3, 4), (1, 5, 6, 7))
    for paths, made in zip((second, first), answered.tensors["image"], strict=True):
        (volume,) = parts_of([read_header(path) for path in paths]).volumes
        assert np.array_equal(made, tensor_of(read_picture(volume, "stored"), contract.inputs[0]))


def test_pictures_are_cases_where_the_contract_takes_pictures(tmp_path: Path) -> None:
    pixels = [np.random.default_rng(n).integers(0, 256, (6, 8, 3), np.uint8) for n in range(2)]
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    files = [(tmp_path / f"{number}.png").read_bytes() for number in range(2)]
    answered = read(picture([3, 6, 8], "picture"), *related(*files, kind="image/png"))
    made = answered.tensors["image"]
    assert np.array_equal(made, np.stack(pixels).transpose(0, 3, 1, 2))
    with pytest.raises(TouchstoneError) as raised:
        read(picture([3, 6, 8], "XC"), *related(files[0], kind="image/png"))
    assert raised.value.code == "input_modality"


def test_whatever_pydicom_ships_is_read_behind_the_lock_as_outside_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is imported late, or opened, would fail in there: compressed, enhanced, odd, damaged."""
    monkeypatch.setattr(wrapping, "_OWN", (*wrapping._OWN, "tests"))
    process = LockedProcess(
        reading.LIMITS, 1 << 16,
        program=reading.PROGRAM.replace("serving.reading.child", "tests.serving.reading_many"),
    )  # fmt: skip
    names = [path for path in sorted(TEST_FILES.rglob("*")) if path.is_file()]
    files = [path for path in names if path.stat().st_size < 600_000]
    outcomes = set()
    try:
        for path in files:
            contract = contract_of(path)
            asked = {"contract": contract.model_dump(mode="json"), "most": 9,
                     "files": [[None, "", path.stat().st_size]]}  # fmt: skip
            process.send(asked, [path.read_bytes()], 30)
            inside = process.receive(30, tell_reasons=False)
            outside = answer(asked, bytearray(path.read_bytes()))
            assert inside[0] == outside[0], path.name
            assert inside[1] == b"".join(outside[1]), path.name
            outcomes.add(inside[0].get("refused", "read"))
    finally:
        process.close()
    assert len(files) > 60
    assert "read" in outcomes
    assert not [text for text in outcomes if "ModuleNotFound" in text or "Permission" in text]


def contract_of(path: Path) -> Contract:
    """A contract that takes what the file says it is, so that its pixels are read."""
    try:
        (volume,) = parts_of([read_header(path)]).volumes
    except (TouchstoneError, ValueError):
        return picture([1, 8, 8], "CT")
    first, slices = volume.first, len(volume.planes)
    return picture([first.samples, slices, first.rows, first.columns], first.modality
                   if first.modality != "another" else "CT")  # fmt: skip


def test_a_process_reads_one_request_locked_down_and_ends(tmp_path: Path) -> None:
    process = reading.start()
    assert process.level["seccomp"]
    assert process.level["no_new_privileges"]
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    assert "Threads:\t1\n" in status
    data = series(tmp_path)[0].read_bytes()
    file = reading.File(memoryview(data), None, "")
    reading.read(process, picture([1, 6, 8], "CT"), [file])
    assert process.process.poll() is not None


def test_a_process_that_dies_or_lies_costs_its_request_alone(tmp_path: Path) -> None:
    data = series(tmp_path)[0].read_bytes()
    file = reading.File(memoryview(data), None, "")
    process = reading.start()
    process.kill()
    with pytest.raises(TouchstoneError) as raised:
        reading.read(process, picture([1, 6, 8], "CT"), [file])
    assert raised.value.code == "unreadable"
    for header in (
        {"files": [[0]], "noticed": [[]], "outputs": [["image", "float32", [1, 1, 6, 7]]]},
        {"files": [[1]], "noticed": [[]], "outputs": [["image", "float32", [1, 1, 6, 8]]]},
        {"files": [[0]], "noticed": [[]], "outputs": []},
        {"files": [[0]], "noticed": [], "outputs": [["image", "float32", [1, 1, 6, 8]]]},
        {"files": "x", "noticed": [[]], "outputs": [["other", "float32", [1, 1, 6, 8]]]},
    ):
        size = sum(4 * math.prod(row[2]) for row in header["outputs"])
        with pytest.raises((KeyError, ValueError, TypeError, reading.framing.ProtocolError)):
            reading._checked(picture([1, 6, 8], "CT"), header, bytearray(size), 1)


def test_readers_start_one_ahead_and_bury_it(tmp_path: Path) -> None:
    readers = Readers(1 << 20)
    kind, body = related(series(tmp_path)[0].read_bytes())
    contract = picture([1, 6, 8], "CT")
    asyncio.run(readers.read(contract, kind, body))
    assert readers._spare is not None
    spare = readers._spare.result(30)
    asyncio.run(readers.read(contract, kind, body))
    assert spare.process.poll() is not None
    last = readers._spare.result(30)
    readers.close()
    assert last.process.poll() is not None


# -- multipart alone ---------------------------------------------------------------------------

NEAR_BOUNDARY = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"--", b"b", b"bo", b"\r\n--", b"\r\n--bo", b"\0", b"x"]),
    max_size=24,
).map(b"".join)


@given(files=st.lists(NEAR_BOUNDARY.filter(lambda data: b"\r\n--bound" not in data), min_size=1))
def test_the_bytes_of_a_file_come_through_whatever_they_look_like(files: list[bytes]) -> None:
    body = bytearray()
    for data in files:
        body += b"--bound\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n"
    kind = "multipart/related; boundary=bound"
    form = read_form(picture([1, 8, 8], "CT"), kind, body + b"--bound--\r\n")
    assert [bytes(file.data) for file in form.files] == files


@given(body=st.binary(max_size=300), inside=st.booleans())
def test_a_body_of_anything_is_a_form_or_is_refused_without_its_words(
    body: bytes, inside: bool
) -> None:
    whole = b"--b\r\n" + body + b"\r\n--b--\r\n" if inside else body
    found = form_or_error(bytearray(whole))
    if isinstance(found, TouchstoneError):
        assert found.status in (413, 415, 422)
        assert found.message.isascii()
    else:
        assert found.files


def form_or_error(body: bytearray) -> Form | TouchstoneError:
    try:
        return read_form(CT, 'multipart/form-data; boundary="b"', body)
    except TouchstoneError as error:
        return error
