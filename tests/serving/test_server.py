"""A certified model answers over HTTP, and nothing but what was certified does."""

import asyncio
import datetime as dt
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from registry.trust.errors import Refused
from registry.trust.keys import pem_of
from serving.bundle.acknowledged import remember
from serving.bundle.pack import write_bundle
from serving.bundle.verify import verify
from serving.front import bento
from serving.hospital.deployment import Deployment, Stage
from serving.hospital.parts import Parts
from serving.hospital.watching import Watch
from serving.reading.readers import Readers
from serving.routes import routes
from serving.sandbox import Sandbox
from serving.server import SERVING_LIMITS
from serving.worker import Worker
from tests.serving import certified
from tests.serving.certified import EXPLODE, HANG, NOT_AFTER, NOW
from tests.serving.server_process import ServerProcess

REPOSITORY = Path(__file__).parents[2]
ADDRESS = re.compile(r"on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class Served:
    """A bundle on disk and the root that a hospital pinned."""

    bundle: Path
    root: Path


class Serving(ServerProcess):
    """`serve`, in a process of its own."""

    def __init__(self, served: Served, *arguments: str, port: int = 0) -> None:
        command = [
            sys.executable, "-m", "tests.serving.bare_program", str(served.bundle),
            "--allow-demo", "--state", str(served.root.parent / "state"),
            "--root", str(served.root), "--port", str(port), *arguments,
        ]  # fmt: skip
        super().__init__(command, ADDRESS, cwd=REPOSITORY, stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    tef = certified.facility(demo=True)
    directory = tmp_path_factory.mktemp("hospital")
    files = certified.packed(certified.model(traps=True))
    write_bundle(
        certified.signed(files, tef.log, tef.ada, tef.ben, logged={"at": dt.datetime.now(dt.UTC)}),
        directory / "nodule-3",
    )
    use = certified.predicate(files, tef.log).use
    remember(directory / "state", use, "Clara", certified.NOW)
    (directory / "root.pem").write_bytes(pem_of(tef.root.certificate))
    return Served(directory / "nodule-3", directory / "root.pem")


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[Serving]:
    serving = Serving(served, "--seconds", "1", "--waiting", "3")
    assert serving.url, serving.lines[-2:]
    yield serving
    serving.stop()


@pytest.fixture
def client(server: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for _ in range(100):  # the test before may have cost the model its process
            if client.get("/health/ready").status_code == 200:
                break
            time.sleep(0.05)
        yield client


def inputs(cases: int = 2, first: float = 2.0) -> dict[str, Any]:
    image = np.linspace(0, 1, cases * 64).reshape(cases, 1, 8, 8).tolist()
    descriptors = [[2.0, 3.0, 4.0] for _ in range(cases)]
    descriptors[0][0] = first
    return {"image": image, "descriptors": descriptors}


def predict(client: httpx.Client, given: dict[str, Any]) -> httpx.Response:
    return client.post("/v1/predict", json={"inputs": given})


def problem(response: httpx.Response, status: int) -> str:
    """The code of a problem body, which is one as RFC 9457 asks."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"] == f"urn:touchstone:problem:{body['code']}"
    assert "\n" not in body["detail"]
    assert "Traceback" not in response.text
    return str(body["code"])


# -- what it answers ---------------------------------------------------------------------------


def test_it_says_what_it_verified_before_it_serves(server: Serving) -> None:
    names = [line.split(":")[0] for line in server.lines]
    assert names[:11] == [
        "ok    pinned root", "ok    signatures", "ok    enrolment", "ok    file set",
        "ok    digests", "ok    in force", "ok    verdict", "ok    statements",
        "ok    intended use", "ok    audit log", "ok    golden vectors",
    ]  # fmt: skip
    assert "investigational" in server.lines[11]
    assert "shadow" in server.lines[11]


def test_scores_are_those_that_the_sandboxed_model_gives(client: httpx.Client) -> None:
    given = inputs(5)
    answer = predict(client, given)
    assert answer.status_code == 200, answer.text
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": certified.model(traps=True)})
        direct = sandbox.run({name: np.array(v, np.float32) for name, v in given.items()})
    assert answer.json()["outputs"] == {
        "probability": direct["probability"].reshape(-1).astype(float).tolist()
    }


def test_each_answer_says_what_it_is(client: httpx.Client) -> None:
    body = predict(client, inputs()).json()
    assert {key: body[key] for key in body if key != "outputs"} == {
        "model": "sme-a/nodule 3",
        "certificate": client.get("/v1/model").json()["certificate"],
        "investigational": True,
        "mode": "shadow",
        "use": "investigational, in shadow: kept for later comparison, not shown where patients "
        "are cared for",
        "demo": True,
    }
    assert body["certificate"].startswith("sha256:")


def test_the_label_says_what_for_until_when_and_by_whom(client: httpx.Client) -> None:
    label = client.get("/v1/model").json()
    assert label["intended_use"]["purpose"] == "triage of nodules"
    assert label["intended_use"]["limits"] == ""
    assert label["not_after"] == NOT_AFTER.isoformat().replace("+00:00", "Z")
    assert label["model"]["organisation"] == "sme-a"
    assert label["in_force"] is True
    assert label["investigational"] is True
    assert [tensor["name"] for tensor in label["contract"]["inputs"]] == ["image", "descriptors"]


def test_health_is_told(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"ready": True}


def open_inference(cases: int = 2) -> dict[str, Any]:
    given = inputs(cases)
    return {
        "id": "request-7",
        "inputs": [
            {"name": "image", "shape": [cases, 1, 8, 8], "datatype": "FP32",
             "data": np.array(given["image"]).reshape(-1).tolist()},
            {"name": "descriptors", "shape": [cases, 3], "datatype": "FP32",
             "data": given["descriptors"]},
        ],
    }  # fmt: skip


def test_the_open_inference_protocol_gives_the_same_scores(client: httpx.Client) -> None:
    answer = client.post("/v2/models/nodule/infer", json=open_inference())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["id"] == "request-7"
    assert (body["model_name"], body["model_version"]) == ("nodule", "3")
    (output,) = body["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probability", "FP32", [2, 1])
    assert output["data"] == predict(client, inputs()).json()["outputs"]["probability"]
    assert body["parameters"]["investigational"] is True


def test_the_open_inference_protocol_describes_the_model(client: httpx.Client) -> None:
    model = client.get("/v2/models/nodule").json()
    assert model["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}
    assert client.get("/v2/models/nodule/ready").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2").json()["name"] == "touchstone"
    assert problem(client.get("/v2/models/other"), 404) == "not_found"
    assert problem(client.post("/v2/models/other/infer", json=open_inference()), 404) == "not_found"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"datatype": "FP64"}, "input_dtype"),
        ({"shape": [2, 64]}, "input_shape"),
        ({"shape": [3, 1, 8, 8]}, "input_shape"),
        ({"shape": [-2, 1, 8, 8]}, "bad_request"),
        ({"shape": "2"}, "bad_request"),
        ({"name": "other"}, "input_names"),
        ({"name": "descriptors"}, "bad_request"),
        ({"name": 3}, "bad_request"),
        ({"data": [1, 2, 3]}, "input_shape"),
        ({"data": "x"}, "input_dtype"),
    ],
    ids=str,
)
def test_a_wrong_tensor_in_the_open_inference_protocol_is_explained(
    client: httpx.Client, change: dict[str, Any], code: str
) -> None:
    body = open_inference()
    body["inputs"][0] |= change
    assert problem(client.post("/v2/models/nodule/infer", json=body), 422) == code


# -- what it does not take ---------------------------------------------------------------------


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in inputs().items() if key != name}


SECRET = 4.625  # stands for a patient's value


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (without("image"), "input_names"),
        (inputs() | {"extra": [1, 2]}, "input_names"),
        (inputs() | {"descriptors": [[SECRET, 2, 3]]}, "input_shape"),
        (inputs() | {"descriptors": [[SECRET, 2], [1, 2]]}, "input_shape"),
        (inputs() | {"descriptors": [[SECRET, 2, 3], [1, 2]]}, "input_shape"),
        (inputs() | {"descriptors": [[SECRET, "2", 3], [1, 2, 3]]}, "input_dtype"),
        (inputs() | {"descriptors": [[SECRET, None, 3], [1, 2, 3]]}, "input_dtype"),
        (inputs() | {"descriptors": [[SECRET, {}, 3], [1, 2, 3]]}, "input_dtype"),
        (inputs() | {"descriptors": [[True, True, True], [True, True, True]]}, "input_dtype"),
        (inputs() | {"descriptors": [[SECRET, 1e300, 3], [1, 2, 3]]}, "input_range"),
        (inputs() | {"descriptors": [[SECRET, 5.5, 3], [1, 2, 3]]}, "input_range"),
        (inputs() | {"descriptors": [[SECRET, 0.5, 3], [1, 2, 3]]}, "input_range"),
        (inputs() | {"descriptors": SECRET}, "input_shape"),
        (inputs() | {"descriptors": "secret"}, "input_dtype"),
        (inputs() | {"descriptors": None}, "input_dtype"),
        ({"image": [], "descriptors": []}, "input_shape"),
        (inputs(cases=257), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_that_do_not_fit_the_contract_are_explained_without_a_value(
    client: httpx.Client, given: dict[str, Any], code: str
) -> None:
    response = predict(client, given)
    assert problem(response, 413 if code == "too_large" else 422) == code
    assert "4.6" not in response.text
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[]", "not_json"),
        (b"null", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"inputs": ' + b'{"a":' * 50_000, "not_json"),
        (b'{"inputs": {"image": NaN}}', "not_json"),
        (b'{"inputs": {"image": Infinity}}', "not_json"),
        (b'{"inputs": {"image": 1, "image": 2}}', "not_json"),
        (b'{"inputs": {"image": ' + b"9" * 5000 + b"}}", "not_json"),
        (b"{}", "bad_request"),
        (b'{"inputs": []}', "bad_request"),
        (b'{"inputs": {}, "model": "other"}', "bad_request"),
        (b'{"inputs": {"image": ' + b"[" * 900 + b"]" * 900 + b', "descriptors": 1}}',
         "input_shape"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_body_that_is_no_request_is_explained(
    client: httpx.Client, body: bytes, code: str
) -> None:
    headers = {"content-type": "application/json"}
    assert problem(client.post("/v1/predict", content=body, headers=headers), 422) == code


POSTED = ["/v1/predict", "/v2/models/nodule/infer"]


@pytest.mark.parametrize("path", [*POSTED, "/v1/model", "/predict", "/", "/v1/pickle"])
@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.bentoml+pickle",
        "application/octet-stream",
        "multipart/form-data",
        "",
        "text/plain",
    ],
)
def test_nothing_but_json_is_decoded_on_any_path(
    client: httpx.Client, tmp_path: Path, path: str, kind: str
) -> None:
    """The pickle would make a file where it was loaded."""
    witness = tmp_path / "executed"
    gadget = b"cos\nsystem\n(S'touch " + str(witness).encode() + b"'\ntR."
    headers = {"content-type": kind, "payload-container": "ndarray", "user-agent": "bentoml"}
    response = client.post(path, content=gadget, headers=headers)
    assert response.status_code in ({415} if path in POSTED else {404, 405})
    assert not witness.exists()


def test_a_body_without_end_is_cut_off(client: httpx.Client) -> None:
    limit = client.get("/v1/model").json()["largest_body"]
    assert limit < 1 << 20
    headers = {"content-type": "application/json"}
    declared = client.post("/v1/predict", content=b" " * (limit + 1), headers=headers)
    assert problem(declared, 413) == "too_large"

    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b" " * 65_536

    with httpx.Client(base_url=str(client.base_url), timeout=30) as other:
        try:
            response = other.post("/v1/predict", content=endless(), headers=headers)
        except httpx.WriteError:  # hung up on while we were still sending
            return
    assert problem(response, 413) == "too_large"


def test_a_million_small_numbers_are_refused_before_they_are_parsed(client: httpx.Client) -> None:
    body = b'{"inputs":[' + b"0," * 200_000 + b"0]}"
    headers = {"content-type": "application/json"}
    response = client.post("/v1/predict", content=body, headers=headers)
    assert problem(response, 413) == "too_large"


def test_a_compressed_body_is_refused(client: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert problem(client.post("/v1/predict", content=b"x", headers=headers), 415) == (
        "unsupported_type"
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/livez", "/healthz", "/readyz", "/docs.json", "/schema.json",
     "/static_content/index.html", "/v1", "//v1/model", "/v1//model", "/health/../admin",
     "/v1/%2e%2e/metrics", "/tasks", "/v1/other", "/v1/model/", "/v2/models/a/b/infer"],
)  # fmt: skip
def test_what_the_framework_mounts_beside_is_not_reachable(client: httpx.Client, path: str) -> None:
    assert problem(client.get(path), 404) == "not_found"


def test_other_methods_are_told(client: httpx.Client) -> None:
    assert problem(client.get("/v1/predict"), 405) == "method"
    assert problem(client.put("/v1/predict", json={}), 405) == "method"


# -- when the model fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code"), [(HANG, "model_timeout"), (EXPLODE, "model_out_of_memory")]
)
def test_a_model_that_takes_its_process_along_costs_one_request(
    client: httpx.Client, server: Serving, value: float, code: str
) -> None:
    before = predict(client, inputs()).json()
    (first,) = server.children()
    response = predict(client, inputs(first=value))
    assert problem(response, 503) == code
    assert response.headers["retry-after"] == "1"
    after = predict(client, inputs())
    assert after.status_code == 200, after.text
    assert after.json() == before
    (second,) = server.children()
    assert second != first
    assert not Path(f"/proc/{first}").exists()


def test_a_killed_process_is_replaced(client: httpx.Client, server: Serving) -> None:
    (child,) = server.children()
    os.kill(child, signal.SIGKILL)
    assert predict(client, inputs()).status_code == 503
    assert predict(client, inputs()).status_code == 200
    assert child not in server.children()


def test_many_clients_get_their_own_answers(client: httpx.Client, server: Serving) -> None:
    expected = {n: predict(client, inputs(n)).json()["outputs"] for n in range(1, 9)}

    def ask(cases: int) -> bool:
        with httpx.Client(base_url=server.url, timeout=30) as own:
            for _ in range(10):
                while (answer := predict(own, inputs(cases))).status_code == 429:
                    time.sleep(0.01)
                if answer.json()["outputs"] != expected[cases]:
                    return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1, 9)))


def test_nothing_was_logged_of_any_request(server: Serving) -> None:
    """Runs last of those that share the server."""
    noise = [line for line in server.lines[13:] if line]
    assert noise == []


# -- starting and stopping ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stops_cleanly_and_buries_the_sandbox(served: Served, number: int) -> None:
    serving = Serving(served)
    (child,) = serving.children()
    assert serving.stop(number) == 0
    assert serving.lines[-1] == "stopped"
    assert not any("Traceback" in line for line in serving.lines)
    assert not Path(f"/proc/{child}").exists()


@pytest.fixture
def patient(served: Served) -> Iterator[Serving]:
    """Holds three requests at once, and lets a model hang for as long as the test takes."""
    serving = Serving(served, "--seconds", "600", "--waiting", "3")
    assert serving.url, serving.lines[-2:]
    yield serving
    serving.stop(signal.SIGKILL)


def hanging(serving: Serving, pool: ThreadPoolExecutor) -> tuple[int, Future[int]]:
    """The process that is at work on a request without end, and what will be answered: 0, none."""
    (child,) = serving.children()
    before = ticks(child)

    def ask() -> int:
        with httpx.Client(base_url=serving.url, timeout=120) as client:
            try:
                return predict(client, inputs(first=HANG)).status_code
            except httpx.TransportError:
                return 0

    asked = pool.submit(ask)
    until(lambda: ticks(child) > before + 4)
    return child, asked


def ticks(process: int) -> int:
    """CPU time of a process, in hundredths of a second."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11])


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_more_than_may_wait_are_turned_away_and_the_rest_are_answered(patient: Serving) -> None:
    """The model hangs until its process is killed, so no pace of this machine changes who waits."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(9))
        clients = [
            stack.enter_context(httpx.Client(base_url=patient.url, timeout=120)) for _ in range(8)
        ]
        child, first = hanging(patient, pool)
        others = [pool.submit(predict, client, inputs()) for client in clients]
        until(lambda: sum(other.done() for other in others) >= 6)
        assert httpx.get(patient.url + "/health/live").status_code == 200, "told meanwhile"
        early = [other.result().status_code for other in others if other.done()]
        os.kill(child, signal.SIGKILL)
        assert first.result() == 503
        answers = [other.result().status_code for other in others]
    assert early == [429] * 6
    assert sorted(answers) == [200] * 2 + [429] * 6


def test_it_stops_while_the_model_hangs(patient: Serving) -> None:
    with ThreadPoolExecutor(1) as pool:
        child, asked = hanging(patient, pool)
        started = time.monotonic()
        patient.stop(signal.SIGTERM)
        assert time.monotonic() - started < 15
        assert not Path(f"/proc/{child}").exists()
        asked.result(30)


def test_the_sandbox_does_not_outlive_a_killed_server(served: Served) -> None:
    serving = Serving(served)
    (child,) = serving.children()
    serving.stop(signal.SIGKILL)
    for _ in range(100):
        status = Path(f"/proc/{child}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the sandboxed process lives on")


def test_a_port_in_use_is_told_in_one_line(served: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serving = Serving(served, port=port)
        assert serving.stop() == 1
    assert serving.lines == [f"port {port} on 127.0.0.1 is in use: choose another with --port"]


@pytest.mark.parametrize("arguments", [("--host", "192.0.2.1"), ("--host", "no host")])
def test_an_address_that_is_not_ours_is_told_in_one_line(
    served: Served, arguments: tuple[str, ...]
) -> None:
    serving = Serving(served, *arguments)
    assert serving.stop() == 1
    assert len(serving.lines) == 1


def test_a_bundle_with_one_flipped_byte_is_not_served(served: Served, tmp_path: Path) -> None:
    bundle = certified.copy_of(served.bundle, tmp_path / "copy")
    path = bundle / "model/model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    serving = Serving(Served(bundle, served.root))
    assert serving.url == ""
    assert serving.stop() == 1
    assert "model/model.onnx is not the file that was signed over" in serving.lines[-1]


def test_code_that_lies_in_the_bundle_or_its_place_is_never_run(
    served: Served, tmp_path: Path
) -> None:
    bundle = certified.copy_of(served.bundle, tmp_path / "copy")
    evil = f"open({str(tmp_path / 'executed')!r}, 'w')"
    for name in ("service.py", "bentofile.yaml", "sitecustomize.py", "numpy.py"):
        (bundle / name).write_text(evil)
    serving = Serving(Served(bundle, served.root))
    assert serving.stop() == 1
    assert "is not part of the bundle" in serving.lines[-1]
    assert not (tmp_path / "executed").exists()


def test_it_leaves_nothing_in_the_home_directory(served: Served, tmp_path: Path) -> None:
    environment = dict(os.environ, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "c"))
    for name in ("CI", "BENTOML_DO_NOT_TRACK", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        serving = Serving(served)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert httpx.get(serving.url + "/health/ready").status_code == 200
    serving.stop()
    assert [path.name for path in tmp_path.rglob("*")] == []


# -- time, in this process ---------------------------------------------------------------------


def test_the_day_the_certificate_ends_it_stops_predicting(served: Served) -> None:
    from registry.trust.keys import load_certificate

    present = NOW
    root, policy = load_certificate(served.root), certified.TAKES_DEMO
    verified = verify(served.bundle, root, NOW, policy, replay=False, keep=True)
    worker = Worker(verified, limits=SERVING_LIMITS, waiting=4)
    worker.start()
    watch = Watch(str(verified.statement), None, lambda: present)
    stage = Stage(Deployment(verified, worker, watch, "shadow", lambda: present))
    app = bento(routes(Parts(stage, Readers(1 << 20))))

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://hospital") as client:
            return [
                await client.post("/v1/predict", json={"inputs": inputs()}),
                await client.get("/health/ready"),
                await client.get("/health/live"),
                await client.get("/v1/model"),
            ]

    try:
        in_force = asyncio.run(ask())
        present = NOT_AFTER
        expired = asyncio.run(ask())
    finally:
        worker.close()
    assert [response.status_code for response in in_force] == [200] * 4
    assert problem(expired[0], 403) == "certificate_expired"
    assert problem(expired[1], 403) == "certificate_expired"
    assert expired[2].status_code == 200
    assert expired[3].json()["in_force"] is False


def test_a_process_that_does_not_replay_the_golden_vectors_answers_nobody(
    tmp_path: Path,
) -> None:
    tef = certified.facility()
    other = certified.golden_of({"model.onnx": certified.model(sign=-1.0)})
    files = certified.packed(certified.model(), golden=other)
    bundle = write_bundle(certified.signed(files, tef.log, tef.ada, tef.ben), tmp_path / "b")
    verified = verify(bundle, tef.root.certificate, NOW, certified.TAKES, replay=False, keep=True)
    verified.raise_if_failed()
    worker = Worker(verified, limits=SERVING_LIMITS, waiting=4)
    try:
        with pytest.raises(Refused) as raised:
            worker.start()
        assert raised.value.code == "golden_mismatch"
        assert not worker.ready
        assert worker.pid is None
    finally:
        worker.close()
