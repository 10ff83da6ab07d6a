"""Write an ONNX graph node by node: plain operators of ai.onnx, everything inside one file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

OPSET = 17
ML_OPSET = 3
IR_VERSION = 8


class Graph:
    """Nodes and constants, collected in order; every method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def constant(self, value: NDArray[Any] | list[int] | float) -> str:
        """A constant: a list of int is int64, everything else float32."""
        kind = np.int64 if isinstance(value, list) else np.float32
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(value, dtype=kind), name))
        return name

    def do(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """One operator with one output, which is called `name` if that is given."""
        output = name or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def model(
        self, inputs: Mapping[str, list[int]], outputs: Mapping[str, list[int]]
    ) -> ModelProto:
        """The checked model; shapes leave out the batch axis, which is free."""
        batch: list[int | str] = ["batch"]

        def tensors(side: Mapping[str, list[int]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, batch + shape)  # type: ignore[operator]
                for name, shape in side.items()
            ]

        graph = helper.make_graph(
            self._nodes, "nodule", tensors(inputs), tensors(outputs), self._constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid(domain, {"": OPSET}.get(domain, ML_OPSET))
                for domain in sorted({"", *(node.domain for node in self._nodes)})
            ],
            ir_version=IR_VERSION,
            producer_name="touchstone-demo",
        )
        checker.check_model(model, full_check=True)
        return model
