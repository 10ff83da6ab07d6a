"""The database alone: what its roles can do without, or with, somebody's token."""

import hashlib
from typing import Any

import psycopg
import pytest

from registry.database.migrate import ROLES
from registry.database.record import Record
from registry.identity import accounts
from registry.settings import Databases
from registry.trust.errors import Unauthenticated
from tests.registry.role import Role, acting, token_of

D1 = "sha256:" + "1" * 64
SUBMIT = (
    "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
    " protocol_digest, cohort_id, cohort_version, submitted_by)"
    f" VALUES (gen_random_uuid(), %s, %s, 1, '{D1}', 'c', '1', %s)"
)
TENANTS = ("organisation", "token", "signer", "submission", "attempt", "step", "decision",
           "certificate", "registration", "event", "cohort", "protocol", "kinship")  # fmt: skip


@pytest.fixture(scope="module")
def filled(database: Databases) -> Databases:
    owner = Role(database.owner)
    owner.execute(
        "INSERT INTO touchstone.organisation VALUES ('tef','facility','TEF'),"
        "('sme-a','sme','A'), ('sme-b','sme','B'), ('clinic','hospital','C')"
    )
    owner.execute(
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
        " title, positives, negatives, patients, contract_digest, locked_by)"
        f" VALUES ('c','1','{D1}','{D1}','x','t',10,10,10,'{D1}','Sam')"
    )
    owner.execute(
        "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
        f" VALUES ('{D1}','p','1','{{}}',2,'Sam')"
    )
    owner.execute(
        "INSERT INTO touchstone.signer (key_id, organisation, person, pem)"
        f" VALUES ('{D1}','tef','Ada','pem')"
    )
    for name in ("sme-a", "sme-b"):
        owner.execute(
            "INSERT INTO touchstone.registration (organisation, model_name, version, source)"
            " VALUES (%s, 'm', 1, 's')", (name,),
        )  # fmt: skip
        acting(database, name, "innovator", name).execute(SUBMIT, (name, "m", name))
    Role(database.worker).execute(
        "INSERT INTO touchstone.fingerprint (submission, weights)"
        " SELECT id, '{}' FROM touchstone.submission"
    )
    Role(database.worker).execute(
        "INSERT INTO touchstone.kinship SELECT a.id, b.id, 0.6, false FROM touchstone.submission a"
        " JOIN touchstone.submission b ON a.organisation < b.organisation"
    )
    Role(database.worker).execute(
        "INSERT INTO touchstone.attempt (submission, family, cohort_id, cohort_version)"
        " SELECT id, organisation || '/p', 'c', '1' FROM touchstone.submission"
    )
    Role(database.worker).execute(
        "INSERT INTO touchstone.step (submission, name, output, seconds)"
        " SELECT id, 'intake', '{}', 1 FROM touchstone.submission"
    )
    return database


@pytest.mark.parametrize("table", TENANTS)
def test_the_applications_role_without_a_token_reads_nothing(filled: Databases, table: str) -> None:
    columns = "id" if table == "token" else "*"
    for dsn in (filled.app, filled.login):
        try:
            rows = Role(dsn).execute(f"SELECT {columns} FROM touchstone.{table}").fetchall()
        except psycopg.errors.InsufficientPrivilege:
            continue
        assert rows == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO touchstone.organisation VALUES ('x','facility','X')",
        "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)"
        " VALUES (gen_random_uuid(),'sme-a','innovator','me', sha256('x'), now() + '1 day')",
        "INSERT INTO touchstone.certificate (submission, organisation, model_name, model_version,"
        " envelope, signers, not_after) SELECT id, organisation, model_name, 1, '{}', '',"
        " now() + '1 day' FROM touchstone.submission",
        "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
        f" report_digest, envelope) VALUES (gen_random_uuid(), '{D1}', 'Ada', 'reject', 'r',"
        f" '{D1}', '{{}}')",
        "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path, title,"
        " positives, negatives, patients, contract_digest, locked_by)"
        f" VALUES ('d','1','sha256:{'2' * 64}','{D1}','x','t',10,10,10,'{D1}','Sam')",
        f"INSERT INTO touchstone.signer VALUES ('sha256:{'2' * 64}','tef','Me','pem')",
        "SELECT touchstone.append_event('Ada', 'tef', 'decision-signed', 'x', '{}')",
        "SELECT touchstone.write_event('Ada', 'tef', 'decision-signed', 'x', '{}')",
        "UPDATE touchstone.event SET detail = '{}'",
        "SELECT key FROM touchstone.seal",
        "SELECT secret_hash FROM touchstone.token",
        "SELECT touchstone.sealed('tef')",
        "SET ROLE touchstone_worker",
        "SET row_security = off; SELECT * FROM touchstone.submission",
        "ALTER TABLE touchstone.submission NO FORCE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON touchstone.submission USING (true)",
    ],
)
def test_the_applications_role_without_a_token_writes_nothing(
    filled: Databases, statement: str
) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)):
        Role(filled.app).execute(statement)


def test_without_a_token_nobodys_row_is_changed(filled: Databases) -> None:
    for statement in (
        "UPDATE touchstone.submission SET state = 'withdrawn'",
        "UPDATE touchstone.token SET revoked_at = now()",
    ):
        assert Role(filled.app).execute(statement).rowcount == 0


@pytest.mark.parametrize("table", ["submission", "attempt", "registration", "event"])
def test_a_tenant_reads_its_own_rows_and_no_others(filled: Databases, table: str) -> None:
    rows = acting(filled, "sme-a", "innovator", "Eva").execute(
        f"SELECT t::text FROM touchstone.{table} t"
    )
    text = str(rows.fetchall())
    assert "sme-a" in text
    assert "sme-b" not in text


def test_a_tenant_writes_only_in_its_own_name(filled: Databases) -> None:
    eva = acting(filled, "sme-a", "innovator", "Eva")
    for organisation, person in (("sme-b", "Eva"), ("sme-a", "sme-b")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            eva.execute(SUBMIT, (organisation, "other", person))
    moved = eva.execute(
        "UPDATE touchstone.submission SET state = 'withdrawn' WHERE organisation = 'sme-b'"
    )
    assert moved.rowcount == 0


@pytest.mark.parametrize(
    ("organisation", "role", "sees"),
    [("tef", "steward", 2), ("tef", "assessor", 2), ("tef", "auditor", 2), ("tef", "admin", 0),
     ("clinic", "clinician", 0), ("sme-a", "innovator", 1)],
)  # fmt: skip
def test_each_role_sees_the_submissions_it_works_on(
    filled: Databases, organisation: str, role: str, sees: int
) -> None:
    person = acting(filled, organisation, role, "P")
    assert len(person.execute("SELECT id FROM touchstone.submission").fetchall()) == sees


@pytest.mark.parametrize("role", ["admin", "auditor", "innovator", "assessor", "clinician"])
def test_only_a_steward_locks_a_cohort(filled: Databases, role: str) -> None:
    organisation = {"innovator": "sme-a", "clinician": "clinic"}.get(role, "tef")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        acting(filled, organisation, role, "P").execute(
            "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
            " title, positives, negatives, patients, contract_digest, locked_by)"
            f" VALUES ('e','1','sha256:{'3' * 64}','{D1}','x','t',10,10,10,'{D1}','P')"
        )


def test_what_was_entered_can_not_be_forged_or_carried_over(filled: Databases) -> None:
    proof = hashlib.sha256(token_of(filled, "sme-b", "innovator", "Bob").encode()).digest()
    with psycopg.connect(filled.app) as connection:
        connection.execute("SELECT touchstone.enter(%s)", (proof,))
        (mine,) = connection.execute(  # type: ignore[misc]
            "SELECT current_setting('touchstone.entered')"
        ).fetchone()
        assert connection.execute("SELECT touchstone.my_organisation()").fetchone() == ("sme-b",)
        connection.commit()
        assert connection.execute("SELECT touchstone.my_organisation()").fetchone() == (None,)
        forged = [mine, mine.replace("sme-b", "sme-a"), "0" * 64 + "tef\x1ffacility\x1fsteward"]
        for value in forged:
            connection.rollback()
            connection.execute("SELECT set_config('touchstone.entered', %s, true)", (value,))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="nobody entered"):
                connection.execute("SELECT * FROM touchstone.submission")


def test_the_log_names_who_entered_whatever_the_application_says(filled: Databases) -> None:
    acting(filled, "sme-a", "innovator", "Eva").execute(
        "SELECT touchstone.append_event('Ada', 'sme-a', 'told', 'x', '{}')"
    )
    Role(filled.worker).execute("SELECT touchstone.append_event('Ada','sme-a','told','y','{}')")
    rows = Role(filled.owner).execute(
        "SELECT actor FROM touchstone.event WHERE kind = 'told' ORDER BY seq"
    )
    assert rows.fetchall() == [("Eva",), ("touchstone",)]


def test_the_worker_decides_nothing_and_makes_no_account(filled: Databases) -> None:
    for statement in (
        "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
        f" report_digest, envelope) SELECT id, '{D1}', 'Ada', 'reject', 'r', '{D1}', '{{}}'"
        " FROM touchstone.submission",
        "INSERT INTO touchstone.organisation VALUES ('x','facility','X')",
        "SELECT id FROM touchstone.token",
        "SELECT touchstone.enter('x')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            Role(filled.worker).execute(statement)


def test_no_role_may_bypass_and_every_table_forces_its_policies(filled: Databases) -> None:
    owner = Role(filled.owner)
    unsafe = owner.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND (rolsuper OR rolbypassrls"
        " OR rolcreaterole OR rolreplication)", (list(ROLES),),
    )  # fmt: skip
    assert unsafe.fetchall() == []
    open_tables = owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'touchstone'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert open_tables.fetchall() == []
    views = owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'touchstone'::regnamespace"
        " AND relkind IN ('v', 'm', 'f')"
    )
    assert views.fetchall() == [], "a view would read with its owner's rights"


def test_functions_are_closed_unless_somebody_was_given_them(filled: Databases) -> None:
    rows = Role(filled.owner).execute(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'touchstone'::regnamespace"
        " AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a"
        "      WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE'))"
    )
    assert rows.fetchall() == []


def test_a_token_that_is_revoked_ends_the_next_transaction(filled: Databases) -> None:
    record = Record(filled.app)
    secret = token_of(filled, "sme-a", "innovator", "Eva")
    caller = accounts.authenticate(record, secret)
    with record.transaction(caller) as now:
        assert now.all("organisations")[0]["id"] == "sme-a"
    Role(filled.owner).execute(
        "UPDATE touchstone.token SET revoked_at = now() WHERE id = %s", (caller.token_id,)
    )
    with pytest.raises(Unauthenticated, match="was revoked"), record.transaction(caller) as now:
        now.all("organisations")
    record.close()


def test_neither_the_table_nor_a_logged_statement_opens_the_door(filled: Databases) -> None:
    secret = token_of(filled, "sme-a", "innovator", "Eva")
    proof = hashlib.sha256(secret.encode()).digest()
    record = Record(filled.app)
    stored: Any = Role(filled.owner).execute("SELECT secret_hash FROM touchstone.token")
    hashes = {bytes(row[0]) for row in stored.fetchall()}
    assert hashlib.sha256(proof).digest() in hashes
    for value in (proof.hex(), hashlib.sha256(proof).hexdigest()):
        with pytest.raises(Unauthenticated, match="not known"):
            accounts.authenticate(record, value)
    record.close()
