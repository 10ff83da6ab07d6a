"""Messages of the Open Inference Protocol v2 with the binary-tensor and shared-memory extensions.

    request = read_request(header, binary_length, limit)   # on the server
    inputs = gather(request, binary, read_region)

    header, parts = write_request(arrays, ["score"])       # on the client
    outputs = read_response(header, binary)

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, and
https://github.com/triton-inference-server/server/tree/main/docs/protocol (extensions).

Rules
-----
1. Pure functions. What a header says is held against its bounds, and its sizes against the bytes
   that came, before anything is allocated.
2. A binary tensor is a view of the bytes that came: no copy.
3. A message of an error names a rule, never anything of the request.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.inference import datatypes
from serving.inference.datatypes import name_of
from serving.inference.json_tensors import from_json, object_of, to_json
from serving.inference.rows import (
    Input,
    Place,
    Wanted,
    input_of,
    parameters_of,
    place_parameters,
    rows_of,
    wanted_of,
)
from serving.problems import TooLarge

Arrays = Mapping[str, NDArray[Any]]
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Request:
    """One call of a model. `outputs` None: all of them, in the form that `binary` says."""

    identifier: str | None
    inputs: tuple[Input, ...]
    outputs: tuple[Wanted, ...] | None
    binary: bool

    def wanted(self, name: str) -> Wanted:
        """How the output `name` shall travel."""
        chosen = (w for w in self.outputs or () if w.name == name)
        return next(chosen, Wanted(name, self.binary))


def read_request(header: Buffer, binary_length: int, limit: int) -> Request:
    """The request of a JSON header that `binary_length` bytes of tensors follow.

    limit: bytes of all inputs together. Raises Invalid or TooLarge.
    """
    value = object_of(header)
    if not set(value) <= {"id", "parameters", "inputs", "outputs"}:
        raise Invalid("the request has a field that the protocol lacks", code="bad_request")
    parameters = parameters_of(value, {"binary_data_output"})
    identifier = value.get("id")
    if identifier is not None:
        identifier = name_of(identifier)
    inputs: list[Input] = []
    start = total = 0
    for row in rows_of(value.get("inputs"), {"name", "shape", "datatype", "parameters", "data"}):
        one = input_of(row, start)
        inputs.append(one)
        start += one.size if one.start is not None else 0
        total += one.size
        if total > limit:
            raise TooLarge(f"the inputs are larger than the {limit} bytes that this model can need")
    if not inputs:
        raise Invalid("the request has no input", code="bad_request")
    if start != binary_length:
        raise Invalid("the binary tensors do not fill the body exactly", code="bad_size")
    _unique([one.name for one in inputs])
    outputs = None
    if value.get("outputs"):
        outputs = tuple(wanted_of(row) for row in rows_of(value["outputs"], {"name", "parameters"}))
        _unique([one.name for one in outputs])
    return Request(identifier, tuple(inputs), outputs, parameters.get("binary_data_output") is True)


def gather(
    request: Request, binary: memoryview, read_region: Callable[[Place], memoryview]
) -> dict[str, NDArray[Any]]:
    """The input arrays; those of the binary part are views of it.

    read_region gives a copy of what lies at a place. Raises Invalid where JSON doesn't fill a
    tensor, and what read_region raises.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for one in request.inputs:
        kind = datatypes.dtype_of(one.datatype)
        if one.place is not None:
            arrays[one.name] = _array(read_region(one.place), kind, one.shape, 0)
        elif one.start is not None:
            arrays[one.name] = _array(binary, kind, one.shape, one.start)
        else:
            arrays[one.name] = from_json(one.data, kind, one.shape)
    return arrays


def write_response(
    model: str,
    request: Request,
    outputs: Arrays,
    *,
    version: str = "1",
    parameters: Mapping[str, Any] | None = None,
) -> tuple[bytes, list[memoryview], list[tuple[Place, memoryview]]]:
    """(JSON header, binary parts in its order, what must be put into shared memory).

    Raises Invalid where an output does not fit its place or can't be written as JSON.
    """
    rows: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    placed: list[tuple[Place, memoryview]] = []
    for name, array in outputs.items():
        row: dict[str, Any] = {
            "name": name,
            "datatype": datatypes.DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        wanted = request.wanted(name)
        if wanted.place is not None:
            if array.nbytes > wanted.place.size:
                raise Invalid(
                    f"the output {name} is larger than its place in shared memory", code="bad_size"
                )
            placed.append((wanted.place, flat(array)))
            row["parameters"] = place_parameters(wanted.place, array.nbytes)
        elif wanted.binary:
            parts.append(flat(array))
            row["parameters"] = {"binary_data_size": array.nbytes}
        else:
            row["data"] = to_json(name, array)
        rows.append(row)
    value: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": rows}
    if parameters:
        value["parameters"] = dict(parameters)
    if request.identifier is not None:
        value["id"] = request.identifier
    return _dump(value), parts, placed


def write_request(
    inputs: Arrays,
    outputs: Sequence[str] | None,
    places: Mapping[str, Place] | None = None,
) -> tuple[bytes, list[memoryview]]:
    """(JSON header, binary parts): every tensor in binary, but those of `places` where they are.

    Raises Invalid where an array is of no type of the protocol.
    """
    rows, parts = [], []
    for name, array in inputs.items():
        if array.dtype.name not in datatypes.DATATYPES:
            raise Invalid(f"input {name} has type {array.dtype}, which can't be sent")
        place = (places or {}).get(name)
        if place is None:
            parameters: dict[str, Any] = {"binary_data_size": array.nbytes}
            parts.append(flat(array))
        else:
            parameters = place_parameters(place, place.size)
        rows.append(
            {
                "name": name,
                "datatype": datatypes.DATATYPES[array.dtype.name],
                "shape": list(array.shape),
                "parameters": parameters,
            }
        )
    value: dict[str, Any] = {"inputs": rows, "parameters": {"binary_data_output": True}}
    if outputs is not None:
        value["outputs"] = [{"name": n, "parameters": {"binary_data": True}} for n in outputs]
    return _dump(value), parts


def read_response(header: Buffer, binary: memoryview) -> dict[str, NDArray[Any]]:
    """The outputs of an answer that came in binary, as views of it. Raises Invalid."""
    rows = object_of(header).get("outputs")
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for row in rows_of(rows, {"name", "shape", "datatype", "parameters"}):
        one = input_of(row, start)
        if one.start is None or one.start + one.size > len(binary) or one.name in arrays:
            raise Invalid("an output is not in the answer's binary part", code="bad_size")
        arrays[one.name] = _array(binary, datatypes.dtype_of(one.datatype), one.shape, start)
        start += one.size
    if start != len(binary):
        raise Invalid("the outputs do not fill the answer exactly", code="bad_size")
    return arrays


def flat(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, C-ordered; a view where it is so already."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _array(
    source: memoryview, kind: np.dtype[Any], shape: tuple[int, ...], start: int
) -> NDArray[Any]:
    # Any byte but 0 and 1 would be a truth value that NumPy does not know.
    plain = np.dtype(np.uint8) if kind == np.bool_ else kind
    array: NDArray[Any] = np.frombuffer(source, plain, math.prod(shape), start).reshape(shape)
    return array != 0 if kind == np.bool_ else array


def _unique(names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise Invalid("a tensor is given twice", code="bad_request")


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
