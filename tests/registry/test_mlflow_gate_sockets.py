"""Attacks below HTTP clients: bytes on a socket, as no library would send them."""

import asyncio
import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from registry.api import wire as wire_module
from registry.mlflow_gate import body as body_module
from registry.mlflow_gate.body import MOST_SEARCH, Body
from registry.trust.errors import Conflict, Invalid, Unauthenticated
from tests.registry.mlflow_server import Gate
from tests.registry.role import token_of

FILES = "/api/2.0/mlflow-artifacts/artifacts"
ALIAS = "/api/2.0/mlflow/registered-models/alias"
SEARCH = "/api/2.0/mlflow/experiments/search"
INCOMING = ".incoming"


@pytest.fixture(scope="module")
def model(gate: Gate) -> str:
    gate.version("socketed")
    return "socketed"


@pytest.fixture(autouse=True)
def none_smuggled(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test lets in must not fail the next."""
    yield
    if "gate" in request.fixturenames:
        gate: Gate = request.getfixturevalue("gate")
        gate.sql("DELETE FROM mlflow.registered_model_aliases WHERE alias = 'dev-smuggled'")


def talk(gate: Gate, sent: bytes, seconds: float = 3.0) -> bytes:
    """Everything that comes back for these bytes, until the server is silent or hangs up."""
    host, port = gate.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(sent)
        try:
            while block := connection.recv(65536):
                answer += block
                connection.settimeout(0.4)
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def whole(connection: socket.socket) -> bytes:
    """One response to its end: head and body may come in pieces of their own."""
    answer = b""
    while block := connection.recv(65536):
        answer += block
        head, ends, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if ends and length and len(body) >= int(length[1]):
            break
    return answer


def statuses(answer: bytes) -> list[int]:
    """The status of each response, in order."""
    parts = answer.split(b"HTTP/1.1 ")[1:]
    return [int(part[:3]) for part in parts]


def bearer(gate: Gate, organisation: str = "sme-a") -> str:
    return f"Authorization: Bearer {gate.tokens[organisation]}\r\n"


def smuggled(gate: Gate) -> str:
    """A whole request of its own: were it taken, `dev-smuggled` would be there."""
    content = '{"name":"socketed","alias":"dev-smuggled","version":"1"}'
    return (
        f"POST {ALIAS} HTTP/1.1\r\nHost: x\r\n{bearer(gate)}Content-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n{content}"
    )


def aliases(gate: Gate) -> set[str]:
    return {row[0] for row in gate.sql("SELECT alias FROM mlflow.registered_model_aliases")}


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n",
        "Content-Length: 5\r\nContent-Length: {length}\r\n",
        "Content-Length: {length}\r\nContent-Length: 5\r\n",
        "Content-Length: 5, {length}\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length: ٥\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "Content-Length:\r\n 5\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X\x00: y\r\nContent-Length: 5\r\n",
    ],
)
def test_no_request_hides_in_the_body_of_another(gate: Gate, model: str, headers: str) -> None:
    """The outer request means `0\\r\\n\\r\\n` (a whole body, if chunked) and then the inner one."""
    inner = smuggled(gate)
    tail = f"0\r\n\r\n{inner}"
    more = headers.format(length=len(tail.encode()))
    outer = f"PUT {FILES}/workspaces/sme-b/1/x HTTP/1.1\r\nHost: x\r\n{bearer(gate, 'sme-b')}{more}"
    answer = talk(gate, outer.encode() + b"\r\n" + tail.encode())
    # Whoever asks, `dev-smuggled` is set by nobody: the inner bytes carry a right token, so that
    # only their never being read as a request keeps it out.
    assert "dev-smuggled" not in aliases(gate), answer.decode("latin-1")
    assert all(status >= 400 for status in statuses(answer)), answer.decode("latin-1")


def test_the_smuggled_request_would_have_worked_alone(gate: Gate, model: str) -> None:
    """Without this the test above could not fail."""
    assert statuses(talk(gate, smuggled(gate).encode())) == [200]
    assert "dev-smuggled" in aliases(gate)


@pytest.mark.parametrize(
    "target",
    ["http://x/" + ALIAS, "http://x" + ALIAS.replace("/api", "/ajax-api"), "http://" + ALIAS,
     "http://x@y" + ALIAS.replace("alias", "%61lias"), "ftp://x/y?" + ALIAS, "file://" + ALIAS,
     "*", "//x" + ALIAS, "/x" + ALIAS, "/x#" + ALIAS, ALIAS + "\t", "api/2.0", "\\api",
     ALIAS + "\x7f", ALIAS + "\xff", ALIAS + "/#", ALIAS + "%23"],
)  # fmt: skip
def test_a_request_target_is_one_plain_path(gate: Gate, model: str, target: str) -> None:
    request = smuggled(gate).replace(f"POST {ALIAS} ", f"POST {target} ", 1)
    for status in statuses(talk(gate, request.encode("latin-1"))):
        assert status in (400, 403, 404, 422)
    assert "dev-smuggled" not in aliases(gate)


@pytest.mark.parametrize(
    "line",
    ["POST {path} HTTP/0.9", "POST {path}", "POST {path} HTTP/2.0", "POST {path} HTTP/1.1 x",
     "P\x00ST {path} HTTP/1.1", "post {path} HTTP/1.1", "POST\t{path}\tHTTP/1.1",
     "CONNECT {path} HTTP/1.1", "PRI * HTTP/2.0"],
)  # fmt: skip
def test_a_request_line_is_plain(gate: Gate, model: str, line: str) -> None:
    request = smuggled(gate).replace(f"POST {ALIAS} HTTP/1.1", line.format(path=ALIAS), 1)
    for status in statuses(talk(gate, request.encode("latin-1"))):
        assert status >= 400
    assert "dev-smuggled" not in aliases(gate)


@pytest.mark.parametrize(
    "twice",
    ["Authorization: Bearer {other}", "Content-Type: text/plain", "Host: y",
     "Content-Encoding: gzip"],
)  # fmt: skip
def test_what_decides_something_stands_once(gate: Gate, model: str, twice: str) -> None:
    line = twice.format(other=gate.tokens["sme-b"]) + "\r\n"
    both = line if twice.startswith("Authorization") else line + line.replace("gzip", "identity")
    request = smuggled(gate).replace("Host: x\r\n", f"Host: x\r\n{both}", 1)
    for status in statuses(talk(gate, request.encode())):
        assert status in (400, 401, 422)
    assert "dev-smuggled" not in aliases(gate)


def test_a_get_with_a_body_hides_no_request(gate: Gate, model: str) -> None:
    inner = smuggled(gate)
    request = (
        f"GET {SEARCH}?max_results=1 HTTP/1.1\r\nHost: x\r\n{bearer(gate)}"
        f"Content-Length: {len(inner)}\r\n\r\n{inner}"
    )
    talk(gate, request.encode())
    assert "dev-smuggled" not in aliases(gate)


def test_an_upgrade_to_another_protocol_is_not_taken(gate: Gate, model: str) -> None:
    for protocol, more in (
        ("websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"),
        ("h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    ):
        request = (
            f"GET {ALIAS} HTTP/1.1\r\nHost: x\r\n{bearer(gate)}Connection: Upgrade\r\n"
            f"Upgrade: {protocol}\r\n{more}\r\n\r\n"
        )
        assert 101 not in statuses(talk(gate, request.encode()))


def connected(gate: Gate) -> socket.socket:
    host, port = gate.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def incoming(gate: Gate) -> list[int]:
    sizes = []
    for path in (gate.artifacts / INCOMING).iterdir():
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sizes


def emptied(gate: Gate) -> bool:
    """Whether what was arriving is gone soon."""
    end = time.monotonic() + 10
    while incoming(gate) and time.monotonic() < end:
        time.sleep(0.02)
    return not incoming(gate)


def test_a_put_byte_by_byte_across_a_registration_fails(gate: Gate) -> None:
    """Bytes before, during and after the registration; the seal is taken in between."""
    model_id, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"as registered")
    gate.mlflow("POST", "registered-models/create", name="byte-raced")
    content = b"the second file, byte by byte"
    head = (
        f"PUT {FILES}/{folder}/late.data HTTP/1.1\r\nHost: x\r\n{bearer(gate)}"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    created: list[int] = []

    def register() -> None:
        answer = gate.mlflow(
            "POST", "model-versions/create",
            name="byte-raced", source=f"models:/{model_id}", model_id=model_id,
        )  # fmt: skip
        created.append(answer.status_code)

    registration = threading.Thread(target=register)
    with connected(gate) as connection:
        connection.sendall(head.encode())
        for index in range(len(content)):
            if index == len(content) // 2:
                registration.start()
            if index == len(content) - 1:
                registration.join()
            connection.sendall(content[index : index + 1])
            time.sleep(0.01)
        answer = connection.recv(65536)
    assert created == [200]
    assert statuses(answer) == [403]
    assert gate.ask("GET", f"{FILES}/{folder}/late.data").status_code == 404
    assert {p.name for p in (gate.artifacts / folder).iterdir()} == {"model.onnx"}


def test_uploads_that_race_a_registration_are_sealed_or_refused(gate: Gate) -> None:
    """Whoever wins: what the client was told, what lies there and what the seal names agree."""
    for round_number in range(4):
        model_id, folder = gate.logged_model()
        gate.put(f"{folder}/model.onnx", b"first")
        gate.mlflow("POST", "registered-models/create", name="many-raced")
        told: dict[str, int] = {}

        def put(number: int, folder: str = folder, told: dict[str, int] = told) -> None:
            name = f"more-{number}.data"
            told[name] = gate.put(f"{folder}/{name}", b"x" * (1 << 16)).status_code

        threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
        for thread in threads[: 4 + round_number]:
            thread.start()
        created = gate.mlflow(
            "POST", "model-versions/create",
            name="many-raced", source=f"models:/{model_id}", model_id=model_id,
        )  # fmt: skip
        for thread in threads[4 + round_number :]:
            thread.start()
        for thread in threads:
            thread.join()
        assert created.status_code == 200
        stored = {name for name, status in told.items() if status == 200}
        assert set(told.values()) <= {200, 403}
        seal = (gate.artifacts / ".sealed" / "sme-a" / f"{model_id}.json").read_text()
        files = {p.name for p in (gate.artifacts / folder).iterdir()}
        assert files == stored | {"model.onnx"}
        assert all(f'"{name}"' in seal for name in files)
        assert seal.count('"sha256"') == len(files)


def slow_upload(gate: Gate, secret: str, path: str, size: int, half: threading.Event) -> bytes:
    """Send half of `size` bytes at full speed, then, after `half` is set, the rest in steps."""
    block = b"\xa5" * (size // 100)
    head = (
        f"PUT {FILES}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    with connected(gate) as connection:
        try:
            connection.sendall(head.encode())
            sent = 0
            while sent < size:
                if sent >= size // 2 and not half.is_set():
                    assert half.wait(60)
                connection.sendall(block[: min(len(block), size - sent)])
                sent += min(len(block), size - sent)
                if half.is_set():
                    time.sleep(0.02)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            return connection.recv(65536)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("megabytes", [1, 200])
def test_a_token_revoked_in_the_middle_of_an_upload_ends_it(gate: Gate, megabytes: int) -> None:
    _, folder = gate.logged_model()
    secret = token_of(gate.databases, "sme-a", "innovator", "Leaver")
    size, half = megabytes * (1 << 20), threading.Event()
    answers: list[bytes] = []
    upload = threading.Thread(
        target=lambda: answers.append(slow_upload(gate, secret, f"{folder}/model.onnx", size, half))
    )
    upload.start()
    end = time.monotonic() + 60
    while sum(incoming(gate)) < size // 4 and time.monotonic() < end:
        time.sleep(0.02)
        if megabytes == 1 and incoming(gate):
            break  # under one block nothing has reached the disk
    assert incoming(gate), "the upload is under way"
    assert revoke(gate, secret) == 1
    time.sleep(0.2)
    half.set()
    upload.join(60)
    assert statuses(answers[0]) in ([401], []), answers[0]
    assert emptied(gate), "nothing stays of it"
    assert not (gate.artifacts / folder / "model.onnx").exists()
    assert gate.ask("GET", f"{FILES}/{folder}/model.onnx").status_code == 404


def test_an_upload_whose_token_stays_good_ends_well(gate: Gate) -> None:
    """The same slow upload without the revocation: or the test above could not fail."""
    _, folder = gate.logged_model()
    half = threading.Event()
    half.set()
    secret = token_of(gate.databases, "sme-a", "innovator", "Stayer")
    answer = slow_upload(gate, secret, f"{folder}/model.onnx", 5 << 20, half)
    assert statuses(answer) == [200]
    content = (gate.artifacts / folder / "model.onnx").read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(b"\xa5" * (5 << 20)).digest()


def test_a_question_sent_slowly_needs_its_token_to_the_end(gate: Gate, model: str) -> None:
    secret = token_of(gate.databases, "sme-a", "innovator", "Slow")
    content = b'{"name":"socketed","alias":"dev-too-late","version":"1"}'
    head = (
        f"POST {ALIAS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with connected(gate) as connection:
        connection.sendall(head.encode() + content[:-1])
        time.sleep(0.3)
        assert revoke(gate, secret) == 1
        connection.sendall(content[-1:])
        answer = whole(connection)
    assert statuses(answer) == [401]
    assert b"was revoked" in answer
    assert "dev-too-late" not in aliases(gate)


def revoke(gate: Gate, secret: str) -> int:
    """As an administrator would; how many tokens it hit."""
    hashed = hashlib.sha256(hashlib.sha256(secret.encode()).digest()).digest()
    return len(
        gate.sql(
            "UPDATE touchstone.token SET revoked_at = now() WHERE secret_hash = %s RETURNING id",
            hashed,
        )
    )


def test_a_search_is_a_short_question(gate: Gate) -> None:
    path = "/api/2.0/mlflow/runs/search"
    fields = {"experiment_ids": ["0"], "filter": "tags.a = '" + "x" * MOST_SEARCH + "'"}
    assert gate.ask("POST", path, fields=fields).status_code == 413


class Sender:
    """An ASGI `receive` that says these messages, each after a pause."""

    def __init__(self, *messages: tuple[float, dict[str, Any]]) -> None:
        self._messages: Iterator[tuple[float, dict[str, Any]]] = iter(messages)

    async def __call__(self) -> dict[str, Any]:
        seconds, message = next(self._messages)
        await asyncio.sleep(seconds)
        return message


def part(content: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


def read(*messages: tuple[float, dict[str, Any]], known: bool = True) -> bytes:
    async def still_known() -> None:
        if not known:
            raise Unauthenticated("this token was revoked")

    return asyncio.run(Body(Sender(*messages), most=1 << 20, still_known=still_known).whole())


def test_a_sender_that_stalls_or_trickles_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "_STALL_SECONDS", 0.5)
    assert read((0.02, part(b"a")), (0.02, part(b"b", more=False))) == b"ab"
    with pytest.raises(Invalid, match="nothing arrived"):
        read((0.0, part(b"a")), (9.0, part(b"b", more=False)))
    monkeypatch.setattr(body_module, "_PATIENCE_SECONDS", 0.05)
    with pytest.raises(Invalid, match="too slowly"):
        read(*[(0.03, part(b"a")) for _ in range(9)])
    assert read((0.06, part(b"a" * 4096)), (0.0, part(b"b", more=False)))[-1:] == b"b"
    with pytest.raises(Conflict, match="went away"):
        read((0.0, part(b"a")), (0.0, {"type": "http.disconnect"}))


def test_a_token_is_asked_for_again_while_a_body_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read((0.0, part(b"a")), (0.0, part(b"b", more=False)), known=False) == b"ab"
    with pytest.raises(Unauthenticated):
        read((0.0, part(b"a")), (0.2, part(b"b", more=False)), known=False)
    monkeypatch.setattr(body_module, "_ASK_AGAIN_SECONDS", 0.05)
    with pytest.raises(Unauthenticated):
        read((0.0, part(b"a")), (0.1, part(b"b")), (9.0, part(b"c", more=False)), known=False)


def test_a_head_without_end_is_hung_up_on(gate: Gate) -> None:
    """Before any token was asked for: one header, line or name that goes on and on."""
    for begun in (b"GET /api HTTP/1.1\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\nX",
                  b"GET / HTTP/1.1\r\n"):  # fmt: skip
        piece = b"X-Some: header\r\n" * 1024 if begun.endswith(b"\n") else b"a" * 16384
        sent = 0
        with connected(gate) as connection:
            try:
                connection.sendall(begun)
                while sent < 16 << 20:
                    connection.sendall(piece)
                    sent += len(piece)
                answer = connection.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
        assert sent < 16 << 20, f"{begun!r} was taken without end"
        assert statuses(answer) in ([400], [])


def test_a_large_head_of_a_stock_client_is_taken(gate: Gate, model: str) -> None:
    request = smuggled(gate).replace("Host: x", "Host: x\r\nX-Long: " + "a" * 30_000, 1)
    assert statuses(talk(gate, request.encode())) == [200]


def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "HEAD_SECONDS", 0.3)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.6)  # longer than a head may take: the answer is not hurried
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", b"0")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b""})

    async def run() -> list[bytes]:
        config = uvicorn.Config(
            application, port=0, http=wire_module.Wire, ws="none", lifespan="off",
            log_level="error",
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        answers = []
        whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", whole, whole + b"GET /"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            try:
                answers.append(await asyncio.wait_for(reader.read(), 10))
            except ConnectionResetError:
                answers.append(b"")
            writer.close()
        server.should_exit = True
        await serving
        return answers

    assert [statuses(answer) for answer in asyncio.run(run())] == [[], [], [], [200], [200]]
