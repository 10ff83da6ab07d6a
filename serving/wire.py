"""From JSON to tensors that fit the contract, and no message that holds a value.

Two forms: `{"inputs": {"image": [[...]], ...}, "cases": ["p-17", …]}`, where `cases` may be left
out, and the Open Inference Protocol's list of `{"name", "shape", "datatype", "data"}`.

Rules
-----
1. JSON only, without NaN, infinity or a key given twice.
2. Every input of the contract and no other; one number of cases for all; dtype, shape, minimum
   and maximum as the contract says. Whole numbers pass for floats, floats never for whole ones.
3. Messages name the tensor, what was expected and what shape was found; never a value.
4. How large a request may be follows from the contract and the largest batch.
5. A case may have a name, given by who asks: a pseudonym of letters, digits, '.', '_' and '-'.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.listed import holds_text
from serving.problems import TooLarge
from validators.contract.schema import Contract, Tensor

LARGEST_BATCH = 256
LARGEST_BODY = 64 << 20
LARGEST_BINARY = 256 << 20
_CHARACTERS_A_NUMBER = 28
_SLACK = 40 << 10

DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "int16": "INT16",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""Names of data types in the Open Inference Protocol."""

_CASE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""Kinds of numpy arrays that pass for each kind of the contract's dtype."""


def numbers_a_case(contract: Contract) -> int:
    """Elements of all inputs of one case."""
    return sum(math.prod(tensor.shape) for tensor in contract.inputs)


def body_limit(contract: Contract) -> int:
    """The largest request body in bytes that a batch of LARGEST_BATCH can need."""
    needed = numbers_a_case(contract) * LARGEST_BATCH * _CHARACTERS_A_NUMBER
    return min(LARGEST_BODY, needed + _SLACK)


def binary_limit(contract: Contract) -> int:
    """The most bytes that the tensors of LARGEST_BATCH cases take in binary."""
    a_case = sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in contract.inputs)
    return min(LARGEST_BINARY, a_case * LARGEST_BATCH)


def parse(contract: Contract, body: bytes | bytearray) -> dict[str, Any]:
    """The body's JSON object. Raises Invalid or TooLarge."""
    # Counted before parsing: a list of a hundred million zeros is small only as text.
    if body.count(b",") > numbers_a_case(contract) * LARGEST_BATCH + _SLACK:
        raise TooLarge(f"the request holds more numbers than {LARGEST_BATCH} cases can need")
    try:
        value = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_without_repetition)
    except Invalid:
        raise
    except (ValueError, RecursionError) as error:
        raise Invalid("the body is not JSON", code="not_json") from error
    if not isinstance(value, dict):
        raise Invalid("the body is not a JSON object", code="not_json")
    return value


def named_inputs(contract: Contract, value: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of `{"inputs": {name: nested lists}}`."""
    if not {"inputs"} <= set(value) <= {"inputs", "cases"} or not isinstance(value["inputs"], dict):
        raise Invalid(
            'the body must be {"inputs": {name: nested lists}}, and "cases" if they have names',
            code="bad_request",
        )
    return _checked(contract, value["inputs"], {})


def case_names(names: Any, cases: int) -> tuple[str, ...] | None:
    """The pseudonyms of the cases, one for each; None where there are none. Raises Invalid."""
    if names is None:
        return None
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != cases:
        raise Invalid("`cases` must be a list with one name for each case", code="bad_case")
    if not all(isinstance(name, str) and _CASE.fullmatch(name) for name in names):
        raise Invalid(
            "a case's name must be 1 to 64 letters, digits, '.', '_' or '-': a pseudonym, not a "
            "patient's name",
            code="bad_case",
        )
    if len(set(names)) != len(names):
        raise Invalid("two cases of the request have the same name", code="bad_case")
    return tuple(names)


def fitting(contract: Contract, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same tensors in the contract's types, if they fit it. Raises Invalid or TooLarge."""
    _check_names(contract, arrays)
    fitted = {}
    for tensor in contract.inputs:
        found = arrays[tensor.name]
        if not np.can_cast(found.dtype, np.dtype(tensor.dtype)):
            raise Invalid(
                f"the input {tensor.name} must be {tensor.dtype}; it is {found.dtype}",
                code="input_dtype",
            )
        fitted[tensor.name] = _of_shape(tensor, found)
    return _counted(fitted)


def protocol_inputs(contract: Contract, value: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of an Open Inference Protocol request (v2)."""
    if not set(value) <= {"id", "parameters", "inputs", "outputs"} or not isinstance(
        value.get("inputs"), list
    ):
        raise Invalid("the body must have a list of inputs", code="bad_request")
    lists: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types = {tensor.name: DATATYPES[tensor.dtype] for tensor in contract.inputs}
    for row in value["inputs"]:
        if (
            not isinstance(row, dict)
            or not {"name", "shape", "datatype", "data"} <= set(row)
            or not isinstance(row["name"], str)
            or not _is_shape(row["shape"])
        ):
            raise Invalid("an input needs name, shape, datatype and data", code="bad_request")
        name = row["name"]
        if name in lists:
            raise Invalid("an input is given twice", code="bad_request")
        if name in types and row["datatype"] != types[name]:
            raise Invalid(f"the input {name} must be {types[name]}", code="input_dtype")
        lists[name], shapes[name] = row["data"], tuple(row["shape"])
    return _checked(contract, lists, shapes)


def wanted_outputs(contract: Contract, value: Mapping[str, Any]) -> None:
    """Raise Invalid when an Open Inference Protocol request asks for another output."""
    wanted = value.get("outputs")
    if wanted is None:
        return
    if not isinstance(wanted, list) or any(
        not isinstance(row, dict) or row.get("name") != contract.score for row in wanted
    ):
        raise Invalid(f"the only output is {contract.score}", code="bad_request")


def _checked(
    contract: Contract, lists: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    _check_names(contract, lists)
    return _counted(
        {
            tensor.name: _array(tensor, lists[tensor.name], shapes.get(tensor.name))
            for tensor in contract.inputs
        }
    )


def _check_names(contract: Contract, given: Mapping[str, Any]) -> None:
    names = [tensor.name for tensor in contract.inputs]
    if set(given) != set(names):
        raise Invalid(f"the inputs must be exactly {', '.join(names)}", code="input_names")


def _counted(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same, if all have one number of cases, and not too many."""
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise Invalid("the inputs have different numbers of cases", code="input_shape")
    cases = counts.pop()
    if not cases:
        raise Invalid("there is no case in the request", code="input_shape")
    if cases > LARGEST_BATCH:
        raise TooLarge(f"{cases} cases are more than the {LARGEST_BATCH} that one request may hold")
    return arrays


def _array(tensor: Tensor, value: Any, shape: tuple[int, ...] | None) -> NDArray[Any]:
    expected = _expected(tensor)
    if holds_text(value):
        raise Invalid(f"{expected}; it holds other values", code="input_dtype")
    try:
        found = np.array(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Invalid(f"{expected}; its lists are ragged", code="input_shape") from error
    if found.dtype.kind not in _KINDS[np.dtype(tensor.dtype).kind] and found.size:
        raise Invalid(f"{expected}; it holds other values", code="input_dtype")
    if shape is not None:
        if found.size != math.prod(shape):
            raise Invalid(f"{expected}; its data do not fill its shape", code="input_shape")
        found = found.reshape(shape)
    return _of_shape(tensor, found)


def _of_shape(tensor: Tensor, found: NDArray[Any]) -> NDArray[Any]:
    if found.ndim != len(tensor.shape) + 1 or found.shape[1:] != tensor.shape:
        raise Invalid(
            f"{_expected(tensor)}; the shape {list(found.shape)[:16]} was found",
            code="input_shape",
        )
    return _in_range(tensor, found)


def _in_range(tensor: Tensor, found: NDArray[Any]) -> NDArray[Any]:
    kind = np.dtype(tensor.dtype)
    if kind.kind in "iu" and found.size:
        limits = np.iinfo(kind)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise Invalid(f"the input {tensor.name} exceeds {tensor.dtype}", code="input_range")
    with np.errstate(over="ignore"):
        array = found.astype(kind, copy=False)
    if kind.kind == "f" and not np.isfinite(array).all():
        raise Invalid(
            f"the input {tensor.name} holds a value that is no finite {tensor.dtype}",
            code="input_range",
        )
    low, high = tensor.minimum, tensor.maximum
    below = low is not None and bool((array < low).any())
    if below or (high is not None and bool((array > high).any())):
        raise Invalid(
            f"the input {tensor.name} lies outside the contract's range, {_bound(low)} to "
            f"{_bound(high)}",
            code="input_range",
        )
    return array


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= 16
        and all(type(size) is int and 0 <= size <= 1 << 32 for size in value)
    )


def _bound(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:g}"


def _expected(tensor: Tensor) -> str:
    return f"the input {tensor.name} must be {tensor.dtype} of shape {_shown(tensor)}"


def _shown(tensor: Tensor) -> str:
    return "[cases" + "".join(f", {size}" for size in tensor.shape) + "]"


def _no_constant(_: str) -> Any:
    raise Invalid("the body holds NaN or infinity, which JSON lacks", code="not_json")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Invalid("the body gives a key twice", code="not_json")
    return value
