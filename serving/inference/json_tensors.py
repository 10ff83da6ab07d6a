"""Tensors as JSON: the small form of a request, for people.

Rules
-----
1. Numbers are typed: a whole number passes for a float, a float never for a whole one, and a
   value that the type can't hold is refused.
2. JSON knows no NaN and no infinity; an answer that holds one must be asked for in binary.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.listed import holds_text

_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""Kinds of lists that pass for each kind of tensor."""


def object_of(text: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The JSON object of `text`, without a key given twice. Raises Invalid (not_json)."""
    try:
        value = json.loads(
            bytes(text), parse_constant=_no_constant, object_pairs_hook=_without_repetition
        )
    except Invalid:
        raise
    except (ValueError, RecursionError) as error:
        raise Invalid("the header is not JSON", code="not_json") from error
    if not isinstance(value, dict):
        raise Invalid("the header is not a JSON object", code="not_json")
    return value


def from_json(data: Any, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The tensor of nested or flat lists, row by row. Raises Invalid (bad_data)."""
    if holds_text(data):
        raise Invalid("a tensor's data are of another type than its datatype", code="bad_data")
    try:
        found = np.array(data)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Invalid("a tensor's data are ragged", code="bad_data") from error
    if found.size != int(np.prod(shape, dtype=object) if shape else 1):
        raise Invalid("a tensor's data do not fill its shape", code="bad_data")
    if found.size and found.dtype.kind not in _KINDS[kind.kind]:
        raise Invalid("a tensor's data are of another type than its datatype", code="bad_data")
    if kind.kind in "iu" and found.size:
        limits = np.iinfo(kind)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise Invalid("a tensor's data exceed its datatype", code="bad_data")
    with np.errstate(over="ignore"):
        array = found.astype(kind)
    if kind.kind == "f" and not np.isfinite(array).all():
        raise Invalid("a tensor's data exceed its datatype", code="bad_data")
    return array.reshape(shape)


def to_json(name: str, array: NDArray[Any]) -> list[Any]:
    """The flat list of a tensor, row by row. Raises Invalid (not_finite)."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Invalid(
            f"the output {name} holds a value that JSON lacks: ask for it in binary",
            code="not_finite",
        )
    values: list[Any] = array.reshape(-1).tolist()
    return values


def _no_constant(_: str) -> Any:
    raise Invalid("the header holds NaN or infinity, which JSON lacks", code="not_json")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Invalid("the header gives a key twice", code="not_json")
    return value
