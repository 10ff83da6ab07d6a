"""A server that means harm, asked for a status or a bundle: it costs neither memory nor time nor
the token, and hides no stop that is known already."""

import base64
import datetime as dt
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.cli import client as registry_client
from registry.cli.client import Client
from registry.cli.hospital import pull
from registry.settings import read_settings
from registry.trust.checkpoint import Checkpoint, sign
from registry.trust.errors import Conflict, Refused, Tampered, TouchstoneError, Unavailable
from registry.trust.status import ENDORSEMENT, TIMESTAMP, file_name
from serving.bundle import status_copy
from serving.bundle.download import download
from serving.bundle.standing import Standing
from serving.bundle.status import checked
from serving.bundle.status_copy import (
    collect,
    export_log,
    fetch,
    folder_reader,
    standing_from,
    web_reader,
)
from serving.hospital.watching import Watch
from tests.serving.status_made import AUTHORITY, NOW, OTHER, STATEMENT, Made, first_root, root, stop

ROOT = AUTHORITY.certificate
HOUR = dt.timedelta(hours=1)
P256 = bytes.fromhex("06082a8648ce3d030107")
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Liar:
    """An HTTP server on loopback that answers as it is told, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer: Answer = lambda asked: asked.send_error(404)
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.close()


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Answers with this, once."""

    def answer(asked: http.server.BaseHTTPRequestHandler) -> None:
        asked.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            asked.send_header(name.replace("_", "-"), value)
        asked.end_headers()
        asked.wfile.write(body)

    return answer


def drips(asked: http.server.BaseHTTPRequestHandler) -> None:
    """One byte after the other, for ever."""
    asked.send_response(200)
    asked.end_headers()
    try:
        while True:
            asked.wfile.write(b" ")
            asked.wfile.flush()
            time.sleep(0.01)
    except OSError:
        return


def floods(asked: http.server.BaseHTTPRequestHandler) -> None:
    """As much as is read."""
    asked.send_response(200)
    asked.end_headers()
    try:
        while True:
            asked.wfile.write(b" " * 65536)
    except OSError:
        return


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(TouchstoneError) as caught:
        act()
    return caught.value.code


# -- the status --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["br", "gzip", "deflate"])
def test_a_status_that_came_packed_is_not_unpacked(liar: Liar, kind: str) -> None:
    liar.answer = says(200, b"\x1b\x00\x00", Content_Encoding=kind)
    with httpx.Client() as client:
        assert code_of(lambda: web_reader(liar.address, client)(TIMESTAMP)) == "status_malformed"
    assert liar.asked[0][1]["Accept-Encoding"] == "identity"


def test_a_status_that_comes_a_byte_at_a_time_is_given_up(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_copy, "_WHOLE_SECONDS", 0.3)
    liar.answer = drips
    with httpx.Client() as client:
        read = web_reader(liar.address, client)
        with pytest.raises(Unavailable, match="too slowly"):
            read(TIMESTAMP)


def test_a_thousand_large_roots_are_not_gathered() -> None:
    files = Made().files()
    large, asked = b" " * (8 << 20), []

    def read(name: str) -> bytes | None:
        asked.append(name)
        return files.get(name) or (large if name.endswith(".root.json") else None)

    assert code_of(lambda: collect(read)) == "status_malformed"
    assert len(asked) < 12


def test_a_log_that_claims_a_trillion_events_is_not_listed(tmp_path: Path) -> None:
    """Its tiles' names alone would be memory without end."""
    key = Ed25519PrivateKey.generate()
    note = sign(Checkpoint("touchstone/x", 1 << 40, bytes(32)), key)
    files = {"log/checkpoint": note, "log/certificate.pem": b""}
    assert code_of(lambda: export_log(files.get, tmp_path)) == "log_malformed"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_stick_with_a_pipe_or_a_device_for_a_status_ends(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / ENDORSEMENT)
    found: list[str] = []
    read = folder_reader(tmp_path)
    reading = threading.Thread(target=lambda: found.append(code_of(lambda: collect(read))))
    reading.daemon = True
    reading.start()
    reading.join(5)
    assert found == ["status_missing"]


def test_a_root_of_an_unknown_curve_is_refused_and_ends_nothing() -> None:
    roots = first_root(), root(2, ("Sam", "Uma"), ("Ada", "Ben"), ("Sam", "Uma"))
    files = Made(roots=roots).files()
    odd = json.loads(files[file_name("root", 2)])
    for key in odd["signed"]["keys"].values():
        begin, *lines, end = key["keyval"]["public"].strip().split("\n")
        public = base64.b64decode("".join(lines)).replace(P256, P256[:-1] + b"\x08")
        key["keyval"]["public"] = "\n".join([begin, base64.b64encode(public).decode(), end])
    changed = files | {file_name("root", 2): json.dumps(odd).encode()}
    assert code_of(lambda: checked(changed, ROOT, NOW)) == "status_key_twice"
    broken = files[ENDORSEMENT].replace(b'"sig":"M', b'"sig":"\xc3\xa9')
    changed = files | {ENDORSEMENT: broken}
    assert code_of(lambda: checked(changed, ROOT, NOW)) == "status_bad_signature"


@pytest.mark.parametrize("version", ["1e999", "-1e999", '"1"', "[]", "true"])
def test_a_version_that_is_no_number_is_no_version(version: str) -> None:
    odd = '{"signed": {"meta": {"snapshot.json": {"version": %s}}}}' % version  # noqa: UP031
    files = Made().files() | {TIMESTAMP: odd.encode()}
    assert code_of(lambda: checked(collect(files.get), ROOT, NOW)).startswith("status_")
    long = {"1" * 5000 + ".root.json": b"{}"}
    assert code_of(lambda: checked(Made().files() | long, ROOT, NOW)) == "status_malformed"


def test_a_false_source_hides_no_stop_that_came_another_way(liar: Liar, tmp_path: Path) -> None:
    """A clinic fetches by web; a colleague brought the revocation on a stick."""
    fetch(tmp_path, ROOT, NOW, Made().files().get)
    standing_of = standing_from(tmp_path, ROOT, source=liar.address)
    assert standing_of(STATEMENT, NOW).state == "in_force"
    liar.answer = lambda asked: says(404 if "2.root" in asked.path else 200, b"{}")(asked)
    assert code_of(lambda: standing_of(STATEMENT, NOW)).startswith("status_"), "as before"
    versions = dict.fromkeys(("snapshot", "downgrade", "timestamp"), 2)
    later = Made(stops={STATEMENT: stop(NOW, "revoked")}, versions=versions)
    fetch(tmp_path, ROOT, NOW, later.files().get)
    assert standing_of(STATEMENT, NOW).state == "revoked"


class Clock:
    now = NOW

    def __call__(self) -> dt.datetime:
        return self.now


def test_a_server_stops_where_the_certificate_is_listed_no_more(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(STATEMENT, standing_from(tmp_path, ROOT), clock)
    fetch(tmp_path, ROOT, NOW, Made().files().get)
    watch.check()
    watch.require()
    versions = dict.fromkeys(("targets", "snapshot", "timestamp"), 2)
    fetch(tmp_path, ROOT, NOW, Made(listed={}, versions=versions).files().get)
    watch.check()
    assert code_of(watch.require) == "not_listed"


def test_a_server_stops_where_the_clock_is_set_back(tmp_path: Path) -> None:
    """Else the last good status would never end."""
    clock = Clock()
    watch = Watch(STATEMENT, standing_from(tmp_path, ROOT), clock)
    fetch(tmp_path, ROOT, NOW, Made().files().get)
    watch.check()
    clock.now = NOW - HOUR
    watch.check()
    assert code_of(watch.require) == "clock_set_back"
    clock.now = NOW
    watch.check()
    watch.require()


def test_what_can_t_be_read_lets_the_last_answer_hold() -> None:
    answers: list[Standing | TouchstoneError] = [
        Standing("in_force", "", NOW, NOW + HOUR),
        Tampered("x", code="status_malformed"),
        Refused("x", code="status_rolled_back"),
    ]

    def standing_of(_: str, at: dt.datetime) -> Standing:
        answer = answers.pop(0)
        if isinstance(answer, TouchstoneError):
            raise answer
        return answer

    watch = Watch(OTHER, standing_of, lambda: NOW)
    while answers:
        watch.check()
        watch.require()


# -- the bundle --------------------------------------------------------------------------------


@pytest.fixture
def client(liar: Liar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Client:
    monkeypatch.setenv("TOUCHSTONE_SERVER", liar.address)
    monkeypatch.setenv("TOUCHSTONE_HOME", str(tmp_path))
    monkeypatch.setenv("TOUCHSTONE_TOKEN", "tst_secret")
    return Client(read_settings())


def test_no_other_host_gets_the_token(liar: Liar, client: Client) -> None:
    other = Liar()
    liar.answer = says(302, Location=f"{other.address}/api/v1/certified")
    with pytest.raises(Tampered, match="not JSON"):
        client.get("/certified")
    assert b"".join(client.stream("/certified/file", 0)) == b""
    assert liar.asked[0][1]["Authorization"] == "Bearer tst_secret"
    assert other.asked == []
    other.close()


def test_an_answer_without_end_is_cut_off(
    liar: Liar, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_client, "_LARGEST", 1 << 20)
    liar.answer = floods
    with pytest.raises(Tampered, match="never ends"):
        client.get_bytes("/status/files/timestamp.json")


def test_an_answer_that_unpacks_without_end_is_not_unpacked(liar: Liar, client: Client) -> None:
    liar.answer = says(200, b"\x1b\x00\x00", Content_Encoding="br")
    for act in (lambda: client.get("/certified"), lambda: list(client.stream("/x", 0))):
        with pytest.raises(Tampered, match="packed"):
            act()


@pytest.mark.parametrize("asked", ["1e9", "inf", "nan", "soon", "-1"])
def test_no_server_makes_us_wait_for_years(liar: Liar, client: Client, asked: str) -> None:
    answer = httpx.Response(409, headers={"retry-after": asked})
    assert 0 <= registry_client._pause(answer) <= 30


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"files": {}}', b"[" * 100_000])
def test_what_is_no_list_of_a_bundle_is_told_in_a_line(
    liar: Liar, client: Client, tmp_path: Path, body: bytes
) -> None:
    liar.answer = says(200, body)
    with pytest.raises(Tampered, match="TOUCHSTONE_SERVER"):
        pull("nodule", tmp_path / "b", False)
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives a folder to another user")
def test_a_folder_that_another_user_laid_ready_is_not_downloaded_into(tmp_path: Path) -> None:
    """Its owner could put a link into it at any moment."""
    ready = tmp_path / ".b.partial"
    ready.mkdir()
    os.chown(ready, 65534, 65534)
    listed = {
        name: {"digest": "sha256:" + 64 * "0", "size": 1}
        for name in ("certificate.json", "signers.pem", "enrolments.json", "log.json",
                     "contract.json", "protocol.json", "report.json", "model-label.txt",
                     "golden/inputs.bin", "golden/expected.json", "model/model.onnx")
    }  # fmt: skip
    with pytest.raises(Conflict) as caught:
        download(listed, lambda path, start: [b"x"], tmp_path / "b")
    assert caught.value.code == "partial_blocked"
    assert list(ready.iterdir()) == []
