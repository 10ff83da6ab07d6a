"""A run over the server is the run in this process, to the byte, whatever happens on the way."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from registry.trust.errors import Conflict, Invalid, Unauthenticated, Unavailable
from serving.client import Predictions, predict, repeat
from serving.inference import asking
from serving.inference.line import Address
from serving.inference.regions import DIRECTORY
from serving.inference.remote import RemoteSandbox
from serving.sandbox import ModelFailure, Sandbox, SessionInfo
from tests.journeys.faulty_proxy import FaultyProxy
from tests.serving import hostile
from tests.serving.inference.serving import TOKEN, Server, Shard, shard

SEED = "sha256:" + "7" * 64
RAISES = {"model.onnx": hostile.raises()}
OPTIONS: dict[str, Any] = {"order_seed": SEED, "batch_size": 16}
PARTS = [shard(70, odd=(3, 40)), shard(33, index=1), shard(0, index=2)]


def run(sandbox: Any, data: bytes, parts: list[Shard] = PARTS, **options: Any) -> Predictions:
    sandbox.load({"model.onnx": data})
    return predict(sandbox, parts, hostile.contract(), order_seed=SEED, **options)


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteSandbox]:
    with RemoteSandbox.start(server.address, TOKEN) as sandbox:
        yield sandbox


def over(name: str, server: Server, local: Server) -> RemoteSandbox:
    if name == "tcp":
        return RemoteSandbox.start(server.address, TOKEN)
    return RemoteSandbox.start(
        local.address, TOKEN, shared_memory=None if "shared" in name else False
    )


@pytest.fixture(scope="module")
def here() -> Iterator[tuple[Sandbox, SessionInfo, Predictions]]:
    """A run in this process; two of its cases make the model raise."""
    with Sandbox.start() as sandbox:
        session = sandbox.load(RAISES)
        yield sandbox, session, predict(sandbox, PARTS, hostile.contract(), **OPTIONS)


@pytest.mark.parametrize("name", ["tcp", "unix", "shared memory"])
def test_predictions_are_those_of_this_process_to_the_byte(name, server, local, here):
    sandbox, session, expected = here
    with over(name, server, local) as remote:
        assert remote.load(RAISES) == session
        found = predict(remote, PARTS, hostile.contract(), **OPTIONS)
        assert remote.limits.wall_seconds == 0.5
        assert remote.transport == name
        assert (remote.level, remote.versions) == (sandbox.level, sandbox.versions)
        assert remote.execution == sandbox.execution != {}
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert (found.cases, found.failures) == (expected.cases, expected.failures)
    assert found.failed_by_code == {"model_raised": 2}
    assert found.restarts == expected.restarts == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (hostile.drops_rows(), "output_shape"),
        (hostile.honest(output_name="other"), "model_raised"),
    ],
)
def test_answers_that_break_the_contract_fail_by_the_same_code(remote, data, code):
    found = run(remote, data, [shard(4, odd=(1,))], batch_size=2)
    assert set(found.failed_by_code) == {code}


def test_a_model_with_its_weights_in_a_second_file_is_uploaded_whole(remote):
    files = {"model.onnx": hostile.external("w.data"), "w.data": hostile.external_weights()}
    remote.load(files)
    inputs = hostile.cases(3)
    score = remote.run(inputs, ["score"])["score"]
    np.testing.assert_allclose(score, hostile.honest_score(inputs), atol=1e-6)


def test_a_model_that_cannot_be_loaded_fails_with_the_same_code_and_detail(remote):
    files = {"model.onnx": hostile.custom_domain()}
    with Sandbox.start() as sandbox, pytest.raises(ModelFailure) as here:
        sandbox.load(files)
    with pytest.raises(ModelFailure) as there:
        remote.load(files)
    assert (there.value.code, there.value.detail) == (here.value.code, here.value.detail)
    assert there.value.message == here.value.message


def test_a_case_that_hangs_the_model_is_found_and_the_server_stays_up(server, remote):
    parts = [shard(4, odd=(2,))]
    found = run(remote, hostile.slow_when(2.0), parts, batch_size=2)
    assert found.failed_by_code == {"model_timeout": 1}
    assert found.failures[2] == "model_timeout"
    expected = hostile.honest_score(parts[0].inputs)[:, 0]
    answered = np.arange(4) != 2
    np.testing.assert_allclose(found.scores[answered], expected[answered], atol=1e-6)
    assert found.restarts == 2
    with RemoteSandbox.start(server.address, TOKEN) as other:
        assert run(other, hostile.honest()).failed_by_code == {}


def test_a_model_that_eats_its_memory_fails_with_its_code_and_the_next_one_runs(server, remote):
    with pytest.raises(ModelFailure) as caught:
        run(remote, hostile.huge_by_data(), maximum_restarts=0)
    assert caught.value.code == "model_out_of_memory"
    assert server.ask("GET", "/v2/health/ready")[0] == 200
    with RemoteSandbox.start(server.address, TOKEN) as other:
        assert run(other, hostile.honest()).failed_by_code == {}


def test_a_restart_is_a_fresh_process_and_a_run_repeats_itself(server, remote):
    predictions = run(remote, hostile.honest(), [shard(40)])
    before = server.children()
    found = repeat(
        remote, [shard(40)], hostile.contract(), predictions, threshold=0.5, order_seed=SEED,
        cases=4,
    )  # fmt: skip
    assert found.agrees
    assert found.compared == 4
    after = server.children()
    assert len(before) == len(after)
    assert set(before) != set(after)


def test_a_bad_line_changes_no_byte(server, monkeypatch):
    monkeypatch.setattr(asking, "PAUSE", 0.001)
    parts = [shard(200)]
    with Sandbox.start() as sandbox:
        here = run(sandbox, hostile.honest(), parts, batch_size=8)
    with (
        FaultyProxy(int(server.address.rpartition(":")[2]), one_in=7) as proxy,
        RemoteSandbox.start(f"http://127.0.0.1:{proxy.port}", TOKEN) as remote,
    ):
        there = run(remote, hostile.honest(), parts, batch_size=8)
        assert len(proxy.faults) > 5
        proxy.calm()
    assert there.scores.tobytes() == here.scores.tobytes()
    assert there.restarts == 0


def test_a_line_that_is_dead_is_nobody_elses_fault(server, remote, monkeypatch):
    monkeypatch.setattr(asking, "PAUSE", 0.001)
    with FaultyProxy(int(server.address.rpartition(":")[2]), one_in=0) as proxy:
        remote = RemoteSandbox.start(f"http://127.0.0.1:{proxy.port}", TOKEN)
        remote.load({"model.onnx": hostile.honest()})
        proxy._one_in = 1
        with pytest.raises(Unavailable) as caught:
            predict(remote, [shard(8)], hostile.contract())
    assert caught.value.code == "inference_unreachable"


def test_a_model_and_a_region_that_the_server_lost_are_given_again(local):
    with RemoteSandbox.start(local.address, TOKEN) as remote:
        first = run(remote, hostile.honest())
        for path in (
            "/v2/systemsharedmemory/unregister",
            asking.model_path(remote._digest) + "/unload",
        ):
            assert remote._asking.ask("POST", path).status == 200
        again = predict(remote, PARTS, hostile.contract(), order_seed=SEED)
        assert again.scores.tobytes() == first.scores.tobytes()
        assert remote.transport == "shared memory"


def test_a_run_survives_that_others_need_its_place(server, remote):
    """Two models at most: the third takes the place of the one that was idle longest."""
    remote.load({"model.onnx": hostile.honest()})
    for other in (hostile.raises(), hostile.not_finite(np.inf)):
        with RemoteSandbox.start(server.address, TOKEN) as visitor:
            visitor.load({"model.onnx": other})
            visitor._digest = ""  # it leaves without a word
    assert predict(remote, [shard(5)], hostile.contract()).failed_by_code == {}


def test_whoever_finds_the_server_full_waits_and_is_answered(server):
    found: list[Predictions] = []

    def once() -> None:
        with RemoteSandbox.start(server.address, TOKEN) as one:
            files = {"model.onnx": hostile.loop(150_000)}
            one._files, one._digest = files, digest
            found.append(predict(one, [shard(8)], hostile.contract(), batch_size=4))
            one._digest = ""

    with RemoteSandbox.start(server.address, TOKEN) as first:
        first.load({"model.onnx": hostile.loop(150_000)})
        digest = first._digest
        threads = [threading.Thread(target=once) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({p.scores.tobytes() for p in found}) == 1
    assert len(found) == 4
    assert b'failures_total{code="busy"}' in server.ask("GET", "/metrics")[1]


def test_a_server_that_changes_in_the_middle_of_a_run_ends_it(remote):
    remote.load({"model.onnx": hostile.honest()})
    remote.versions["onnxruntime"] = "1.0.0"
    with pytest.raises(Unavailable) as caught:
        remote.restart()
    assert caught.value.code == "inference_changed"


def test_stop_ends_a_call_that_hangs(local):
    with RemoteSandbox.start(local.address, TOKEN) as remote:
        remote.load({"model.onnx": hostile.slow_when(-1e9)})
        started = len(local.children())
        stopper = threading.Timer(0.2, remote.stop)
        stopper.start()
        with pytest.raises(Conflict) as caught:
            predict(remote, [shard(4)], hostile.contract())
        stopper.join()
        assert caught.value.code == "sandbox_stopped"
        assert len(local.children()) == started - 1
        with pytest.raises(Conflict):
            remote.restart()


def test_stop_ends_a_question_to_a_server_that_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = asking.Asking(Address("127.0.0.1", silent.getsockname()[1]), TOKEN)
        stopper = threading.Timer(0.1, one.stop)
        stopper.start()
        with pytest.raises(Conflict) as caught:
            one.ask("GET", "/v2")
        stopper.join()
    assert caught.value.code == "sandbox_stopped"


def test_nothing_is_left_behind(local):
    before = len(local.children())
    with RemoteSandbox.start(local.address, TOKEN) as remote:
        run(remote, hostile.honest())
        assert not list(DIRECTORY.glob("touchstone-*"))  # the name was taken away at once
        assert len(local.children()) == before + 1
    deadline = time.monotonic() + 5
    while len(local.children()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(local.children()) == before


def test_addresses_tokens_and_sizes_that_are_wrong_are_told(server, local, remote, monkeypatch):
    monkeypatch.setattr(asking, "PAUSE", 0.001)
    with pytest.raises(Unauthenticated):
        RemoteSandbox.start(server.address, "another-token-that-is-long-enough-too")
    for address in ("ftp://x:1", "http://x", "unix:relative", "http://x:1/path", "http://x:99999"):
        with pytest.raises(Invalid):
            RemoteSandbox.start(address, TOKEN)
    with pytest.raises(Unavailable):
        RemoteSandbox.start("http://127.0.0.1:1", TOKEN)
    remote.load({"model.onnx": hostile.honest()})
    remote._largest = 100
    with pytest.raises(Invalid, match="largest-mebibytes"):
        remote.run(hostile.cases(1))
    with pytest.raises(Conflict):
        remote.load({"model.onnx": hostile.raises()})
    with pytest.raises(Conflict):
        remote.finish()
