"""Every tensor of a graph, and weights from the one sibling file.

Rules
-----
1. Tensors hide in initializers and in attributes, in any nested graph: all are visited.
2. A location is the sibling's plain name, to the letter. No path is ever opened.
3. Offset and length are plain decimal numbers inside the sibling, and the length is the one
   that the tensor's type and shape need.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import onnx

_NUMBER: Final = re.compile(r"[0-9]{1,12}\Z", re.ASCII)
_ITEM_BITS: Final = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}


def tensors_of(graph: Any) -> Iterator[Any]:
    """All tensors of `graph` and the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors_of(attribute.g)
            for inner in attribute.graphs:
                yield from tensors_of(inner)


def refuse_external(tensor: Any) -> bool:
    """Whether a tensor that claims to hold its own data names an external place all the same."""
    return len(tensor.external_data) > 0


def inline(tensor: Any, siblings: Mapping[str, Any]) -> tuple[str, int]:
    """Put the sibling's bytes into an external `tensor`: (problem or "", bytes taken)."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not set(entries) <= {
        "location",
        "offset",
        "length",
        "checksum",
    }:
        return "with unknown fields", 0
    location = entries.get("location", "")
    if location not in siblings:
        return location, 0
    bits = _ITEM_BITS.get(tensor.data_type)
    if bits is None or any(dimension < 0 for dimension in tensor.dims):
        return "a tensor of unknown type or size", 0
    needed = (math.prod(tensor.dims) * bits + 7) // 8
    offset_text, length_text = entries.get("offset", "0"), entries.get("length", str(needed))
    if not _NUMBER.match(offset_text) or not _NUMBER.match(length_text):
        return "an offset or length that is no number", 0
    offset, length = int(offset_text), int(length_text)
    data = siblings[location]
    if length != needed or offset + length > len(data):
        return "a tensor that does not lie inside the .data file", 0
    tensor.raw_data = bytes(data[offset : offset + length])
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    return "", length
