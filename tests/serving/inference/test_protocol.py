"""What Triton's own client writes is read, and what is written here Triton's own client reads."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from registry.trust.errors import TouchstoneError
from serving.inference import datatypes
from serving.inference.protocol import (
    gather,
    read_request,
    read_response,
    write_request,
    write_response,
)
from serving.inference.rows import Place

LIMIT = 1 << 20
FIELDS = [
    *("inputs", "outputs", "name", "shape", "datatype", "parameters", "data", "id"),
    *("binary_data_size", "shared_memory_region", "shared_memory_byte_size"),
]
names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=12)
arrays = hnp.arrays(
    dtype=st.sampled_from([np.dtype(name) for name in datatypes.DATATYPES]),
    shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
)
tensors = st.dictionaries(names, arrays, min_size=1, max_size=4)


def no_region(_: Place) -> memoryview:
    raise AssertionError("nothing is in shared memory")


def same(found: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


def asked(inputs: dict[str, np.ndarray[Any, Any]], *, binary: bool = True) -> tuple[bytes, int]:
    """The body that tritonclient sends, and its header's length."""
    given_inputs = []
    for name, array in inputs.items():
        one = triton.InferInput(name, list(array.shape), datatypes.DATATYPES[array.dtype.name])
        given_inputs.append(one.set_data_from_numpy(array, binary_data=binary))
    body, length = triton.InferenceServerClient.generate_request_body(given_inputs)
    return body, len(body) if length is None else length


@settings(max_examples=60, deadline=None)
@given(tensors)
def test_a_request_of_tritonclient_is_read_to_the_bit(inputs):
    body, length = asked(inputs)
    request = read_request(body[:length], len(body) - length, LIMIT)
    assert same(gather(request, memoryview(body)[length:], no_region), inputs)
    assert request.outputs is None
    assert request.binary


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        names,
        hnp.arrays(
            st.sampled_from([np.dtype(n) for n in ("float32", "int64", "uint8", "bool")]),
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False},
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_request_of_tritonclient_in_json_is_read_to_the_bit(inputs):
    body, _ = asked(inputs, binary=False)
    found = gather(read_request(body, 0, LIMIT), memoryview(b""), no_region)
    assert same(found, inputs)


@settings(max_examples=60, deadline=None)
@given(tensors, st.booleans())
def test_tritonclient_reads_an_answer_to_the_bit(outputs, binary):
    header, parts = write_request({"x": np.zeros((1, 2), np.float32)}, list(outputs))
    request = read_request(header, 8, LIMIT)
    header, parts, placed = write_response("m", request, outputs)
    body = header + b"".join(parts)
    result = triton.InferenceServerClient.parse_response_body(body, header_length=len(header))
    for name, array in outputs.items():
        assert result.as_numpy(name).tobytes() == array.tobytes()
        assert result.get_output(name)["shape"] == list(array.shape)
    assert not placed
    assert same(read_response(header, memoryview(body)[len(header) :]), outputs)


@settings(max_examples=60, deadline=None)
@given(tensors)
def test_a_request_of_our_own_client_is_read_to_the_bit(inputs):
    header, parts = write_request(inputs, None)
    body = b"".join(parts)
    request = read_request(header, len(body), LIMIT)
    assert same(gather(request, memoryview(body), no_region), inputs)


def test_bytes_are_little_endian_whatever_the_array_is():
    array = np.arange(4, dtype=">f4")
    _, parts = write_request({"x": array}, None)
    assert bytes(parts[0]) == struct.pack("<4f", 0, 1, 2, 3)


def row(**changes: Any) -> dict[str, Any]:
    whole = {
        "name": "x",
        "shape": [2, 3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 24},
    }
    return {k: v for k, v in (whole | changes).items() if v is not None}


REFUSED: dict[str, tuple[str, Any]] = {
    "no input": ("bad_request", []),
    "no list": ("bad_request", {"x": 1}),
    "twice the same": ("bad_size", [row(), row()]),
    "no name": ("bad_name", [row(name=None)]),
    "an endless name": ("bad_name", [row(name="x" * 257)]),
    "a name with a line break": ("bad_name", [row(name="x\n")]),
    "a negative dimension": ("bad_shape", [row(shape=[-2, -3])]),
    "a dimension of 2^63": ("bad_shape", [row(shape=[1 << 63])]),
    "a dimension of true": ("bad_shape", [row(shape=[True, 6])]),
    "a fraction of a dimension": ("bad_shape", [row(shape=[2.0, 3])]),
    "17 dimensions": ("bad_shape", [row(shape=[1] * 17)]),
    "a product of 2^80": ("bad_size", [row(shape=[1 << 40, 1 << 40])]),
    "a size of 2^63": ("bad_size", [row(parameters={"binary_data_size": 1 << 63})]),
    "a negative size": ("bad_size", [row(parameters={"binary_data_size": -24})]),
    "another size than its shape": ("bad_size", [row(parameters={"binary_data_size": 20})]),
    "strings": ("bad_datatype", [row(datatype="BYTES")]),
    "no such type": ("bad_datatype", [row(datatype="float32")]),
    "a type that is a list": ("bad_datatype", [row(datatype=["FP32"])]),
    "data and binary": ("bad_request", [row(data=[1, 2, 3, 4, 5, 6])]),
    "neither data nor binary": ("bad_request", [row(parameters=None)]),
    "an unknown parameter": ("bad_parameter", [row(parameters={"path": "/etc/passwd"})]),
    "257 tensors": ("bad_request", [row()] * 257),
    "a size with no tensor": ("bad_size", [row(shape=[0], parameters={"binary_data_size": 0})]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_beyond_its_bounds_is_refused_by_code(name):
    code, inputs = REFUSED[name]
    header = json.dumps({"inputs": inputs}).encode()
    with pytest.raises(TouchstoneError) as caught:
        read_request(header, 24, LIMIT)
    assert caught.value.code == code


def test_a_tensor_given_twice_is_refused():
    header = json.dumps({"inputs": [row(), row()]}).encode()
    with pytest.raises(TouchstoneError, match="given twice"):
        read_request(header, 48, LIMIT)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b'{"inputs": NaN}', b'{"id":1,"id":2}', b"[" * 100_000, b"\xff", b"null"],
)
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(TouchstoneError) as caught:
        read_request(text, 0, LIMIT)
    assert caught.value.code == "not_json"


def test_a_shape_larger_than_the_limit_is_refused_before_it_is_allocated():
    header = json.dumps({"inputs": [row(shape=[1 << 40], parameters=None, data=[0])]}).encode()
    with pytest.raises(TouchstoneError) as caught:
        read_request(header, 0, LIMIT)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT8", [256]),
        ("UINT8", [-1]),
        ("INT64", [1 << 63]),
        ("INT64", [0.5]),
        ("FP32", [1e39]),
        ("FP32", ["1"]),
        ("BOOL", [1]),
        ("FP32", [[1], [2, 3]]),
        ("FP32", [1, 2]),
        ("FP32", [None]),
        ("FP32", {"a": 1}),
    ],
)
def test_json_data_of_another_type_are_refused(datatype, data):
    inputs = [row(shape=[1], datatype=datatype, parameters=None, data=data)]
    request = read_request(json.dumps({"inputs": inputs}).encode(), 0, LIMIT)
    with pytest.raises(TouchstoneError) as caught:
        gather(request, memoryview(b""), no_region)
    assert caught.value.code == "bad_data"
    assert "256" not in caught.value.message


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(FIELDS) | st.text(max_size=3),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    ),
    st.integers(0, 64),
)
def test_whatever_comes_is_an_error_of_ours_or_a_request(value, length):
    header = json.dumps(value, allow_nan=True).encode()
    try:
        request = read_request(header, length, LIMIT)
        gather(request, memoryview(bytes(length)), lambda place: memoryview(bytes(place.size)))
    except TouchstoneError:
        return
    assert sum(one.size for one in request.inputs if one.start is not None) == length
