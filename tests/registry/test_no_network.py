"""No packet and no file outside its folders: a whole submission, with its database and a helper.

As in tests/serving/test_no_network.py, whose counting this uses.
"""

import json
import subprocess
import sys

import pytest

from tests.serving.test_no_network import COUNTING, ROOT, alone

PROGRAM = (
    COUNTING
    + """
before = {"counted": counted(), "files": files()}
from registry.database.embedded import EmbeddedPostgres
from registry.database.migrate import ROLES, create_roles, migrate
from registry.pipeline import parts
from registry.pipeline.carry import carry
from registry.settings import Databases
from tests.registry.facility_example import described, facility_example, honest
from tests.registry.test_life_stop import until
from tests.registry.test_parts import HELPER, rows
from tests.validators import cohort_example

run = Path("/tmp/run")
cohort_example.SHARD = 1  # a case a shard
keep = parts._keep
def after_the_helper(*given):
    until(lambda: rows(life, submission), 60)
    keep(*given)
parts._keep = after_the_helper
with EmbeddedPostgres(run / "postgres") as server:
    create_roles(server.superuser_dsn, dict.fromkeys(ROLES, "x"))
    names = ("app", "gate", "mlflow", "login", "owner", "worker")
    dsns = {name: server.dsn(f"touchstone_{name}", "x", "touchstone") for name in names}
    migrate(dsns["owner"])
    (run / "facility").mkdir()
    with facility_example(Databases(**dsns), run / "facility") as life:
        words = [sys.executable, "-B", "-c", HELPER, described(life)]
        helper = subprocess.Popen(words, stdout=subprocess.PIPE)
        helper.stdout.readline()
        try:
            life.fresh_protocol()
            submission = life.queued(honest(0.7))
            with life.turn() as turn:
                state = carry(life.worker, turn)
            workers = len({worker for *_, worker in rows(life, submission)})
            opened = sockets()
        finally:
            helper.kill()
            helper.wait()
after = {"counted": counted(), "files": files()}
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
    try:
        line.sendto(b"x", ("192.0.2.1", 53))
    except OSError:
        pass
print(json.dumps({"before": before, "after": after, "sockets": opened, "state": state,
                  "workers": workers, "control": counted()}))
"""
)


@pytest.mark.slow
def test_a_submission_with_its_database_and_a_helper_sends_nothing_and_leaves_nothing() -> None:
    words = alone()
    if "--map-root-user" in words:
        pytest.skip("PostgreSQL needs another account than root's, and there is none here")
    done = subprocess.run(
        [*words, sys.executable, "-B", "-c", PROGRAM, str(ROOT)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp/home", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["state"], found["workers"]) == ("in_review", 2)
    assert found["after"] == found["before"]
    assert found["after"]["files"] == ["/tmp/home"]
    assert set(found["sockets"].values()) == {0}
    assert found["control"] != found["after"]["counted"], "an attempt in vain is counted"
