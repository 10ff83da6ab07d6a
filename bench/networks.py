"""Networks of the sizes that the benches speak of, with random weights, as ONNX files."""

import itertools
import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (3, 224, 224)
FEATURES = 30
_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]


class _Graph:
    """Nodes and weights as they are added; each method returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self._number = itertools.count()

    def weight(self, *shape: int) -> str:
        """Random weights that keep the size of what goes through."""
        values = self._random.normal(size=shape) * np.sqrt(2 / max(1, math.prod(shape[1:])))
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name := self.name()))
        return name

    def name(self) -> str:
        """A name that is not taken."""
        return f"v{next(self._number)}"

    def node(self, kind: str, *inputs: str, **more: Any) -> str:
        """A node with one output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [name := self.name()], **more))
        return name

    def convolve(self, of: str, inner: int, outer: int, size: int, stride: int = 1) -> str:
        """A convolution that keeps the size, over `stride`, with a bias."""
        return self.node(
            "Conv", of, self.weight(outer, inner, size, size), self.weight(outer),
            kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4,
        )  # fmt: skip

    def score(self, of: str, channels: int) -> str:
        """The mean over the image, and a probability of it."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", of))
        return self.node("Sigmoid", self.node("MatMul", flat, self.weight(channels, 1)))

    def model(
        self,
        name: str,
        inputs: tuple[int, ...],
        outputs: dict[str, list[int]],
        kind: int = TensorProto.FLOAT,
    ) -> bytes:
        """The file; `outputs` are names that exist and their shapes without the batch."""
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            name,
            [value("x", TensorProto.FLOAT, ["batch", *inputs])],
            [value(key, kind, ["batch", *shape]) for key, shape in outputs.items()],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=_OPSETS, ir_version=8)
        return bytes(made.SerializeToString())

    def named(self, of: str, name: str) -> None:
        """Give what was computed the name of an output."""
        self.nodes.append(helper.make_node("Identity", [of], [name]))


def resnet_18() -> bytes:
    """He et al. 2016, batch normalisation folded into the convolutions: 11 million weights."""
    graph = _Graph()
    x = graph.node("Relu", graph.convolve("x", 3, 64, 7, 2))
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inner = 64
    for outer, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
                          (512, 1)):  # fmt: skip
        y = graph.node("Relu", graph.convolve(x, inner, outer, 3, stride))
        y = graph.convolve(y, outer, outer, 3)
        short = x if inner == outer else graph.convolve(x, inner, outer, 1, stride)
        x, inner = graph.node("Relu", graph.node("Add", y, short)), outer
    graph.named(graph.score(x, 512), "score")
    return graph.model("resnet-18", IMAGE, {"score": [1]})


def small_cnn(shape: tuple[int, ...] = IMAGE, width: int = 32) -> bytes:
    """Three convolutions; of `width` channels, twice and four times as many."""
    graph = _Graph()
    x, inner = "x", shape[0]
    for outer in (width, 2 * width, 4 * width):
        x = graph.node("Relu", graph.convolve(x, inner, outer, 3, 2))
        inner = outer
    graph.named(graph.score(x, inner), "score")
    return graph.model("small-cnn", shape, {"score": [1]})


def perceptron() -> bytes:
    """Two hidden layers on 30 numbers."""
    graph = _Graph()
    x, inner = "x", FEATURES
    for outer in (64, 32):
        x = graph.node("Relu", graph.node("MatMul", x, graph.weight(inner, outer)))
        inner = outer
    graph.named(graph.node("Sigmoid", graph.node("MatMul", x, graph.weight(inner, 1))), "score")
    return graph.model("perceptron", (FEATURES,), {"score": [1]})


def boosted_trees(trees: int = 300, depth: int = 5) -> bytes:
    """Full trees on 30 numbers between 0 and 1, as gradient boosting leaves them."""
    random = np.random.default_rng(0)
    inner, size = 2**depth - 1, 2 ** (depth + 1) - 1
    node, tree = np.tile(np.arange(size), trees), np.repeat(np.arange(trees), size)
    branch = node < inner
    leaves = {"ids": node[~branch], "treeids": tree[~branch]}
    made = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["sum"], domain="ai.onnx.ml", n_targets=1,
        nodes_nodeids=node, nodes_treeids=tree,
        nodes_featureids=random.integers(0, FEATURES, len(node)),
        nodes_values=random.random(len(node), np.float32),
        nodes_modes=["BRANCH_LEQ" if inside else "LEAF" for inside in branch],
        nodes_truenodeids=np.where(branch, 2 * node + 1, 0),
        nodes_falsenodeids=np.where(branch, 2 * node + 2, 0),
        target_nodeids=leaves["ids"], target_treeids=leaves["treeids"],
        target_ids=np.zeros(len(leaves["ids"]), int),
        target_weights=random.normal(0, 0.1, len(leaves["ids"])).astype(np.float32),
    )  # fmt: skip
    graph = _Graph()
    graph.nodes.append(made)
    graph.named(graph.node("Sigmoid", "sum"), "score")
    return graph.model("boosted-trees", (FEATURES,), {"score": [1]})


def u_net() -> bytes:
    """Ronneberger et al. 2015 with two steps down and few channels; a map of labels as large as
    the image."""
    graph = _Graph()

    def twice(of: str, inner: int, outer: int) -> str:
        first = graph.node("Relu", graph.convolve(of, inner, outer, 3))
        return graph.node("Relu", graph.convolve(first, outer, outer, 3))

    def up(of: str) -> str:
        scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), graph.name())
        graph.weights.append(scales)
        return graph.node("Resize", of, "", scales.name, mode="nearest")

    top = twice("x", 3, 8)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    middle = twice(graph.node("MaxPool", top, **pool), 8, 16)
    x = twice(graph.node("MaxPool", middle, **pool), 16, 32)
    x = twice(graph.node("Concat", up(x), middle, axis=1), 48, 16)
    x = twice(graph.node("Concat", up(x), top, axis=1), 24, 8)
    labels = graph.node("ArgMax", graph.convolve(x, 8, 3, 1), axis=1, keepdims=0)
    graph.nodes.append(helper.make_node("Cast", [labels], ["labels"], to=TensorProto.UINT8))
    return graph.model("u-net", IMAGE, {"labels": list(IMAGE[1:])}, TensorProto.UINT8)
