"""Whatever is killed, and whenever: the same bytes, nobody blamed, nothing lost, the log whole.

Two workers share each run: one computes in its own processes, the other at an inference server.
Worker, server, sandboxed process, PostgreSQL and single sessions of it are killed with SIGKILL at
moments that a seed draws, and started again as a supervisor does.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg
import pytest

from registry.audit.log_key import make_log_key
from registry.database.embedded import EmbeddedPostgres
from registry.pipeline.run import parts_of
from registry.settings import Databases
from registry.submissions.lock import load_manifest
from registry.trust.errors import Unavailable
from registry.trust.keys import load_identity, pem_of, save_identity
from tests.registry.facility_example import Example, described, facility_example, honest
from tests.registry.logged import verified
from tests.registry.test_life_stop import until
from tests.registry.test_parts import alone, children, predictions, rows
from tests.serving.inference.serving import Server
from tests.validators import cohort_example

VICTIMS = ("worker", "server", "sandbox", "postmaster", "session")
MOST_WORKERS_A_RUN = 2
"""A submission on which three workers die is given up."""
UNDER_WAY = ("queued", "running", "assessed")
SECONDS = 120.0
"""A run on a crowded machine, with all its restarts."""

WORKER = """
import contextlib, dataclasses, json, sys, time
from pathlib import Path
from registry.pipeline.carry import carry
from registry.pipeline.parts import help_out
from registry.pipeline.turns import next_turn
from registry.trust.errors import Unavailable
from tests.registry.facility_example import opened
with opened(json.loads(sys.argv[1])) as facility:
    if len(sys.argv) > 2:
        settings = dataclasses.replace(
            facility.settings, inference=sys.argv[2], inference_token=Path(sys.argv[3])
        )
        facility = dataclasses.replace(facility, settings=settings)
    print("ready", flush=True)
    while True:
        with contextlib.suppress(Unavailable), next_turn(facility, "worker") as turn:
            help_out(facility) if turn is None else carry(facility, turn)
        time.sleep(0.05)
"""
_Answer = TypeVar("_Answer")


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this module's own, since it is killed."""
    home = Path(tempfile.mkdtemp(prefix="touchstone-test-"))
    home.chmod(0o711)
    try:
        with EmbeddedPostgres(home / "postgres") as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    home = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cohort_example, "SHARD", 1)  # a case a shard, so that there are many parts
        with facility_example(database, home) as made:
            root = load_identity(home / "root.key")
            made.api.settings.root_certificate.write_bytes(pem_of(root.certificate))
            save_identity(root, made.api.settings.keys, "root")
            make_log_key(made.api.settings)
            yield made


def answered(ask: Callable[[], _Answer]) -> _Answer:
    """What the database says, once it is there again."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return ask()
        except (Unavailable, psycopg.OperationalError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


class Crowd:
    """Two workers, a server and a PostgreSQL; what is killed comes back."""

    def __init__(self, life: Example, cluster: EmbeddedPostgres, home: Path) -> None:
        self._life, self._cluster, self._home = life, cluster, home
        self.server = self._serve()
        self.workers = [self._work(0), self._work(1)]
        for worker in self.workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"

    def _serve(self) -> Server:
        return Server(self._home, "--socket", str(self._home / "s"))

    def _work(self, number: int) -> "subprocess.Popen[bytes]":
        there = [self.server.address, str(self._home / "token")] if number else []
        words = [sys.executable, "-c", WORKER, described(self._life), *there]
        return subprocess.Popen(words, stdout=subprocess.PIPE)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.server.stop()

    def kill(self, victim: str, draw: np.random.Generator) -> bool:
        """Kill one such process and bring it back; False where there is none just now."""
        chosen = int(draw.integers(2))
        if victim == "worker":
            self.workers[chosen].kill()
            self.workers[chosen].wait()
            self.workers[chosen] = self._work(chosen)
        elif victim == "server":
            self.server.stop(signal.SIGKILL)
            self.server = self._serve()
        elif victim == "sandbox":
            return _killed([*children(self.workers[0].pid), *self.server.children()], draw)
        elif victim == "postmaster":
            assert self._cluster.pid is not None
            os.kill(self._cluster.pid, signal.SIGKILL)
            time.sleep(draw.uniform(0, 0.5))  # until somebody notices
            self._cluster.start()
        else:
            return _killed(answered(self._sessions), draw)
        return True

    def _sessions(self) -> list[int]:
        with psycopg.connect(self._cluster.superuser_dsn, autocommit=True) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND pid <> pg_backend_pid() ORDER BY pid"
            )
            return [pid for (pid,) in found]

    def check(self) -> None:
        """No worker ended by itself: what it can't mend is raised as what may pass."""
        for number, worker in enumerate(self.workers):
            assert worker.poll() is None, f"worker {number} ended with {worker.poll()}"


def _killed(found: list[int], draw: np.random.Generator) -> bool:
    if not found:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(found[int(draw.integers(len(found)))], signal.SIGKILL)
        return True
    return False


def kill_at_random(
    life: Example, cluster: EmbeddedPostgres, home: Path, kills: int
) -> dict[str, int]:
    """Run after run, until `kills` processes were killed; returns how many of each kind."""
    draw = np.random.default_rng(kills)
    order = [str(of) for _ in range(-(-kills // len(VICTIMS))) for of in draw.permutation(VICTIMS)]
    expected, runs = alone(life), 0
    order, done = order[:kills], 0
    crowd = Crowd(life, cluster, home)
    try:
        while done < kills:
            answered(life.fresh_protocol)
            submission = answered(lambda: life.queued(honest(0.7)))
            workers, runs = 0, runs + 1
            while done < kills and answered(lambda s=submission: life.state(s)) in UNDER_WAY:
                time.sleep(draw.uniform(0.05, 1.0))
                if order[done] == "worker" and workers == MOST_WORKERS_A_RUN:
                    break
                if crowd.kill(order[done], draw):
                    workers += order[done] == "worker"
                    done += 1
                crowd.check()
            until(lambda s=submission: answered(lambda: life.state(s)) not in UNDER_WAY, SECONDS)
            unharmed(life, submission, expected, workers)
        crowd.check()
    finally:
        crowd.close()
    print(f"{done} kills in {runs} runs: {', '.join(f'{order.count(of)} {of}' for of in VICTIMS)}")
    return {of: order.count(of) for of in VICTIMS}


def unharmed(life: Example, submission: str, expected: str, workers: int) -> None:
    """What holds after a run in which this many workers were killed."""

    def counted(what: str) -> Any:
        return life.sql(f"SELECT count(*) FROM touchstone.{what} = %s", submission)[0][0]

    row = life.row(submission)
    assert row["state"] == "in_review", (row["failure_code"], row["failure_message"])
    assert predictions(life, submission) == expected
    assert life.attempt(submission) == "spent"
    assert counted("event WHERE kind = 'attempt-spent' AND subject") == 1
    assert counted("finding WHERE submission") == 0, "nobody is blamed"
    assert counted("turn WHERE outcome = 'unforeseen' AND submission") == 0
    assert counted("turn WHERE outcome = 'died' AND submission") <= workers
    made = {part for part, *_ in rows(life, submission)}
    assert made == set(range(len(parts_of(load_manifest(life.worker, row)))))
    assert counted("step WHERE name IN ('run', 'assess', 'prepare') AND submission") == 3


def test_killed_at_random_it_costs_time_and_nothing_else(
    life: Example, cluster: EmbeddedPostgres, database: Databases, tmp_path: Path
) -> None:
    killed = kill_at_random(life, cluster, tmp_path, len(VICTIMS))
    assert set(killed.values()) == {1}
    assert verified(life.api, database).findings == ()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_fifty_times_at_random_it_costs_time_and_nothing_else(
    life: Example, cluster: EmbeddedPostgres, database: Databases, tmp_path: Path
) -> None:
    killed = kill_at_random(life, cluster, tmp_path, 50)
    assert set(killed.values()) == {10}
    assert verified(life.api, database).findings == ()


def test_a_turn_that_the_database_lost_is_no_death_and_judges_nothing(
    life: Example, cluster: EmbeddedPostgres
) -> None:
    """The worker lives on and learns of it; whoever comes next counts nobody's death."""
    outcome = "SELECT outcome FROM touchstone.turn WHERE submission = %s ORDER BY number"
    for lose in (lambda: _end_a_session(cluster), lambda: _restart(cluster)):
        answered(life.fresh)
        submission = life.queued(honest(0.7))
        with life.turn() as lost:
            assert lost is not None
            lost.check()
            lose()
            with pytest.raises(Unavailable, match="the claim"):
                _for_a_while(lost.check)
            with _next(life) as turn:
                assert (turn.submission, turn.died) == (submission, 0)
                assert life.sql(outcome, submission) == [("again",), (None,)]


@contextlib.contextmanager
def _next(life: Example) -> Iterator[Any]:
    with contextlib.ExitStack() as open_:
        yield answered(lambda: open_.enter_context(life.turn()))


def _for_a_while(ask: Callable[[], None]) -> None:
    """The server takes a moment to end the other sessions."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        ask()
        time.sleep(0.01)


def _end_a_session(cluster: EmbeddedPostgres) -> None:
    with psycopg.connect(cluster.superuser_dsn, autocommit=True) as connection:
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("SELECT 1")


def _restart(cluster: EmbeddedPostgres) -> None:
    assert cluster.pid is not None
    os.kill(cluster.pid, signal.SIGKILL)
    cluster.start()
