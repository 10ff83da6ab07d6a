"""Maps of labels from a sandboxed model: checked, kept apart from failures, given again alike."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.answering import Answers
from serving.batches import batch_of
from serving.client import Restarts, answered
from serving.masks import repeat_masks
from serving.sandbox.failures import ModelFailure
from serving.sandbox.outputs import check_outputs, numbers_of
from serving.sandbox.process import Sandbox
from validators.contract.read import parse_contract

GRID = [3, 8, 8]
CONTRACT = parse_contract({
    "id": "c", "version": "1", "score": "labels",
    "inputs": [{"name": "ct", "dtype": "float32", "shape": [1, *GRID],
                "image": {"modality": ["CT"], "values": "HU"}}],
    "outputs": [{"name": "labels", "dtype": "int64", "shape": GRID}],
    "reference": {"grid_of": "ct", "structures": {"organ": 1, "lesion": 4}},
})  # fmt: skip


def model(axes: list[int]) -> bytes:
    """1 where a voxel exceeds the mean over `axes`: with the batch among them, it depends on the
    others. A case whose first voxel is above 900 gets a label that no structure has."""
    nodes = [
        helper.make_node("ReduceMean", ["ct"], ["mean"], axes=axes, keepdims=1),
        helper.make_node("Greater", ["ct", "mean"], ["more"]),
        helper.make_node("Cast", ["more"], ["one"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["ct"], ["most"], axes=[1, 2, 3, 4], keepdims=1),
        helper.make_node("Greater", ["most", "limit"], ["odd"]),
        helper.make_node("Cast", ["odd"], ["two"], to=TensorProto.INT64),
        helper.make_node("Add", ["one", "two"], ["all"]),
        helper.make_node("Squeeze", ["all", "channel"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes, "m", [helper.make_tensor_value_info("ct", TensorProto.FLOAT, ["N", 1, *GRID])],
        [helper.make_tensor_value_info("labels", TensorProto.INT64, ["N", *GRID])],
        [numpy_helper.from_array(np.asarray(900, np.float32), "limit"),
         numpy_helper.from_array(np.array([1]), "channel")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class Shard:
    def __init__(self, index: int, failing: int | None = None) -> None:
        self.index = index
        self.cases = tuple(f"{index}-{n}" for n in range(5))
        values = np.random.default_rng(index).normal(size=(5, 1, *GRID)).astype(np.float32)
        values += np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1, 1)
        if failing is not None:
            values[failing] = 1000
            values[failing, 0, 0, 0, 0] = 1001
        self.inputs = {"ct": values}


def ran(axes: list[int], shards: list[Shard]) -> tuple[list[Answers], Any]:
    with Sandbox.start(allow_unsandboxed=True) as sandbox:
        sandbox.load({"model.onnx": model(axes)})
        kept = list(answered([sandbox], shards, CONTRACT, Restarts(), batch_size=4, order_seed="s"))
        names = [case for shard in shards for case in shard.cases]
        return kept, repeat_masks(
            sandbox, shards, CONTRACT, kept, names, order_seed="s", cases=7
        )  # fmt: skip


def test_maps_come_in_the_order_of_the_cases_and_a_failed_one_is_empty():
    shards = [Shard(0), Shard(1, failing=2)]
    kept, again = ran([1, 2, 3, 4], shards)
    for shard, answers in zip(shards, kept, strict=True):
        values = shard.inputs["ct"][:, 0]
        expected = values > values.mean(axis=(1, 2, 3), keepdims=True)
        assert answers.cases == shard.cases
        assert answers.values.dtype == np.uint8
        for row, code in enumerate(answers.failures):
            if code is None:
                assert (answers.values[row] == expected[row]).all()
    assert kept[1].failures == (None, None, "output_range", None, None)
    assert not kept[1].values[2].any()
    assert (again.compared, again.decisions_changed, again.agrees) == (7, 0, True)


def test_a_model_whose_masks_depend_on_the_other_cases_does_not_repeat():
    _, again = ran([0, 1, 2, 3, 4], [Shard(0), Shard(1)])
    assert not again.agrees
    assert again.decisions_changed > 0
    assert again.largest_difference > CONTRACT.tolerance


def test_two_maps_differ_in_their_number_by_at_most_the_part_of_their_voxels_that_differs():
    draws = np.random.default_rng(3)
    labels = draws.choice([0, 1, 4], (1, *GRID)).astype(np.int64)
    number = numbers_of(CONTRACT, {"labels": labels})[0]
    assert 0 < number < 1
    assert number != numbers_of(CONTRACT, {"labels": np.roll(labels, 1, axis=-1)})[0]
    for changed in range(1, 20):
        other = labels.copy().reshape(-1)
        other[draws.choice(other.size, changed, replace=False)] = 4
        moved = abs(numbers_of(CONTRACT, {"labels": other.reshape(labels.shape)})[0] - number)
        assert moved <= changed / other.size
    check_outputs(CONTRACT, {"labels": labels}, 1)
    for odd, code in ((labels + 1, "output_range"), (labels.astype(np.int32), "output_dtype"),
                      (labels[:, None], "output_shape")):  # fmt: skip
        with pytest.raises(ModelFailure) as failure:
            check_outputs(CONTRACT, {"labels": odd}, 1)
        assert failure.value.code == code


def test_large_volumes_come_in_small_batches():
    assert batch_of(CONTRACT) == 1024
    large = CONTRACT.model_dump(mode="json")
    large["inputs"][0]["shape"] = [1, 96, 256, 256]
    large["outputs"][0]["shape"] = [96, 256, 256]
    assert batch_of(parse_contract(large)) == 1
