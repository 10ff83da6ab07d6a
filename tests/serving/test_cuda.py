"""On a machine with a GPU: models compute there, alike each time, and leave nothing behind.

Run with `TOUCHSTONE_GPU=1`'s set of packages and a driver; `TOUCHSTONE_TEST_DEVICE` names another
device than 0, a MIG slice too.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from registry.trust.errors import Unavailable
from serving.sandbox import ModelFailure, Sandbox
from serving.sandbox.providers import Provider
from serving.sandbox.residue import check_residue
from tests.serving import hostile
from tests.serving.probe import ask, attempts, probed


def missing() -> str:
    """Why CUDA can't be tested here; nothing where it can."""
    if not Path("/dev/nvidiactl").exists():
        return "this machine has no NVIDIA driver (no /dev/nvidiactl)"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without CUDA: install requirements/gpu.lock"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a GPU is here")
CUDA = Provider("cuda", os.environ.get("TOUCHSTONE_TEST_DEVICE", "0"), 2 << 30)
TOLERANCE = 1e-4
"""CPU against GPU, of a score between 0 and 1, in single precision without TF32."""


def test_a_model_computes_on_the_device_and_the_evidence_says_so():
    inputs = hostile.cases(64)
    with Sandbox.start(provider=CUDA) as sandbox:
        info = sandbox.load({"model.onnx": hostile.honest()})
        scores = sandbox.run(inputs)["score"]
        level, execution = dict(sandbox.level), dict(sandbox.execution)
    assert info.providers == ("CUDAExecutionProvider",)
    assert level["seccomp"] is True
    assert str(level["device"]).startswith(("cuda:GPU-", "cuda:MIG-"))
    assert "driver" in str(execution["class"])
    np.testing.assert_allclose(scores, hostile.honest_score(inputs), atol=TOLERANCE)


def test_two_processes_on_one_device_give_the_same_bytes():
    inputs, found = hostile.cases(64), []
    for _ in range(2):
        with Sandbox.start(provider=CUDA) as sandbox:
            sandbox.load({"model.onnx": hostile.honest()})
            found += [sandbox.run(inputs)["score"].tobytes() for _ in range(3)]
    assert len(set(found)) == 1


def test_the_cpu_agrees_within_the_tolerance():
    inputs = hostile.cases(256)
    scores = []
    for options in ({}, {"provider": CUDA}):
        with Sandbox.start(**options) as sandbox:
            sandbox.load({"model.onnx": hostile.honest()})
            scores.append(sandbox.run(inputs)["score"])
    np.testing.assert_allclose(*scores, atol=TOLERANCE)


def test_a_second_model_does_not_get_the_device_before_the_first_is_gone():
    with Sandbox.start(provider=CUDA), pytest.raises(Unavailable) as caught:
        Sandbox.start(provider=CUDA)
    assert caught.value.code == "device_busy"
    Sandbox.start(provider=CUDA).close()


def test_nothing_of_one_process_is_left_for_the_next():
    check_residue(CUDA)


def test_a_taken_over_process_on_the_device_can_do_nothing_but_compute():
    with probed(provider=CUDA) as sandbox:
        found = ask(sandbox, {"operation": "try", "parent": os.getpid(), "port": 1})
    assert set(found) == set(attempts(1, 1))
    assert {name for name, outcome in found.items() if outcome == "done"} == set()


def test_a_model_that_cuda_has_no_kernels_for_is_refused_and_not_run_on_the_cpu():
    """CUDA has no kernel of any operator of ai.onnx.ml, a tree or a scaler."""
    scaled = helper.make_node(
        "Scaler", ["descriptors"], ["scaled"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0]
    )
    nodes = [scaled, *hostile.honest_nodes()]
    nodes[3] = helper.make_node("MatMul", ["scaled", "V"], ["b"])
    domain = helper.make_opsetid("ai.onnx.ml", 3)
    data = hostile.model(nodes, hostile.weights(), opsets=[domain]).SerializeToString()
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
    with Sandbox.start(provider=CUDA) as sandbox, pytest.raises(ModelFailure) as caught:
        sandbox.load({"model.onnx": data})
    assert caught.value.code == "wrong_provider"
