"""A hospital sends DICOM or pictures, and the model sees what an ingest would have made of them."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving import certified
from tests.serving.hospital_made import CT, Running, ct_model, of_contract, write
from tests.serving.test_server import problem
from tests.validators.dicom_made import SECRETS, noise, write_series
from validators.contract.dicom_file import read_header
from validators.contract.dicom_series import parts_of, read_picture
from validators.contract.harmonise import tensor_of

MADE = noise((4, 6, 8), 3)


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


def test_nothing_of_a_patient_was_logged_or_kept(running: Running, client: httpx.Client) -> None:
    """Runs last of those that share the server."""
    rest = running.lines[running.lines.index(next(x for x in running.lines if "Ctrl-C" in x)) + 1 :]
    assert not [line for line in rest if line]
    assert not [s for s in SECRETS if s in client.get("/metrics").text]
    _, *spare = running.children()
    assert len(spare) <= 1, "a process that read a patient's files ended"
