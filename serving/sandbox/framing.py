"""How the two sides of the socket talk: bounded, length-prefixed frames, no pickle.

A frame is 16 bytes (magic, header length, payload length; little-endian), a JSON header and a
raw payload. Tensors travel in the payload, C-ordered and little-endian, back to back, as the
header's [name, dtype, shape] rows list them.

Rules
-----
1. A length is compared with its cap before anything is allocated or read.
2. A header is a JSON object; whatever else arrives is a ProtocolError.
3. Both sides import this module, so it needs nothing beyond the standard library.
"""

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

PREFIX: Final = struct.Struct("<4sIQ")
MAGIC: Final = b"TSX1"
HEADER_LIMIT: Final = 1 << 20
OUT_OF_MEMORY_STATUS: Final = 77
"""Exit status of a process that had no memory for the frame that it was being sent."""
Buffer = bytes | bytearray | memoryview

DTYPES: Final[dict[str, int]] = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
}
"""Data types that may cross, and their size in bytes."""


class ProtocolError(Exception):
    """The other side sent something that is no frame, or too large a one."""


class ClosedError(Exception):
    """The other side is gone."""


class DeadlineError(Exception):
    """The other side was too slow."""


def send(
    sock: socket.socket,
    header: dict[str, Any],
    payload: Sequence[Buffer] = (),
    deadline: float | None = None,
) -> None:
    """Send one frame; `deadline` is on time.monotonic's clock."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > HEADER_LIMIT:
        raise ProtocolError("header too long")
    total = sum(memoryview(part).nbytes for part in payload)
    try:
        first = PREFIX.pack(MAGIC, len(text), total) + text
        # One send wakes the other side once.
        parts = [b"".join((first, *payload))] if total < 1 << 16 else [first, *payload]
        for part in parts:
            if deadline is not None:
                sock.settimeout(_remaining(deadline))
            sock.sendall(part)
    except TimeoutError as error:
        raise DeadlineError from error
    except OSError as error:
        raise ClosedError from error


def receive(
    sock: socket.socket, payload_limit: int, deadline: float | None = None
) -> tuple[dict[str, Any], bytearray]:
    """One frame: its header and a payload of at most `payload_limit` bytes."""
    magic, header_length, payload_length = PREFIX.unpack(_exactly(sock, PREFIX.size, deadline))
    if magic != MAGIC or header_length > HEADER_LIMIT or payload_length > payload_limit:
        raise ProtocolError("not a frame, or one over the limit")
    try:
        header = json.loads(bytes(_exactly(sock, header_length, deadline)))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("the header is not an object")
    return header, _exactly(sock, payload_length, deadline)


def tensor_rows(rows: Any, payload_length: int) -> list[tuple[str, str, tuple[int, ...], int]]:
    """The header's tensor rows as (name, dtype, shape, bytes), checked against the payload.

    Raises ProtocolError unless every row is well formed, names are unique and the sizes add up
    to the payload exactly.
    """
    if not isinstance(rows, list) or len(rows) > 1024:
        raise ProtocolError("tensor rows are not a list")
    checked: list[tuple[str, str, tuple[int, ...], int]] = []
    left = payload_length
    for row in rows:
        if not isinstance(row, list) or len(row) != 3:
            raise ProtocolError("a tensor row is not [name, dtype, shape]")
        name, dtype, shape = row
        if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
            raise ProtocolError("a tensor has no name or an unknown type")
        if not isinstance(shape, list) or len(shape) > 16:
            raise ProtocolError("a tensor has no shape")
        size = DTYPES[dtype]
        for dimension in shape:
            if type(dimension) is not int or not 0 <= dimension <= 1 << 40:
                raise ProtocolError("a dimension is not a number")
            size *= dimension
        left -= size
        if left < 0:
            raise ProtocolError("the tensors are larger than the payload")
        checked.append((name, dtype, tuple(shape), size))
    if left or len({row[0] for row in checked}) != len(checked):
        raise ProtocolError("the tensors don't add up to the payload")
    return checked


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError
    return left


def _exactly(sock: socket.socket, length: int, deadline: float | None) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        if deadline is not None:
            sock.settimeout(_remaining(deadline))
        try:
            got = sock.recv_into(view)
        except TimeoutError as error:
            raise DeadlineError from error
        except OSError as error:
            raise ClosedError from error
        if not got:
            raise ClosedError
        view = view[got:]
    return data
