"""Work under a released key ends with the release, in whatever it is; the next turn goes on."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.pipeline import canary, release
from registry.pipeline.carry import carry
from registry.pipeline.scoring import score_apart
from registry.settings import Databases
from registry.trust.errors import Unavailable
from serving.sandbox.process import Sandbox
from tests.registry.facility_example import Example, endless, facility_example, honest
from tests.registry.role import Role


@pytest.fixture(scope="module")
def example(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("ends")) as made:
        yield made


@pytest.fixture
def lasts(monkeypatch: pytest.MonkeyPatch) -> Callable[[release.Purpose, float], None]:
    """Say how many seconds a release lasts from now on."""

    def said(purpose: release.Purpose, seconds: float) -> None:
        monkeypatch.setitem(release.LASTS, purpose, dt.timedelta(seconds=seconds))

    monkeypatch.setattr(canary, "PAUSE_SECONDS", 0.01)
    return said


def carried(example: Example) -> str:
    with example.turn() as turn:
        assert turn is not None
        return carry(example.worker, turn)


def releases(example: Example, submission: str) -> list[str]:
    return [
        purpose
        for (purpose,) in example.sql(
            "SELECT purpose FROM touchstone.key_release WHERE submission = %s ORDER BY number",
            submission,
        )
    ]


def test_a_run_ends_with_its_release_before_a_shard_and_the_next_turn_gets_another(
    example: Example, lasts: Any
) -> None:
    example.fresh()
    submission = example.queued(honest())
    lasts("inputs", 0.01)
    with pytest.raises(Unavailable, match="release of the cohort's key has ended") as ended:
        carried(example)
    assert ended.value.code == "release_ended"
    assert (example.state(submission), example.attempt(submission)) == ("running", None)
    lasts("inputs", 600)
    lasts("reference", 0.2)  # ends while the process that scores is at work, or just before
    with pytest.raises(Unavailable, match="release of the cohort's key has ended"):
        carried(example)
    assert (example.state(submission), example.attempt(submission)) == ("running", "spent")
    lasts("reference", 600)
    assert carried(example) == "in_review"
    assert releases(example, submission) == ["inputs", "inputs", "reference", "reference"]
    outcomes = example.sql(
        "SELECT outcome FROM touchstone.turn WHERE submission = %s ORDER BY number", submission
    )
    assert outcomes == [("again",), ("again",), ("done",)]
    assert not example.sql("SELECT FROM touchstone.finding WHERE submission = %s", submission)


def test_a_model_that_hangs_is_killed_when_the_release_ends(
    example: Example, lasts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    example.fresh()
    submission = example.queued(endless())
    seen: list[int] = []
    launch = Sandbox._launch

    def noted(self: Sandbox) -> None:
        launch(self)
        seen.append(self.pid or 0)

    monkeypatch.setattr(Sandbox, "_launch", noted)
    lasts("inputs", 6.0)  # a loaded machine takes seconds to come to the first shard
    started = time.monotonic()
    with pytest.raises(Unavailable, match="release of the cohort's key has ended"):
        carried(example)
    assert 5.5 < time.monotonic() - started < 60
    assert seen
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)
    assert (example.state(submission), example.attempt(submission)) == ("running", "spent")
    assert not example.sql("SELECT FROM touchstone.finding WHERE submission = %s", submission)


def test_the_process_that_scores_ends_by_itself_and_else_by_the_worker(
    example: Example, lasts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import datetime as dt, time; from registry.pipeline.scoring import end_at\n"
        "end_at(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.2)); time.sleep(30)"
    )
    alone = subprocess.run([sys.executable, "-c", code], check=False, timeout=20)
    assert alone.returncode == -signal.SIGALRM
    halted: list[int] = []
    popen = subprocess.Popen

    class Halted(popen):  # type: ignore[type-arg, misc]
        """Stopped at once: what its kernel was to do at the deadline waits as well."""

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            os.kill(self.pid, signal.SIGSTOP)
            halted.append(self.pid)

    example.fresh()
    example.queued(honest())
    lasts("reference", 1.0)
    calls: list[float] = []

    def timed(*arguments: Any) -> Any:
        monkeypatch.setattr(subprocess, "Popen", Halted)
        started = time.monotonic()
        try:
            return score_apart(*arguments)
        finally:
            calls.append(time.monotonic() - started)
            monkeypatch.setattr(subprocess, "Popen", popen)

    monkeypatch.setattr("registry.pipeline.assessment.score_apart", timed)
    with pytest.raises(Unavailable, match="release of the cohort's key has ended"):
        carried(example)
    assert calls[0] < 3
    assert halted
    assert not any(Path(f"/proc/{pid}").exists() for pid in halted)


def test_the_database_lengthens_no_release_and_keeps_a_shorter_one(example: Example) -> None:
    example.fresh()
    submission = example.queued(honest())
    example.sql("UPDATE touchstone.submission SET state = 'running' WHERE id = %s", submission)
    by_hand = Role(example.worker.databases.worker)
    for asked, kept in (("1 minute", dt.timedelta(minutes=1)), ("1 year", None)):
        by_hand.execute(
            "INSERT INTO touchstone.key_release (submission, purpose, expires_at)"
            f" VALUES ('{submission}', 'inputs', now() + interval '{asked}')"
        )
        ((lasted, at_deadline),) = example.sql(
            "SELECT k.expires_at - k.released_at, k.expires_at = s.deadline"
            " FROM touchstone.key_release k JOIN touchstone.submission s ON s.id = k.submission"
            " WHERE s.id = %s ORDER BY k.number DESC LIMIT 1", submission,
        )  # fmt: skip
        assert at_deadline == (kept is None)
        assert kept in (None, lasted)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        by_hand.execute("UPDATE touchstone.key_release SET expires_at = now() + interval '1 year'")
