"""A request's body as it arrives: how large, how fast, by whose token, and what it may say.

    >>> body = Body(receive, most=4 << 20, still_known=ask_again)
    >>> check_json(await body.whole())

Rules
-----
1. A body has a limit: 4 MiB for a question (64 KiB for a search), 2 GiB for a file.
2. A sender that stalls, or keeps a connection with a trickle, is cut off.
3. A body that takes its time is asked for its token again, while it arrives and before its end
   counts: who was revoked meanwhile has sent it in vain.
4. A question is one JSON object that no two readers can understand differently.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from registry.mlflow_gate.refusal import TooLarge
from registry.trust.errors import Conflict, Invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MOST_JSON = 4 << 20
MOST_SEARCH = 64 << 10
MOST_FILE = 2 << 30
_STALL_SECONDS = 60.0
_PATIENCE_SECONDS = 60.0
_SLOWEST = 4096  # bytes a second, on the average after the patience: a poor mobile connection
_AT_ONCE_SECONDS = 0.1
_ASK_AGAIN_SECONDS = 2.0
_MOST_DEPTH = 30


class Body:
    """An ASGI `receive` with limits. `still_known` raises once the token is no longer good."""

    def __init__(
        self, receive: Receive, *, most: int, still_known: Callable[[], Awaitable[None]]
    ) -> None:
        self._receive = receive
        self._most = most
        self._still_known = still_known
        self._got = 0
        self._began = self._asked = time.monotonic()

    async def __call__(self) -> Message:
        """The next message; raises TooLarge, Invalid, Conflict or Unauthenticated."""
        try:
            message = await asyncio.wait_for(self._receive(), _STALL_SECONDS)
        except TimeoutError:
            raise Invalid(f"nothing arrived for {_STALL_SECONDS:.0f} s; send it again") from None
        if message["type"] == "http.disconnect":
            raise Conflict("the sender went away before all had arrived; nothing was stored")
        self._got += len(message.get("body", b""))
        if self._got > self._most:
            raise too_large(self._most)
        await self._in_time(last=not message.get("more_body", False))
        return message

    async def _in_time(self, *, last: bool) -> None:
        now = time.monotonic()
        seconds = now - self._began
        if not last and seconds > _PATIENCE_SECONDS and self._got < seconds * _SLOWEST:
            raise Invalid(
                f"this arrives too slowly (under {_SLOWEST >> 10} KiB a second); "
                "send it again over a better connection"
            )
        if now - self._asked > (_AT_ONCE_SECONDS if last else _ASK_AGAIN_SECONDS):
            await self._still_known()
            self._asked = time.monotonic()

    async def whole(self) -> bytes:
        """All of it."""
        chunks = bytearray()
        more = True
        while more:
            message = await self()
            chunks += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(chunks)


def too_large(most: int) -> TooLarge:
    """What is said about a body beyond the limit."""
    limit = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
    return TooLarge(f"this is larger than the {limit} that the registry takes at once")


def once(body: bytes, receive: Receive) -> Receive:
    """The body, once; after it only the sender's going away is news."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def answer() -> Message:
        return waiting.pop() if waiting else await receive()

    return answer


def check_json(body: bytes) -> None:
    """One JSON object, each name once, not nested deeply: no two readers can differ about it."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_number
        )
        if isinstance(value, dict) and _depth(value) <= _MOST_DEPTH:
            return
    except (ValueError, RecursionError):
        pass
    raise Invalid(
        "the body must be one JSON object in UTF-8, each name in it once, without NUL characters"
    )


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """How deeply `value` is nested; ValueError for text that no database stores."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("NUL")
        value.encode("utf-8")  # a lone surrogate has no UTF-8
        return 0
    if isinstance(value, dict):
        return 1 + max((max(_depth(key), _depth(below)) for key, below in value.items()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
