"""The rules that hold in the database alone, asked with the roles that its servers have."""

import json
import uuid
from typing import Any

import psycopg
import pytest

from registry.database.migrate import migrate
from registry.database.record import Record, named_queries
from registry.settings import Databases
from registry.trust.errors import Conflict, NotFound, Refused, Unavailable
from tests.registry.role import Role, acting, enrol_by_hand

LENIENT = '{"endpoints": [{"rule": "gating", "if_insufficient": "conditional"}]}'
D1, D2, D3 = ("sha256:" + digit * 64 for digit in "123")


class People:
    """Everybody with a hand in a submission: the worker, and people with a token."""

    def __init__(self, database: Databases) -> None:
        self.worker = Role(database.worker)
        self.execute = self.worker.execute
        self._by_name = {
            "Eva": acting(database, "sme-a", "innovator", "Eva"),
            "Bob": acting(database, "sme-b", "innovator", "Bob"),
            "Ada": acting(database, "tef", "assessor", "Ada"),
            "Ben": acting(database, "tef", "assessor", "Ben"),
            "Eve": acting(database, "tef", "assessor", "Eve"),
            "Sam": acting(database, "tef", "steward", "Sam"),
            "Ann": acting(database, "tef", "admin", "Ann"),
            "Aud": acting(database, "tef", "auditor", "Aud"),
        }

    def __getitem__(self, person: str) -> Role:
        return self._by_name[person]


@pytest.fixture(scope="module")
def app(database: Databases) -> Any:
    with psycopg.connect(str(database.owner), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO touchstone.organisation VALUES ('tef','facility','TEF'),"
            "('sme-a','sme','A'), ('sme-b','sme','B')"
        )
        connection.execute(
            "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
            " title, positives, negatives, patients, contract_digest, locked_by)"
            f" VALUES ('c','1','{D1}','{D1}','x','t',10,10,10,'{D1}','Sam')"
        )
        connection.execute(
            "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
            f" VALUES ('{D1}','p','1','{LENIENT}',2,'Sam'), ('{D2}','q','1','{LENIENT}',2,'Sam')"
        )
    for person, key, organisation in (
        ("Ada", D1, "tef"), ("Ben", D2, "tef"), ("Eve", D3, "sme-a"),
    ):  # fmt: skip
        enrol_by_hand(database, person, "assessor", organisation=organisation, key=key)
    return People(database)


def submission(app: Any, *, verdict: str | None = None, state: str = "in_review",
               organisation: str = "sme-a", protocol: str = D1) -> str:  # fmt: skip
    """A submission, moved along the arrows as the pipeline would."""
    name = str(uuid.uuid4())
    person = {"sme-a": "Eva", "sme-b": "Bob"}[organisation]
    app[person].execute(
        "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
        " protocol_digest, cohort_id, cohort_version, submitted_by)"
        f" VALUES ('{name}','{organisation}','m-{name[:8]}',1,'{protocol}','c','1','{person}')"
    )
    for target in ("intake", "queued", "running", "assessed", "in_review"):
        if app.execute(f"SELECT state FROM touchstone.submission WHERE id='{name}'").fetchone() == (
            state,
        ):
            break
        more = f", verdict='{verdict}', report_digest='{D2}'" if target == "assessed" else ""
        app.execute(f"UPDATE touchstone.submission SET state='{target}'{more} WHERE id='{name}'")
    return name


def decide(app: Any, name: str, person: str = "Ada", key: str = D1, outcome: str = "certify",
           report: str = D2) -> None:  # fmt: skip
    statement = "NULL" if outcome == "reject" else "'{}'"
    app[person].execute(
        "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
        " report_digest, envelope, statement_signature)"
        f" VALUES ('{name}','{key}','{person}','{outcome}','because','{report}','{{}}',{statement})"
    )


def certificate(connection: Any, name: str) -> None:
    connection.execute(
        "INSERT INTO touchstone.certificate (submission, organisation, model_name, model_version,"
        " envelope, signers, not_after) SELECT id, organisation, model_name, model_version, '{}',"
        f" '', now() + interval '1 day' FROM touchstone.submission WHERE id = '{name}'"
    )


def test_migrating_again_does_nothing(database: Databases) -> None:
    assert database.owner is not None
    assert migrate(database.owner) == []


def test_a_migration_that_was_edited_after_it_ran_is_refused(
    database: Databases, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.database import migrate as module

    for path in module._FOLDER.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text() + "-- edited\n")
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    assert database.owner is not None
    with pytest.raises(Conflict, match="was edited"):
        migrate(database.owner)


def test_a_submission_moves_along_the_arrows_only(app: Any) -> None:
    name = submission(app, state="registered")
    for target in ("running", "certified", "in_review", "nonsense"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="can't go from"):
            app.execute(f"UPDATE touchstone.submission SET state='{target}' WHERE id='{name}'")


def test_a_submission_can_not_begin_with_a_verdict(app: Any) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="without a verdict"):
        app["Eva"].execute(
            "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
            " protocol_digest, cohort_id, cohort_version, submitted_by, verdict, report_digest)"
            f" VALUES (gen_random_uuid(),'sme-a','m',1,'{D1}','c','1','Eva','pass','{D2}')"
        )


def test_a_verdict_and_its_digests_are_never_changed(app: Any) -> None:
    name = submission(app, verdict="fail")
    for change in ("verdict='pass'", f"report_digest='{D3}'", "verdict=NULL, report_digest=NULL"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="never changed"):
            app.execute(f"UPDATE touchstone.submission SET {change} WHERE id='{name}'")


def test_what_a_submission_binds_can_not_be_swapped(app: Any) -> None:
    name = submission(app, state="registered")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(f"UPDATE touchstone.submission SET model_version=2 WHERE id='{name}'")


@pytest.mark.parametrize("verdict", ["fail", "insufficient_evidence", "conditional"])
def test_a_verdict_that_is_not_a_pass_can_not_be_certified(app: Any, verdict: str) -> None:
    name = submission(app, verdict=verdict)
    with pytest.raises(psycopg.errors.RestrictViolation, match="can't be turned into certify"):
        decide(app, name)


def test_a_decision_is_on_the_report_that_stands(app: Any) -> None:
    name = submission(app, verdict="pass")
    with pytest.raises(psycopg.errors.RestrictViolation, match="another report"):
        decide(app, name, report=D3)


def test_nobody_signs_for_another_or_for_their_own_model(app: Any) -> None:
    name = submission(app, verdict="pass")
    with pytest.raises(psycopg.errors.RestrictViolation, match="another person"):
        decide(app, name, person="Ben", key=D1)
    with pytest.raises(psycopg.errors.RestrictViolation, match="or to the submitter"):
        decide(app, name, person="Eve", key=D3)
    other = submission(app, verdict="pass", organisation="sme-b")
    with pytest.raises(psycopg.errors.RestrictViolation, match="only a facility"):
        decide(app, other, person="Eve", key=D3)


def test_one_assessor_decides_once(app: Any) -> None:
    name = submission(app, verdict="pass")
    decide(app, name)
    with pytest.raises(psycopg.errors.UniqueViolation):
        decide(app, name, outcome="reject")


def test_the_application_can_not_write_a_certificate(app: Any) -> None:
    name = submission(app, verdict="pass")
    decide(app, name)
    decide(app, name, "Ben", D2)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        certificate(app["Ada"], name)


def test_the_gate_writes_one_for_a_pass_that_two_people_signed_and_no_other(
    app: Any, database: Databases
) -> None:
    failed, alone, good = (submission(app, verdict=v) for v in ("fail", "pass", "pass"))
    decide(app, failed, outcome="reject")
    decide(app, failed, "Ben", D2, "reject")
    decide(app, alone)
    decide(app, good)
    decide(app, good, "Ben", D2)
    with psycopg.connect(database.gate, autocommit=True) as gate:
        for name in (failed, alone):
            with pytest.raises(psycopg.errors.RestrictViolation, match="no certificate"):
                certificate(gate, name)
        permitted = "SELECT touchstone.alias_permitted('sme-a', %s, '1')"
        assert gate.execute(permitted, (f"m-{good[:8]}",)).fetchone() == (False,)
        certificate(gate, good)
        gate.execute(f"UPDATE touchstone.submission SET state='certified' WHERE id='{good}'")
        assert gate.execute(permitted, (f"m-{good[:8]}",)).fetchone() == (True,)
        for change in ("not_after = now() + interval '9 years'", "envelope = '{\"a\":1}'"):
            with pytest.raises((psycopg.errors.InsufficientPrivilege,
                                psycopg.errors.RestrictViolation)):  # fmt: skip
                gate.execute(f"UPDATE touchstone.certificate SET {change}")
        gate.execute(
            f"UPDATE touchstone.certificate SET in_force = false WHERE submission = '{good}'"
        )
        assert gate.execute(permitted, (f"m-{good[:8]}",)).fetchone() == (False,)
        with pytest.raises(psycopg.errors.RestrictViolation, match="taken out of force"):
            gate.execute("UPDATE touchstone.certificate SET in_force = true")


def test_what_ran_unsandboxed_can_not_be_certified(app: Any) -> None:
    name = submission(app, verdict="pass", state="running")
    app.execute(f"UPDATE touchstone.submission SET certifiable=false WHERE id='{name}'")
    with pytest.raises(psycopg.errors.RestrictViolation):
        app.execute(f"UPDATE touchstone.submission SET certifiable=true WHERE id='{name}'")
    app.execute(
        f"UPDATE touchstone.submission SET state='assessed', verdict='pass', report_digest='{D2}'"
        f" WHERE id='{name}'"
    )
    app.execute(f"UPDATE touchstone.submission SET state='in_review' WHERE id='{name}'")
    with pytest.raises(psycopg.errors.RestrictViolation, match="can't be turned"):
        decide(app, name)


def test_attempts_run_out_and_come_back_only_with_a_reason(app: Any) -> None:
    first, second, third = (submission(app, state="running", protocol=D2) for _ in range(3))
    spend = (
        "INSERT INTO touchstone.attempt (submission, family, cohort_id, cohort_version)"
        " VALUES (%s, 'sme-a/q', 'c', '1')"
    )
    with pytest.raises(psycopg.errors.RestrictViolation, match="weights were compared"):
        app.execute(spend, (first,))
    compared = (
        "INSERT INTO touchstone.fingerprint (submission, weights)"
        """ VALUES (%s, '{"contents": null, "tensors": [], "complete": true}')"""
    )
    for name in (first, second, third):
        app.execute(compared, (name,))
    app.execute(spend, (first,))
    with pytest.raises(psycopg.errors.CheckViolation, match="the next waits"):
        app.execute(spend, (second,))
    ended = "UPDATE touchstone.submission SET state = 'technical_failure' WHERE id = %s"
    app.execute(ended, (first,))
    app.execute(spend, (second,))
    app.execute(ended, (second,))
    with pytest.raises(psycopg.errors.CheckViolation, match="all 2 attempts"):
        app.execute(spend, (third,))
    with pytest.raises(psycopg.errors.RestrictViolation, match="with a reason"):
        app.execute(
            "UPDATE touchstone.attempt SET returned_at = now() WHERE submission = %s", (first,)
        )
    back = (
        "UPDATE touchstone.attempt SET returned_at = now(), returned_reason = 'host failed'"
        " WHERE submission = %s"
    )
    found = (
        "INSERT INTO touchstone.finding (submission, code, party, reason, evidence)"
        " VALUES (%s, 'x', %s, 'why', '{}')"
    )
    for name, party in ((first, "facility"), (second, "model")):
        with pytest.raises(psycopg.errors.RestrictViolation, match="found to be the facility"):
            app.execute(back, (name,))
        app.execute(found, (name, party))
    app.execute(back, (first,))
    with pytest.raises(psycopg.errors.RestrictViolation, match="found to be the facility"):
        app.execute(back, (second,))
    app.execute(spend, (third,))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE touchstone.event SET detail = '{}'",
        "DELETE FROM touchstone.event",
        "TRUNCATE touchstone.event",
        "INSERT INTO touchstone.event SELECT * FROM touchstone.event LIMIT 1",
        "DELETE FROM touchstone.decision",
        "UPDATE touchstone.protocol SET body = '{}'",
        "DELETE FROM touchstone.submission",
        "UPDATE touchstone.cohort SET positives = 1",
        "INSERT INTO touchstone.arrow VALUES ('in_review', 'registered')",
        "ALTER TABLE touchstone.submission DISABLE TRIGGER ALL",
        "SET ROLE touchstone_owner",
    ],
)
def test_the_application_rewrites_nothing(app: Any, statement: str) -> None:
    for role in (app["Ada"], app["Sam"], app["Ann"], app.worker):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            role.execute(statement)


@pytest.mark.parametrize("table", ["event", "decision", "protocol", "cohort", "step"])
def test_not_even_the_owner_rewrites_what_is_append_only(
    app: Any, database: Databases, table: str
) -> None:
    submission(app, verdict="fail")
    assert database.owner is not None
    with (
        psycopg.connect(database.owner, autocommit=True) as owner,
        pytest.raises(psycopg.errors.RestrictViolation, match="never"),
    ):
        owner.execute(f"TRUNCATE touchstone.{table} CASCADE")


def test_every_move_is_in_the_log_and_the_chain_holds(app: Any, database: Databases) -> None:
    name = submission(app, verdict="pass")
    record = Record(str(database.worker))
    with record.transaction() as now:
        events = now.all("events", after=0)
    record.close()
    kinds = [event["kind"] for event in events if event["subject"] == name]
    assert kinds == [
        "submission-registered", "submission-intake", "submission-queued", "submission-running",
        "submission-assessed", "submission-in-review",
    ]  # fmt: skip
    previous = bytes(32)
    for number, event in enumerate(events, 1):
        assert event["seq"] == number
        assert event["previous"] == previous
        assert event["hash"] == event["recomputed"]
        previous = event["hash"]


def test_a_broken_rule_comes_out_as_a_sentence(database: Databases, app: Any) -> None:
    record = Record(str(database.owner))
    with pytest.raises(Conflict, match="exists already"), record.transaction() as now:
        now.do("organisation_add", id="tef", kind="facility", name="again")
    with pytest.raises(NotFound), record.transaction() as now:
        now.one("submission_by_id", id=str(uuid.uuid4()))
    record.close()
    record = Record(database.app)
    with pytest.raises(Refused), record.transaction() as now:
        now.do("certificate_add", submission=str(uuid.uuid4()), organisation="a", model_name="m",
               model_version=1, envelope={}, signers="", enrolments="",
               not_after="now")  # fmt: skip
    record.close()


def test_a_lost_database_is_unavailable_and_nothing_is_half_written() -> None:
    record = Record("postgresql://nobody@/x?host=/nonexistent")
    record._pool.timeout = 1
    with pytest.raises(Unavailable, match="try again"), record.transaction() as now:
        now.all("organisations")
    record.close()


def test_every_named_query_is_one_that_postgres_can_prepare(database: Databases) -> None:
    """A typing error in a rarely used query is found here, not in production."""
    record = Record(database.gate)
    with psycopg.connect(str(database.owner), autocommit=True) as owner:
        for name, text in named_queries().items():
            if "mlflow." in text:
                continue
            numbered = text
            for number, field in enumerate(dict.fromkeys(_fields(text)), 1):
                numbered = numbered.replace(f"%({field})s", f"${number}")
            owner.execute(f"PREPARE q AS {numbered}")  # type: ignore[arg-type]
            owner.execute("DEALLOCATE q")
            assert json.dumps(name)
    record.close()


def _fields(text: str) -> list[str]:
    import re

    return re.findall(r"%\(([a-z_]+)\)s", text)
