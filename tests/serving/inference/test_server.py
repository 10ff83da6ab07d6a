"""The server as a process: it starts safely, says where it went, and leaves nothing behind."""

import asyncio
import http.server
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.inference.places import Places, read_body
from serving.inference.remote import RemoteSandbox
from serving.inference.server import main
from serving.problems import TooSlow
from tests.serving import hostile
from tests.serving.inference.serving import TOKEN, Server, place, shard

WATCH = """
import sys

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open({path!r}, "a") as file:
            file.write(f"{{event}} {{arguments}}\\n")

sys.addaudithook(note)
"""


class Collector(http.server.ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self) -> None:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                data = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(data)
                collector.requests.append(request)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.01)
    return False


def test_a_life_is_traced_stays_on_this_machine_and_ends_with_everything_buried(
    tmp_path, collector
):
    (tmp_path / "watch").mkdir()
    heard = tmp_path / "heard"
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH.format(path=str(heard)))
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    server = Server(
        tmp_path, "--port", "0", "--seconds", "20",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, PYTHONPATH=str(tmp_path / "watch"),
    )  # fmt: skip
    digest = place(server.models, {"model.onnx": hostile.slow_when(2.0)})
    with server:
        remote = RemoteSandbox.start(server.address, TOKEN)
        remote.load({"model.onnx": hostile.slow_when(2.0)})
        inputs = shard(3).inputs
        remote.run(inputs, ["score"])
        parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
        assert server.ask("GET", f"/v2/models/{digest}", traceparent=parent)[0] == 200
        assert server.ask("GET", "/v2/models/secretname")[0] == 404
        children = server.children()
        assert len(children) == 1
        remote.begin(shard(3, odd=(0,)).inputs, ["score"])
        time.sleep(0.2)
        remote._give_up()  # the model still hangs
        assert server.stop(signal.SIGTERM) == 0
        assert gone(children)
    assert server.lines[-1] == "stopped"

    spans = collector.spans
    byname = {span.name: span for span in spans}
    whole = byname["/v2/models/{digest}/infer"]
    assert {span.name for span in spans if span.parent_span_id == whole.span_id} == {"read", "run"}
    assert bytes.fromhex("ab" * 16) in {span.trace_id for span in spans}
    told = {key.key: key.value for span in spans for key in span.attributes}
    assert set(told) == {"http.response.status_code", "touchstone.model", "touchstone.code"}
    assert b"secretname" not in b"".join(r.SerializeToString() for r in collector.requests)

    for line in heard.read_text().splitlines():
        assert "127.0.0.1" in line, line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token", "short"], "must hold one token of at least 32 characters"),
        (["--token", "none"], "can't be read: give a file with the token"),
        (["--models", "none"], "is no directory"),
        (["--places", "0"], "start at 1"),
        (["--socket", "token"], "is in use: choose another --socket"),
    ],
)
def test_it_does_not_start_on_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "short").write_text("short")
    assert main(["--models", "models", "--token", "token", "--port", "0", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_body_that_comes_too_slowly_gives_its_place_back():
    places = Places(1)

    async def never() -> Any:
        await asyncio.sleep(30)

    async def ask() -> None:
        with places.take() as held:
            await read_body(never, held.body(10), seconds=0.01)

    with pytest.raises(TooSlow):
        asyncio.run(ask())
    assert places.taken == 0
