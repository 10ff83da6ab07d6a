"""A listening socket, and the life of the server that owns it.

Rules
-----
1. The socket is taken before anything slow, so that a taken port is told at once.
2. A server runs in the foreground. Ctrl-C, SIGTERM and a closed terminal unwind the program, so
   that every process that it started is buried.
3. A Unix socket is for its owner alone; a name that anything but a dead socket holds is refused.
"""

import contextlib
import errno
import importlib.util
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from registry.trust.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SILENCE = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
LOOPBACK = ("127.", "::1", "localhost")
_PARTS = ("bentoml", "fcntl", "httptools", "numpy", "onnxruntime", "starlette", "uvicorn")
_STOP_SECONDS = 5

Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Tell a person, and leave standard output to machines."""
    print(line, file=sys.stderr, flush=True)


def prepare() -> None:
    """Silence every library's telemetry; Unavailable (not_installed) where a part is missing."""
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
    if missing := [part for part in _PARTS if importlib.util.find_spec(part) is None]:
        raise Unavailable(
            f"serving needs {missing[0]}, which is not installed here: install "
            "touchstone-tef[hospital] on Linux",
            code="not_installed",
        )


def listen(host: str, port: int) -> socket.socket:
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


def listen_unix(path: Path) -> socket.socket:
    """The listening Unix socket at `path`, which its owner alone may open."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode) or _answers(path):
            raise Unavailable(f"{path} is in use: choose another --socket", code="port_in_use")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Invalid(f"{path} can't be listened on ({error.strerror or error})") from error
    finally:
        os.umask(before)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
        return True


def run(app: "ASGIApp", listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve `app` on `listener` until a signal; `announce` is called once it answers."""
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


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
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
