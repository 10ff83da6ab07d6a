"""The data types of the Open Inference Protocol, and the bounds of everything in a message.

Rules
-----
1. Only numbers and truth values travel: no BYTES, no BF16.
2. A bound is compared before anything is allocated.
"""

import math
from typing import Final

import numpy as np

from registry.trust.errors import Invalid

NAMES: Final[dict[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""NumPy's name by the protocol's."""
DATATYPES: Final[dict[str, str]] = {name: datatype for datatype, name in NAMES.items()}
"""The protocol's name by NumPy's."""

MOST_TENSORS: Final = 256
MOST_DIMENSIONS: Final = 16
LARGEST_DIMENSION: Final = 1 << 40
LONGEST_NAME: Final = 256
LARGEST_HEADER: Final = 1 << 20
LARGEST_JSON: Final = 8 << 20
"""Of a request whose tensors are written as JSON: a form for people."""


def dtype_of(datatype: object) -> np.dtype[np.generic]:
    """NumPy's type for the protocol's name. Raises Invalid (bad_datatype)."""
    if not isinstance(datatype, str) or datatype not in NAMES:
        raise Invalid(
            f"a datatype is not one of {', '.join(NAMES)}", code="bad_datatype"
        )  # never what was sent: it may be anything
    return np.dtype(NAMES[datatype])


def name_of(value: object) -> str:
    """A tensor's or a region's name. Raises Invalid (bad_name)."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise Invalid(f"a name is not 1 to {LONGEST_NAME} printable characters", code="bad_name")
    return value


def shape_of(value: object) -> tuple[int, ...]:
    """A shape, every dimension a whole number from 0. Raises Invalid (bad_shape)."""
    if (
        not isinstance(value, list)
        or len(value) > MOST_DIMENSIONS
        or any(type(size) is not int or not 0 <= size <= LARGEST_DIMENSION for size in value)
    ):
        raise Invalid(
            f"a shape is not a list of at most {MOST_DIMENSIONS} whole numbers from 0",
            code="bad_shape",
        )
    return tuple(value)


def size_of(value: object, what: str) -> int:
    """A number of bytes from 0. Raises Invalid (bad_size)."""
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise Invalid(f"{what} is not a whole number of bytes from 0", code="bad_size")
    return value


def bytes_of(datatype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor, counted in whole numbers of any size."""
    return math.prod(shape) * dtype_of(datatype).itemsize
