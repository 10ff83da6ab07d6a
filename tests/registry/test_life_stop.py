"""Stopping a submission really stops its compute, and what is late is never silent."""

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.pipeline.carry import carry
from registry.pipeline.overdue import look_at_overdue
from registry.settings import Databases
from registry.submissions.withdraw import cancel, withdraw
from registry.trust.errors import Conflict, NotFound, Refused, TouchstoneError
from serving.sandbox.process import Sandbox
from tests.registry.facility_example import Example, endless, facility_example, honest

LATER = dt.timedelta(days=40)


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("life")) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(life: Example) -> None:
    life.fresh()


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes of every sandbox that starts, as the kernel numbers them."""
    seen: list[int] = []
    launch = Sandbox._launch

    def noted(self: Sandbox) -> None:
        launch(self)
        seen.append(self.pid or 0)

    monkeypatch.setattr(Sandbox, "_launch", noted)
    return seen


def until(true: Callable[[], Any], seconds: float = 30.0) -> float:
    """Wait for it; how long it took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not come true"
        time.sleep(0.02)
    return time.monotonic() - started


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Carrier(threading.Thread):
    """A worker's turn in a thread."""

    def __init__(self, life: Example) -> None:
        super().__init__()
        self.life, self.reached, self.error = life, "", None
        self.start()

    def run(self) -> None:
        try:
            with self.life.turn() as turn:
                self.reached = carry(self.life.worker, turn)
        except BaseException as error:
            self.error = error


def test_an_honest_model_is_carried_to_its_review_on_a_sound_host(life: Example) -> None:
    submission = life.queued(honest())
    with life.turn() as turn:
        assert carry(life.worker, turn) == "in_review"
    assert life.attempt(submission) == "spent"
    assert life.row(submission)["deadline"] is not None


@pytest.mark.parametrize("who", ["Eva", "Sam"])
def test_stopping_kills_a_hanging_model_within_two_seconds(
    life: Example, pids: list[int], who: str
) -> None:
    submission = life.queued(endless())
    carrier = Carrier(life)
    until(lambda: life.attempt(submission) == "spent")
    time.sleep(0.5)  # the first batch hangs, where the machine was quick enough to begin it
    until(lambda: any(map(alive, pids)))
    hanging = [pid for pid in pids if alive(pid)]
    assert hanging
    stop = withdraw if who == "Eva" else cancel
    stop(life.api, life.people[who], submission, "a better model is ready")
    took = until(lambda: not any(map(alive, hanging)), 5)
    carrier.join(10)
    assert took < 2, took
    assert not carrier.is_alive()
    assert carrier.error is None
    assert not any(alive(pid) for pid in pids)
    state = "withdrawn" if who == "Eva" else "technical_failure"
    assert (life.state(submission), carrier.reached) == (state, state)
    assert life.attempt(submission) == "spent", "the locked data was looked at"


def test_what_is_withdrawn_before_a_shard_was_decrypted_costs_no_attempt(life: Example) -> None:
    submission = life.queued(honest())
    shown = withdraw(life.api, life.people["Eva"], submission, "not this one")
    assert shown["state"] == "withdrawn"
    assert life.attempt(submission) is None
    with life.turn() as turn:
        assert turn is None
    with (
        pytest.raises(Refused, match="nobody works on it"),
        life.worker.record.transaction() as now,
    ):
        now.do("attempt_spend", submission=submission, family="sme-a/x", cohort_id="nodules",
               cohort_version="1")  # fmt: skip
    for state in ("intake", "running", "technical_failure"):
        with pytest.raises(Refused, match="can't go"), life.worker.record.transaction() as now:
            now.do("submission_move", id=submission, state=state, deadline=None)


def test_only_its_own_innovator_withdraws_and_only_a_steward_cancels(life: Example) -> None:
    submission = life.queued(honest())
    with pytest.raises(NotFound):
        withdraw(life.api, life.people["Finn"], submission, "not mine")
    for who in ("Ada", "Sam", "Ann", "Aud", "Clara"):
        with pytest.raises((Refused, NotFound)):
            withdraw(life.api, life.people[who], submission, "not mine")
    for who in ("Eva", "Ada", "Ann", "Aud", "Clara"):
        with pytest.raises((Refused, NotFound)):
            cancel(life.api, life.people[who], submission, "not mine")
    assert life.state(submission) == "queued"


def test_what_is_in_review_is_not_withdrawn(life: Example) -> None:
    submission = life.queued(honest(0.2))
    with life.turn() as turn:
        carry(life.worker, turn)
    with pytest.raises(Conflict, match="in_review"):
        withdraw(life.api, life.people["Eva"], submission, "too late")
    with pytest.raises(Conflict, match="in_review"):
        cancel(life.api, life.people["Sam"], submission, "too late")


def test_of_many_withdrawals_at_once_one_counts(life: Example) -> None:
    submission = life.queued(honest())
    said: list[str] = []

    def one() -> None:
        try:
            withdraw(life.api, life.people["Eva"], submission, "all at once")
            said.append("done")
        except TouchstoneError as error:
            said.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["conflict"] * 5 + ["done"]
    events = life.sql(
        "SELECT count(*) FROM touchstone.event"
        " WHERE subject = %s AND kind = 'submission-withdrawn'",
        submission,
    )
    assert events == [(1,)]


def test_a_withdrawal_that_races_the_last_step_leaves_one_of_two_whole_states(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.pipeline import carry as module

    prepare = module.STEPS["assessed"]
    ended = set()
    for delay in (0.0, 0.28, 0.3, 0.32, 1.0):  # the first surely comes before, the last after
        submission = life.queued(honest(0.3 + delay))
        reached, asked = threading.Event(), threading.Event()

        def noted(
            work: Any,
            reached: threading.Event = reached,
            asked: threading.Event = asked,
            seconds: float = 0.3 if delay else 60,
        ) -> None:
            reached.set()
            asked.wait(seconds)
            prepare(work)

        monkeypatch.setitem(module.STEPS, "assessed", noted)
        carrier = Carrier(life)
        assert reached.wait(60)
        carrier.join(60) if delay == 1.0 else time.sleep(delay)
        try:
            withdraw(life.api, life.people["Eva"], submission, "at the last moment")
            expected = "withdrawn"
        except Conflict:
            expected = "in_review"
        asked.set()
        carrier.join(30)
        assert carrier.error is None
        assert life.state(submission) == expected
        ended.add(expected)
    assert ended == {"withdrawn", "in_review"}


# A worker process that carries one submission, until it is killed.
WORKER = """
import json, sys
from registry.pipeline.carry import carry
from registry.pipeline.turns import next_turn
from tests.registry.facility_example import opened
with opened(json.loads(sys.argv[1])) as facility, next_turn(facility, "doomed") as turn:
    carry(facility, turn)
"""


def doomed(life: Example) -> subprocess.Popen[bytes]:
    from tests.registry.facility_example import described

    return subprocess.Popen([sys.executable, "-c", WORKER, described(life)])


def test_a_model_on_which_workers_die_gains_no_attempt_and_a_killed_worker_loses_none(
    life: Example,
) -> None:
    submission = life.queued(endless())
    for number in range(3):
        process = doomed(life)
        until(lambda: life.attempt(submission) == "spent")
        until(lambda n=number: turns(life, submission)[0] == n + 1)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert life.state(submission) == "running"
    with life.turn() as turn:
        assert turn is not None, "the claim of a dead worker is free at once"
        assert turn.submission == submission
        assert turn.died == 3
        assert carry(life.worker, turn) == "technical_failure"
    assert life.row(submission)["failure_code"] == "worker_died"
    assert life.attempt(submission) == "spent"
    party = life.sql("SELECT party FROM touchstone.finding WHERE submission = %s", submission)
    assert party == [("model",)]


def turns(life: Example, submission: str) -> tuple[int, int]:
    (row,) = life.sql(
        "SELECT count(*), count(ended_at) FROM touchstone.turn WHERE submission = %s", submission
    )
    return row[0], row[1]


def test_a_killed_worker_is_taken_over_at_the_first_unfinished_step(life: Example) -> None:
    submission = life.queued(honest(0.7))
    process = doomed(life)
    until(lambda: turns(life, submission)[0] == 1)
    until(lambda: life.attempt(submission) == "spent")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(50):  # the server ends what the dead worker had asked of it, then the claim
        with life.turn() as turn:
            if turn is not None:
                assert carry(life.worker, turn) == "in_review"
                break
        time.sleep(0.1)
    assert life.state(submission) == "in_review"
    assert life.attempt(submission) == "spent"
    spent = life.sql(
        "SELECT count(*) FROM touchstone.event WHERE subject = %s AND kind = 'attempt-spent'",
        submission,
    )
    assert spent == [(1,)]


def test_a_worker_that_is_told_to_stop_gives_its_submission_up_and_another_goes_on(
    life: Example, pids: list[int]
) -> None:
    submission = life.queued(endless())
    asked = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with life.turn() as turn:
                carry(life.worker, turn, stopping=asked.is_set)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: life.attempt(submission) == "spent")
    asked.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "is stopping" in str(raised[0])
    assert not any(alive(pid) for pid in pids)
    assert life.state(submission) == "running"
    with life.turn() as turn:
        assert (turn.submission, turn.died) == (submission, 0), "an orderly stop is no death"


def overdue(life: Example, submission: str) -> list[tuple[str, str]]:
    done = look_at_overdue(life.worker, dt.datetime.now(dt.UTC) + LATER)
    return [one for one in done if one[0] == submission]


def test_what_nobody_worked_on_in_time_ends_as_the_facilitys_fault(life: Example) -> None:
    submission = life.queued(honest())
    assert look_at_overdue(life.worker, dt.datetime.now(dt.UTC)) == []
    assert overdue(life, submission) == [(submission, "Fail")]
    assert life.state(submission) == "technical_failure"
    found = life.sql("SELECT code, party FROM touchstone.finding WHERE submission = %s", submission)
    assert found == [("deadline_passed", "facility")]


def test_a_model_that_is_still_running_at_its_deadline_is_stopped_and_keeps_its_attempt_spent(
    life: Example, pids: list[int]
) -> None:
    submission = life.queued(endless())
    carrier = Carrier(life)
    until(lambda: life.attempt(submission) == "spent")
    assert overdue(life, submission) == [(submission, "Fail")]
    carrier.join(10)
    assert carrier.error is None
    assert not any(alive(pid) for pid in pids)
    assert life.attempt(submission) == "spent"


def test_a_late_review_is_told_once_and_decided_by_nobody(life: Example) -> None:
    from registry.submissions.notices import listing
    from registry.submissions.submit import describe

    submission = life.queued(honest(0.9))
    with life.turn() as turn:
        carry(life.worker, turn)
    assert overdue(life, submission) == [(submission, "Notice")]
    overdue(life, submission)
    assert life.state(submission) == "in_review"
    for who, sees in (("Eva", 1), ("Ada", 1), ("Finn", 0), ("Clara", 0)):
        told = [
            one
            for one in listing(life.api, life.people[who])
            if one["submission"] == submission and one["kind"] == "review-late"
        ]
        assert len(told) == sees, who
    row = life.row(submission) | {"deadline": dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)}
    assert describe(row, life.people["Eva"])["overdue"] is True
