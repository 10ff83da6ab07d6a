"""May this ONNX file be loaded at all? Runs inside the locked process, on hostile bytes.

    description, model_bytes = inspect({"model.onnx": …, "weights.data": …})

Rules
-----
1. A file is accepted for what the protobuf parser saw and nothing else: fields it does not know
   are dropped, and what is loaded later are the bytes written from the parsed model.
2. External data is inlined when every external tensor names the one sibling by its plain name
   and lies inside it; otherwise the model is refused.
3. Each graph is walked to the end: domains, operators, tensors, nesting.
4. Shapes are inferred strictly at the largest batch, and no tensor may exceed 2^30 elements.
5. A refusal is (code, detail); detail holds the author's own names and no contents.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import onnx
import onnx.checker
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from registry.trust.model_files import MAXIMUM_BYTES, MODEL_FILE
from serving.sandbox.operators import ALLOWED, DEFAULT_DOMAIN, OPSETS
from serving.sandbox.refusal import Refusal, first_line
from serving.sandbox.shapes import largest_tensor
from serving.sandbox.tensors import inline, refuse_external, tensors_of
from serving.sandbox.weights import weights_of

MAXIMUM_NODES: Final = 50_000
MAXIMUM_DEPTH: Final = 8
NAME_LIMIT: Final = 256

_TYPES: Final = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.UINT32: "uint32",
    onnx.TensorProto.UINT64: "uint64",
    onnx.TensorProto.BOOL: "bool",
}


def inspect(files: Mapping[str, Any], *, sketch: bool = False) -> tuple[dict[str, Any], bytes]:
    """Check a model's files; give its description and the bytes that may be loaded.

    sketch: whether the description tells of the weights too (`sandbox.weights`).

    Raises Refusal with the first reason found, MemoryError when the limits are reached.
    """
    model = _parse(files)
    _check_header(model)
    walk = _Walk(model)
    walk.graph(model.graph, 1)
    _inline_weights(model, files)
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise Refusal("model_too_large") from error
    if len(data) > MAXIMUM_BYTES:
        raise Refusal("model_too_large", "with its weights inlined")
    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise Refusal("model_invalid", first_line(error)) from error
    largest = largest_tensor(model)
    known = {tensor.name for tensor in model.graph.initializer}
    description = {
        "inputs": [_value(v) for v in model.graph.input if v.name not in known],
        "outputs": [_value(v) for v in model.graph.output],
        "ir_version": model.ir_version,
        "opsets": {o.domain or DEFAULT_DOMAIN: o.version for o in model.opset_import},
        "operators": dict(sorted(walk.operators.items())),
        "nodes": walk.nodes,
        "initializers": walk.initializers,
        "parameters": min(sum(math.prod(t.dims) for t in model.graph.initializer), 1 << 62),
        "model_bytes": len(data),
        "largest_tensor": largest,
        "weights": weights_of(model) if sketch else None,
    }
    return description, data


def _parse(files: Mapping[str, Any]) -> Any:
    data = bytes(files[MODEL_FILE])
    if not data:
        raise Refusal("model_empty")
    if sum(len(part) for part in files.values()) > MAXIMUM_BYTES:
        raise Refusal("model_too_large")
    if any(bytes(part[:23]) == b"version https://git-lfs" for part in files.values()):
        raise Refusal("model_lfs_pointer")
    if data[4:8] == b"ORTM":
        raise Refusal("model_ort_format")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise Refusal("model_not_onnx") from error
    model.DiscardUnknownFields()
    if not model.HasField("graph") or not model.ir_version or not model.opset_import:
        raise Refusal("model_not_onnx")
    return model


def _check_header(model: Any) -> None:
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise Refusal("model_opset", f"IR version {model.ir_version}")
    if model.training_info:
        raise Refusal("model_training")
    if model.functions:
        raise Refusal("model_functions")
    seen = set()
    for entry in model.opset_import:
        domain = entry.domain or DEFAULT_DOMAIN
        if domain not in OPSETS:
            raise Refusal("custom_domain", entry.domain)
        if domain in seen or entry.version not in OPSETS[domain]:
            raise Refusal("model_opset", f"{domain} {entry.version}")
        seen.add(domain)


class _Walk:
    """One pass over all graphs, counting as it goes and refusing at the first offence."""

    def __init__(self, model: Any) -> None:
        self.domains = {entry.domain or DEFAULT_DOMAIN for entry in model.opset_import}
        self.operators: Counter[str] = Counter()
        self.nodes = 0
        self.initializers = 0

    def graph(self, graph: Any, depth: int) -> None:
        if depth > MAXIMUM_DEPTH:
            raise Refusal("model_too_deep")
        self.nodes += len(graph.node)
        self.initializers += len(graph.initializer)
        if self.nodes > MAXIMUM_NODES or self.initializers > MAXIMUM_NODES:
            raise Refusal("model_too_large")
        if graph.sparse_initializer:
            raise Refusal("tensor_kind", "a sparse initializer")
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_name(value.name)
        if depth == 1:
            for value in (*graph.input, *graph.output):
                _value(value)
        constants = {t.name: t for t in graph.initializer}
        for node in graph.node:
            self.node(node, depth, constants)

    def node(self, node: Any, depth: int, constants: Mapping[str, Any]) -> None:
        domain = node.domain or DEFAULT_DOMAIN
        if domain not in ALLOWED:
            raise Refusal("custom_domain", node.domain)
        if domain not in self.domains:
            raise Refusal("model_opset", f"{domain} is used and not imported")
        if node.op_type not in ALLOWED[domain]:
            raise Refusal("operator_refused", f"{domain} {node.op_type}")
        _refuse_training(node, constants)
        own = node.op_type if domain == DEFAULT_DOMAIN else f"{domain}.{node.op_type}"
        self.operators[own] += 1
        for attribute in node.attribute:
            kind = attribute.type
            if attribute.ref_attr_name:
                raise Refusal("model_functions")
            if kind in (
                onnx.AttributeProto.SPARSE_TENSOR,
                onnx.AttributeProto.SPARSE_TENSORS,
                onnx.AttributeProto.TYPE_PROTO,
                onnx.AttributeProto.TYPE_PROTOS,
            ) or attribute.HasField("sparse_tensor"):
                raise Refusal("tensor_kind", f"an attribute of {node.op_type}")
            if attribute.HasField("g"):
                self.graph(attribute.g, depth + 1)
            for inner in attribute.graphs:
                self.graph(inner, depth + 1)


def _refuse_training(node: Any, constants: Mapping[str, Any]) -> None:
    """Refuse Dropout whose training_mode isn't a constant False, and BatchNormalization alike."""
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        mode = constants.get(node.input[2])
        off = mode is not None and (
            mode.raw_data == b"\0" or (not mode.raw_data and list(mode.int32_data) == [0])
        )
        if not off:
            raise Refusal("training_mode", "Dropout")
    if node.op_type == "BatchNormalization":
        training = any(a.name == "training_mode" and a.i != 0 for a in node.attribute)
        if training or sum(1 for name in node.output if name) > 1:
            raise Refusal("training_mode", "BatchNormalization")


def _inline_weights(model: Any, files: Mapping[str, Any]) -> None:
    siblings = {name: data for name, data in files.items() if name != MODEL_FILE}
    used = 0
    budget = MAXIMUM_BYTES
    for tensor in tensors_of(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            problem, size = inline(tensor, siblings)
            if problem:
                raise Refusal("external_data", problem)
            used += 1
            budget -= size
            if budget < 0:
                raise Refusal("model_too_large", "with its weights inlined")
        elif refuse_external(tensor):
            raise Refusal("external_data", "a tensor with a location and data of its own")
    if siblings and not used:
        raise Refusal("external_data", "the .data file is there and no tensor refers to it")


def _value(value: Any) -> dict[str, Any]:
    if value.type.WhichOneof("value") != "tensor_type":
        raise Refusal("tensor_kind", value.name)
    tensor = value.type.tensor_type
    dtype = _TYPES.get(tensor.elem_type)
    if dtype is None:
        raise Refusal("tensor_kind", value.name)
    shape = None
    if tensor.HasField("shape"):
        if len(tensor.shape.dim) > 16:
            raise Refusal("tensor_kind", value.name)
        shape = [_dimension(d) for d in tensor.shape.dim]
    return {"name": value.name, "dtype": dtype, "shape": shape}


def _dimension(dimension: Any) -> int | str | None:
    if dimension.HasField("dim_value"):
        if not 0 <= dimension.dim_value <= 1 << 40:
            raise Refusal("model_shapes", "a dimension out of range")
        return int(dimension.dim_value)
    if dimension.HasField("dim_param") and dimension.dim_param:
        _check_name(dimension.dim_param)
        return str(dimension.dim_param)
    return None


def _check_name(name: object) -> None:
    if (
        not isinstance(name, str)
        or len(name) > NAME_LIMIT
        or not name.isascii()
        or not name.isprintable()
    ):
        raise Refusal("model_invalid", "a name that is too long or not printable ASCII")
