"""Who holds what while a model runs and while it is scored, read from the processes' own memory."""

import contextlib
import json
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

from registry.settings import Databases
from tests.registry.facility_example import (
    Example,
    described,
    endless,
    facility_example,
    honest,
)
from tests.registry.role import Role
from tests.registry.test_life_stop import WORKER
from validators.cohort.key_store import open_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import Manifest, parse_manifest
from validators.cohort.stream import read_salted_reference, stream

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="no /proc: memory can't be read here"
)
SCORING = b"registry.pipeline.scoring"


@pytest.fixture(scope="module")
def example(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("release")) as made:
        yield made


class Secrets:
    """Bytes that only one side may hold: its key, and a piece of what that opens."""

    def __init__(self, example: Example) -> None:
        store = example.api.store
        self.manifest: Manifest = parse_manifest(store.get("cohorts/nodules/1/manifest.json"))
        keys: CohortKeys = open_keys(example.api.settings.cohort_keys, self.manifest)
        table = read_salted_reference(self.manifest, store, keys.reference())
        pieces = [*table["salt"].to_pylist()[:2], *sorted(set(table["patient"].to_pylist()))[:3]]
        self.reference = [keys.reference().secret, *(piece.encode() for piece in pieces)]
        shard = next(stream(self.manifest, store, keys.inputs()))
        row = shard.inputs["image"][0].tobytes()  # all of one nodule's image
        assert len(row) > 10_000
        assert len(set(row)) > 5
        self.inputs = [keys.inputs().secret, row]


def memory_of(process: int) -> bytes:
    """Every readable page of a process, and the names of its open files."""
    found = []
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("r") or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(edge, 16) for edge in span.split("-"))
            try:
                memory.seek(start)
                found.append(memory.read(end - start))
            except (OSError, ValueError):
                continue
    return b"\0".join(found)


def holds(process: int, wanted: list[bytes]) -> list[bool]:
    memory = memory_of(process)
    return [piece in memory for piece in wanted]


def open_files(process: int) -> set[str]:
    return {str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()}


def children(process: int) -> list[int]:
    """Its descendants."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            own = [int(one) for one in (task / "children").read_text().split()]
        except OSError:
            continue
        for child in own:
            found += [child, *children(child)] if Path(f"/proc/{child}").exists() else []
    return found


def command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def until(holds_now: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds_now():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def worker(example: Example) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, described(example)])


def test_while_a_model_runs_no_process_holds_the_reference_standard(example: Example) -> None:
    secrets = Secrets(example)
    example.fresh()
    submission = example.queued(endless())
    process = worker(example)
    try:
        until(lambda: example.attempt(submission) == "spent")
        family = [process.pid, *until(lambda: children(process.pid))]
        until(lambda: any(holds(one, secrets.inputs)[1] for one in family))  # the scan finds things
        assert holds(process.pid, secrets.inputs)[0]
        for one in (process.pid, *children(process.pid)):
            assert not any(holds(one, secrets.reference))
            assert not [file for file in open_files(one) if file.endswith("/reference")]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert released(example, submission) == ["inputs"]


def test_the_process_that_scores_holds_no_input_and_the_worker_no_reference(
    example: Example,
) -> None:
    """The scoring process is halted again and again, and looked through each time."""
    secrets = Secrets(example)
    example.fresh()
    submission = example.queued(honest())
    process = worker(example)
    looks = found = 0
    try:
        while process.poll() is None and not found:
            for one in children(process.pid):
                if SCORING not in command(one):
                    continue
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it ended
                    os.kill(one, signal.SIGSTOP)
                    here = holds(one, secrets.inputs + secrets.reference)
                    looks += 1
                    assert not any(here[:2])
                    assert not [file for file in open_files(one) if "/inputs/" in file]
                    if all(here[-3:]):  # patients, whom no shard names
                        found += 1
                        assert not any(holds(process.pid, secrets.reference))
                    os.kill(one, signal.SIGCONT)
            time.sleep(0.15)
        process.wait(120)
    finally:
        process.kill()
        process.wait()
    assert example.state(submission) == "in_review"
    assert found, f"none of {looks} looks saw the reference standard where it belongs"
    assert released(example, submission) == ["inputs", "reference"]


def released(example: Example, submission: str) -> list[str]:
    """Which keys the log says were released, in order; the table says the same."""
    logged = [
        json.loads(detail)["key"]
        for (detail,) in example.sql(
            "SELECT detail FROM touchstone.event WHERE kind = 'key-released' AND subject = %s"
            " ORDER BY seq", submission,
        )
    ]  # fmt: skip
    rows = example.sql(
        "SELECT purpose, expires_at > now() FROM touchstone.key_release WHERE submission = %s"
        " ORDER BY number", submission,
    )  # fmt: skip
    assert [purpose for purpose, _ in rows] == logged
    return logged


@pytest.mark.parametrize("purpose", ["inputs", "reference"])
def test_the_database_releases_no_key_before_its_time(example: Example, purpose: str) -> None:
    example.fresh()
    submission = example.queued(honest())
    by_hand = Role(example.worker.databases.worker)
    release = (
        "INSERT INTO touchstone.key_release (submission, purpose, expires_at)"
        f" VALUES ('{submission}', '{purpose}', now() + interval '1 year')"
    )
    with pytest.raises(psycopg.errors.RestrictViolation, match="is not released"):
        by_hand.execute(release)  # queued
    example.sql("UPDATE touchstone.submission SET state = 'running' WHERE id = %s", submission)
    if purpose == "reference":
        with pytest.raises(psycopg.errors.RestrictViolation, match="is not released"):
            by_hand.execute(release)  # no predictions yet
        return
    by_hand.execute(release)
    ((ends, deadline),) = example.sql(
        "SELECT k.expires_at, s.deadline FROM touchstone.key_release k JOIN touchstone.submission s"
        " ON s.id = k.submission WHERE s.id = %s", submission,
    )  # fmt: skip
    assert ends == deadline  # and not the year that was asked for
    by_hand.execute(
        "INSERT INTO touchstone.step (submission, name, output, seconds)"
        f" VALUES ('{submission}', 'run', '{{}}', 1)"
    )
    by_hand.execute(release)  # for the runs under perturbation, which come after the run itself
    by_hand.execute(release.replace("'inputs'", "'reference'"))
    with pytest.raises(psycopg.errors.RestrictViolation, match="is not released"):
        by_hand.execute(release)  # the truth is out: the inputs are done with


def test_nobody_but_the_worker_releases_a_key(example: Example) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        Role(example.api.databases.app).execute(
            "INSERT INTO touchstone.key_release (submission, purpose, expires_at)"
            " VALUES (gen_random_uuid(), 'inputs', now())"
        )
