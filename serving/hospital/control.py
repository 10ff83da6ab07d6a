"""Orders to a running server, through a Unix socket in its service folder.

    told = order(service, {"do": "update", "directory": "/srv/nodule-4"}, say)   # None: none runs

Rules
-----
1. The socket is its owner's alone; an order names a folder and nothing else.
2. One order at a time. What happens is told line by line; the last line is the outcome.
3. An order that was begun is carried out, also where whoever gave it has left.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from registry.trust.errors import (
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Tampered,
    TouchstoneError,
    Unavailable,
)
from serving.hospital.service import Service, Version
from serving.listening import Say, listen_unix

_LONGEST: Final = 1 << 16
_READ_SECONDS: Final = 10.0
_KINDS: Final = {
    kind.__name__: kind for kind in (Conflict, Invalid, NotFound, Refused, Tampered, Unavailable)
}

Obey = Callable[[dict[str, Any], Say], Version]
"""Carries out {"do": "update", "directory": …} or {"do": "rollback"}."""


class Control:
    """Takes orders in a thread of its own until closed."""

    def __init__(self, service: Service, obey: Obey) -> None:
        self._path, self._obey = service.control, obey
        self._listener = listen_unix(self._path)
        self._listener.settimeout(0.2)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no further order."""
        self._closing.set()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                line, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with line, contextlib.suppress(OSError):
                line.settimeout(_READ_SECONDS)
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        def tell(value: dict[str, Any]) -> None:
            with contextlib.suppress(OSError):  # whoever asked has left; the order stands
                line.sendall(json.dumps(value).encode() + b"\n")

        try:
            version = self._obey(_read(line), lambda text: tell({"say": text}))
        except TouchstoneError as error:
            kind = type(error).__name__ if type(error).__name__ in _KINDS else "Invalid"
            tell({"error": error.message, "code": error.code, "kind": kind})
        except Exception as error:  # noqa: BLE001
            # A fault in an update must not end what answers.
            tell({"error": f"a fault of the server ({type(error).__name__})", "code": "fault",
                  "kind": "Unavailable"})  # fmt: skip
        else:
            tell({"done": asdict(version)})


def order(service: Service, value: dict[str, Any], say: Say) -> Version | None:
    """Have the running server obey; None where none runs. Raises what it found."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with line:
        try:
            line.connect(str(service.control))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise Unavailable(
                f"{service.control} can't be opened ({error.strerror or error}): order as the user "
                "who runs the server"
            ) from error
        line.sendall(json.dumps(value).encode() + b"\n")
        with line.makefile("rb") as answers:
            for text in answers:
                told = json.loads(text)
                if "say" in told:
                    say(str(told["say"]))
                elif "error" in told:
                    raise _KINDS[told["kind"]](told["error"], code=told["code"])
                else:
                    return Version(**told["done"])
    raise Unavailable(
        "the server stopped before it told the outcome: look at `touchstone service show`"
    )


def _read(line: socket.socket) -> dict[str, Any]:
    text = bytearray()
    while not text.endswith(b"\n"):
        block = line.recv(4096)
        if not block or len(text) > _LONGEST:
            break
        text += block
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid("an order is one line of JSON") from error
    if not isinstance(value, dict):
        raise Invalid("an order is one line of JSON")
    return value


def obeying(update: Callable[[Path, Say], Version], roll_back: Callable[[Say], Version]) -> Obey:
    """What carries out the two orders that there are."""

    def obey(value: dict[str, Any], say: Say) -> Version:
        match value:
            case {"do": "update", "directory": str(directory)} if Path(directory).is_absolute():
                return update(Path(directory), say)
            case {"do": "rollback"}:
                return roll_back(say)
        raise Invalid("the orders are update and rollback")

    return obey
