"""The sketch of a model's weights, made inside the sandbox, and what it is compared for."""

import time
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serving.sandbox.process import Sandbox
from serving.sandbox.weights import BITS, MAXIMUM_TENSORS, sketch, weights_of
from tests.serving import hostile
from validators.contract.description import Weights
from validators.intake.weights import compare

KNOWN = (
    "68a64f8f75bf25706942a8f083c7c1ceffe47460464e30dd50ab6691f799e620"
    "7ba621fccf4cc732faef5ecb6fd4abc7e21046e67d815a27b472d37c9ca814e0"
)


def random(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def of(*tensors: Any, nodes: Any = (), names: str = "t") -> Weights:
    listed = [
        t if isinstance(t, TensorProto) else numpy_helper.from_array(t, f"{names}{n}")
        for n, t in enumerate(tensors)
    ]
    made = helper.make_model(helper.make_graph(list(nodes), "g", [], [], listed))
    return Weights.model_validate(weights_of(made))


def same(one: Weights, other: Weights) -> bool:
    assert compare(one, other) == compare(other, one)
    return compare(one, other).same


NET = (random(1, 64, 3, 3, 3), random(2, 64, 64, 3, 3), random(3, 64, 10))
OTHER = (random(4, 64, 3, 3, 3), random(5, 64, 64, 3, 3), random(6, 64, 10))


def without_contents(weights: Weights) -> Weights:
    """Judged by sketches alone."""
    return weights.model_copy(update={"contents": None})


@pytest.mark.parametrize(
    "copy",
    [
        of(*NET, names="renamed"),
        of(*NET[::-1]),
        of(*(t.astype(np.float16) for t in NET)),
        of(*(t.astype(np.float64) for t in NET)),
        of(*NET[:2], NET[2].T.copy()),
        of(*(3 * t + 0.1 for t in NET)),
        of(*(t + 0.2 * random(9, *t.shape) for t in NET)),
        of(*NET, random(7, 8, 8)),
        of(*NET[:2], nodes=[helper.make_node("Constant", [], ["c"],
                                             value=numpy_helper.from_array(NET[2]))]),
        of(*(numpy_helper.from_array(np.clip(np.round(t * 30), -127, 127).astype(np.int8))
             for t in NET)),
    ],
    ids=["renamed", "reordered", "float16", "float64", "transposed", "scaled", "noise",
         "junk beside", "a constant node", "8 bits"],
)  # fmt: skip
def test_a_copy_is_of_the_same_family(copy: Weights) -> None:
    assert same(without_contents(of(*NET)), copy)


def test_weights_trained_apart_are_strangers() -> None:
    found = compare(of(*NET), of(*OTHER))
    assert (found.share, found.same, found.worth_knowing) == (0.0, False, False)


def test_a_shared_backbone_is_shown_and_not_joined() -> None:
    found = compare(of(*NET), of(*NET[:2], OTHER[2]))
    assert not found.same
    assert found.share > 0.95
    assert found.worth_knowing


def test_a_part_of_a_much_larger_model_is_not_the_same() -> None:
    found = compare(of(*NET), of(*NET, random(8, 512, 512)))
    assert not found.same
    assert found.share < 0.2


def test_a_tensor_is_matched_once() -> None:
    one, twice = of(NET[2]), of(NET[2], NET[2] + 0.01 * random(3, 64, 10))
    assert compare(without_contents(one), twice).share == 0.5


def test_a_square_matrix_matches_its_transpose() -> None:
    square = random(1, 32, 32)
    assert same(of(square), of(square.T.copy()))
    assert not same(of(square), of(square[::-1].copy()))


def test_weights_in_any_field_of_the_file_give_the_same() -> None:
    raw = numpy_helper.from_array(NET[2], "w")
    listed = helper.make_tensor("w", TensorProto.FLOAT, NET[2].shape, NET[2].reshape(-1).tolist())
    assert of(raw) == of(listed)
    half = (NET[2].view(np.uint32) >> 16).astype(np.uint16)
    short = helper.make_tensor("w", TensorProto.BFLOAT16, NET[2].shape, half.tobytes(), raw=True)
    assert same(of(raw), of(short))


def test_models_too_small_to_sketch_are_the_same_where_every_number_is() -> None:
    tiny = np.full((8, 1), 0.1, np.float32)
    assert of(tiny).tensors == ()
    assert same(of(tiny), of(tiny.astype(np.float16), names="other"))
    assert not same(of(tiny), of(tiny * 2))
    relu, tanh = (helper.make_node(kind, ["x"], ["y"]) for kind in ("Relu", "Tanh"))
    assert not same(of(tiny, nodes=[relu]), of(tiny, nodes=[tanh]))


def test_trees_are_known_by_their_thresholds_and_leaves() -> None:
    def trees(values: Any) -> Weights:
        listed = [float(v) for v in values]
        node = helper.make_node(
            "TreeEnsembleRegressor",
            ["x"],
            ["y"],
            domain="ai.onnx.ml",
            nodes_values=listed,
            nodes_nodeids=list(range(len(listed))),
        )
        return of(NET[2], nodes=[node])

    first = random(1, 200)
    assert same(trees(first), trees(first * 1.001))
    assert not same(trees(first), trees(random(2, 200)))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38, 1e-45])
def test_odd_numbers_neither_raise_nor_hide_the_rest(odd: float) -> None:
    spoilt = NET[2].copy()
    spoilt[0, :3] = odd
    with np.errstate(all="raise"):
        found = of(spoilt)
    assert len(found.tensors) == 1 or odd == 3e38
    assert not same(found, of(OTHER[2]))
    of(np.full((4, 4), odd, np.float32), np.zeros((0, 8), np.float32))


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 20_000), st.integers(0, 1000))
def test_the_share_of_bits_follows_the_angle(size: int, seed: int) -> None:
    """Charikar's law, within five standard deviations of BITS draws."""
    one, noise = random(seed, size), random(seed + 5000, size)
    other = one + noise
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(str(sketch(v))), np.uint8))
            for v in (one, other)]  # fmt: skip
    a, b = one - one.mean(), other - other.mean()
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / np.pi
    assert abs((bits[0] != bits[1]).mean() - angle) < 5 * np.sqrt(0.25 / BITS) + 0.02


def test_the_directions_are_the_same_for_good() -> None:
    assert sketch(np.arange(100, dtype=np.float32) ** 2) == KNOWN


def test_what_leaves_the_sandbox_is_bounded() -> None:
    many = [random(n, 4, 4) for n in range(MAXIMUM_TENSORS + 10)]
    found = of(*many, random(0, 9, 9))
    assert len(found.tensors) == MAXIMUM_TENSORS
    assert found.tensors[0].shape == (9, 9)
    assert not found.complete
    assert len(found.model_dump_json()) < 1 << 19
    assert not compare(without_contents(found), found).same, "what was left out may differ"


def test_a_model_of_200_mb_takes_less_than_two_seconds_of_one_core() -> None:
    large = helper.make_graph(
        [], "g", [], [], [numpy_helper.from_array(random(1, 5000, 10_000), "w")]
    )
    began = time.process_time()
    weights_of(helper.make_model(large))
    assert time.process_time() - began < 2


def test_the_sandbox_tells_at_intake_and_not_when_it_loads() -> None:
    data = hostile.honest()
    with Sandbox.start() as sandbox:
        told = sandbox.inspect({"model.onnx": data}).weights
        assert told is not None
        assert told == Weights.model_validate(weights_of(onnx.load_from_string(data)))
        assert sandbox.load({"model.onnx": data}).description.weights is None
