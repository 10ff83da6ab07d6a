"""A hospital's server speaks the open protocol in binary, to whoever holds the token."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from serving.hospital.telling import Telling, score_of, summary_of
from serving.pilot.prediction import Prediction
from tests.serving import certified
from tests.serving.hospital_made import Running, write
from tests.serving.inference.test_server import Collector
from tests.serving.test_server import inputs, problem

TOKEN = "a-token-of-a-hospital-0123456789-abcdef"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "token").write_text(TOKEN + "\n")
    return write(certified.facility(), certified.model(), folder / "nodule-3")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running(bundle: Path, collector: Collector) -> Iterator[Running]:
    settings = {"token": str(bundle.parent / "token"),
                "collector": f"http://127.0.0.1:{collector.server_port}"}  # fmt: skip
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"  # milliseconds, in place of five seconds
    made = Running(bundle, bundle.parent / "root.pem", settings)
    del os.environ["OTEL_BSP_SCHEDULE_DELAY"]
    assert made.url, made.lines
    yield made
    made.stop()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=30, headers=HEADERS) as client:
        yield client


def arrays(cases: int = 2) -> dict[str, Any]:
    return {name: np.array(values, np.float32) for name, values in inputs(cases).items()}


def given(values: dict[str, Any], *, binary: bool = True) -> list[Any]:
    made = []
    for name, array in values.items():
        one = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array, binary_data=binary)
        made.append(one)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_a_stock_client_gets_the_scores_of_the_plain_door(
    running: Running, client: httpx.Client, binary: bool
) -> None:
    stock = triton.InferenceServerClient(running.url.removeprefix("http://"))
    expected = client.post("/v1/predict", json={"inputs": inputs(5)}).json()
    assert stock.is_server_ready(headers=dict(HEADERS))
    assert stock.is_model_ready("nodule", "3", headers=dict(HEADERS))
    answer = stock.infer(
        "nodule", given(arrays(5), binary=binary), request_id="r-1",
        headers=HEADERS | ({} if binary else {"Content-Type": "application/json"}),
        outputs=[triton.InferRequestedOutput("probability", binary_data=binary)],
    )  # fmt: skip
    made = answer.as_numpy("probability")
    assert made.dtype == np.float32
    assert made.shape == (5, 1)
    assert made.reshape(-1).astype(float).tolist() == expected["outputs"]["probability"]
    told = answer.get_response()
    assert told["id"] == "r-1"
    assert (told["model_name"], told["model_version"]) == ("nodule", "3")
    assert told["parameters"]["certificate"] == expected["certificate"]
    assert told["parameters"]["mode"] == "shadow"
    stock.close()


def changed(**values: Any) -> dict[str, Any]:
    return arrays() | values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (changed(descriptors=np.full((2, 3), 5.5, np.float32)), "outside the contract's range"),
        (changed(descriptors=np.full((2, 3), np.nan, np.float32)), "no finite float32"),
        (changed(descriptors=np.full((2, 4), 2, np.float32)), "of shape"),
        (changed(descriptors=np.full((3, 3), 2, np.float32)), "different numbers of cases"),
        (changed(descriptors=np.full((2, 3), 2, np.float64)), "must be float32"),
        (changed(other=np.full((2, 3), 2, np.float32)), "must be exactly"),
        (arrays(257), "than"),
    ],
    ids=range(7),
)
def test_binary_tensors_are_held_against_the_contract(
    running: Running, values: dict[str, Any], said: str
) -> None:
    stock = triton.InferenceServerClient(running.url.removeprefix("http://"))
    with pytest.raises(InferenceServerException, match=re.escape(said)):
        stock.infer("nodule", given(values), headers=dict(HEADERS))
    stock.close()


def test_a_binary_body_that_is_none_is_explained(client: httpx.Client) -> None:
    header = {
        "inputs": [
            {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32",
             "parameters": {"binary_data_size": 256}},
            {"name": "descriptors", "shape": [1, 3], "datatype": "FP32",
             "parameters": {"binary_data_size": 12}},
        ]
    }  # fmt: skip
    data = np.full(67, 1, "<f4").tobytes()

    def infer(value: Any, binary: bytes = data, length: str | None = None) -> httpx.Response:
        text = json.dumps(value).encode()
        headers = {"content-type": "application/octet-stream",
                   "inference-header-content-length": length or str(len(text))}  # fmt: skip
        return client.post("/v2/models/nodule/infer", content=text + binary, headers=headers)

    assert infer(header).status_code == 200
    region = {"shared_memory_region": "tensors", "shared_memory_byte_size": 12}
    shared = {"inputs": [header["inputs"][0], header["inputs"][1] | {"parameters": region}]}
    for response, status, code in (
        (infer(header, data[:-1]), 422, "bad_size"),
        (infer(header, data + b"x"), 422, "bad_size"),
        (infer(header, length="999999"), 422, "bad_size"),
        (infer(header, length="x"), 422, "bad_size"),
        (infer(header | {"outputs": [{"name": "other"}]}), 422, "bad_request"),
        (infer(shared, data[:256]), 422, "bad_request"),
        (infer([]), 422, "not_json"),
        (infer(header, b"\0" * (2 << 20)), 413, "too_large"),
    ):
        assert problem(response, status) == code


def test_nothing_but_liveness_and_readiness_is_told_without_the_token(running: Running) -> None:
    with httpx.Client(base_url=running.url) as stranger:
        assert stranger.get("/health/live").status_code == 200
        assert stranger.get("/v2/health/ready").status_code == 200
        for path in ("/v1/model", "/metrics", "/v2", "/v2/models/nodule"):
            assert problem(stranger.get(path), 401) == "unauthenticated"
        wrong = {"Authorization": f"Bearer {TOKEN}x"}
        response = stranger.post("/v1/predict", json={"inputs": inputs()}, headers=wrong)
        assert problem(response, 401) == "unauthenticated"


def test_prometheus_reads_counts_and_times_and_no_value(client: httpx.Client) -> None:
    client.post("/v1/predict", json={"inputs": inputs(first=4.625)})
    client.post("/v1/predict", json={"inputs": {}})
    text = client.get("/metrics").text
    assert 'touchstone_inference_requests_total{route="/v1/predict",status="200"}' in text
    assert 'touchstone_inference_failures_total{code="input_names"}' in text
    assert "touchstone_certificate_in_force 1.0" in text
    assert "touchstone_predictions_not_told 0.0" in text
    assert "4.625" not in text


def test_a_request_is_traced_under_its_caller_and_tells_no_value(
    client: httpx.Client, collector: Collector
) -> None:
    caller = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{caller}-b7ad6b7169203331-01"}
    client.post("/v1/predict", json={"inputs": inputs(first=4.625)}, headers=headers)
    mine: list[Any] = []
    for _ in range(100):
        mine = [span for span in collector.spans if span.trace_id.hex() == caller]
        if len(mine) == 3:  # they may come in several requests
            break
        time.sleep(0.1)
    assert {span.name for span in mine} == {"/v1/predict", "read", "run"}
    whole = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"touchstone-hospital" in whole
    assert b"4.625" not in whole
    assert b"descriptors" not in whole


def test_a_unix_socket_and_a_place_full_of_other_people_s_code(
    bundle: Path, tmp_path: Path
) -> None:
    """Neither the folder that it is started in nor the bundle's is ever imported from."""
    place = tmp_path / "cwd"
    place.mkdir()
    evil = f"open({str(tmp_path / 'executed')!r}, 'w')"
    for name in ("sitecustomize", "usercustomize", "onnx", "numpy", "bentoml", "json", "pydicom"):
        (place / f"{name}.py").write_text(evil)
    path = tmp_path / "serve.socket"
    made = Running(bundle, bundle.parent / "root.pem", {"socket": str(path)}, cwd=place)
    try:
        assert made.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            answer = client.post("http://hospital/v1/predict", json={"inputs": inputs()})
            assert answer.status_code == 200
    finally:
        made.stop()
    assert not path.exists()
    assert not (tmp_path / "executed").exists()


def test_a_bundle_with_code_in_it_is_refused_from_within_and_runs_nothing(
    bundle: Path, tmp_path: Path
) -> None:
    mine = certified.copy_of(bundle, tmp_path / "mine")
    evil = f"open({str(tmp_path / 'executed')!r}, 'w')"
    for name in ("sitecustomize.py", "onnx.py", "numpy.py", "serving.py"):
        (mine / name).write_text(evil)
    script = Path(sys.executable).with_name("touchstone")
    assert shutil.which(str(script)) is not None
    made = subprocess.run(
        [script, "serve", ".", "--root", bundle.parent / "root.pem", "--port", "0"],
        cwd=mine, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert made.returncode == 1
    assert "is not part of the bundle" in made.stderr
    assert not (tmp_path / "executed").exists()


# -- telling alone -----------------------------------------------------------------------------


def prediction(case: str) -> Prediction:
    return Prediction("sha256:" + "a" * 64, certified.NOW, {"probability": 0.5}, 0.1, case)


def test_a_slow_or_failing_listener_costs_no_answer_and_no_memory() -> None:
    heard: list[str | None] = []
    go = threading.Event()

    def listen(told: Prediction) -> None:
        go.wait(10)
        heard.append(told.case)
        if told.case == "1":
            raise ValueError("a fault")

    telling = Telling(listen, waiting=4)
    began = time.monotonic()
    for number in range(50):
        telling.tell([prediction(str(number))])
    assert time.monotonic() - began < 1
    assert 45 <= telling.lost <= 46
    go.set()
    telling.close()
    assert len(heard) == 50 - telling.lost
    assert telling.failed == heard.count("1")


def test_summaries_and_scores_are_those_of_the_case() -> None:
    values = {"x": np.array([[1.0, 3.0], [2.0, 6.0]], np.float32)}
    assert summary_of(values, 1) == {"x.mean": 4.0, "x.minimum": 2.0, "x.maximum": 6.0}
    assert score_of(np.array([0.25, 0.5])[1]) == 0.5
    assert score_of(np.array([[0, 1], [2, 0]], np.uint8)) == 0.5
