"""How many processes a run gets, and what becomes of one that is killed."""

import os
import signal
from pathlib import Path

import pytest

from registry.pipeline.killed import unless_killed
from serving.client import TRIES, begin_anew
from serving.sandbox import ModelFailure, Sandbox
from serving.sandbox.failures import KILLED
from serving.sandbox.process import SessionInfo
from tests.serving import hostile
from validators.contract.description import ModelDescription
from validators.cores import cores


@pytest.mark.parametrize(
    ("said", "expected"),
    [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2), ("max 100000", None),
     ("", None), ("rubbish", None)],
)  # fmt: skip
def test_a_quota_of_the_control_group_counts(tmp_path: Path, said: str, expected: int | None):
    own = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text(said + "\n")
    assert cores(tmp_path / "cpu.max") == (own if expected is None else min(own, expected))
    assert cores(tmp_path / "missing") == own


def killing(sandbox: Sandbox, times: int, asked: list[int]) -> ModelDescription:
    """Inspect a model in a process that somebody else kills the first few times."""
    asked.append(sandbox.pid or 0)
    if len(asked) <= times:
        assert sandbox.pid is not None
        os.kill(sandbox.pid, signal.SIGKILL)
    return sandbox.inspect({"model.onnx": hostile.honest()})


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_process_that_somebody_else_killed_is_asked_again(times: int):
    asked: list[int] = []
    with Sandbox.start() as sandbox:
        found = unless_killed(sandbox, lambda: killing(sandbox, times, asked))
    assert found.parameters == 68
    assert len(set(asked)) == times + 1, "each time a fresh process"


def test_what_dies_again_and_again_is_at_fault():
    asked: list[int] = []
    with Sandbox.start() as sandbox, pytest.raises(ModelFailure) as caught:
        unless_killed(sandbox, lambda: killing(sandbox, 99, asked))
    assert caught.value.code == "model_out_of_memory"
    assert len(asked) == 3


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_fresh_process_that_is_killed_while_it_loads_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, times: int
):
    load, left = Sandbox.load, [*range(times)]

    def killed(sandbox: Sandbox, files: dict[str, bytes]) -> SessionInfo:
        if left:
            left.pop()
            os.kill(sandbox.pid or 0, signal.SIGKILL)
        return load(sandbox, files)

    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        monkeypatch.setattr(Sandbox, "load", killed)
        if times < TRIES:
            begin_anew(sandbox)
            assert sandbox.run(hostile.cases(2))["score"].shape == (2, 1)
        else:
            with pytest.raises(ModelFailure) as caught:
                begin_anew(sandbox)
            assert caught.value.code in KILLED
    assert not left


def test_what_is_wrong_with_a_model_is_said_at_once():
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        sandbox.inspect({"model.onnx": b"no model"})

    with Sandbox.start() as sandbox, pytest.raises(ModelFailure, match="not ONNX"):
        unless_killed(sandbox, ask)
    assert asked == [1]
