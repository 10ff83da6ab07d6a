"""The rows of a message: one tensor that is given, one that is asked for, and where they lie.

Rules
-----
1. What a row says is held against its bounds before anything is allocated.
2. A tensor is in exactly one of the binary part, shared memory and JSON.
3. What is not known is refused, so that nobody takes for done what was not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.trust.errors import Invalid
from serving.inference.datatypes import (
    MOST_TENSORS,
    bytes_of,
    dtype_of,
    name_of,
    shape_of,
    size_of,
)


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a registered region of shared memory."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True)
class Input:
    """One input: at `start` of the binary part, in a region, or as JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    start: int | None = None
    place: Place | None = None
    data: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Wanted:
    """One output that is asked for, and how it shall travel."""

    name: str
    binary: bool
    place: Place | None = None


def input_of(row: dict[str, Any], start: int) -> Input:
    """One input; it is at `start` where it is in the binary part. Raises Invalid."""
    name, shape = name_of(row.get("name")), shape_of(row.get("shape"))
    dtype_of(row.get("datatype"))
    datatype = str(row["datatype"])
    size = bytes_of(datatype, shape)
    parameters = parameters_of(row, {"binary_data_size", *_PLACE})
    place = _place_of(parameters)
    given = size if place is None else place.size
    if "binary_data_size" in parameters:
        given = size_of(parameters["binary_data_size"], "binary_data_size")
    if given != size:
        raise Invalid("a tensor's bytes are not what its shape and type need", code="bad_size")
    sources = [place is not None, "binary_data_size" in parameters, row.get("data") is not None]
    if sum(sources) != 1:
        raise Invalid(
            "a tensor is not in exactly one of binary part, shared memory and data",
            code="bad_request",
        )
    if sources[1]:
        return Input(name, datatype, shape, size, start=start)
    return Input(name, datatype, shape, size, place=place, data=row.get("data"))


def wanted_of(row: dict[str, Any]) -> Wanted:
    """One output that is asked for. Raises Invalid."""
    parameters = parameters_of(row, {"binary_data", *_PLACE})
    binary = parameters.get("binary_data", False)
    if not isinstance(binary, bool):
        raise Invalid("binary_data is neither true nor false", code="bad_request")
    return Wanted(name_of(row.get("name")), binary, _place_of(parameters))


_PLACE = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


def _place_of(parameters: Mapping[str, Any]) -> Place | None:
    if not any(name in parameters for name in _PLACE):
        return None
    return Place(
        name_of(parameters.get(_PLACE[0])),
        size_of(parameters.get(_PLACE[1], 0), _PLACE[1]),
        size_of(parameters.get(_PLACE[2]), _PLACE[2]),
    )


def place_parameters(place: Place, size: int) -> dict[str, Any]:
    """A place as a message has it."""
    return dict(zip(_PLACE, (place.region, place.offset, size), strict=True))


def rows_of(value: object, allowed: set[str]) -> list[dict[str, Any]]:
    """A message's list of tensors. Raises Invalid."""
    if not isinstance(value, list) or len(value) > MOST_TENSORS:
        raise Invalid(f"tensors are not a list of at most {MOST_TENSORS}", code="bad_request")
    if any(not isinstance(row, dict) or not set(row) <= allowed for row in value):
        raise Invalid("a tensor has a field that the protocol lacks", code="bad_request")
    return value


def parameters_of(row: Mapping[str, Any], allowed: set[str]) -> dict[str, Any]:
    """The parameters of a message or a tensor, none but the allowed. Raises Invalid."""
    value = row.get("parameters", {})
    if not isinstance(value, dict) or not set(value) <= allowed:
        raise Invalid(
            f"parameters are not among {', '.join(sorted(allowed))}: nothing else is done here",
            code="bad_parameter",
        )
    return value
