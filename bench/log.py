"""What the log costs: checkpoints, proofs and computing all of it again, in a real database.

    python -m bench.log --events 100000

Prints seconds. The tree is read from PostgreSQL as leaf hashes; an auditor's recomputation reads
every row, parses it strictly, and computes chain, leaves, tree and every checkpoint.
"""

import argparse
import datetime as dt
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from registry.audit.checkpoints import make_checkpoint, path_of, stored_sizes
from registry.audit.log_key import log_key
from registry.audit.recompute import recompute
from registry.audit.tree import grow
from registry.database.embedded import EmbeddedPostgres
from registry.database.migrate import ROLES, create_roles, migrate
from registry.database.record import Record
from registry.settings import Databases
from registry.trust.event import parse_event
from registry.trust.log_proof import check_proof, proof_bytes
from registry.trust.merkle import Tree, extends
from tests.registry.logged import facility_over

PAGE = 5000
WRITE = """
DO $$ BEGIN FOR n IN 1..{} LOOP
    PERFORM touchstone.append_event('worker', 'sme-a', 'submission-assessed',
        gen_random_uuid()::text, '{{"from":"running","number":' || n || '}}');
END LOOP; END $$"""


def timed(what: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; its seconds are printed."""
    begun = time.perf_counter()
    result = work()
    print(f"{time.perf_counter() - begun:9.3f} s  {what}", flush=True)
    return result


def pages(record: Record) -> Iterator[dict[str, Any]]:
    """Every row, page by page, as the API reads them."""
    after = 0
    while True:
        with record.transaction() as now:
            rows = now.all("log_events", after=after, organisation=None, limit=PAGE)
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1]["seq"]


def measure(events: int, databases: Databases, home: Path) -> None:
    """Fill the log, measure, print."""
    facility = facility_over(databases, home)
    worker = Record(str(databases.worker))

    def write(count: int) -> None:
        with psycopg.connect(str(databases.worker)) as connection:
            connection.execute(WRITE.format(count))

    quarter = events // 4
    for part in range(4):
        write(quarter)
        if part < 3:
            make_checkpoint(facility)
    print(f"{events} events")
    timed("a checkpoint: read the whole tree, hold it against the last one, sign, store",
          lambda: make_checkpoint(facility))  # fmt: skip
    tree = timed("the tree from the database", lambda: grow(Tree(), facility.gate))
    size = tree.size
    timed("1000 inclusion proofs from it", lambda: [
        tree.inclusion_path(n * 997 % size) for n in range(1000)])  # fmt: skip
    paths = timed("1000 consistency proofs from it", lambda: [
        tree.consistency_path(n * 89 % size + 1) for n in range(1000)])  # fmt: skip
    assert extends(1, tree.root(1), size, tree.root(), paths[0])
    rows = timed("every row from the database, in pages", lambda: list(pages(worker)))
    stored = {n: facility.store.get(path_of(n)) for n in stored_sizes(facility)}
    key = log_key(facility)
    outcome = timed(
        "chain, leaves, tree and checkpoints computed again from the rows",
        lambda: recompute(rows, stored, key.certificate, facility.root, dt.datetime.now(dt.UTC)),
    )
    assert outcome.findings == ()
    assert (outcome.events, outcome.checkpoints) == (size, 4)
    event = parse_event({name: value for name, value in rows[17].items() if name != "hash"})
    proof = proof_bytes([(event, tree.inclusion_path(17))], stored[size], key.certificate)
    timed(f"one proof of {len(proof)} bytes checked by a stranger",
          lambda: check_proof(proof, facility.root, dt.datetime.now(dt.UTC)))  # fmt: skip
    worker.close()
    facility.close()


def main() -> None:
    """A database of its own, removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="touchstone-bench-"))
    home.chmod(0o711)
    try:
        with EmbeddedPostgres(home / "postgres") as cluster:
            passwords = {role: secrets.token_urlsafe(16) for role in ROLES}
            create_roles(cluster.superuser_dsn, passwords)
            dsn = {role.removeprefix("touchstone_"): cluster.dsn(role, passwords[role])
                   for role in ROLES}  # fmt: skip
            databases = Databases(**dsn)
            assert databases.owner is not None
            migrate(databases.owner)
            measure(given.events, databases, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
