"""A bounded number of places for requests under way, each with buffers that are used again.

    with places.take() as place:
        whole = await read_body(receive, place.body(length), seconds=60)

Rules
-----
1. Whoever finds no place is told to come again (503, Retry-After); nobody queues without a bound.
2. A body is read into the buffer as it comes, and copied nowhere else. Its length is declared and
   was held against the limit before.
3. Memory for bodies is at most the places times twice the largest body.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from registry.trust.errors import Invalid, TouchstoneError, Unavailable
from serving.problems import TooLarge, TooSlow

BODY_SECONDS = 60.0


class LengthRequired(TouchstoneError):
    """A body of unknown length."""

    status = 411
    default_code = "length_required"


class Place:
    """One place. Its two buffers grow to the largest request that it has held.

    What an earlier request left in them is for the caller to overwrite.
    """

    def __init__(self) -> None:
        self._body, self._copies = bytearray(), bytearray()

    def body(self, size: int) -> memoryview:
        """`size` bytes for a request's body."""
        if len(self._body) < size:
            self._body = bytearray(size)
        return memoryview(self._body)[:size]

    def copies(self, size: int) -> memoryview:
        """`size` bytes for what the request has in shared memory."""
        if len(self._copies) < size:
            self._copies = bytearray(size)
        return memoryview(self._copies)[:size]


class Places:
    """`count` places."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = [Place() for _ in range(count)]

    @property
    def taken(self) -> int:
        """How many requests are under way."""
        return self.count - len(self._free)

    @contextlib.contextmanager
    def take(self) -> Iterator[Place]:
        """A place for as long as the context lasts. Raises Unavailable (busy)."""
        if not self._free:
            raise Unavailable("as many requests as may wait are waiting already", code="busy")
        place = self._free.pop()
        try:
            yield place
        finally:
            self._free.append(place)


def declared_length(header: str | None, limit: int) -> int:
    """The body's length as declared, at most `limit`. Raises LengthRequired, TooLarge, Invalid."""
    if header is None:
        raise LengthRequired("the request must declare its Content-Length")
    if not header.isascii() or not header.isdigit():
        raise Invalid("Content-Length is not a number", code="bad_size")
    if len(header) > 15 or int(header) > limit:
        raise TooLarge(f"the body is larger than {limit} bytes, the most that is taken here")
    return int(header)


async def read_body(receive: Receive, into: memoryview, seconds: float = BODY_SECONDS) -> None:
    """Fill `into` with the body. Raises Invalid where it is shorter or longer, TooSlow."""
    position = 0
    async with _in_time(seconds):
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            block = message.get("body", b"")
            after = position + len(block)
            if after > len(into):
                raise Invalid("the body is longer than was declared", code="bad_size")
            into[position:after] = block
            position, more = after, message.get("more_body", False)
    if position != len(into):
        raise Invalid("the body is shorter than was declared", code="bad_size")


@contextlib.asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TooSlow("the body did not come in time; send it again") from error
