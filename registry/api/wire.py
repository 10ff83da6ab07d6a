"""What the server's sockets take before anybody is asked for a token.

    >>> uvicorn.run(app, http=Wire)

Rules
-----
1. The head of a request (its line and headers) ends within 64 KiB and 20 seconds: the parser alone
   would gather gigabytes of it, and wait for ever, for whoever can reach the port.
2. Who does not keep to that is hung up on.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 64 << 10
HEAD_SECONDS = 20.0


class Wire(HttpToolsProtocol):
    """uvicorn's protocol with a limit to what comes before the body."""

    _head_size = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection: its first request is awaited."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, a body, or of both."""
        self._head_size += len(data)
        super().data_received(data)
        if self._in_head and self._head_size > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of this request is too large.")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if not self._in_head:
            self._await_head()

    def on_headers_complete(self) -> Any:
        """The head is whole."""
        self._head_came()
        return super().on_headers_complete()

    def _await_head(self) -> None:
        self._in_head, self._head_size = True, 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _head_came(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Begun behind a request that is still being answered: its time has not come.
            self._timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)
        elif not self.transport.is_closing():
            self.transport.abort()
