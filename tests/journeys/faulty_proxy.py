"""A TCP proxy that loses answers and cuts connections, as a bad line does.

    with FaultyProxy(port, one_in=100) as proxy:
        … talk to proxy.port …
    proxy.faults

Every so many pieces it cuts the connection: by turns before a request's piece reaches the server,
after half of it did, and after the server has answered but before the client hears of it.
"""

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self


class FaultyProxy:
    """Listens on 127.0.0.1 and hands on to another port there."""

    def __init__(self, target: int, *, one_in: int) -> None:
        self._target, self._one_in = target, one_in
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._count = 0
        self._lock = threading.Lock()
        self.faults: list[str] = []
        self._open = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        self._listener.close()

    def calm(self) -> None:
        """No faults from now on."""
        self._one_in = 0

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    piece = source.recv(65536)
                    if not piece:
                        return
                    fault = self._fault(answer=source is server)
                    if fault == "half a request":
                        key.data.sendall(piece[: len(piece) // 2])
                    if fault:
                        return
                    key.data.sendall(piece)

    def _fault(self, *, answer: bool) -> str | None:
        """What goes wrong with this piece; mostly nothing."""
        with self._lock:
            self._count += 1
            if not self._one_in or self._count % self._one_in:
                return None
            # The next fault hits the other direction sooner or later: the step is odd.
            self._count += 1
            kinds = ("a request", "half a request")
            fault = "an answer" if answer else kinds[len(self.faults) % 2]
            self.faults.append(fault)
            return fault
