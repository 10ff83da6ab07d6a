"""Where the tensors lie in a safetensors file, so that they are read and written without copies.

    >>> head = head_of([Placed("image", "float32", (2, 1, 8, 8))])
    >>> tensors_in(head + bytes(512))
    [Placed(name='image', dtype='float32', shape=(2, 1, 8, 8), start=72)]

Rules
-----
1. `head_of` gives one form to one list of tensors: no spaces but those that fill up to 8 bytes.
2. Tensors follow the head without gaps, in the order of the list.
3. Types are those of a contract.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "uint64": "U64",
    "int32": "I32", "uint32": "U32", "int16": "I16", "uint16": "U16", "int8": "I8",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_NAMES = {short: name for name, short in _TYPES.items()}
_LENGTH = 8


@dataclass(frozen=True)
class Placed:
    """One tensor and its place: `start` is the first byte's, from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def head_of(tensors: Iterable[Placed]) -> bytes:
    """What comes before the tensors' bytes."""
    described, start = {}, 0
    for tensor in tensors:
        end = start + tensor.nbytes
        described[tensor.name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text


def tensors_in(data: Any) -> list[Placed]:
    """The tensors of a safetensors file, in the order of their bytes. ValueError if it is none.

    data: its first bytes at least, as far as the head goes.
    """
    view = memoryview(data)
    end = _LENGTH + int.from_bytes(view[:_LENGTH], "little")
    if len(view) < end:
        raise ValueError("the head is cut")
    try:
        described = json.loads(bytes(view[_LENGTH:end]))
        described.pop("__metadata__", None)
        found = [
            Placed(name, _NAMES[of["dtype"]], tuple(of["shape"]), end + of["data_offsets"][0])
            for name, of in described.items()
        ]
        ends = {name: end + of["data_offsets"][1] for name, of in described.items()}
        whole = all(type(size) is int and size >= 0 for tensor in found for size in tensor.shape)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("the head is none") from error
    if not whole:
        raise ValueError("a tensor has no such shape")
    found.sort(key=lambda tensor: tensor.start)
    at = end
    for tensor in found:
        if tensor.start != at or ends[tensor.name] != at + tensor.nbytes:
            raise ValueError("the tensors do not follow one another")
        at = ends[tensor.name]
    return found


def view_of(data: Any, tensor: Placed) -> NDArray[Any]:
    """The tensor as a view into `data`. ValueError where it is too short."""
    array = np.frombuffer(data, np.dtype(tensor.dtype), math.prod(tensor.shape), tensor.start)
    return array.reshape(tensor.shape)


def rows_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, flat; of a copy if they do not lie together."""
    flat: NDArray[Any] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.data
