"""One HTTP connection to an inference server: over TCP, or over a Unix socket on one host.

Rules
-----
1. Buffers are sent as they lie in memory, one after the other, and an answer is read into one
   buffer of its length.
2. What fails on the way is an OSError or HTTPException; the connection is closed then.
"""

import http.client
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from registry.trust.errors import Invalid
from serving.inference.json_tensors import object_of

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
LOST = (OSError, http.client.HTTPException)
_LARGEST_ANSWER = 1 << 31
_IDLE_SECONDS = 3.0
"""The server closes a connection that was idle for 5: ours is opened anew before that."""


@dataclass(frozen=True)
class Address:
    """Where a server listens: `http://host:port`, or `unix:/path` on this host."""

    host: str
    port: int
    path: str | None = None

    @classmethod
    def of(cls, text: str) -> "Address":
        """Raises Invalid."""
        if text.startswith("unix:/"):
            return cls("localhost", 0, text.removeprefix("unix:"))
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or parts.scheme != "http" or parts.path.strip("/"):
            raise Invalid(f"{text} is no address: write http://host:port or unix:/path")
        return cls(host, port)


@dataclass(frozen=True)
class Answer:
    """An answer: its JSON, and the binary part that followed it."""

    status: int
    header: memoryview
    binary: memoryview
    retry_after: float

    def value(self) -> dict[str, Any]:
        """The JSON object; empty where there is none."""
        try:
            return object_of(self.header)
        except Invalid:
            return {}


class Line(http.client.HTTPConnection):
    """A connection that is opened on its first use, and again after it was closed."""

    def __init__(self, address: Address, token: str, seconds: float) -> None:
        super().__init__(address.host, address.port, timeout=seconds)
        self._address, self._token, self._seconds = address, token, seconds
        self._used = 0.0

    def connect(self) -> None:
        """Open the socket."""
        if self._address.path is None:
            super().connect()
            for option, value in (
                (socket.TCP_KEEPIDLE, 15),
                (socket.TCP_KEEPINTVL, 5),
                (socket.TCP_KEEPCNT, 4),
            ):
                self.sock.setsockopt(socket.IPPROTO_TCP, option, value)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._address.path)

    def ask(
        self, method: str, path: str, parts: Sequence[memoryview] = (), header: bytes = b""
    ) -> None:
        """Send a request: a JSON header, and binary parts after it."""
        if time.monotonic() - self._used > _IDLE_SECONDS:
            self.close()
        self.putrequest(method, path, skip_accept_encoding=True)
        self.putheader("Authorization", f"Bearer {self._token}")
        self.putheader("Content-Length", str(len(header) + sum(map(len, parts))))
        if parts:
            self.putheader(HEADER_LENGTH, str(len(header)))
        self.endheaders(header or None)
        for part in parts:
            self.send(part)

    def answer(self) -> Answer:
        """Wait for the answer to what was asked."""
        response = self.getresponse()
        length = int(response.headers.get("Content-Length", "0"))
        if not 0 <= length <= _LARGEST_ANSWER:
            raise http.client.HTTPException("an answer of no length")
        whole = memoryview(bytearray(length))
        position = 0
        while position < length:
            got = response.readinto(whole[position:])
            if not got:
                raise http.client.IncompleteRead(b"")
            position += got
        response.close()
        self._used = time.monotonic()
        told = response.headers.get(HEADER_LENGTH, str(length))
        head = int(told) if told.isdigit() else length
        after = response.headers.get("Retry-After", "")
        return Answer(
            response.status,
            whole[:head],
            whole[head:],
            float(after) if after.isdigit() and len(after) < 4 else 0.0,
        )

    def cut(self) -> None:
        """From another thread: end the connection under whoever waits on it."""
        sock = self.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return
