"""What a model's weights look like, in a few bits a tensor. Runs inside the locked process.

    >>> weights_of(model)["tensors"][0]
    {'shape': [64, 3, 7, 7], 'bits': '9f0c…', 'turned': None}

Rules
-----
1. Taken are weights that were learned: float and 8-bit tensors of two axes or more, and lists of
   floats in attributes (trees, linear models), of MINIMUM_ELEMENTS or more and not constant. Biases
   and normalisations are left out: they are small, and alike in models that are not.
2. A sketch is the signs of BITS projections on fixed directions (Charikar, STOC 2002): two tensors
   at an angle t differ in a share t/pi of the bits. It forgets names, order of tensors, type, scale
   and offset. A matrix is taken with its short side first, a square one both ways, so that `Gemm`
   with transB and `MatMul` give the same.
3. `contents` is the digest of all numbers, floats rounded to float16, and of the kinds of nodes. It
   forgets names, order and type too, and says "the same" only where nothing else differs.
4. What comes out is bounded: MAXIMUM_TENSORS sketches, the largest first; `complete` says whether
   these are all. Directions come from SHAKE-256 and are the same for good.
5. One pass over the weights; nothing here raises on odd numbers.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

BITS: Final = 512
WIDTH: Final = 4096
MINIMUM_ELEMENTS: Final = 8
MAXIMUM_TENSORS: Final = 1024
_SEED: Final = b"touchstone weight sketch 1"
_HALF: Final = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_LEARNED: Final = {
    onnx.TensorProto.FLOAT: "<f4",
    onnx.TensorProto.DOUBLE: "<f8",
    onnx.TensorProto.FLOAT16: "<f2",
    onnx.TensorProto.BFLOAT16: "<u2",
    onnx.TensorProto.INT8: "<i1",
    onnx.TensorProto.UINT8: "<u1",
}
Floats = NDArray[np.float32]
Numbers = tuple[list[int], NDArray[Any], bool]


def weights_of(model: Any) -> dict[str, Any]:
    """The sketches of a parsed and checked ONNX model, ready for JSON."""
    found: list[tuple[int, dict[str, Any]]] = []
    digests = [node.encode() for node in _kinds(model.graph)]
    for shape, values, is_weight in _numbers(model.graph):
        digests.append(_digest(shape, values))
        if is_weight and values.size >= MINIMUM_ELEMENTS and (one := _sketched(shape, values)):
            found.append((values.size, one))
    found.sort(key=lambda one: -one[0])
    return {
        "contents": "sha256:" + hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
        "tensors": [tensor for _, tensor in found[:MAXIMUM_TENSORS]],
        "complete": len(found) <= MAXIMUM_TENSORS,
    }


def sketch(values: Floats) -> str | None:
    """The bits of a tensor in its order, as hexadecimal; None where all its values are equal."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    with np.errstate(all="ignore"):
        projected = _folded(flat)
        if not np.isfinite(projected).all():
            tame = np.nan_to_num(flat.astype(np.float64), posinf=0.0, neginf=0.0)
            projected = _folded((tame / (np.abs(tame).max() or 1.0)).astype(np.float32))
    size = float(np.abs(projected).max())
    if flat.min() == flat.max() or not 0 < size < np.inf:
        return None
    bits = (projected / size) @ _directions()[: projected.size] > 0
    return np.packbits(bits).tobytes().hex()


def _folded(flat: Floats) -> Floats:
    """The tensor without its mean as one row of at most WIDTH: rows are added with fixed signs."""
    mean = np.float32(flat.mean(dtype=np.float64))
    if flat.size <= WIDTH:
        return np.asarray(flat - mean, dtype=np.float32)
    rows = flat.size // WIDTH
    signs = _signs(b"rows", rows + 1)
    whole, rest = flat[: rows * WIDTH].reshape(rows, WIDTH), flat[rows * WIDTH :]
    row = signs[:rows] @ whole - mean * signs[:rows].sum()
    row[: rest.size] += signs[rows] * (rest - mean)
    return np.asarray(row, dtype=np.float32)


def _sketched(shape: list[int], values: Floats) -> dict[str, Any] | None:
    turned = None
    if len(shape) == 2:
        values = values.reshape(shape)
        if shape[0] > shape[1]:
            values, shape = values.T, shape[::-1]
        elif shape[0] == shape[1]:
            turned = sketch(values.T)
    bits = sketch(values)
    return None if bits is None else {"shape": shape, "bits": bits, "turned": turned}


def _numbers(graph: Any) -> Iterator[Numbers]:
    """Every tensor and list of numbers: its shape, its values, and whether it may be a weight."""
    for tensor in graph.initializer:
        yield from _of_tensor(tensor, 2)
    for node in graph.node:
        trees = node.domain == "ai.onnx.ml"
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield from _of_tensor(attribute.t, 1 if trees else 2)
            for tensor in attribute.tensors:
                yield from _of_tensor(tensor, 1 if trees else 2)
            if attribute.floats:
                yield [len(attribute.floats)], np.array(attribute.floats, dtype=np.float32), trees
            if attribute.ints:
                yield [len(attribute.ints)], np.array(attribute.ints, dtype=np.int64), False
            if attribute.HasField("g"):
                yield from _numbers(attribute.g)
            for inner in attribute.graphs:
                yield from _numbers(inner)


def _kinds(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield f"{node.domain} {node.op_type}"


def _of_tensor(tensor: Any, axes: int) -> Iterator[Numbers]:
    kind = _LEARNED.get(tensor.data_type)
    if kind is None:
        return
    raw = tensor.raw_data
    if raw:
        values = np.frombuffer(raw, kind)
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
    else:
        values = onnx.numpy_helper.to_array(tensor).reshape(-1)
    shape = [int(dimension) for dimension in tensor.dims if dimension != 1] or [1]
    with np.errstate(all="ignore"):
        yield shape, values.astype(np.float32, copy=False), len(tensor.dims) >= axes


def _digest(shape: list[int], values: NDArray[Any]) -> bytes:
    with np.errstate(all="ignore"):
        exact = values if values.dtype.kind == "i" else values.astype("<f2")
    said = hashlib.sha256(repr(sorted(shape)).encode())
    said.update(np.ascontiguousarray(exact).data)
    return said.digest()


@cache
def _directions() -> Floats:
    return _signs(b"directions", WIDTH * BITS).reshape(WIDTH, BITS)


@cache
def _signs(use: bytes, count: int) -> Floats:
    """Fixed random signs, -1 or 1."""
    drawn = np.frombuffer(hashlib.shake_256(_SEED + use).digest(-(-count // 8)), np.uint8)
    return np.unpackbits(drawn)[:count].astype(np.float32) * 2 - 1
