"""The models of bench.inference: a small CNN on 3×224×224, and a table of 30 features."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from validators.contract.schema import Contract

WIDTHS = (16, 32, 64, 64)
"""Channels of the CNN's four convolutions, each 3×3 with stride 2: 41 million multiplications."""
FEATURES = 30
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Model:
    """A model, its cases and how many go into one batch."""

    name: str
    data: bytes = field(repr=False)
    contract: Contract
    inputs: dict[str, Array] = field(repr=False)
    batch: int

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(next(iter(self.inputs.values())))


def models() -> list[Model]:
    """A CNN for two types of image, and the table in small and in large batches."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (128, 3, 224, 224), dtype=np.uint8)
    table = random.normal(size=(65_536, FEATURES)).astype(np.float32)
    return [
        Model("CNN, float32", cnn(TensorProto.FLOAT), contract("float32", [3, 224, 224]),
              {"x": pixels.astype(np.float32)}, 32),
        Model("CNN, uint8", cnn(TensorProto.UINT8), contract("uint8", [3, 224, 224]),
              {"x": pixels}, 32),
        Model("30 features", tabular(), contract("float32", [FEATURES]), {"x": table}, 256),
        Model("30 features, large batches", tabular(), contract("float32", [FEATURES]),
              {"x": table}, 8192),
    ]  # fmt: skip


def contract(dtype: str, shape: list[int]) -> Contract:
    """One input x, one score."""
    return Contract.model_validate(
        {
            "id": "bench",
            "version": "1",
            "inputs": [{"name": "x", "dtype": dtype, "shape": shape}],
            "outputs": [{"name": "score", "dtype": "float32", "shape": [1]}],
            "score": "score",
        }
    )


def cnn(kind: int) -> bytes:
    """Four convolutions, the mean over the image, one score."""
    random = np.random.default_rng(0)
    nodes = [helper.make_node("Cast", ["x"], ["c0"], to=TensorProto.FLOAT)]
    weights, before = [], 3
    for number, width in enumerate(WIDTHS, 1):
        kernel = random.normal(size=(width, before, 3, 3)) / np.sqrt(before * 9 * 64)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"k{number}"))
        options: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
        nodes += [
            helper.make_node("Conv", [f"c{number - 1}", f"k{number}"], [f"h{number}"], **options),
            helper.make_node("Relu", [f"h{number}"], [f"c{number}"]),
        ]
        before = width
    nodes += [
        helper.make_node("GlobalAveragePool", [f"c{len(WIDTHS)}"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    last = random.normal(size=(before, 1)).astype(np.float32)
    weights.append(numpy_helper.from_array(last, "w"))
    return _file(nodes, weights, kind, [3, 224, 224])


def tabular() -> bytes:
    """Two layers of 64 units."""
    random = np.random.default_rng(0)
    sizes = [(FEATURES, 64), (64, 64), (64, 1)]
    weights = [
        numpy_helper.from_array((random.normal(size=s) / np.sqrt(s[0])).astype(np.float32), f"w{n}")
        for n, s in enumerate(sizes)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    return _file(nodes, weights, TensorProto.FLOAT, [FEATURES])


def _file(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], kind: int, shape: list[int]
) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [value("x", kind, ["batch", *shape])],
        [value("score", TensorProto.FLOAT, ["batch", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
