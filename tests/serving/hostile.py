"""Builders of ONNX files: an honest small model, and one for each way to cheat or break.

Every builder gives the bytes of a real file. The contract they are written for takes
image float32 [1, 8, 8] and descriptors float32 [4], and gives score float32 [1].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

from validators.contract.schema import Contract

MEBIBYTE = 1 << 20


def contract(**changes: Any) -> Contract:
    """The contract that the models here are written for."""
    return Contract.model_validate(
        {
            "id": "nodule",
            "version": "1",
            "inputs": [
                {"name": "image", "dtype": "float32", "shape": [1, 8, 8]},
                {"name": "descriptors", "dtype": "float32", "shape": [4]},
            ],
            "outputs": [{"name": "score", "dtype": "float32", "shape": [1]}],
            "score": "score",
        }
        | changes
    )


def cases(n: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of n cases."""
    random = np.random.default_rng(seed)
    return {
        "image": random.normal(size=(n, 1, 8, 8)).astype(np.float32),
        "descriptors": random.normal(size=(n, 4)).astype(np.float32),
    }


def constant(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    image: Sequence[Any] = ("batch", 1, 8, 8),
    image_type: int = T.FLOAT,
    image_name: str = "image",
    output: Sequence[Any] | None = ("batch", 1),
    output_type: int = T.FLOAT,
    output_name: str = "score",
    opset: int = 17,
    opsets: Sequence[onnx.OperatorSetIdProto] = (),
    **more: Any,
) -> onnx.ModelProto:
    graph = h.make_graph(
        list(nodes),
        "graph",
        [
            h.make_tensor_value_info(image_name, image_type, list(image)),
            h.make_tensor_value_info("descriptors", T.FLOAT, ["batch", 4]),
        ],
        [h.make_tensor_value_info(output_name, output_type, output and list(output))],
        list(initializers),
    )
    return h.make_model(
        graph, opset_imports=[h.make_opsetid("", opset), *opsets], ir_version=8, **more
    )


def honest_nodes(score: str = "score", image: str = "image") -> list[onnx.NodeProto]:
    return [
        h.make_node("Flatten", [image], ["flat"]),
        h.make_node("MatMul", ["flat", "W"], ["a"]),
        h.make_node("MatMul", ["descriptors", "V"], ["b"]),
        h.make_node("Add", ["a", "b"], ["logit"]),
        h.make_node("Sigmoid", ["logit"], [score]),
    ]


def weights() -> list[onnx.TensorProto]:
    random = np.random.default_rng(7)
    return [
        constant("W", random.normal(size=(64, 1)) / 8, np.float32),
        constant("V", random.normal(size=(4, 1)), np.float32),
    ]


def honest(**changes: Any) -> bytes:
    """A logistic regression on both inputs."""
    image = changes.get("image_name", "image")
    output = changes.get("output_name", "score")
    return model(honest_nodes(output, image), weights(), **changes).SerializeToString()


def honest_score(inputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What `honest` computes, by numpy."""
    w, v = (numpy_helper.to_array(t).astype(np.float64) for t in weights())
    flat = inputs["image"].reshape(-1, 64)
    return 1 / (1 + np.exp(-(flat @ w + inputs["descriptors"] @ v)))


def then(nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto] = ()) -> bytes:
    """The honest model up to `honest`, followed by nodes that make `score` of it."""
    return model([*honest_nodes("honest"), *nodes], [*weights(), *initializers]).SerializeToString()


def external(location: str, *, offset: str = "0", length: str = "256") -> bytes:
    """The honest model whose matrix W lies at `location`."""
    proto = model(honest_nodes(), weights())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return proto.SerializeToString()


def external_weights() -> bytes:
    """The bytes that `external` refers to."""
    return bytes(weights()[0].raw_data)


def external_in_attribute(location: str) -> bytes:
    """External data of a Constant node's attribute, where a careless walk does not look."""
    tensor = T(name="hidden", data_type=T.FLOAT, dims=[64, 1], data_location=T.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    nodes = [h.make_node("Constant", [], ["W"], value=tensor), *honest_nodes()]
    return model(nodes, weights()[1:]).SerializeToString()


def ort_marker() -> bytes:
    """A file that a checker may read as protobuf and onnxruntime as its own flatbuffers."""
    return b"\x00\x00\x00\x00ORTM" + honest()


def custom_domain() -> bytes:
    node = h.make_node("Gelu", ["honest"], ["score"], domain="com.microsoft")
    return model(
        [*honest_nodes("honest"), node], weights(), opsets=[h.make_opsetid("com.microsoft", 1)]
    ).SerializeToString()


def functions() -> bytes:
    body = h.make_function(
        "ai.onnx", "Twice", ["x"], ["y"], [h.make_node("Add", ["x", "x"], ["y"])],
        [h.make_opsetid("", 17)],
    )  # fmt: skip
    return model(honest_nodes(), weights(), functions=[body]).SerializeToString()


def loop(trips: int, *, hidden_operator: str = "") -> bytes:
    """A Loop of `trips` rounds around the honest score, which it leaves as it was."""
    inner: list[onnx.NodeProto] = [
        h.make_node("Identity", ["go_in"], ["go_out"]),
        h.make_node("Identity", ["state_in"], ["state_out"]),
    ]
    if hidden_operator:
        inner.append(h.make_node(hidden_operator, ["state_in"], ["unused"]))
    body = h.make_graph(
        inner,
        "body",
        [
            h.make_tensor_value_info("i", T.INT64, []),
            h.make_tensor_value_info("go_in", T.BOOL, []),
            h.make_tensor_value_info("state_in", T.FLOAT, None),
        ],
        [
            h.make_tensor_value_info("go_out", T.BOOL, []),
            h.make_tensor_value_info("state_out", T.FLOAT, None),
        ],
    )
    return then(
        [h.make_node("Loop", ["trips", "go", "honest"], ["score"], body=body)],
        [constant("trips", trips, np.int64), constant("go", True, np.bool_)],
    )


def huge_constant() -> bytes:
    """150 bytes that ask for 100 GB."""
    return then(
        [
            h.make_node("ConstantOfShape", ["size"], ["huge"]),
            h.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            h.make_node("Add", ["honest", "sum"], ["score"]),
        ],
        [constant("size", [25_000_000_000], np.int64)],
    )


def huge_by_data(elements: int = 40_000_000_000) -> bytes:
    """Asks for 160 GB by a size that no inference can know: it is computed from the input."""
    return then(
        [
            h.make_node("ReduceSum", ["descriptors"], ["s"], keepdims=0),
            h.make_node("Mul", ["s", "zero"], ["nothing"]),
            h.make_node("Add", ["nothing", "size"], ["f"]),
            h.make_node("Cast", ["f"], ["i"], to=T.INT64),
            h.make_node("Reshape", ["i", "one"], ["shape"]),
            h.make_node("ConstantOfShape", ["shape"], ["huge"]),
            h.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            h.make_node("Add", ["honest", "sum"], ["score"]),
        ],
        [
            constant("zero", 0, np.float32),
            constant("size", elements, np.float32),
            constant("one", [1], np.int64),
        ],
    )


def many_elements() -> bytes:
    """2^31 elements, found by shape inference: (batch, 1) expanded to (2^23, batch)."""
    return then(
        [
            h.make_node("Expand", ["honest", "size"], ["wide"]),
            h.make_node("ReduceMax", ["wide"], ["score"], axes=[1], keepdims=1),
        ],
        [constant("size", [1, 1 << 23], np.int64)],
    )


def nested(depth: int) -> bytes:
    """If inside If inside If …, `depth` graphs below the outermost one."""

    def leaf(name: str) -> onnx.GraphProto:
        output = h.make_tensor_value_info(name, T.FLOAT, None)
        return h.make_graph([h.make_node("Identity", ["honest"], [name])], "leaf", [], [output])

    graph = leaf("innermost")
    for level in range(depth - 1, 0, -1):
        node = h.make_node(
            "If", ["yes"], [f"inner{level}"], then_branch=graph, else_branch=leaf(f"else{level}")
        )
        output = h.make_tensor_value_info(f"inner{level}", T.FLOAT, None)
        graph = h.make_graph([node], f"level{level}", [], [output])
    return then(
        [h.make_node("If", ["yes"], ["score"], then_branch=graph, else_branch=leaf("else0"))],
        [constant("yes", True, np.bool_)],
    )


def nested_without_end(depth: int = 5000) -> bytes:
    """Graphs in attributes in nodes, `depth` times, written by hand: parsers recurse on it."""

    def field(number: int, content: bytes) -> bytes:
        length, encoded = len(content), bytearray()
        while length > 127:
            encoded.append(length & 127 | 128)
            length >>= 7
        return bytes([number << 3 | 2, *encoded, length]) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))  # node { attribute { g { … } } }
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11")


def not_finite(kind: float) -> bytes:
    """NaN or infinity for cases whose first descriptor exceeds 2."""
    return where_first_descriptor("kind", [constant("kind", kind, np.float32)])


def where_first_descriptor(
    other: str, initializers: Sequence[onnx.TensorProto] = (), above: float = 2.0
) -> bytes:
    """Honest, but `other` for the cases whose first descriptor exceeds `above`."""
    return then(
        [
            h.make_node("Slice", ["descriptors", "from", "to", "axis"], ["first"]),
            h.make_node("Greater", ["first", "above"], ["odd"]),
            h.make_node("Where", ["odd", other, "honest"], ["score"]),
        ],
        [
            constant("from", [0], np.int64),
            constant("to", [1], np.int64),
            constant("axis", [1], np.int64),
            constant("above", above, np.float32),
            *initializers,
        ],
    )


def drops_rows(above: float = 2.0) -> bytes:
    """Leaves out the rows whose first descriptor exceeds `above`: a wrong shape now and then."""
    return model(
        [
            *honest_nodes("honest"),
            h.make_node("Slice", ["descriptors", "from", "to", "axis"], ["first"]),
            h.make_node("LessOrEqual", ["first", "above"], ["keep2"]),
            h.make_node("Squeeze", ["keep2", "axis"], ["keep"]),
            h.make_node("Compress", ["honest", "keep"], ["score"], axis=0),
        ],
        [
            *weights(),
            constant("from", [0], np.int64),
            constant("to", [1], np.int64),
            constant("axis", [1], np.int64),
            constant("above", above, np.float32),
        ],
        output=("rows", 1),
    ).SerializeToString()


def short_after(rows: int) -> bytes:
    """Answers the first `rows` cases of a call and forgets the others."""
    return model(
        [*honest_nodes("honest"), h.make_node("Slice", ["honest", "from", "to"], ["score"])],
        [*weights(), constant("from", [0], np.int64), constant("to", [rows], np.int64)],
        output=("rows", 1),
    ).SerializeToString()


def raises(above: float = 2.0) -> bytes:
    """Indexes out of bounds when a case's first descriptor exceeds `above`."""
    return then(
        [
            h.make_node("Slice", ["descriptors", "from", "to", "axis"], ["first"]),
            h.make_node("Greater", ["first", "above"], ["odd"]),
            h.make_node("Cast", ["odd"], ["one"], to=T.INT64),
            h.make_node("ReduceMax", ["one"], ["index"], keepdims=0),
            h.make_node("Gather", ["only", "index"], ["zero"]),
            h.make_node("Add", ["honest", "zero"], ["score"]),
        ],
        [
            constant("from", [0], np.int64),
            constant("to", [1], np.int64),
            constant("axis", [1], np.int64),
            constant("above", above, np.float32),
            constant("only", [0.0], np.float32),
        ],
    )


def slow_when(above: float, rounds: int = 2_000_000_000) -> bytes:
    """Loops for `rounds` when a case's first descriptor exceeds `above`."""
    body = h.make_graph(
        [
            h.make_node("Identity", ["go_in"], ["go_out"]),
            h.make_node("Identity", ["state_in"], ["state_out"]),
        ],
        "body",
        [
            h.make_tensor_value_info("i", T.INT64, []),
            h.make_tensor_value_info("go_in", T.BOOL, []),
            h.make_tensor_value_info("state_in", T.FLOAT, None),
        ],
        [
            h.make_tensor_value_info("go_out", T.BOOL, []),
            h.make_tensor_value_info("state_out", T.FLOAT, None),
        ],
    )
    return then(
        [
            h.make_node("Slice", ["descriptors", "from", "to", "axis"], ["first"]),
            h.make_node("Greater", ["first", "above"], ["odd"]),
            h.make_node("Cast", ["odd"], ["one"], to=T.INT64),
            h.make_node("ReduceMax", ["one"], ["any"], keepdims=0),
            h.make_node("Mul", ["any", "rounds"], ["trips"]),
            h.make_node("Loop", ["trips", "go", "honest"], ["score"], body=body),
        ],
        [
            constant("from", [0], np.int64),
            constant("to", [1], np.int64),
            constant("axis", [1], np.int64),
            constant("above", above, np.float32),
            constant("rounds", rounds, np.int64),
            constant("go", True, np.bool_),
        ],
    )


def random_counter() -> bytes:
    """Its seeded random number advances with each call: a counter across calls."""
    return then(
        [
            h.make_node("RandomUniform", [], ["r"], shape=[1, 1], seed=1.0),
            h.make_node("Greater", ["r", "late"], ["odd"]),
            h.make_node("Where", ["odd", "zero", "honest"], ["score"]),
        ],
        [constant("late", 0.99, np.float32), constant("zero", 0, np.float32)],
    )


def batch_switch() -> bytes:
    """Honest in batches, 0 when asked case by case."""
    return then(
        [
            h.make_node("Shape", ["image"], ["shape"], start=0, end=1),
            h.make_node("Greater", ["shape", "one"], ["many"]),
            h.make_node("Where", ["many", "honest", "zero"], ["score"]),
        ],
        [constant("one", [1], np.int64), constant("zero", 0, np.float32)],
    )


def batch_mates() -> bytes:
    """Honest alone; in a batch the mean score of the others moves each case's own."""
    return then(
        [
            h.make_node("ReduceMean", ["honest"], ["mean"], axes=[0], keepdims=1),
            h.make_node("Sub", ["honest", "mean"], ["apart"]),
            h.make_node("Mul", ["apart", "part"], ["pull"]),
            h.make_node("Sub", ["honest", "pull"], ["score"]),
        ],
        [constant("part", 0.01, np.float32)],
    )


def place_in_batch() -> bytes:
    """0 for whichever case comes third in a batch; asked alone, nobody is third."""
    return then(
        [
            h.make_node("Mul", ["honest", "zero"], ["nothing"]),
            h.make_node("Add", ["nothing", "one"], ["ones"]),
            h.make_node("CumSum", ["ones", "axis"], ["place"]),
            h.make_node("Equal", ["place", "third"], ["chosen"]),
            h.make_node("Where", ["chosen", "zero", "honest"], ["score"]),
        ],
        [
            constant("zero", 0, np.float32),
            constant("one", 1, np.float32),
            constant("axis", 0, np.int64),
            constant("third", 3, np.float32),
        ],
    )


def training(operator: str) -> bytes:
    """Dropout or BatchNormalization in training mode."""
    if operator == "Dropout":
        return then(
            [h.make_node("Dropout", ["honest", "ratio", "mode"], ["score"])],
            [constant("ratio", 0.5, np.float32), constant("mode", True, np.bool_)],
        )
    ones = [constant(name, [1.0], np.float32) for name in ("scale", "bias", "mean", "var")]
    return then(
        [
            h.make_node(
                "BatchNormalization",
                ["honest", "scale", "bias", "mean", "var"],
                ["score", "m", "v"],
                training_mode=1,
            )
        ],
        ones,
    )


def wrong_inner_shape() -> bytes:
    """Declares what it does not compute: only strict inference notices."""
    nodes = [
        *honest_nodes("honest"),
        h.make_node("MatMul", ["honest", "bad"], ["score"]),
    ]
    return model(
        nodes, [*weights(), constant("bad", np.ones((3, 1)), np.float32)]
    ).SerializeToString()


def text_output() -> bytes:
    """A string tensor beside the score."""
    proto = model(honest_nodes(), weights())
    proto.graph.output.append(h.make_tensor_value_info("names", T.STRING, ["batch"]))
    proto.graph.node.append(h.make_node("Identity", ["score"], ["names"]))
    return proto.SerializeToString()


def trees() -> bytes:
    """One decision tree on the first descriptor, as converters of scikit-learn write it."""
    tree = h.make_node(
        "TreeEnsembleRegressor",
        ["descriptors"],
        ["grown"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[0.2, 0.8],
        n_targets=1,
    )
    nodes = [
        *honest_nodes("honest"),
        tree,
        h.make_node("Add", ["honest", "grown"], ["both"]),
        h.make_node("Mul", ["both", "half"], ["score"]),
    ]
    return model(
        nodes,
        [*weights(), constant("half", 0.5, np.float32)],
        opsets=[h.make_opsetid("ai.onnx.ml", 3)],
    ).SerializeToString()
