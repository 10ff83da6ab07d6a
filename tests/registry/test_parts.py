"""A run shared out among workers: the same bytes, however many took part and whoever was lost."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest

from registry.pipeline import manifests, parts
from registry.pipeline.carry import carry
from registry.pipeline.parts import help_out
from registry.pipeline.run import parts_of, shards_with
from registry.settings import Databases
from registry.storage.local import LocalStore
from registry.submissions import places
from registry.submissions.withdraw import withdraw
from registry.trust.errors import Unavailable
from tests.registry.facility_example import Example, described, facility_example, honest
from tests.registry.further_example import NOISE
from tests.registry.test_life_stop import until
from tests.validators import cohort_example
from validators.cohort.manifest import parse_manifest

KILLS = 5

HELPER = """
import json, sys, time
from registry.pipeline.parts import help_out
from tests.registry.facility_example import opened
with opened(json.loads(sys.argv[1])) as facility:
    print("ready", flush=True)
    while True:
        help_out(facility)
        time.sleep(0.05)
"""
LEADER = """
import contextlib, json, sys, time
from registry.pipeline.carry import carry
from registry.pipeline.turns import next_turn
from registry.trust.errors import Unavailable
from tests.registry.facility_example import opened
with opened(json.loads(sys.argv[1])) as facility:
    while True:
        with next_turn(facility, "leader") as turn:
            if turn is not None:
                with contextlib.suppress(Unavailable):  # as `touchstone worker`: it tries again
                    carry(facility, turn)
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cohort_example, "SHARD", 1)  # a case a shard, so that there are many parts
        with facility_example(database, tmp_path_factory.mktemp("parts")) as made:
            yield made


def rows(life: Example, submission: str, name: str = "run") -> list[tuple[Any, ...]]:
    return life.sql(
        "SELECT part, answers, worker FROM touchstone.part WHERE submission = %s AND run = %s"
        " ORDER BY part", submission, name,
    )  # fmt: skip


def predictions(life: Example, submission: str) -> str:
    data = life.worker.store.get(places.predictions(submission))
    return hashlib.sha256(data).hexdigest()


def carried(life: Example) -> str:
    with life.turn() as turn:
        assert turn is not None
        return carry(life.worker, turn)


@pytest.mark.parametrize(("shards", "parts_expected"), [(1, 1), (31, 31), (64, 32), (3000, 188)])
def test_parts_follow_from_the_manifest_and_cover_each_shard_once(shards, parts_expected):
    manifest: Any = SimpleNamespace(shards=tuple(SimpleNamespace(cases=1) for _ in range(shards)))
    made = parts_of(manifest)
    assert len(made) == parts_expected
    assert [index for part in made for index in part] == list(range(shards))


def test_only_shards_that_hold_a_wanted_case_are_read_again():
    manifest: Any = SimpleNamespace(shards=tuple(SimpleNamespace(cases=n) for n in (2, 3, 1)))
    cases = ["a", "b", "c", "d", "e", "f"]
    assert list(shards_with(manifest, cases, {"f", "a"})) == [0, 2]
    assert list(shards_with(manifest, cases, set())) == []


def test_the_parts_are_in_the_record_and_their_answers_in_the_store(life: Example) -> None:
    life.fresh_protocol(robustness=[NOISE])
    submission = life.queued(honest(0.7))
    assert carried(life) == "in_review"
    made = rows(life, submission)
    assert [part for part, *_ in made] == list(range(len(made)))
    assert len(made) > 2, "the example's cohort has several shards"
    assert len(rows(life, submission, "run/noise_3_descriptors")) == len(made)
    part, digest, worker = made[0]
    data = life.worker.store.get(places.part(submission, "run", part, digest))
    assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    assert str(os.getpid()) in worker


def test_the_database_takes_no_part_that_was_not_paid_for_nor_one_too_late(life: Example) -> None:
    life.fresh_protocol()
    submission = life.queued(honest(0.7))
    digest = "sha256:" + "0" * 64
    add = f"INSERT INTO touchstone.part VALUES (%s, 'run', 0, '{digest}', %s, 0, 1, 'x', now())"
    with pytest.raises(psycopg.errors.RestrictViolation, match="attempt was spent"):
        life.sql(add, submission, digest)
    assert carried(life) == "in_review"
    with pytest.raises(psycopg.errors.RestrictViolation):
        life.sql(add.replace("'run', 0", "'run', 999"), submission, digest)
    for change in ("UPDATE touchstone.part SET worker = 'y'", "DELETE FROM touchstone.part"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            life.sql(change)


def started(life: Example, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, described(life)], stdout=subprocess.PIPE
    )


def alone(life: Example, **more: Any) -> str:
    """The predictions of the same model, run by one worker on one core."""
    life.fresh_protocol(**more)
    submission = life.queued(honest(0.7))
    assert carried(life) == "in_review"
    return predictions(life, submission)


def test_a_helper_begins_before_the_first_part_and_the_bytes_are_those_of_one_worker(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, keep = alone(life), parts._keep

    def after_the_helper(*given: Any) -> None:
        until(lambda: rows(life, submission), 60)
        keep(*given)

    monkeypatch.setattr(parts, "_keep", after_the_helper)
    helpers = [started(life, HELPER)]
    assert helpers[0].stdout is not None
    assert helpers[0].stdout.readline() == b"ready\n"
    try:
        life.fresh_protocol()
        submission = life.queued(honest(0.7))
        assert carried(life) == "in_review"
    finally:
        for process in helpers:
            process.kill()
            process.wait()
    workers = {worker for *_, worker in rows(life, submission)}
    assert len(workers) == 2, "the helper had its part in it"
    assert predictions(life, submission) == expected
    released = "SELECT count(*) FROM touchstone.key_release WHERE submission = %s AND purpose = %s"
    found = life.sql(released, submission, "inputs")[0][0]
    assert found >= 2, "each worker's release is in the record"


def test_parts_of_another_class_are_answered_again_and_never_mixed_in(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader on another kind of processor died half way; the next one begins anew."""
    expected = alone(life)
    life.fresh_protocol()
    submission = life.queued(honest(0.7))
    real = parts.class_of
    stop = iter((False, False, True))

    def until_stopped(*given: Any) -> None:
        if next(stop):
            raise Unavailable("this host is lost")
        keep(*given)

    keep = parts._keep
    with monkeypatch.context() as other:
        other.setattr(parts, "class_of", lambda sandbox: "sha256:" + "9" * 64)
        other.setattr(parts, "_keep", until_stopped)
        with pytest.raises(Unavailable):
            carried(life)
        assert len(rows(life, submission)) == 2
        other.setattr(parts, "class_of", real)
        assert help_out(life.worker) == 0, "a helper of another class"
    assert carried(life) == "in_review"
    made = rows(life, submission)
    assert len(made) == len({part for part, *_ in made}) + 2
    assert predictions(life, submission) == expected


def test_a_helper_comes_before_nothing_was_paid_and_finds_nothing_to_do(life: Example) -> None:
    life.fresh_protocol()
    submission = life.queued(honest(0.7))
    assert help_out(life.worker) == 0
    assert life.attempt(submission) is None
    assert carried(life) == "in_review"
    assert help_out(life.worker) == 0


def test_whoever_looks_for_something_to_do_releases_no_key_and_reads_a_manifest_once(
    life: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader died before its first part: there is nobody to help, or every part is held."""
    life.fresh()
    submission = life.queued(honest(0.7))
    keep = parts._keep

    def lost(*given: Any) -> None:
        raise Unavailable("this host is lost")

    def released() -> int:
        asked = "SELECT count(*) FROM touchstone.key_release WHERE submission = %s"
        return int(life.sql(asked, submission)[0][0])

    monkeypatch.setattr(parts, "_keep", lost)
    with pytest.raises(Unavailable):
        carried(life)
    assert (life.attempt(submission), rows(life, submission), released()) == ("spent", [], 1)
    assert help_out(life.worker) == 0, "nobody leads"
    given = iter((keep, lost))
    monkeypatch.setattr(parts, "_keep", lambda *of: next(given)(*of))
    with pytest.raises(Unavailable):
        carried(life)
    ((answered, *_),) = rows(life, submission)
    read: list[str] = []
    get = LocalStore.get
    monkeypatch.setattr(
        LocalStore, "get", lambda store, path: (read.append(path), get(store, path))[1]
    )
    monkeypatch.setattr(manifests, "_kept", OrderedDict())
    with psycopg.connect(life.worker.databases.app, autocommit=True) as held:
        every = len(
            parts_of(parse_manifest(get(life.worker.store, life.row(submission)["manifest_path"])))
        )
        for part in range(every):
            held.execute(
                "SELECT pg_advisory_lock(hashtextextended(%s, 749))", [f"{submission}/run/{part}"]
            )
        for _ in range(3):
            assert help_out(life.worker) == 0, "nothing is left to do"
    assert answered in range(every)
    assert len(read) == 1, "the manifest, and no more than once"
    assert released() == 2, "the leaders'"


def test_a_leader_that_waits_for_a_helper_ends_when_the_run_is_stopped(life: Example) -> None:
    """The helper holds a part and is stopped in its tracks: only the record can end this."""
    life.fresh_protocol()
    submission = life.queued(honest(0.7))
    held = psycopg.connect(life.worker.databases.app, autocommit=True)
    held.execute("SELECT pg_advisory_lock(hashtextextended(%s, 749))", [f"{submission}/run/0"])
    reached: list[str] = []
    thread = threading.Thread(target=lambda: reached.append(carried(life)))
    thread.start()
    until(lambda: len(rows(life, submission)) > 1)
    withdraw(life.api, life.people["Eva"], submission, "a better model is ready")
    thread.join(15)
    held.close()
    assert reached == ["withdrawn"]


def test_killed_at_random_and_again_it_ends_with_the_same_bytes(life: Example) -> None:
    expected = alone(life)
    kill_at_random(life, expected, KILLS)


def test_sandboxes_killed_at_random_cost_time_and_no_byte(life: Example) -> None:
    """Somebody else's SIGKILL looks like no memory: the process is started anew, nobody blamed."""
    kill_sandboxes(life, alone(life), 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sandboxes_killed_fifty_times_at_random_change_no_byte(life: Example) -> None:
    kill_sandboxes(life, alone(life), 50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_fifty_times_at_random_it_ends_with_the_same_bytes(life: Example) -> None:
    kill_at_random(life, alone(life), 50)


def kill_at_random(life: Example, expected: str, kills: int) -> None:
    """Kill helper or leader at random moments; another always goes on."""
    draw = np.random.default_rng(kills)
    killed = 0
    while killed < kills:
        life.fresh_protocol()
        submission = life.queued(honest(0.7))
        processes = [started(life, LEADER), started(life, HELPER)]
        while killed < kills and life.state(submission) in ("queued", "running"):
            time.sleep(draw.uniform(0.1, 2.5))
            chosen = int(draw.integers(2))
            deaths = life.sql(
                "SELECT count(*) FROM touchstone.turn WHERE submission = %s AND outcome = 'died'",
                submission,
            )[0][0]
            if chosen == 0 and deaths >= 1:
                chosen = 1  # a submission on which three workers die is given up
            os.kill(processes[chosen].pid, signal.SIGKILL)
            processes[chosen].wait()
            killed += 1
            processes[chosen] = started(life, (LEADER, HELPER)[chosen])
        until(lambda s=submission: life.state(s) not in ("queued", "running", "assessed"), 60)
        for process in processes:
            process.kill()
            process.wait()
        assert life.state(submission) == "in_review"
        assert predictions(life, submission) == expected


def children(pid: int) -> list[int]:
    """The processes that a worker started: its sandboxes."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    with contextlib.suppress(OSError):
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []


def kill_sandboxes(life: Example, expected: str, kills: int) -> None:
    """Kill a worker's sandbox at random moments, twice a run at most; the worker goes on."""
    draw = np.random.default_rng(kills)
    killed = 0
    while killed < kills:
        life.fresh_protocol()
        submission = life.queued(honest(0.7))
        process = started(life, LEADER)

        def busy(pid: int = process.pid, of: str = submission) -> bool:
            return bool(children(pid)) or life.state(of) not in ("queued", "running")

        try:
            for _ in range(min(2, kills - killed)):
                until(busy, 60)
                time.sleep(draw.uniform(0, 0.6))
                if found := children(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(found[int(draw.integers(len(found)))], signal.SIGKILL)
                        killed += 1
            until(lambda s=submission: life.state(s) not in ("queued", "running", "assessed"), 60)
        finally:
            process.kill()
            process.wait()
        assert life.state(submission) == "in_review"
        assert predictions(life, submission) == expected
