"""What no honest client sends: refused by code, soon, and the server goes on."""

import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from registry.trust.canonical import hex_of
from registry.trust.model_files import model_digest
from serving.inference.asking import model_path
from serving.inference.regions import DIRECTORY
from tests.serving import hostile
from tests.serving.inference.serving import TOKEN, Server, place

ZERO = "sha256:" + "0" * 64
BEARER = f"Authorization: Bearer {TOKEN}\r\n"


@pytest.fixture(scope="module")
def digest(server: Server) -> str:
    digest = place(server.models, {"model.onnx": hostile.honest()})
    assert server.ask("POST", f"/v2/repository/models/{digest}/load")[0] == 200
    return digest


def code(found: tuple[int, bytes]) -> tuple[int, str]:
    status, body = found
    value = json.loads(body)
    assert value["error"] == value["detail"]
    return status, value["code"]


def infer(server: Server, digest: str, value: Any, binary: bytes = b"", **headers: Any) -> Any:
    text = json.dumps(value).encode()
    length = {"Inference_Header_Content_Length": len(text)} | headers
    return code(server.ask("POST", f"/v2/models/{digest}/infer", text + binary, **length))


def rows(**changes: Any) -> dict[str, Any]:
    image = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32"}
    table = {"name": "descriptors", "shape": [1, 4], "datatype": "FP32"}
    image["parameters"] = {"binary_data_size": 256}
    table["parameters"] = {"binary_data_size": 16}
    return {"inputs": [image | changes, table]}


@pytest.mark.parametrize(
    ("value", "length", "expected"),
    [
        (rows(), 271, (422, "bad_size")),
        (rows(), 273, (422, "bad_size")),
        (rows(shape=[-1, 1, 8, 8]), 272, (422, "bad_shape")),
        (rows(shape=[1 << 63]), 272, (422, "bad_shape")),
        (rows(shape=[1 << 40, 1 << 40]), 272, (422, "bad_size")),
        (rows(name="descriptors"), 272, (422, "bad_request")),
        (rows(name="other"), 272, (422, "input_unfit")),
        (rows(shape=[1, 64]), 272, (422, "input_unfit")),
        (rows(datatype="INT32"), 272, (422, "input_unfit")),
        (rows(datatype="BYTES"), 272, (422, "bad_datatype")),
        (rows() | {"outputs": [{"name": "secret"}]}, 272, (422, "input_unfit")),
        (rows() | {"parameters": {"sequence_id": 1}}, 272, (422, "bad_parameter")),
        ([], 0, (422, "not_json")),
    ],
)
def test_a_request_that_lies_is_refused_by_code(server, digest, value, length, expected):
    assert infer(server, digest, value, bytes(length)) == expected


@pytest.mark.parametrize("length", ["99999", "-1", "1e3", "9" * 30, "٣"])
def test_a_header_longer_than_the_body_is_refused(server, digest, length):
    line = server.raw(
        f"POST /v2/models/{digest}/infer HTTP/1.1\r\nHost: x\r\n{BEARER}"
        f"Inference-Header-Content-Length: {length}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    )
    assert line.startswith((b"HTTP/1.1 422", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fetc", "sha256:" + "G" * 64, "%2e%2e", "sha256:" + "0" * 63, "a%00b", ZERO + "x"],
)
def test_a_model_is_a_digest_and_never_a_path(server, name):
    for method, path in (
        ("POST", f"/v2/repository/models/{name}/load"),
        ("POST", f"/v2/repository/models/{name}/unload"),
        ("PUT", f"/v2/repository/models/{name}"),
        ("GET", f"/v2/models/{name}"),
    ):
        assert code(server.ask(method, path)) in [(404, "not_found"), (404, "model_not_loaded")]


def test_only_the_listed_paths_are_there(server):
    paths = ["/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/predict"]
    for path in [
        *paths,
        "/v2/../metrics/x",
        "/v2/models/stats",
        "/v2/logging",
        "/v2/trace/setting",
    ]:
        assert server.ask("GET", path)[0] == 404
    assert server.ask("GET", "/v2/repository/index")[0] == 405


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü"])
def test_without_the_token_nothing_is_told(server, token):
    for path in ("/v2", "/metrics", "/v2/systemsharedmemory/status", f"/v2/models/{ZERO}"):
        assert code(server.ask("GET", path, token=token)) == (401, "unauthenticated")


def test_without_the_token_no_body_is_read(server, digest):
    answer = server.raw(
        f"POST /v2/models/{digest}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("length", "status"),
    [(str(1 << 40), b"413"), ("9" * 18, b"413"), (str((8 << 20) + (1 << 20)), b"413")],
)
def test_a_body_that_is_too_large_is_refused_before_it_is_read(server, digest, length, status):
    answer = server.raw(
        f"POST /v2/models/{digest}/infer HTTP/1.1\r\nHost: x\r\n{BEARER}"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_a_body_of_unknown_length_or_compressed_is_refused(server, digest):
    head = f"POST /v2/models/{digest}/infer HTTP/1.1\r\nHost: x\r\n{BEARER}"
    chunked = server.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode())
    assert chunked.startswith(b"HTTP/1.1 411")
    packed = server.raw(f"{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert packed.startswith(b"HTTP/1.1 415")


def taken(server: Server) -> int:
    found = re.search(rb"places_taken (\d+)", server.ask("GET", "/metrics")[1])
    assert found is not None
    return int(found[1])


def test_slow_bodies_take_places_and_the_next_one_is_told_to_come_again(server, digest):
    head = (
        f"POST /v2/models/{digest}/infer HTTP/1.1\r\nHost: x\r\n{BEARER}"
        "Content-Length: 900\r\n\r\n{"
    ).encode()
    host, port = server.url.split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(4)]
    try:
        for line in slow:
            line.sendall(head)
        deadline = time.monotonic() + 10
        while taken(server) < 4:
            assert time.monotonic() < deadline
        answer = server.raw(head + b" " * 899)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer.lower()
        assert server.ask("GET", "/v2/health/live")[0] == 200
    finally:
        for line in slow:
            line.close()
    while taken(server):  # whoever left gave its place back
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "key",
    [
        "/other",
        "/touchstone-../x",
        "touchstone-/../../etc/passwd",
        "/etc/passwd",
        "",
        "/touchstone-\0",
    ],
)
def test_a_region_outside_the_prefix_is_refused(server, key):
    body = json.dumps({"key": key, "offset": 0, "byte_size": 8}).encode()
    found = code(server.ask("POST", "/v2/systemsharedmemory/region/r/register", body))
    assert found == (403, "region_refused")


def test_a_region_that_is_a_link_or_too_small_or_gone_is_refused(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    link, small = DIRECTORY / "touchstone-test-link", DIRECTORY / "touchstone-test-small"
    link.symlink_to(secret)
    small.write_bytes(bytes(8))
    try:
        for key, size, expected in (
            (link.name, 8, (404, "region_unknown")),
            (small.name, 9, (422, "bad_size")),
            (small.name, -1, (422, "bad_size")),
            (small.name, 1 << 63, (422, "bad_size")),
            ("touchstone-none", 8, (404, "region_unknown")),
        ):
            body = json.dumps({"key": key, "offset": 0, "byte_size": size}).encode()
            path = "/v2/systemsharedmemory/region/r/register"
            assert code(server.ask("POST", path, body)) == expected
    finally:
        link.unlink()
        small.unlink()


def test_a_place_outside_its_region_or_in_none_is_refused(server, digest):
    region = DIRECTORY / "touchstone-test-region"
    region.write_bytes(bytes(300))
    try:
        body = json.dumps({"key": region.name, "offset": 0, "byte_size": 300}).encode()
        path = "/v2/systemsharedmemory/region/mine/"
        assert server.ask("POST", path + "register", body)[0] == 200
        assert code(server.ask("POST", path + "register", body)) == (409, "region_taken")

        def at(region: str, offset: int) -> dict[str, Any]:
            return rows(
                parameters={
                    "shared_memory_region": region,
                    "shared_memory_offset": offset,
                    "shared_memory_byte_size": 256,
                }
            )

        assert infer(server, digest, at("none", 0), bytes(16)) == (404, "region_unknown")
        assert infer(server, digest, at("mine", 45), bytes(16)) == (422, "bad_size")
        os.truncate(region, 10)  # no signal ends the server
        assert infer(server, digest, at("mine", 0), bytes(16)) == (422, "bad_size")
        assert server.ask("POST", path + "unregister")[0] == 200
    finally:
        region.unlink()


def test_files_that_are_not_what_the_digest_names_are_never_loaded(server, tmp_path):
    digest = place(server.models, {"model.onnx": hostile.raises()})
    directory = server.models / hex_of(digest)
    load = f"/v2/repository/models/{digest}/load"
    (directory / "model.onnx").write_bytes(hostile.honest())
    assert code(server.ask("POST", load)) == (409, "model_tampered")
    (directory / "model.onnx").unlink()
    assert code(server.ask("POST", load))[1] == "model_missing"
    outside = tmp_path / "model.onnx"
    outside.write_bytes(hostile.raises())
    (directory / "model.onnx").symlink_to(outside)
    assert code(server.ask("POST", load)) == (409, "model_tampered")
    (directory / "model.onnx").unlink()
    os.mkfifo(directory / "model.onnx")
    assert code(server.ask("POST", load)) == (409, "model_tampered")
    shutil.rmtree(directory)


def upload(server: Server, digest: str, files: Any, data: bytes) -> tuple[int, str]:
    head = json.dumps({"files": files}).encode()
    length = {"Inference_Header_Content_Length": len(head)}
    status, body = server.ask("PUT", model_path(digest), head + data, **length)
    return status, json.loads(body).get("code", "")


def test_an_upload_is_kept_only_where_its_digest_is_right(server):
    data = hostile.loop(3)
    digest = model_digest({"model.onnx": data})
    named = [{"name": "model.onnx", "size": len(data)}]
    assert upload(server, ZERO, named, data) == (409, "model_tampered")
    assert upload(server, digest, named, data[:-1] + b"x") == (409, "model_tampered")
    assert upload(server, digest, named, data + b"x") == (422, "bad_size")
    for name in ("../model.onnx", "/tmp/model.onnx", "x.py"):
        files = [{"name": name, "size": 0}, *named]
        assert upload(server, digest, files, data) == (403, "model_layout")
    assert upload(server, digest, [{"name": "model.onnx", "size": 1 << 63}], data)[0] == 422
    before = {path.name for path in server.models.iterdir()}
    assert hex_of(ZERO) not in before
    assert not list((server.models / ".uploads").iterdir())
    assert upload(server, digest, named, data) == (201, "")
    assert upload(server, digest, named, data) == (201, "")
    assert server.ask("POST", f"/v2/repository/models/{digest}/load")[0] == 200


def test_nothing_of_a_request_is_in_the_metrics_or_in_what_the_server_says(server, digest):
    marks = ["secretname", "8191.25"]
    infer(server, digest, rows(name=marks[0]), bytes(272))
    infer(server, digest, {"inputs": [], "id": marks[0], "x": 8191.25})
    metrics = server.ask("GET", "/metrics")[1].decode()
    assert 'failures_total{code="input_unfit"}' in metrics
    for mark in marks:
        assert mark not in metrics
        assert mark not in " ".join(server.lines)
    assert not any(line.startswith("Traceback") for line in server.lines)


def test_a_unix_socket_is_its_owners_alone(local):
    assert Path(local.address.removeprefix("unix:")).stat().st_mode & 0o777 == 0o600
