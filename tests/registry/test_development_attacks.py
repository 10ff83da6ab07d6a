"""The development cohort, attacked: no way leads from it to a certificate, or to its numbers."""

import contextlib
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from registry.settings import Databases
from registry.submissions.review import SignedDecision, decide, documents
from registry.trust.errors import Invalid, NotFound, Refused, TouchstoneError
from tests.registry.development_example import (
    OPEN,
    development_example,
    locked,
    read,
    sealed,
    tried,
)
from tests.registry.facility_example import Example, honest
from tests.registry.role import Role, acting


@pytest.fixture(scope="module")
def life(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with development_example(database, tmp_path_factory.mktemp("development")) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(life: Example) -> None:
    life.fresh()


def test_neither_cohort_is_passed_off_as_the_other(life: Example) -> None:
    with pytest.raises(Refused, match="not for open; that is its development cohort"):
        life.submitted(cohort="open")
    with pytest.raises(Refused, match=r"the development cohort of the protocol .* is open"):
        life.submitted(cohort="nodules", development=True)
    with pytest.raises(NotFound):
        life.submitted(cohort="elsewhere", development=True)
    eva = acting(life.api.databases, "sme-a", "innovator", "Eva")
    add = (
        "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
        " protocol_digest, cohort_id, cohort_version, submitted_by, development, certifiable)"
        " SELECT %s, 'sme-a', 'net', 1, digest, %s, '1', 'Eva', %s, true FROM touchstone.protocol"
        " WHERE id = %s"
    )
    for cohort, development, words in (
        ("open", False, "is for development: nothing is decided on it"),
        ("nodules", True, "is not the development cohort of this protocol"),
    ):
        with pytest.raises(psycopg.errors.RestrictViolation, match=words):
            eva.execute(add, (uuid.uuid4(), cohort, development, life.protocol))
    sneaky = uuid.uuid4()
    eva.execute(add, (sneaky, "open", True, life.protocol))
    assert life.row(str(sneaky))["certifiable"] is False, "whatever was asked for"


def test_a_cohort_that_gates_is_for_development_nowhere(life: Example) -> None:
    sealed(life, "third", first=4)
    locked(life, cohort={"id": "third", "positives": 1, "negatives": 1})
    with pytest.raises(Refused, match="gates or is for development, not both"):
        locked(life, development_cohort={"id": "third"})
    with pytest.raises(Refused, match="gates or is for development, not both"):
        locked(life, development_cohort=None,
               cohort={"id": "open", "positives": 1, "negatives": 1})  # fmt: skip
    with pytest.raises(Invalid, match="is the cohort that gates"):
        locked(life, development_cohort={"id": "nodules"})


def test_the_trials_of_a_family_are_limited(life: Example) -> None:
    locked(life, development_cohort={"id": "open", "trials": 2})
    tried(life, honest(0.1))
    waiting = life.queued(honest(0.2), **OPEN)
    with pytest.raises(Refused, match="all 2 trials of sme-a on the cohort open 1") as refused:
        life.submitted(**OPEN)
    assert refused.value.code == "trials_spent"
    life.submitted("Finn", **OPEN)
    life.submitted()  # the locked cohort is another matter
    worker = Role(life.api.databases.worker)
    worker.execute("INSERT INTO touchstone.trial (submission) VALUES (%s)", (waiting,))
    life.sql("ALTER TABLE touchstone.submission DISABLE TRIGGER trial")
    try:
        digest = life.row(waiting)["protocol_digest"]
        third = str(uuid.uuid4())
        life.sql(
            "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
            " protocol_digest, cohort_id, cohort_version, submitted_by, development, certifiable)"
            " VALUES (%s, 'sme-a', 'third', 1, %s, 'open', '1', 'Eva', true, false)",
            third, digest,
        )  # fmt: skip
    finally:
        life.sql("ALTER TABLE touchstone.submission ENABLE TRIGGER trial")
    with pytest.raises(psycopg.errors.CheckViolation, match="all 2 trials"):
        worker.execute("INSERT INTO touchstone.trial (submission) VALUES (%s)", (third,))
    for statement in ("DELETE FROM touchstone.trial", "TRUNCATE touchstone.trial",
                      "UPDATE touchstone.trial SET family = 'x/y'"):  # fmt: skip
        with pytest.raises(psycopg.errors.RestrictViolation):
            life.sql(statement)


def test_another_organisation_reads_nothing_of_it(life: Example) -> None:
    submission = tried(life, honest())
    for who in ("Finn", "Clara"):
        with pytest.raises((NotFound, Refused)):
            read(life, submission, who)
    databases = life.api.databases
    for role in (
        acting(databases, "sme-b", "innovator", "Finn"),
        acting(databases, "clinic", "clinician", "Clara"),
        Role(databases.app),
        Role(databases.gate),
        Role(databases.mlflow),
    ):
        for table in ("step", "trial"):
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                asked = f"SELECT * FROM touchstone.{table} WHERE submission = %s"
                assert role.execute(asked, (submission,)).fetchall() == []
    eva = acting(databases, "sme-a", "innovator", "Eva")
    names = {name for (name,) in eva.execute("SELECT name FROM touchstone.step").fetchall()}
    assert names == {"ladder"}, "of the steps of her own runs the ladder's alone"


def test_nothing_certifies_it(life: Example) -> None:
    submission = tried(life, honest())
    row = life.row(submission)
    ada = life.people["Ada"]
    assert documents(life.api, ada, submission).statement is None
    with pytest.raises(TouchstoneError):
        decide(life.api, ada, submission, SignedDecision(envelope={}))
    databases = life.api.databases
    roles = [
        Role(databases.worker), Role(databases.gate), Role(databases.owner),
        acting(databases, "tef", "assessor", "Ada"), acting(databases, "sme-a", "innovator", "Eva"),
    ]  # fmt: skip
    refused = (psycopg.errors.IntegrityError, psycopg.errors.InsufficientPrivilege)
    for state in ("in_review", "certified", "conditional", "not_certified", "assessed"):
        for role in roles:
            with contextlib.suppress(*refused):
                changed = role.execute(
                    "UPDATE touchstone.submission SET state = %s WHERE id = %s",
                    (state, submission),
                )
                assert changed.rowcount == 0
    for change in ("certifiable = true", "development = false",
                   f"statement_digest = 'sha256:{'1' * 64}'"):  # fmt: skip
        with pytest.raises(refused):
            roles[2].execute(
                f"UPDATE touchstone.submission SET {change} WHERE id = %s", (submission,)
            )
    (key,) = life.sql("SELECT key_id FROM touchstone.signer WHERE person = 'Ada'")[0]
    with pytest.raises(psycopg.errors.RestrictViolation, match="needs a submission in review"):
        roles[2].execute(
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature)"
            " VALUES (%s, %s, 'Ada', 'certify', 'because', %s, '{}', '{}')",
            (submission, key, row["report_digest"]),
        )
    for role in (roles[1], roles[2]):
        with pytest.raises(refused):
            role.execute(
                "INSERT INTO touchstone.certificate (submission, organisation, model_name,"
                " model_version, envelope, signers, not_after)"
                " VALUES (%s, 'sme-a', %s, 1, '{}', 'pem', now() + interval '1 day')",
                (submission, row["model_name"]),
            )
    assert life.state(submission) == "tried"


def test_even_without_triggers_the_table_takes_no_development_run_into_review(
    life: Example,
) -> None:
    submission = life.queued(honest(), **OPEN)
    life.sql("ALTER TABLE touchstone.submission DISABLE TRIGGER USER")
    try:
        for change in ("state = 'in_review'", "certifiable = true", "state = 'certified'"):
            with pytest.raises(psycopg.errors.CheckViolation):
                life.sql(f"UPDATE touchstone.submission SET {change} WHERE id = %s", submission)
    finally:
        life.sql("ALTER TABLE touchstone.submission ENABLE TRIGGER USER")


def test_a_trial_takes_no_attempt_and_an_attempt_no_trial(life: Example) -> None:
    submission = life.queued(honest(), **OPEN)
    other = life.queued(honest())
    worker = Role(life.api.databases.worker)
    with pytest.raises(psycopg.errors.RestrictViolation, match="spends no attempt"):
        worker.execute(
            "INSERT INTO touchstone.attempt (submission, family, cohort_id, cohort_version)"
            " SELECT s.id, s.organisation || '/' || p.id, s.cohort_id, s.cohort_version"
            " FROM touchstone.submission s"
            " JOIN touchstone.protocol p ON p.digest = s.protocol_digest"
            " WHERE s.id = %s", (submission,),
        )  # fmt: skip
    with pytest.raises(psycopg.errors.RestrictViolation, match="no trial"):
        worker.execute("INSERT INTO touchstone.trial (submission) VALUES (%s)", (other,))
    for run, match in ((other, "tried on the development cohort"), (submission, "is climbed")):
        worker.execute("UPDATE touchstone.submission SET state = 'running' WHERE id = %s", (run,))
        worker.execute(
            "UPDATE touchstone.submission SET state = 'assessed', verdict = 'fail',"
            " report_digest = %s WHERE id = %s", ("sha256:" + "1" * 64, run),
        )  # fmt: skip
        with pytest.raises(psycopg.errors.IntegrityError, match=match):
            worker.execute("UPDATE touchstone.submission SET state = 'tried' WHERE id = %s", (run,))
    with pytest.raises(psycopg.errors.RestrictViolation, match="decides nothing"):
        worker.execute(
            "UPDATE touchstone.submission SET state = 'in_review' WHERE id = %s", (submission,)
        )
