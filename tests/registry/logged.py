"""A facility with a log: a real database, a local store, a root and the log's own key."""

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import psycopg

from registry.audit.checkpoints import path_of, stored_sizes
from registry.audit.log_key import log_key
from registry.audit.recompute import Outcome, recompute
from registry.database.record import Record
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.mlflow_gate.artifacts import open_artifacts
from registry.settings import Databases, Settings
from registry.setup import lay_ground
from registry.storage.opening import open_store
from registry.trust.keys import load_certificate
from tests.registry.role import Role, token_of

PEOPLE = {
    "Ann": ("tef", "facility", "auditor"),
    "Ada": ("tef", "facility", "assessor"),
    "Sam": ("tef", "facility", "steward"),
    "Ad": ("tef", "facility", "admin"),
    "Eva": ("sme-a", "sme", "innovator"),
    "Bob": ("sme-b", "sme", "innovator"),
    "Hal": ("clinic", "hospital", "clinician"),
}


def facility_over(database: Databases, home: Path) -> Facility:
    """The facility of a migrated database, with its organisations."""
    settings = Settings(
        home=home / "home", server="http://127.0.0.1:1", token=None, keys=home / "keys",
        databases=database,
    )  # fmt: skip
    lay_ground(settings)
    Role(database.owner).execute(
        "INSERT INTO touchstone.organisation VALUES ('tef','facility','TEF'), ('sme-a','sme','A'),"
        " ('sme-b','sme','B'), ('clinic','hospital','C') ON CONFLICT DO NOTHING"
    )
    return Facility(
        settings=settings,
        databases=database,
        record=Record(database.app),
        gate=Record(database.gate, size=2),
        login=Record(database.login, size=2),
        store=open_store(settings),
        artifacts=open_artifacts(settings),
        root=load_certificate(settings.root_certificate),
    )


def person(database: Databases, name: str) -> tuple[Caller, str]:
    """(caller, token) of one of PEOPLE."""
    organisation, kind, role = PEOPLE[name]
    secret = token_of(database, organisation, role, name)
    proof = hashlib.sha256(secret.encode()).digest()
    return Caller(organisation, kind, role, name, "t", proof), secret  # type: ignore[arg-type]


def log_some(database: Databases, count: int, *, organisation: str = "sme-a") -> None:
    """Events as the worker writes them."""
    record = Record(str(database.worker), size=1)
    with record.transaction() as now:
        for number in range(count):
            now.one("event_add", actor="worker", organisation=organisation, kind="test-event",
                    subject=f"subject {number}", detail='{"größe":"1 \\"x\\" \\\\"}')  # fmt: skip
    record.close()


def rows_of(database: Databases) -> list[dict[str, Any]]:
    """Every event, as an auditor downloads them."""
    record = Record(str(database.worker), size=1)
    with record.transaction() as now:
        rows = now.all("log_events", after=0, organisation=None, limit=10**6)
    record.close()
    return rows


def verified(facility: Facility, database: Databases, *against: bytes) -> Outcome:
    """What an auditor computes from rows and store."""
    return recompute(
        rows_of(database),
        {size: facility.store.get(path_of(size)) for size in stored_sizes(facility)},
        log_key(facility).certificate,
        facility.root,
        dt.datetime.now(dt.UTC),
        against=against,
    )


def behind_the_triggers(superuser_dsn: str, *statements: str) -> None:
    """What somebody does who owns the machine."""
    with psycopg.connect(superuser_dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


REHASH = """
DO $$
DECLARE
    e touchstone.event;
    before bytea := decode(repeat('00', 32), 'hex');
BEGIN
    FOR e IN SELECT * FROM touchstone.event ORDER BY seq LOOP
        UPDATE touchstone.event SET previous = before,
            hash = touchstone.event_hash(before, e.seq, e.at, e.actor, e.organisation, e.kind,
                                         e.subject, e.detail) WHERE seq = e.seq
            RETURNING hash INTO before;
    END LOOP;
END $$"""
"""Make the whole chain hold again, after rows were changed."""
