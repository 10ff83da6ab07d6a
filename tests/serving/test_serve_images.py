"""A hospital sends DICOM or pictures, and the model sees what an ingest would have made of them."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
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
from serving.sandbox.launch import LockedProcess
from tests.serving import certified
from tests.serving.hospital_made import CT, Running, ct_model, of_contract, write
from tests.serving.test_server import problem
from tests.validators.dicom_made import SECRETS, noise, write_series
from validators.contract.dicom_file import read_header
from validators.contract.dicom_series import parts_of, read_picture
from validators.contract.harmonise import tensor_of
from validators.contract.schema import Contract

MADE = noise((4, 6, 8), 3)
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hospital")
    with of_contract(CT):
        bundle = write(certified.facility(), ct_model(), folder / "ct-3")
    made = Running(bundle, folder / "root.pem", {"largest_images": 1 << 20},
                   log=folder / "told.jsonl")  # fmt: skip
    assert made.url, made.lines
    yield made
    made.stop()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def series(folder: Path, name: str = "1", values: Any = MADE, **more: Any) -> list[Path]:
    return write_series(folder, name, values, **more)


def parts(paths: Sequence[Path], name: str = "ct") -> list[tuple[str, Any]]:
    # The file's name is the patient's, as it often is: it must go nowhere.
    return [(name, (f"{SECRETS[0]}.dcm", path.read_bytes(), "application/dicom")) for path in paths]


def predict(client: httpx.Client, files: Any, data: Any = None) -> httpx.Response:
    return client.post("/v1/predict", files=files, data={} if data is None else data)


def expected(paths: Sequence[Path], age: float) -> float:
    """By ingest's own functions, from the files on disk."""
    (volume,) = parts_of([read_header(path) for path in paths]).volumes
    tensor = tensor_of(read_picture(volume, "HU"), CT.inputs[0]).astype(np.float32)
    return 1 / (1 + math.exp(-(float(tensor.mean()) / 1000 + age / 100)))


def test_a_ct_series_gives_the_score_of_the_tensor_that_an_ingest_makes(
    client: httpx.Client, tmp_path: Path
) -> None:
    paths = series(tmp_path)
    answer = predict(client, parts(paths), {"age": "61", "case": "p-17"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["outputs"]["probability"] == pytest.approx([expected(paths, 61)], abs=1e-6)
    assert body["cases"] == [{"files": [0, 1, 2, 3], "case": "p-17"}]
    assert body["investigational"] is True
    assert body["mode"] == "shadow"
    assert "not shown" in body["use"]


def test_several_cases_of_one_request_are_told_apart_by_their_names(
    client: httpx.Client, tmp_path: Path
) -> None:
    first, second = series(tmp_path, "1"), series(tmp_path, "2", noise((4, 6, 8), 9) + 700)
    mixed = [*parts(second[:2], "b/ct"), *parts(first, "a/ct"), *parts(second[2:], "b/ct")]
    answer = predict(client, mixed, {"a/age": "30", "b/age": "80.5"}).json()
    scores = {
        row["case"]: score
        for row, score in zip(answer["cases"], answer["outputs"]["probability"], strict=True)
    }
    assert scores["a"] == pytest.approx(expected(first, 30), abs=1e-6)
    assert scores["b"] == pytest.approx(expected(second, 80.5), abs=1e-6)
    assert abs(scores["a"] - scores["b"]) > 0.05


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


def test_a_refused_image_tells_no_value_of_the_patient(
    client: httpx.Client, tmp_path: Path
) -> None:
    for change, code in (
        ({"modality": "MR"}, "input_modality"),
        ({"values": noise((4, 6, 8)) + 9000}, "input_range"),
    ):
        response = predict(client, parts(series(tmp_path, **change)), {"age": "61"})
        assert problem(response, 422) == code
        assert not [secret for secret in SECRETS if secret in response.text]


def test_forms_that_lack_or_repeat_something_are_explained(
    client: httpx.Client, tmp_path: Path
) -> None:
    paths = series(tmp_path)
    for files, data, status, code in (
        (parts(paths), {}, 422, "input_names"),
        (parts(paths), {"age": "61", "weight": "70"}, 422, "input_names"),
        (parts(paths), {"age": "sixty"}, 422, "input_dtype"),
        (parts(paths), {"age": "nan"}, 422, "input_dtype"),
        (parts(paths), {"age": "1" * 65}, 422, "bad_request"),
        (parts(paths), {"age": "17"}, 422, "input_range"),
        (parts(paths), {"age": "61", "case": "Geheim^Gertrud"}, 422, "bad_case"),
        (parts(paths, "a/ct"), {"age": "61"}, 422, "input_names"),
        ([("age", (None, b"61"))], {}, 422, "bad_request"),
        ([*parts(paths), ("ct", ("x.dcm", b"\0" * (2 << 20)))], {"age": "61"}, 413, "too_large"),
    ):
        response = predict(client, files, data)
        assert problem(response, status) == code
        assert "Geheim" not in response.text
    for body, kind, status, code in (
        (b"", "multipart/form-data", 415, "unsupported_type"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 422, "bad_multipart"),
        (b"no parts", "multipart/form-data; boundary=x", 422, "bad_multipart"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422, "bad_request"),
        (b"--x\r\nA: " + b"b" * 9000, "multipart/related; boundary=x", 422, "bad_multipart"),
        (b"--x\r\n\r\n1\r\n" * 9000 + b"--x--\r\n", "multipart/related; boundary=x", 413,
         "too_large"),
    ):  # fmt: skip
        response = client.post("/v1/predict", content=body, headers={"content-type": kind})
        assert problem(response, status) == code, (body[:20], response.text)


def test_files_that_are_no_image_or_are_damaged_are_explained(
    client: httpx.Client, tmp_path: Path
) -> None:
    paths = series(tmp_path)
    cut = paths[0].read_bytes()[:-40]
    for data in (
        b"",
        b"GIF89a",
        b"PK\x03\x04",
        cut,
        cut[:140],
        b"\0" * 128 + b"DICM" + b"\xff" * 99,
    ):
        files = [*parts(paths[1:]), ("ct", ("x", data, "application/dicom"))]
        response = predict(client, files, {"age": "61"})
        assert problem(response, 422) == "input_image"
        assert not [secret for secret in SECRETS if secret in response.text]


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


def test_nothing_of_a_patient_was_logged_or_kept(running: Running, client: httpx.Client) -> None:
    """Runs last of those that share the server."""
    rest = running.lines[10:]
    assert not [line for line in rest if line]
    assert not [s for s in SECRETS if s in client.get("/metrics").text]
    _, *spare = running.children()
    assert len(spare) <= 1, "a process that read a patient's files ended"


# -- in this process: kinds of bodies and files, each read in a locked process of its own -----


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


def test_whatever_pydicom_ships_is_read_behind_the_lock_as_outside_of_it() -> None:
    """What is imported late, or opened, would fail in there: compressed, enhanced, odd, damaged."""
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
