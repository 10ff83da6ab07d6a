"""Whose fault a failure was: an attempt comes back for what is proven to be the facility's."""

import dataclasses
import datetime as dt
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry.pipeline import canary
from registry.pipeline import carry as module
from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions.fault import Failure, kept_waiting, whose
from registry.trust.errors import Refused, TouchstoneError, Unavailable
from serving.sandbox.failures import ModelFailure
from serving.sandbox.process import Sandbox
from tests.registry.facility_example import (
    Example,
    facility_example,
    honest,
    scores,
    weights,
)
from tests.registry.facility_example import model as built

F, M = "facility", "model"


@pytest.mark.parametrize(
    ("code", "hand", "canary_after", "blamed", "party"),
    [
        # time-out, memory, crash and unsteadiness of the model, while the canary passes
        ("model_timeout", True, True, True, M),
        ("model_out_of_memory", True, True, True, M),
        ("model_crashed", True, True, True, M),
        ("not_repeatable", True, True, True, M),
        # the same on a host that passed before and fails now: nobody can tell, so it is ours
        ("model_timeout", True, False, True, F),
        ("model_out_of_memory", True, False, True, F),
        # a thing under our lock: no model reaches it
        ("tampered", True, None, False, F),
        ("not_found", True, None, False, F),
        ("shard_unfit", True, True, False, F),
        # the host before the model was opened
        ("sandbox_unavailable", False, None, False, F),
        ("sandbox_level", False, True, False, F),
        ("unforeseen", False, True, False, F),
        ("deadline_passed", False, True, False, F),
        # the host while the model runs: only the canary proves it
        ("sandbox_start", True, True, False, M),
        ("sandbox_start", True, False, False, F),
        ("sandbox_start", True, None, False, M),
        # a fault of our code that the model may have provoked
        ("unforeseen", True, True, False, M),
        ("unforeseen", True, None, False, M),
        ("unforeseen", True, False, False, F),
        # a worker that died: the model may have killed it
        ("worker_died", True, True, False, M),
        ("worker_died", True, None, False, M),
        ("worker_died", True, False, False, F),
        # time is up while it ran
        ("deadline_passed", True, True, False, M),
        ("deadline_passed", True, False, False, F),
        # intake's refusals are about the file
        ("operator_refused", True, True, True, M),
        ("invalid", False, True, True, M),
    ],
)
def test_the_finding_is_this(
    code: str, hand: bool, canary_after: bool | None, blamed: bool, party: str
) -> None:
    assert whose(Failure(code, hand, canary_after, blamed)).party == party


def test_without_proof_no_failure_of_a_model_that_ran_is_ours() -> None:
    """Whatever its code: what a model can bring about must not give it another attempt."""
    for code in ("unforeseen", "worker_died", "sandbox_start", "conflict", "x"):
        for blamed in (True, False):
            for seen in (None, True):
                assert not whose(Failure(code, True, seen, blamed)).ours


@pytest.mark.parametrize(
    ("answered", "away", "back", "waited"),
    [
        (0, None, None, False),  # nothing was ever away
        (0, 1, None, True),  # away from the start and to the end
        (0, 1, 71, True),  # back just before the deadline
        (40, 41, 71, True),  # away for the last thirty hours
        (0, 1, 2, False),  # away for an hour, and nothing for the seventy after it
        (40, 71, 71.5, False),  # slow before it went away for a moment
        (0, 1, 72.5, True),  # back after the deadline only
    ],
)
def test_whoever_waited_for_the_facility_longer_than_it_computed_is_not_late(
    answered: float, away: float | None, back: float | None, waited: bool
) -> None:
    begun = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)

    def hour(number: float) -> dt.datetime:
        return begun + dt.timedelta(hours=number)

    found = kept_waiting(
        hour(answered),
        None if away is None else hour(away),
        None if back is None else hour(back),
        until=hour(72),
    )
    assert found is waited
    assert whose(Failure("deadline_passed", True, True, kept_waiting=found)).ours is waited


def test_the_canary_gives_its_numbers_here() -> None:
    assert canary.sound(Sandbox.start)


def test_three_failures_in_a_row_make_a_host_unsound_and_two_do_not() -> None:
    calls: list[int] = []

    def after(failures: int) -> Any:
        def start() -> Sandbox:
            calls.append(1)
            if len(calls) <= failures:
                raise Unavailable("no", code="sandbox_start")
            return Sandbox.start()

        return start

    assert canary.sound(after(2))
    calls.clear()
    assert not canary.sound(after(3))


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("fault")) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def unsound(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From now on this host gives other answers than it should."""
    return lambda: monkeypatch.setattr(canary, "ANSWERS", (0.1, 0.2, 0.3))


def carried(life: Example) -> str:
    with life.turn() as turn:
        assert turn is not None
        return carry(life.worker, turn)


def finding(life: Example, submission: str) -> tuple[str, str]:
    (row,) = life.sql(
        "SELECT code, party FROM touchstone.finding WHERE submission = %s", submission
    )
    return row[0], row[1]


def test_nothing_is_decrypted_on_a_host_where_the_canary_fails(life: Example, unsound: Any) -> None:
    life.fresh()
    submission = life.queued(honest())
    unsound()
    with pytest.raises(Unavailable, match="nothing was decrypted"):
        carried(life)
    assert life.state(submission) == "running"
    assert life.attempt(submission) is None


def test_a_damaged_shard_gives_the_attempt_back(life: Example) -> None:
    life.fresh()
    submission = life.queued(honest())
    shard = max((life.worker.settings.home / "objects" / "cohorts").rglob("inputs/*"))
    whole = shard.read_bytes()
    shard.chmod(0o600)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert carried(life) == "technical_failure"
    finally:
        shard.write_bytes(whole)
    assert finding(life, submission) == ("tampered", F)
    assert life.attempt(submission) == "returned"


def hungry() -> bytes:
    """Asks for more memory than there is, on every call."""
    return built(
        [
            helper.make_node("ReduceMax", ["descriptors"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "many"], ["much"]),
            helper.make_node("Reshape", ["much", "one"], ["huge"]),
            helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
            *scores("score"),
            helper.make_node("Add", ["score", "nothing"], ["probability"]),
        ],
        [
            numpy_helper.from_array(np.array(1 << 31, np.int64), "many"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            *weights(0.1),
        ],
    )


def test_memory_that_the_model_eats_is_the_models(life: Example) -> None:
    life.fresh()
    submission = life.queued(hungry())
    state = carried(life)
    assert life.attempt(submission) == "spent"
    assert state in ("technical_failure", "in_review")
    if state == "technical_failure":
        assert finding(life, submission)[1] == M


def failing(error: Exception, state: str, *, opened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(work: Any) -> None:
        work.trace.model_had_a_hand = opened
        with work.facility.record.transaction() as now:
            now.do("attempt_spend", submission=work.id, family=f"sme-a/{work.row['protocol_id']}",
                   cohort_id="nodules", cohort_version="1")  # fmt: skip
        raise error

    monkeypatch.setitem(module.STEPS, state, step)


@pytest.mark.parametrize(
    ("error", "opened", "host", "attempt"),
    [
        (ModelFailure("model_timeout"), True, "sound", "spent"),
        (ModelFailure("model_crashed"), True, "unsound", "returned"),
        (Refused("answers differ", code="not_repeatable"), True, "sound", "spent"),
        (Refused("no seccomp here", code="sandbox_unavailable"), False, "sound", "returned"),
        (Refused("others may read the key"), False, "sound", "returned"),
        (Refused("something odd"), True, "sound", "spent"),
    ],
)
def test_the_attempt_comes_back_only_for_a_fault_of_the_facility(
    life: Example, error: Exception, opened: bool, host: str, attempt: str,
    monkeypatch: pytest.MonkeyPatch, unsound: Any,
) -> None:  # fmt: skip
    life.fresh()
    submission = life.queued(honest())
    failing(error, "running", opened=opened, monkeypatch=monkeypatch)
    if host == "unsound":
        unsound()
    assert carried(life) == "technical_failure"
    assert life.attempt(submission) == attempt
    told = life.sql(
        "SELECT message FROM touchstone.notice WHERE submission = %s AND organisation = 'sme-a'"
        " AND kind = 'technical-failure'", submission,
    )  # fmt: skip
    assert isinstance(error, TouchstoneError)
    assert error.message in told[0][0]


def test_what_may_pass_by_itself_is_raised_and_nothing_ends(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.fresh()
    submission = life.queued(honest())
    failing(Unavailable("the disk is full"), "running", opened=True, monkeypatch=monkeypatch)
    for _ in range(4):
        with pytest.raises(Unavailable):
            carried(life)
    assert life.state(submission) == "running"


def test_an_unforeseen_error_is_tried_three_times_and_its_text_is_never_kept(
    life: Example, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    life.fresh()
    submission = life.queued(honest())
    error = KeyError("PAT-0042 scored 0.97")
    failing(error, "running", opened=True, monkeypatch=monkeypatch)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            with pytest.raises(module.Unforeseen) as raised:
                carried(life)
            assert "PAT-0042" not in "".join(traceback.format_exception(raised.value))
        assert carried(life) == "technical_failure"
    assert "PAT-0042" not in caplog.text
    assert "KeyError at" in caplog.text
    assert "PAT-0042" not in str(life.row(submission))
    assert finding(life, submission) == ("unforeseen", M), "the model may have provoked it"
    assert life.attempt(submission) == "spent"


def test_a_failure_is_kept_with_the_evidence_it_was_judged_by(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.fresh()
    submission = life.queued(honest())
    failing(ModelFailure("model_timeout"), "running", opened=True, monkeypatch=monkeypatch)
    carried(life)
    ((evidence,),) = life.sql(
        "SELECT evidence FROM touchstone.finding WHERE submission = %s", submission
    )
    assert evidence == dataclasses.asdict(
        Failure("model_timeout", model_had_a_hand=True, canary_after=True, blamed=True)
    )


def test_the_canary_is_what_its_builder_makes(tmp_path: Path) -> None:
    import onnx

    graph = onnx.load_from_string(canary.MODEL).graph
    assert [node.op_type for node in graph.node] == ["MatMul", "Add", "Sigmoid"]
