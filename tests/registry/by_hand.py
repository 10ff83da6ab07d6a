"""Certify and stop a submission that has run, by the database roles that do it.

No signature is made: what is signed and checked is the matter of other tests.
"""

import datetime as dt

import psycopg

from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import STATEMENT_TYPE
from registry.trust.dsse import unsigned
from tests.registry.facility_example import Example


def certify(life: Example, submission: str) -> str:
    """What two assessors' decisions and the gate make of it; the certificate's digest."""
    row = life.row(submission)
    statement = life.worker.store.get(places.statement(submission))
    keys = dict(life.sql("SELECT person, key_id FROM touchstone.signer WHERE role = 'assessor'"))
    for person in ("Ada", "Ben"):
        life.sql(
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature)"
            " VALUES (%s, %s, %s, 'certify', 'because', %s, '{}', '{}')",
            submission, keys[person], person, row["report_digest"],
        )  # fmt: skip
    with life.api.gate.transaction() as now:
        now.do(
            "certificate_add", submission=submission, organisation=row["organisation"],
            model_name=row["model_name"], model_version=row["model_version"],
            envelope=unsigned(STATEMENT_TYPE, statement), signers="", enrolments="",
            not_after=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
        )  # fmt: skip
        now.do("certified_move", id=submission, state="certified")
    return sha256_bytes(statement)


def stop(life: Example, submission: str, who: str = "Ada", kind: str = "suspend") -> None:
    """What `suspend` and `revoke` write, of a model without an alias: here is no MLflow."""
    now_is = life.state(submission)
    state = "suspended" if now_is == "certified" else "revoked"
    person = life.people[who]
    with psycopg.connect(life.api.databases.gate) as gate:
        gate.execute("SELECT touchstone.enter(%s)", (person.proof,))
        gate.execute(
            "INSERT INTO touchstone.act (submission, kind, person, organisation, reason)"
            " VALUES (%s, %s, %s, 'tef', 'harm was seen')", (submission, kind, who),
        )  # fmt: skip
        gate.execute(
            "UPDATE touchstone.certificate SET in_force = false"
            " WHERE submission = %s AND in_force", (submission,),
        )  # fmt: skip
        gate.execute("UPDATE touchstone.submission SET state = %s WHERE id = %s",
                     (state, submission))  # fmt: skip
    assert life.state(submission) == state
