"""A model gets what it needs to answer, and nothing it does harms the one who asked."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from registry.trust.errors import Conflict, Invalid
from serving.sandbox import Limits, ModelFailure, Sandbox, check_outputs, framing
from serving.sandbox.failures import FATAL, MESSAGES, plain_text
from serving.sandbox.framing import MAGIC, PREFIX
from tests.serving import hostile
from tests.serving.probe import ask, probed

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def honest():
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        yield sandbox


def failure_of(data, inputs, **limits):
    """The code that running the model gives, and how long that took."""
    with Sandbox.start(Limits(**limits)) as sandbox:
        sandbox.load({"model.onnx": data})
        pid, started = sandbox.pid, time.monotonic()
        with pytest.raises(ModelFailure) as caught:
            check_outputs(hostile.contract(), sandbox.run(inputs, ["score"]), len(inputs["image"]))
        seconds = time.monotonic() - started
        gone = not Path(f"/proc/{pid}").exists()
        assert caught.value.fatal == gone
        if gone:
            with pytest.raises(Conflict):
                sandbox.run(inputs)
    return caught.value.code, seconds


def test_scores_are_those_of_the_model(honest):
    inputs = hostile.cases(64)
    outputs = honest.run(inputs)
    check_outputs(hostile.contract(), outputs, 64)
    np.testing.assert_allclose(outputs["score"], hostile.honest_score(inputs), atol=1e-6)


def test_the_session_names_its_provider_and_versions():
    with Sandbox.start() as sandbox:
        info = sandbox.load({"model.onnx": hostile.honest()})
    assert info.providers == ("CPUExecutionProvider",)
    assert set(info.versions) == {"numpy", "onnx", "onnxruntime"}
    assert info.description.nodes == 5


@pytest.mark.parametrize("n", [0, 1, 3, 100_000])
def test_batches_of_any_size_cross_the_pipe(honest, n):
    """100,000 cases are 27 MB of inputs: through memory. See the next test for the socket."""
    inputs = hostile.cases(n)
    scores = honest.run(inputs)["score"]
    assert scores.shape == (n, 1)
    np.testing.assert_allclose(scores, hostile.honest_score(inputs), atol=1e-6)


def test_inputs_beyond_the_shared_memory_go_through_the_socket(honest):
    inputs = hostile.cases(300_000)
    assert inputs["image"].nbytes > 64 * MEBIBYTE
    scores = honest.run(inputs)["score"]
    np.testing.assert_allclose(scores, hostile.honest_score(inputs), atol=1e-6)


def test_arrays_that_are_not_contiguous_arrive_whole(honest):
    inputs = hostile.cases(20)
    turned = {name: array[::-2] for name, array in inputs.items()}
    assert (honest.run(turned)["score"] == honest.run(inputs)["score"][::-2]).all()


def test_an_answer_is_our_own_copy(honest):
    scores = honest.run(hostile.cases(2))["score"]
    before = scores.copy()
    honest.run(hostile.cases(2, seed=9))
    assert (scores == before).all()
    scores[0] = 0.5


def test_a_loop_without_end_meets_the_time_limit():
    code, seconds = failure_of(hostile.loop(2**31 - 1), hostile.cases(4), wall_seconds=0.5)
    assert code == "model_timeout"
    assert seconds < 2


def test_cpu_time_is_limited_for_the_process_as_a_whole():
    code, seconds = failure_of(
        hostile.loop(2**31 - 1), hostile.cases(4), wall_seconds=20, cpu_seconds=2
    )
    assert code == "model_timeout"
    assert seconds < 10


def test_a_process_that_was_left_alone_ends_itself():
    """Should the trusted side die in the middle of a call, the alarm ends the orphan."""
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.loop(2**31 - 1)})
        sandbox.limits = Limits(wall_seconds=30)
        started = time.monotonic()
        rows = [["image", "float32", [1, 1, 8, 8]], ["descriptors", "float32", [1, 4]]]
        request = {"operation": "run", "inputs": rows, "outputs": None, "slot": 0}
        request["seconds"] = 0.2
        framing.send(sandbox._alive().socket, request)
        status = sandbox._alive().process.wait(10)
    assert status in (-signal.SIGALRM, 128 + signal.SIGALRM)  # the latter inside bubblewrap
    assert time.monotonic() - started < 6


def test_memory_is_limited():
    code, _ = failure_of(hostile.huge_by_data(), hostile.cases(1), memory_bytes=512 * MEBIBYTE)
    assert code == "model_out_of_memory"


def test_a_model_larger_than_the_memory_is_refused():
    with Sandbox.start(Limits(memory_bytes=64 * MEBIBYTE)) as sandbox:
        with pytest.raises(ModelFailure) as caught:
            sandbox.load({"model.onnx": hostile.honest(), "w.data": bytes(200 * MEBIBYTE)})
        assert caught.value.code == "model_out_of_memory"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_is_told_by_code(number):
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.loop(2**31 - 1)})
        threading.Timer(0.3, os.kill, (sandbox.pid, number)).start()
        with pytest.raises(ModelFailure) as caught:
            sandbox.run(hostile.cases(1))
    # Nobody here sends SIGKILL: from outside it is the kernel, out of memory.
    assert caught.value.code == (
        "model_out_of_memory" if number == signal.SIGKILL else "model_crashed"
    )


@pytest.mark.parametrize("how", ["abort", "null pointer"])
def test_a_process_that_crashes_by_itself_is_reaped(how):
    with probed() as sandbox:
        pid = sandbox.pid
        with pytest.raises(ModelFailure) as caught:
            ask(sandbox, {"operation": "die", "how": how})
        assert caught.value.code == "model_crashed"
        assert not Path(f"/proc/{pid}").exists()


def frame(header: bytes, payload: bytes = b"", *, magic: bytes = MAGIC, claim: int = -1) -> str:
    size = len(payload) if claim < 0 else claim
    return (PREFIX.pack(magic, len(header), size) + header + payload).hex()


HOSTILE_ANSWERS = {
    "not a frame": b"HTTP/1.1 200 OK\r\n\r\n".hex(),
    "wrong magic": frame(b"{}", magic=b"TSX9"),
    "header of 4 GB": (PREFIX.pack(MAGIC, 2**32 - 1, 0)).hex(),
    "payload of 8 EB": (PREFIX.pack(MAGIC, 2, 2**63) + b"{}").hex(),
    "not JSON": frame(b"\x80\x04."),
    "deep JSON": frame(b"[" * 100_000),
    "huge number": frame(b'{"outputs":[["score","float32",[' + b"9" * 5000 + b"]]]}"),
    "a list": frame(b"[]"),
    "no outputs": frame(b"{}"),
    "unknown type": frame(b'{"outputs":[["score","object",[1]]]}', b"12345678"),
    "text as a shape": frame(b'{"outputs":[["score","float32","abc"]]}'),
    "negative": frame(b'{"outputs":[["score","float32",[-1,-4]]]}', b"1234567812345678"),
    "true as a dimension": frame(b'{"outputs":[["score","float32",[true]]]}', b"1234"),
    "a fraction": frame(b'{"outputs":[["score","float32",[1.0]]]}', b"1234"),
    "NaN as a dimension": frame(b'{"outputs":[["score","float32",[NaN]]]}', b"1234"),
    "product overflows": frame(b'{"outputs":[["score","float32",[1099511627776,1099511627776]]]}'),
    "17 axes": frame(b'{"outputs":[["score","float32",[' + b"1," * 16 + b"1]]]}", b"1234"),
    "too few bytes": frame(b'{"outputs":[["score","float32",[2]]]}', b"1234"),
    "too many bytes": frame(b'{"outputs":[["score","float32",[1]]]}', b"12345678"),
    "twice": frame(
        b'{"outputs":[["score","float32",[1]],["score","float32",[1]]]}', b"12345678"
    ),
    "another output": frame(b'{"outputs":[["other","float32",[1]]]}', b"1234"),
    "unknown error": frame(b'{"error":"all_is_well","detail":""}'),
    "error that is no text": frame(b'{"error":["model_raised"],"detail":""}'),
}  # fmt: skip


def told(answer: str, outputs: list[str] | None) -> tuple[str, str]:
    """Code and message when a locked process answers a run with these bytes."""
    with probed() as sandbox:
        sandbox._files = {"model.onnx": b""}
        process = sandbox._alive()
        send = process.send
        process.send = lambda _request, _payload, seconds: send(
            {"operation": "reply", "bytes": answer}, [], seconds
        )
        with pytest.raises(ModelFailure) as caught:
            sandbox.run({}, outputs)
        assert caught.value.fatal == (sandbox.pid is None)
        assert caught.value.detail == ""
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
def test_a_hostile_answer_ends_the_process_and_nothing_else(name):
    """The bytes come from a real locked process that says them in the place of an answer."""
    assert told(HOSTILE_ANSWERS[name], ["score"])[0] == "model_crashed"


@pytest.mark.parametrize("payload", [4, 4000], ids=["in the header", "in the payload"])
def test_an_answer_that_drips_meets_the_time_limit_as_a_whole(payload):
    """Each byte comes well within the limit; the limit is over the answer, not over a byte."""
    header = b'{"outputs":[["score","float32",[%d,1]]]}' % (payload // 4)
    answer = frame(header, bytes(payload))
    with probed(limits=Limits(wall_seconds=0.6)) as sandbox:
        sandbox._files = {"model.onnx": b""}
        process = sandbox._alive()
        send, pid = process.send, sandbox.pid
        pause = 0.05 if payload == 4 else 0.001
        process.send = lambda _request, _payload, seconds: send(
            {"operation": "drip", "bytes": answer, "pause": pause}, [], seconds
        )
        started = time.monotonic()
        with pytest.raises(ModelFailure) as caught:
            sandbox.run({}, ["score"])
        assert 0.5 < time.monotonic() - started < 2
        assert caught.value.code == "model_timeout"
        assert not Path(f"/proc/{pid}").exists()


def test_a_reason_given_while_running_is_not_repeated():
    """By then the process has seen patients: only the code gets out."""
    code, message = told(frame(b'{"error":"model_raised","detail":"called Ada"}'), None)
    assert code == "model_raised"
    assert "Ada" not in message


def test_details_are_one_short_printable_line():
    assert plain_text("a\nb\x1b[31m\u202e" + "x" * 900)[:12] == "a b?[31m?xxx"
    assert len(plain_text("x" * 900)) == 200


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (hostile.not_finite(float("nan")), "output_not_finite"),
        (hostile.not_finite(float("inf")), "output_not_finite"),
        (hostile.not_finite(1.5), "output_range"),
        (hostile.not_finite(-0.5), "output_range"),
        (hostile.drops_rows(), "output_shape"),
        (hostile.raises(), "model_raised"),
    ],
    ids=["nan", "infinity", "above 1", "below 0", "dropped rows", "raises"],
)
def test_a_wrong_answer_is_told_by_code(data, code):
    inputs = hostile.cases(8)
    inputs["descriptors"][3, 0] = 9
    assert failure_of(data, inputs)[0] == code


def test_missing_and_mistyped_outputs_are_told_by_code():
    contract, good = hostile.contract(), np.full((2, 1), 0.5, np.float32)
    check_outputs(contract, {"score": good}, 2)
    for outputs, code in (
        ({"other": good}, "output_missing"),
        ({"score": good.astype(np.float64)}, "output_dtype"),
        ({"score": good[:, 0]}, "output_shape"),
        ({"score": good[:1]}, "output_shape"),
    ):
        with pytest.raises(ModelFailure) as caught:
            check_outputs(contract, outputs, 2)
        assert caught.value.code == code


def test_one_process_holds_one_model(honest):
    with pytest.raises(Conflict):
        honest.load({"model.onnx": hostile.batch_switch()})


def test_restart_gives_a_fresh_process_with_the_same_model():
    inputs = hostile.cases(4)
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        before, first = sandbox.pid, sandbox.run(inputs)["score"]
        sandbox.restart()
        assert sandbox.pid != before
        assert not Path(f"/proc/{before}").exists()
        assert (sandbox.run(inputs)["score"] == first).all()


def test_leaving_the_block_always_reaps_the_process():
    def fails():
        with Sandbox.start() as sandbox:
            pids.append(sandbox.pid)
            raise KeyError

    pids = []
    with pytest.raises(KeyError):
        fails()
    (pid,) = pids
    assert not Path(f"/proc/{pid}").exists()


def test_nothing_is_left_open(honest):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(3):
        with Sandbox.start() as sandbox:
            sandbox.inspect({"model.onnx": hostile.honest()})
    assert count() == before


def test_limits_that_make_no_sense_are_invalid():
    for wrong in ({"wall_seconds": 0}, {"memory_bytes": 1000}, {"cpu_seconds": -1}):
        with pytest.raises(Invalid):
            Limits(**wrong)


def test_every_code_has_a_sentence():
    assert set(MESSAGES) >= FATAL
    for code in MESSAGES:
        assert str(ModelFailure(code, "x")).strip()
        assert "{" not in str(ModelFailure(code))
