"""How large the tensors inside a model get, by strict shape inference before it is run.

Rules
-----
1. The free first axis of each input is taken as the most cases that a call may get, were the
   inputs stored in a byte a value.
2. What inference can't know is not guessed: the process's memory limit holds for the rest.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import onnx
import onnx.shape_inference

from serving.sandbox.batch import largest_batch
from serving.sandbox.refusal import Refusal, first_line
from serving.sandbox.tensors import tensors_of

MAXIMUM_ELEMENTS: Final = 1 << 30
LARGE_TENSOR: Final = 1 << 16


def largest_tensor(model: Any) -> int:
    """The largest tensor in elements, at the largest batch. Raises Refusal."""
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.graph.name = "shapes"
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(model.graph.input)
    copy.graph.output.extend(model.graph.output)
    known = {tensor.name for tensor in model.graph.initializer}
    listed = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        # Only small tensors can say a shape; of weights the inference needs theirs alone.
        if tensor.ByteSize() < LARGE_TENSOR:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    inputs = [value for value in model.graph.input if value.name not in known]
    batch = largest_batch(sum(_values_a_case(value) for value in inputs))
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in known and dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
    for value in copy.graph.output:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].ClearField("dim_param")
    try:
        inferred = onnx.shape_inference.infer_shapes(
            copy, check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise Refusal("model_shapes", first_line(error)) from error
    largest = 0
    for name, dims in _shapes(inferred.graph):  # large initializers are among its inputs
        elements = math.prod(dims)
        if elements > MAXIMUM_ELEMENTS:
            raise Refusal("tensor_too_large", name)
        largest = max(largest, elements)
    return largest


def _values_a_case(value: Any) -> int:
    return math.prod(max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim[1:])


def _shapes(graph: Any) -> Iterator[tuple[str, list[int]]]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        yield value.name, [max(d.dim_value, 1) for d in dims]
    for tensor in tensors_of(graph):
        yield tensor.name, list(tensor.dims)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _shapes(inner)
