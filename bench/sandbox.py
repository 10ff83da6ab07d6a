"""What the sandbox costs: start, one round trip, and throughput against bare onnxruntime.

    .venv/bin/python -m bench.sandbox

The model is a small network on an image [1, 64, 64] and 8 descriptors, on one thread, with the
same graph optimisation on both sides. `predict` is what a run calls: it orders, pads, casts,
checks and records as well. Ratios are medians of paired rounds: bare and sandboxed take turns.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from serving.client import predict
from serving.sandbox import Sandbox
from validators.contract.schema import Contract

CASES = 4096
START_TARGET = 0.6
"""Seconds from nothing to the first score of a 10 MB model."""
ROUNDS = 7


@dataclass(frozen=True)
class Shard:
    """All cases at once."""

    index: int
    cases: tuple[str, ...]
    inputs: dict[str, np.ndarray[Any, Any]]


def network(hidden: int, channels: int) -> bytes:
    """Two convolutions where `channels` > 0, then a layer of `hidden` units on everything."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes, weights, image, size = [], [], "image", 4096
    if channels:
        options: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
        nodes = [
            helper.make_node("Conv", ["image", "k1"], ["c1"], **options),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "k2"], ["c2"], **options),
            helper.make_node("Relu", ["c2"], ["r2"]),
        ]
        weights = [weight("k1", channels, 1, 3, 3), weight("k2", channels, channels, 3, 3)]
        image, size = "r2", channels * 16 * 16
    nodes += [
        helper.make_node("Flatten", [image], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["a"]),
        helper.make_node("MatMul", ["descriptors", "w2"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w3"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    weights += [weight("w1", size, hidden), weight("w2", 8, hidden), weight("w3", hidden, 1)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [
            value("image", TensorProto.FLOAT, ["batch", 1, 64, 64]),
            value("descriptors", TensorProto.FLOAT, ["batch", 8]),
        ],
        [value("score", TensorProto.FLOAT, ["batch", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


CONTRACT = Contract.model_validate(
    {
        "id": "bench",
        "version": "1",
        "inputs": [
            {"name": "image", "dtype": "float32", "shape": [1, 64, 64]},
            {"name": "descriptors", "dtype": "float32", "shape": [8]},
        ],
        "outputs": [{"name": "score", "dtype": "float32", "shape": [1]}],
        "score": "score",
    }
)


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def start_to_first_prediction(files: dict[str, bytes], inputs: dict[str, Any]) -> float:
    """Seconds from nothing to the first score."""

    def once() -> None:
        with Sandbox.start() as sandbox:
            sandbox.load(files)
            sandbox.run(inputs)

    return statistics.median(seconds(once) for _ in range(ROUNDS))


def main() -> None:
    """Print every number."""
    random = np.random.default_rng(1)
    inputs = {
        "image": random.normal(size=(CASES, 1, 64, 64)).astype(np.float32),
        "descriptors": random.normal(size=(CASES, 8)).astype(np.float32),
    }
    shard = Shard(0, tuple(f"{n}" for n in range(CASES)), inputs)
    one = {name: array[:1] for name, array in inputs.items()}
    files = {"model.onnx": network(32, 0)}
    print(f"start to first prediction    {start_to_first_prediction(files, one):8.3f} s")
    large = {"model.onnx": network(640, 0)}
    found = start_to_first_prediction(large, one)
    print(
        f"  with {len(large['model.onnx']) / 1e6:4.1f} MB               {found:8.3f} s "
        f"(target {START_TARGET}): {'met' if found <= START_TARGET else 'MISSED'}"
    )
    with Sandbox.start() as sandbox:
        sandbox.load(files)
        trips = [seconds(lambda: sandbox.run(one)) for _ in range(2000)]
        print(f"round trip at batch 1        {1e6 * statistics.median(trips):8.0f} us")
        print(f"level                        {sandbox.level}")
    print("throughput of bare onnxruntime, cases a second, and the sandbox's share of it")
    for name, files in (
        ("tiny: one layer of 32", {"model.onnx": network(32, 0)}),
        ("small: two convolutions", {"model.onnx": network(64, 16)}),
    ):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(files["model.onnx"], options, providers=providers)
        with Sandbox.start() as sandbox:
            sandbox.load(files)
            for batch in (64, 256):
                rounds = [compare(session, sandbox, shard, batch) for _ in range(ROUNDS)]
                bare = statistics.median(rate for rate, _ in rounds)
                share = statistics.median(share for _, share in rounds)
                print(f"  {name:26} batch {batch:3} {bare:10.0f}/s   predict {share:5.2f}")


def compare(session: Any, sandbox: Sandbox, shard: Shard, batch: int) -> tuple[float, float]:
    """One paired round: bare cases a second, and the sandbox's share of it."""

    def bare() -> None:
        for start in range(0, CASES, batch):
            part = {name: array[start : start + batch] for name, array in shard.inputs.items()}
            session.run(None, part)

    def sandboxed() -> None:
        predict(sandbox, [shard], CONTRACT, batch_size=batch)

    first = seconds(bare)
    return CASES / first, first / seconds(sandboxed)


if __name__ == "__main__":
    main()
