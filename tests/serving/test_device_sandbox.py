"""The whole way of a model on a device, with the CPU in the device's place (`stand_in`)."""

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from registry.trust.errors import Unavailable
from serving.sandbox import Limits, ModelFailure, Sandbox
from tests.serving import hostile
from tests.serving.probe import ask, attempts
from tests.serving.stand_in import CUDA, UUID, standing_in


@pytest.fixture
def device(tmp_path):
    with standing_in(tmp_path):
        yield tmp_path


def test_a_model_is_loaded_and_answers_after_the_doors_closed_on_several_threads(device):
    inputs = hostile.cases(64)
    with Sandbox.start(provider=CUDA) as sandbox, Sandbox.start() as plain:
        for one in (sandbox, plain):
            one.load({"model.onnx": hostile.honest()})
        found, expected = sandbox.run(inputs)["score"], plain.run(inputs)["score"]
        tasks = list(Path(f"/proc/{sandbox.pid}/task").iterdir())
        environment = Path(f"/proc/{sandbox.pid}/environ").read_bytes()
        level, on_cpu, execution = dict(sandbox.level), dict(plain.level), sandbox.execution
        sandbox.restart()
        again = sandbox.run(inputs)["score"]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, expected)
    assert len(tasks) > 1
    assert f"CUDA_VISIBLE_DEVICES={UUID}".encode() in environment.split(b"\0")
    assert level.pop("device") == f"cuda:{UUID}" == execution["device"]
    assert (level.pop("one_thread"), level.pop("address_space_limited")) == (False, False)
    assert level == on_cpu
    assert execution["class"] == "a stand-in"


def test_a_taken_over_process_can_do_no_more_than_on_the_cpu(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        request = {"operation": "try", "parent": os.getpid(), "port": server.getsockname()[1]}
        with (
            standing_in(tmp_path, "tests.serving.probe"),
            Sandbox.start(provider=CUDA) as sandbox,
        ):
            found = ask(sandbox, request)
    assert set(found) == set(attempts(1, 1))
    assert {name for name, outcome in found.items() if outcome == "done"} == set()


def test_the_device_is_one_models_until_its_process_is_gone(device):
    with Sandbox.start(provider=CUDA) as first:
        with pytest.raises(Unavailable) as caught:
            Sandbox.start(provider=CUDA)
        assert caught.value.code == "device_busy"
        os.kill(first.pid, signal.SIGSTOP)
        first.close()
    Sandbox.start(provider=CUDA).close()


def test_memory_of_the_host_and_time_are_limited_on_a_device_too(device):
    with Sandbox.start(Limits(memory_bytes=512 << 20), provider=CUDA) as sandbox:
        sandbox.load({"model.onnx": hostile.huge_by_data()})
        with pytest.raises(ModelFailure) as caught:
            sandbox.run(hostile.cases(1))
        assert caught.value.code == "model_out_of_memory"
    with Sandbox.start(Limits(wall_seconds=0.3), provider=CUDA) as sandbox:
        sandbox.load({"model.onnx": hostile.loop(2**31 - 1)})
        with pytest.raises(ModelFailure) as caught:
            sandbox.run(hostile.cases(1))
        assert caught.value.code == "model_timeout"
