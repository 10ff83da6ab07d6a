"""Room for an upload: taken from the organisation's quota before its body is stored.

    >>> inner["upload"] = Room(inner["upload"], take)

Rules
-----
1. `take(caller, bytes)` refuses what would be too much; the sender gets 413 and a sentence, and
   nothing is stored.
2. A body of announced length takes all of it at once; one without takes lumps as it arrives.
3. What was taken and not stored is given back: the upload failed, or was shorter.
"""

from collections.abc import Callable
from typing import Final

import anyio.to_thread

from registry.identity.caller import Caller, current_caller
from registry.mlflow_gate.body import Message, Receive
from registry.mlflow_gate.front import App, Scope, Send
from registry.mlflow_gate.refusal import TooLarge
from registry.trust.errors import Refused

LUMP: Final = 64 << 20
LENGTH: Final = "touchstone.length"
Take = Callable[[Caller, int], None]


class Room:
    """An ASGI application around the one that stores uploads."""

    def __init__(self, inner: App, take: Take) -> None:
        self._inner = inner
        self._take = take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = current_caller.get()
        if caller is None or scope["method"] != "PUT":
            await self._inner(scope, receive, send)
            return
        taken = got = 0
        refused: TooLarge | None = None

        async def take(size: int) -> None:
            nonlocal taken, refused
            if size == 0:
                return
            try:
                await anyio.to_thread.run_sync(self._take, caller, size)
            except Refused as error:
                refused = TooLarge(error.message, code=error.code)
                raise refused from error
            taken += size

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > taken:
                await take(max(LUMP, got - taken) if message.get("more_body") else got - taken)
            return message

        settled = False

        async def settle(stored: int) -> None:
            nonlocal settled
            if not settled:
                settled = True
                await take(stored - taken)

        async def watched(message: Message) -> None:
            if refused is not None:
                return  # what MLflow makes of it; the sender gets the sentence itself
            if message["type"] == "http.response.start":
                await settle(got if message["status"] < 300 else 0)
            await send(message)

        try:
            await take(scope.get(LENGTH) or 0)
            await self._inner(scope, counted, watched)
            if refused is not None:
                raise refused
        finally:
            await settle(0)
