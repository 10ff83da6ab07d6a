"""A run shared out: two workers on two cores against one on one, and what a part costs.

    python -m bench.parts [--rounds 3] [--seconds 20]

One facility on an embedded PostgreSQL, a cohort of a case a shard and a shard a part, and a model
that computes for a while on one thread. Each worker is held to a core of its own, so it has one
sandboxed process. Measured is from the first part's begin to the last one's end. With a model that
computes nothing the same span is what claim, reading, sandbox, file and row of a part take. Exit
status 1 where two workers are less than 1.8 x as fast as one.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from registry.database.embedded import EmbeddedPostgres
from registry.database.migrate import ROLES, create_roles, migrate
from registry.settings import Databases
from tests.registry.facility_example import Example, described, endless, facility_example, honest
from tests.validators import cohort_example

TARGET = 1.8
_PROGRAM = """
import contextlib, json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
from registry.pipeline.carry import carry
from registry.pipeline.parts import help_out
from registry.pipeline.turns import next_turn
from registry.trust.errors import Unavailable
from tests.registry.facility_example import opened
with opened(json.loads(sys.argv[1])) as facility:
    print("ready", flush=True)
    while True:
        if sys.argv[3] == "help":
            help_out(facility)
        else:
            with next_turn(facility, "leader") as turn, contextlib.suppress(Unavailable):
                if turn is not None:
                    carry(facility, turn)
        time.sleep(0.05)
"""
_SPAN = """
SELECT count(*), count(DISTINCT worker),
    extract(epoch FROM max(finished_at) - min(finished_at - seconds * interval '1 second'))
FROM touchstone.part WHERE submission = %s AND run = 'run'
"""


def span(life: Example, model: bytes, workers: int) -> tuple[float, int]:
    """Seconds from the first part's begin to the last one's end, and how many parts there were."""
    life.fresh_protocol(repeatability={"cases": 1})
    submission = life.queued(model)
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    try:
        for number in reversed(range(workers)):
            role = "lead" if number == 0 else "help"
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, described(life), str(cores[number]), role],
                stdout=subprocess.PIPE,
            )
            processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        while life.state(submission) in ("queued", "running", "assessed"):
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert life.state(submission) == "in_review", life.row(submission)["failure_code"]
    ((parts, took_part, seconds),) = life.sql(_SPAN, submission)
    assert took_part == workers, "every worker had its part in it"
    return float(seconds), int(parts)


def measure(life: Example, rounds: int, seconds: float) -> bool:
    """Print both figures."""
    trial, parts = span(life, endless(20_000), 1)
    empty, _ = span(life, honest(0.7), 1)
    a_round = max(1e-9, (trial - empty) / parts / 20_000)
    model = endless(int(seconds / parts / a_round))
    pairs = [(span(life, model, 1)[0], span(life, model, 2)[0]) for _ in range(rounds)]
    alone = statistics.median(one for one, _ in pairs)
    ratio = statistics.median(one / two for one, two in pairs)
    print(f"a part of one case: {1000 * empty / parts:.0f} ms with a model that computes nothing")
    print(
        f"{parts} parts, {alone:.1f} s by one worker on one core; two on two are {ratio:.2f} x as "
        f"fast (target {TARGET}): {'met' if ratio >= TARGET else 'MISSED'}"
    )
    return ratio >= TARGET


def main() -> None:
    """A database and a facility of their own, removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("two cores are needed to compare two workers with one; this process has one")
        return
    home = Path(tempfile.mkdtemp(prefix="touchstone-bench-"))
    home.chmod(0o711)
    cohort_example.SHARD = 1  # a case a shard
    try:
        with EmbeddedPostgres(home / "postgres") as server:
            create_roles(server.superuser_dsn, dict.fromkeys(ROLES, "bench"))
            names = ("app", "gate", "mlflow", "login", "owner", "worker")
            databases = Databases(
                **{name: server.dsn(f"touchstone_{name}", "bench", "touchstone") for name in names}
            )
            migrate(str(databases.owner))
            (home / "facility").mkdir()
            with facility_example(databases, home / "facility") as life:
                met = measure(life, given.rounds, given.seconds)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
