"""Every hostile model against one running server: a fixed code, and the next model runs.

Where each way is shown
-----------------------
    infinite loop                      here; test_sandbox, test_client (found case by case)
    100 GB, by the file or by the data here; test_inspect, test_sandbox, test_client
    2^31 elements by shape inference   here; test_inspect
    external data by path              here; test_inspect
    by symlink or hard link            tests/validators/test_intake, before a file is read
    ORTM marker, custom domain         here; test_inspect
    function bodies, deep nesting      here; test_inspect
    NaN, infinity, out of range        here; test_sandbox, test_client
    wrong shape after N cases          here, by the case and by its place in a call
    state kept between cases           here (RandomUniform); test_client (batch switch, neighbours)
    slow-drip answers                  test_sandbox, by a locked process that says byte by byte
    crash by signal                    here; test_sandbox
    fork, exec, socket, open, ptrace,  test_lockdown, by a native probe under the same lockdown,
    /proc and environment              at Landlock 0, 2, 4 and the kernel's own
"""

import os
import signal
import threading
import time

import pytest

from registry.trust.errors import Invalid
from serving.client import predict
from serving.inference.remote import RemoteSandbox
from serving.sandbox import ModelFailure
from tests.serving import hostile
from tests.serving.inference.serving import TOKEN, Server, shard
from tests.serving.test_inspect import REFUSED_FILES

SEED = "sha256:" + "9" * 64
LONGEST = 10.0
"""Seconds: a time limit of 0.5, a process to start and a crowded machine."""

RUN = {
    "infinite loop": (hostile.loop(2**31 - 1), "model_timeout"),
    "100 GB by the data": (hostile.huge_by_data(), "model_out_of_memory"),
}
ANSWERED = {
    "NaN": (hostile.not_finite(float("nan")), "output_not_finite"),
    "infinity": (hostile.not_finite(float("inf")), "output_not_finite"),
    "above 1": (hostile.not_finite(1.5), "output_range"),
    "wrong shape at the 60th case": (hostile.drops_rows(), "output_shape"),
    "raises": (hostile.raises(), "model_raised"),
}


def code_of(server: Server, data: bytes) -> str:
    """The code with which a run ends, or the one of its one case that failed."""
    with RemoteSandbox.start(server.address, TOKEN) as remote:
        try:
            remote.load({"model.onnx": data})
            found = predict(
                remote, [shard(64, odd=(60,))], hostile.contract(), order_seed=SEED,
                batch_size=16, maximum_restarts=0,
            )  # fmt: skip
        except ModelFailure as failure:
            return failure.code
    assert [n for n, failed in enumerate(found.failures) if failed] == [60]
    (code,) = found.failed_by_code
    return code


def honest_is_answered(server: Server) -> bool:
    """Whether the same server, never started anew, answers an honest model in full."""
    assert server.process.poll() is None
    with RemoteSandbox.start(server.address, TOKEN) as remote:
        remote.load({"model.onnx": hostile.honest()})
        found = predict(remote, [shard(8)], hostile.contract(), order_seed=SEED)
    return found.failed_by_code == {}


@pytest.mark.parametrize("name", [*sorted(set(REFUSED_FILES) - {"empty"}), *RUN, *ANSWERED])
def test_it_ends_with_its_code_in_time_and_the_next_model_runs(server, name):
    data, code = (REFUSED_FILES | RUN | ANSWERED)[name]
    started = time.monotonic()
    assert code_of(server, data) == code
    assert time.monotonic() - started < LONGEST
    assert honest_is_answered(server)


def test_a_shape_that_is_wrong_after_so_many_cases_of_a_call_has_its_code(server):
    with RemoteSandbox.start(server.address, TOKEN) as remote:
        remote.load({"model.onnx": hostile.short_after(5)})
        found = predict(remote, [shard(64)], hostile.contract(), order_seed=SEED, batch_size=16)
    assert found.failed_by_code == {"output_shape": 64}
    assert honest_is_answered(server)


def test_an_empty_file_is_refused_before_it_is_a_model(server):
    with RemoteSandbox.start(server.address, TOKEN) as remote, pytest.raises(Invalid):
        remote.load({"model.onnx": b""})
    assert honest_is_answered(server)


def test_a_crash_by_signal_has_its_code_and_the_next_model_runs(server):
    with RemoteSandbox.start(server.address, TOKEN) as remote:
        others = set(server.children())
        remote.load({"model.onnx": hostile.loop(2**31 - 1)})
        (born,) = set(server.children()) - others
        threading.Timer(0.2, os.kill, (born, signal.SIGSEGV)).start()
        with pytest.raises(ModelFailure) as caught:
            remote.run(hostile.cases(1), ["score"])
    assert caught.value.code == "model_crashed"
    assert honest_is_answered(server)
