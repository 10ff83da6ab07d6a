"""Promotion, raced and forged: what the database answers when two do things at the same moment."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from registry.database.migrate import ROLES
from registry.mlflow_gate.versions import remove_clinical_pilot, set_clinical_pilot
from registry.trust.errors import Refused
from tests.registry.mlflow_server import Gate, certify, submit
from tests.registry.role import Role, token_of

INSERT_ALIAS = (
    "INSERT INTO mlflow.registered_model_aliases (workspace, name, alias, version)"
    " VALUES ('sme-a', %s, %s, %s) ON CONFLICT (workspace, name, alias)"
    " DO UPDATE SET version = excluded.version"
)
REMOVE_ALIAS = (
    "DELETE FROM mlflow.registered_model_aliases WHERE workspace = 'sme-a' AND name = %s"
    " AND version = %s AND alias = 'clinical-pilot'"
)
REVOKE = (
    "UPDATE touchstone.certificate SET in_force = false"
    " WHERE model_name = %s AND model_version = %s"
)
DELETE = (
    "UPDATE mlflow.model_versions SET current_stage = 'Deleted_Internal', source = 'REDACTED'"
    " WHERE workspace = 'sme-a' AND name = %s AND version = %s"
)
SUBMIT = (
    "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
    " protocol_digest, cohort_id, cohort_version, submitted_by) SELECT gen_random_uuid(), 'sme-a',"
    " %s, %s, digest, 'c', '1', 'Eva' FROM touchstone.protocol"
)


def certified(gate: Gate, name: str, versions: int) -> str:
    """A model with so many certified versions."""
    for number in range(1, versions + 1):
        gate.version(name)
        certify(gate, submit(gate, name, number))
    return name


def pilot(gate: Gate, name: str) -> list[int]:
    found = gate.sql(
        "SELECT version FROM mlflow.registered_model_aliases"
        " WHERE name = %s AND alias = 'clinical-pilot'", name,
    )  # fmt: skip
    return [version for (version,) in found]


@contextmanager
def transaction(dsn: str | None) -> Iterator[psycopg.Connection[Any]]:
    """One that a statement waits in for a second at most."""
    assert dsn
    with psycopg.connect(dsn, options="-clock_timeout=1000") as connection:
        yield connection


def test_of_two_promotions_at_once_one_stands_whole(gate: Gate) -> None:
    name = certified(gate, "raced-pilot", 2)
    for _ in range(10):
        barrier = threading.Barrier(4)

        def promote(version: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            set_clinical_pilot(gate.databases.gate, "sme-a", name, version)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(promote, (1, 2, 1, 2)))
        assert pilot(gate, name) in ([1], [2])


def test_a_promotion_and_the_removal_of_the_other_version_do_not_cross(gate: Gate) -> None:
    """Taking `clinical-pilot` off version 1 never takes it off version 2."""
    name = certified(gate, "crossed-pilot", 2)
    for _ in range(10):
        set_clinical_pilot(gate.databases.gate, "sme-a", name, 1)
        with ThreadPoolExecutor(2) as threads:
            promoted = threads.submit(set_clinical_pilot, gate.databases.gate, "sme-a", name, 2)
            removed = threads.submit(remove_clinical_pilot, gate.databases.gate, "sme-a", name, 1)
            promoted.result()
            removed.result()
        assert pilot(gate, name) == [2]


def test_a_certificate_being_revoked_opens_no_gate(gate: Gate) -> None:
    name = certified(gate, "revoked-meanwhile", 1)
    with transaction(gate.databases.gate) as revoking:
        revoking.execute(REVOKE, (name, 1))
        with (
            pytest.raises(psycopg.errors.LockNotAvailable),
            transaction(gate.databases.gate) as promoting,
        ):
            promoting.execute(INSERT_ALIAS, (name, "clinical-pilot", 1))
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(set_clinical_pilot, gate.databases.gate, "sme-a", name, 1)
            revoking.commit()
            with pytest.raises(Refused, match="no certificate in force"):
                waiting.result(10)
    assert pilot(gate, name) == []


def test_a_revocation_waits_for_the_alias_that_it_must_remove(gate: Gate) -> None:
    name = certified(gate, "promoted-meanwhile", 1)
    with transaction(gate.databases.gate) as promoting:
        promoting.execute(INSERT_ALIAS, (name, "clinical-pilot", 1))
        with (
            pytest.raises(psycopg.errors.LockNotAvailable),
            transaction(gate.databases.gate) as revoking,
        ):
            revoking.execute(REVOKE, (name, 1))
        promoting.commit()
    with pytest.raises(psycopg.errors.RestrictViolation, match="goes in the moment"):
        gate.sql(REVOKE, name, 1, role="gate")
    with transaction(gate.databases.gate) as both:
        both.execute(REVOKE, (name, 1))
        both.execute(REMOVE_ALIAS, (name, 1))
        both.commit()
    assert not remove_clinical_pilot(gate.databases.gate, "sme-a", name, 1)


def test_a_version_is_deleted_or_submitted_never_both(gate: Gate) -> None:
    for name, first, second, refused in (
        ("deleted-first", ("mlflow", DELETE), ("owner", SUBMIT), "there is no version"),
        ("submitted-first", ("owner", SUBMIT), ("mlflow", DELETE), "was submitted and stays"),
    ):
        gate.version(name)
        dsn = {role: getattr(gate.databases, role) for role in ("mlflow", "owner")}
        with transaction(dsn[first[0]]) as earlier:
            earlier.execute(first[1], (name, 1))  # type: ignore[call-overload]
            with (
                pytest.raises(psycopg.errors.LockNotAvailable),
                transaction(dsn[second[0]]) as later,
            ):
                later.execute(second[1], (name, 1))  # type: ignore[call-overload]
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(gate.sql, second[1], name, 1, role=second[0])
                earlier.commit()
                with pytest.raises(psycopg.DatabaseError, match=refused):
                    waiting.result(10)


def test_a_deleted_version_is_not_submitted(gate: Gate) -> None:
    gate.version("gone")
    assert (
        gate.mlflow("DELETE", "model-versions/delete", name="gone", version="1").status_code == 200
    )
    with pytest.raises(psycopg.errors.RestrictViolation, match="register it first"):
        submit(gate, "gone", 1)
    with pytest.raises(psycopg.errors.RestrictViolation, match="register it first"):
        submit(gate, "never-there", 1)


def test_one_submission_gets_one_certificate_however_many_ask(gate: Gate) -> None:
    name = "asked-twice"
    gate.version(name)
    submission = submit(gate, name, 1)
    outcomes: list[str] = []

    def ask() -> None:
        try:
            certify_again(gate, submission)
            outcomes.append("issued")
        except psycopg.DatabaseError as error:
            outcomes.append(type(error).__name__)

    certify(gate, submission)
    gate.sql("SELECT 1")
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(ask)
    assert "issued" not in outcomes
    found = gate.sql("SELECT count(*) FROM touchstone.certificate WHERE submission=%s", submission)
    assert found == [(1,)]


def certify_again(gate: Gate, submission: str) -> None:
    gate.sql(
        "INSERT INTO touchstone.certificate (submission, organisation, model_name, model_version,"
        " envelope, signers, not_after) SELECT id, organisation, model_name, model_version, '{}',"
        " '', now() + interval '1 day' FROM touchstone.submission WHERE id = %s",
        submission, role="gate",
    )  # fmt: skip


@pytest.fixture(scope="module")
def free(gate: Gate) -> str:
    """A model with a version that nobody certified."""
    gate.version("uncertified")
    return "uncertified"


@pytest.mark.parametrize("alias", ["clinical-pilot", "dev-by-sql", "Clinical-Pilot",
                                   "clinical-pilot\n"])  # fmt: skip
@pytest.mark.parametrize("role", ["app", "worker", "login", "gate"])
def test_no_role_sets_an_alias_that_no_certificate_carries(
    gate: Gate, free: str, role: str, alias: str
) -> None:
    before = pilot(gate, free)
    with pytest.raises(psycopg.DatabaseError) as refused:
        gate.sql(INSERT_ALIAS, free, alias, 1, role=role)
    assert refused.value.sqlstate in ("42501", "TS403")
    assert pilot(gate, free) == before


@pytest.mark.parametrize("organisation", ["sme-a", "tef", "clinic"])
def test_no_token_makes_the_applications_role_set_an_alias(
    gate: Gate, free: str, organisation: str
) -> None:
    kind = {"sme-a": ("innovator",), "tef": ("steward", "assessor", "auditor", "admin"),
            "clinic": ("clinician",)}  # fmt: skip
    for person in kind[organisation]:
        for dsn in (gate.databases.app, gate.databases.gate):
            role = Role(dsn, token_of(gate.databases, organisation, person, "P"))
            with pytest.raises(psycopg.DatabaseError) as refused:
                role.execute(INSERT_ALIAS, (free, "clinical-pilot", 1))
            assert refused.value.sqlstate in ("42501", "TS403")


def test_what_each_role_may_with_mlflows_tables_is_this_and_no_more(gate: Gate) -> None:
    """The whole of it: a grant that is added anywhere shows here."""
    rows = gate.sql(
        "SELECT r.rolname, n.nspname, c.relname, p.name FROM pg_roles r, pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace,"
        " unnest(ARRAY['INSERT','UPDATE','DELETE','TRUNCATE','REFERENCES','TRIGGER','MAINTAIN'])"
        " p(name) WHERE r.rolname = ANY(%s) AND r.rolname <> 'touchstone_owner'"
        " AND n.nspname = 'mlflow' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
        " AND (has_table_privilege(r.oid, c.oid, p.name)"
        "  OR CASE WHEN p.name IN ('INSERT','UPDATE','REFERENCES')"
        "     THEN has_any_column_privilege(r.oid, c.oid, p.name) END)",
        list(ROLES),
    )  # fmt: skip
    written = {
        "experiments", "experiment_tags", "runs", "tags", "params", "metrics", "latest_metrics",
        "datasets", "inputs", "input_tags", "logged_models", "logged_model_tags",
        "logged_model_params", "logged_model_metrics", "registered_models",
        "registered_model_tags", "registered_model_aliases", "model_versions",
        "model_version_tags",
    }  # fmt: skip
    deleted = {"tags", "registered_model_tags", "registered_model_aliases", "model_version_tags"}
    expected = {("touchstone_mlflow", table, right) for table in written
                for right in ("INSERT", "UPDATE")}  # fmt: skip
    expected |= {("touchstone_mlflow", table, "DELETE") for table in deleted}
    expected |= {("touchstone_mlflow", "workspaces", "INSERT")}
    expected |= {("touchstone_gate", "registered_model_aliases", right)
                 for right in ("INSERT", "UPDATE", "DELETE")}  # fmt: skip
    assert {(role, table, right) for role, _, table, right in rows} == expected


def test_mlflows_role_reaches_nothing_of_ours(gate: Gate) -> None:
    tables = gate.sql(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'touchstone' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
        " AND CASE WHEN c.relkind = 'S'"
        "     THEN has_sequence_privilege('touchstone_mlflow', c.oid, 'USAGE, SELECT, UPDATE')"
        "     ELSE has_any_column_privilege('touchstone_mlflow', c.oid,"
        "          'SELECT, INSERT, UPDATE, REFERENCES')"
        "      OR has_table_privilege('touchstone_mlflow', c.oid, 'DELETE, TRUNCATE, TRIGGER') END"
    )
    assert tables == []
    functions = gate.sql(
        "SELECT n.nspname || '.' || p.proname FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('touchstone', 'mlflow')"
        " AND has_function_privilege('touchstone_mlflow', p.oid, 'EXECUTE') ORDER BY 1"
    )
    assert [name for (name,) in functions] == [
        "mlflow.workspace_of_model", "mlflow.workspace_of_run", "touchstone.alias_permitted",
        "touchstone.version_is_bound",
    ]  # fmt: skip
    for schema in ("touchstone", "mlflow", "public"):
        made = gate.sql("SELECT has_schema_privilege('touchstone_mlflow', %s, 'CREATE')", schema)
        assert made == [(False,)]
    member = gate.sql(
        "SELECT r.rolname FROM pg_roles r WHERE r.rolname <> 'touchstone_mlflow'"
        " AND pg_has_role('touchstone_mlflow', r.oid, 'MEMBER')"
    )
    assert member == []
