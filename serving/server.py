"""Serving a verified bundle: BentoML in front, the sandboxed model behind, on one port.

    python -m serving.server nodules-3 --root root.pem --port 8500

Rules
-----
1. The bundle is verified first, and the golden vectors are replayed in the very process that will
   answer. What does not verify is not served.
2. What is served are the bytes that were verified, held in memory. Nothing in the directory is
   ever executed or imported, and changing it later changes nothing.
3. It runs in the foreground. Ctrl-C, SIGTERM and a closed terminal stop it and bury the sandbox.
4. It listens on this machine alone unless told otherwise, and has no accounts of its own: a
   wider address belongs behind the hospital's gateway.
"""

import argparse
import contextlib
import dataclasses
import datetime as dt
import errno
import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cryptography import x509

from registry.trust.errors import Invalid, TouchstoneError, Unavailable
from registry.trust.keys import load_certificate
from serving.bundle.verify import VerifyResult, verify
from serving.sandbox.limits import Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

SILENCE = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
PORT = 8500
WAITING = 16
SERVING_LIMITS = Limits(cpu_seconds=365 * 86_400)
"""As at the facility, but for the CPU time of a process that may run for months."""
_PARTS = ("bentoml", "fcntl", "httptools", "numpy", "onnxruntime", "starlette", "uvicorn")
_STOP_SECONDS = 5
_LOOPBACK = ("127.", "::1", "localhost")

Say = Callable[[str], None]


def now() -> dt.datetime:
    """The present, in UTC."""
    return dt.datetime.now(dt.UTC)


def to_stderr(line: str) -> None:
    """Tell a person, and leave standard output to machines."""
    print(line, file=sys.stderr, flush=True)


def serve(
    directory: Path,
    root: x509.Certificate,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    limits: Limits = SERVING_LIMITS,
    waiting: int = WAITING,
    clock: Callable[[], dt.datetime] = now,
    say: Say = to_stderr,
) -> None:
    """Verify the bundle in `directory` under `root` and serve it until stopped.

    limits: of the sandboxed process; waiting: how many requests may be held at once; port 0 picks
    a free one. Raises what verification found, Unavailable when the port is taken (port_in_use)
    or a part is not installed (not_installed).
    """
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
    if missing := [part for part in _PARTS if importlib.util.find_spec(part) is None]:
        raise Unavailable(
            f"serving needs {missing[0]}, which is not installed here: install "
            "touchstone-tef[hospital] on Linux",
            code="not_installed",
        )
    with (
        contextlib.suppress(KeyboardInterrupt),
        _stoppable(),
        contextlib.closing(_listen(host, port)) as listener,
    ):
        verified = _verified(directory, root, clock(), say)
        _serve(verified, listener, host, limits, waiting, clock, say)


def _verified(directory: Path, root: x509.Certificate, at: dt.datetime, say: Say) -> VerifyResult:
    """All steps but the replay, which the serving process itself makes; keeps the bytes."""
    result = verify(directory, root, at, replay=False, keep=True)
    for step in result.steps:
        if step.outcome != "skipped":
            say(f"{'ok  ' if step.ok else 'FAIL'}  {step.name}: {step.sentence}")
    result.raise_if_failed()
    return result


def _serve(
    verified: VerifyResult,
    listener: socket.socket,
    host: str,
    limits: Limits,
    waiting: int,
    clock: Callable[[], dt.datetime],
    say: Say,
) -> None:
    from serving.routes import Endpoints
    from serving.worker import Worker

    worker = Worker(verified, limits=limits, waiting=waiting)
    with contextlib.closing(worker):
        replayed = worker.start()
        say(
            f"ok    golden vectors: {replayed.cases} made-up cases in {replayed.calls} calls, at "
            f"most {replayed.largest_difference:.2g} from the facility's scores"
        )
        app = bento(Endpoints(verified, worker, clock).app())
        _run(app, listener, lambda: _announce(verified, listener, host, say))


def bento(app: "Starlette") -> "ASGIApp":
    """The routes as a BentoML service, behind a front that lets nothing else through.

    BentoML decodes bodies only for `@bentoml.api` methods, pickle among them; there is none here.
    """
    import bentoml

    from serving.routes import Front

    @bentoml.asgi_app(app, path="/")
    @bentoml.service(
        name="touchstone",
        traffic={"timeout": 3600},  # ours are shorter, and say what happened
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
    )
    class Touchstone:
        """The certified model."""

    service: Any = Touchstone
    # As main: mounted otherwise, BentoML would decode pickle.
    return Front(service.to_asgi(is_main=True), app.routes)


def _run(app: "ASGIApp", listener: socket.socket, announce: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if hasattr(signal, "SIGHUP") and _in_main_thread():
                signal.signal(signal.SIGHUP, self.handle_exit)  # as it does for SIGTERM itself
            if self.started:
                announce()

    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="httptools",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=256,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    Server(config).run(sockets=[listener])


def _announce(verified: VerifyResult, listener: socket.socket, host: str, say: Say) -> None:
    assert verified.certificate is not None
    predicate = verified.certificate.predicate
    shown, port = listener.getsockname()[:2]
    address = f"[{shown}]" if ":" in shown else shown
    say(
        f"serving {predicate.model.organisation}/{predicate.model.name} {predicate.model.version} "
        f"on http://{address}:{port}: investigational, {predicate.pilot_mode} mode, until "
        f"{predicate.not_after:%Y-%m-%d}. Stop with Ctrl-C"
    )
    if verified.demo_root:
        say("DEMO ROOT: NOT FOR PATIENTS")
    if not host.startswith(_LOOPBACK):
        say(f"listening on {host} without accounts: keep it behind your own gateway")


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket, taken before anything slow, so that a taken port is told at once."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise Invalid(f"{host} port {port} is no address of this machine") from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Two sockets can be bound to one port until one of them listens.
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} on {host} is in use: choose another with --port", code="port_in_use"
            ) from error
        raise Invalid(
            f"{host} port {port} can't be listened on ({error.strerror}): choose another"
        ) from error
    return listener


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that the sandbox is buried."""
    if not _in_main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def main(arguments: list[str] | None = None) -> int:
    """`python -m serving.server`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=serve.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the root that you pinned (PEM)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--seconds", type=float, default=30.0, help="time limit of one call")
    parser.add_argument("--waiting", type=int, default=WAITING, help="requests held at once")
    given = parser.parse_args(arguments)
    try:
        serve(
            given.directory,
            load_certificate(given.root),
            host=given.host,
            port=given.port,
            limits=dataclasses.replace(SERVING_LIMITS, wall_seconds=given.seconds),
            waiting=given.waiting,
        )
    except TouchstoneError as error:
        to_stderr(error.message)
        return 1
    to_stderr("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
