"""If MLflow itself were taken over: what its role, alone with the database, can't do."""

from typing import Any

import psycopg
import pytest

from registry.mlflow_gate.versions import set_clinical_pilot
from tests.registry.mlflow_server import Gate, certify, submit

REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.DatabaseError)


@pytest.fixture(scope="module")
def bound(gate: Gate) -> str:
    """A model whose version 1 is certified and 2 is free; a `dev-` alias on 2."""
    for _ in range(2):
        gate.version("walled")
    certify(gate, submit(gate, "walled", 1))
    set_clinical_pilot(gate.databases.gate, "sme-a", "walled", 1)
    gate.mlflow("POST", "registered-models/alias", name="walled", alias="dev-two", version="2")
    return "walled"


def state(gate: Gate) -> Any:
    return [
        gate.sql(f"SELECT * FROM mlflow.{table} ORDER BY 1, 2, 3")
        for table in ("registered_model_aliases", "model_versions", "registered_models",
                      "registered_model_tags", "model_version_tags", "workspaces")
    ] + [gate.sql("SELECT * FROM touchstone.registration ORDER BY 1, 2, 3")]  # fmt: skip


INSERT_ALIAS = "INSERT INTO mlflow.registered_model_aliases (workspace, name, alias, version) "
WALLED = "WHERE workspace = 'sme-a' AND name = 'walled'"


@pytest.mark.parametrize(
    "statement",
    [
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'clinical-pilot', 2)",
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', E'dev-x\\n', 2)",
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'DEV-x', 2)",
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'dev-é', 2)",
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'production', 2)",
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'dev-nowhere', 77)",
        f"UPDATE mlflow.registered_model_aliases SET alias = 'clinical-pilot' {WALLED}"
        " AND alias = 'dev-two'",
        f"UPDATE mlflow.registered_model_aliases SET version = 2 {WALLED}",
        f"UPDATE mlflow.registered_model_aliases SET workspace = 'sme-b' {WALLED}",
        f"DELETE FROM mlflow.registered_model_aliases {WALLED}",
        "TRUNCATE mlflow.registered_model_aliases",
        f"DELETE FROM mlflow.model_versions {WALLED}",
        f"DELETE FROM mlflow.registered_models {WALLED}",
        f"UPDATE mlflow.registered_models SET name = 'other' {WALLED}",
        f"UPDATE mlflow.registered_models SET workspace = 'sme-b' {WALLED}",
        f"UPDATE mlflow.model_versions SET source = 'models:/m-{'0' * 32}' {WALLED}",
        f"UPDATE mlflow.model_versions SET storage_location = 's3://locked' {WALLED}",
        f"UPDATE mlflow.model_versions SET current_stage = 'Production' {WALLED}",
        f"UPDATE mlflow.model_versions SET version = version + 10 {WALLED}",
        f"UPDATE mlflow.model_versions SET current_stage = 'Deleted_Internal' {WALLED}"
        " AND version = 1",
        "INSERT INTO mlflow.model_versions (workspace, name, version, current_stage, source,"
        " storage_location) VALUES ('sme-a', 'walled', 9, 'None', 's3://locked/x', 's3://locked/x')",
        "INSERT INTO mlflow.model_versions (workspace, name, version, current_stage, source,"
        f" storage_location) SELECT workspace, name, 9, 'Production', source, storage_location"
        f" FROM mlflow.model_versions {WALLED} LIMIT 1",
        "INSERT INTO mlflow.model_versions (workspace, name, version, current_stage, source,"
        " storage_location) SELECT 'sme-b', 'theirs', 9, 'None', source, storage_location"
        f" FROM mlflow.model_versions {WALLED} LIMIT 1",
        "UPDATE mlflow.logged_models SET artifact_location = 's3://locked'",
        "UPDATE mlflow.experiments SET artifact_location = 's3://locked'",
        "UPDATE mlflow.experiments SET workspace = 'sme-b' WHERE workspace = 'sme-a'",
        "INSERT INTO mlflow.registered_model_tags (workspace, name, key, value)"
        " VALUES ('sme-a', 'walled', 'Touchstone.verdict', 'pass')",
        "INSERT INTO mlflow.registered_model_tags (workspace, name, key, value)"
        " VALUES ('sme-a', 'walled', E'touch\\u00adstone.verdict', 'pass')",
        "INSERT INTO mlflow.registered_model_tags (workspace, name, key, value)"
        " VALUES ('sme-a', 'walled', E'\\u0442ouchstone.verdict', 'pass')",
        "INSERT INTO mlflow.model_version_tags (workspace, name, version, key, value)"
        " VALUES ('sme-a', 'walled', 1, 'touch-stone', 'pass')",
        "INSERT INTO mlflow.workspaces (name, default_artifact_root) VALUES ('w', 's3://locked')",
        "UPDATE mlflow.workspaces SET default_artifact_root = 's3://locked'",
        "ALTER TABLE mlflow.registered_model_aliases DISABLE TRIGGER ALL",
        "DROP TRIGGER guard_alias ON mlflow.registered_model_aliases",
        "CREATE TABLE mlflow.mine (x int)",
        "CREATE OR REPLACE FUNCTION mlflow.guard_alias() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NEW; END'",
        "SET session_replication_role = replica",
        "SET ROLE touchstone_gate",
        "SET ROLE touchstone_owner",
        "SELECT * FROM touchstone.certificate",
        "SELECT * FROM touchstone.token",
        "UPDATE touchstone.certificate SET in_force = true",
        "DELETE FROM touchstone.registration",
        "INSERT INTO mlflow.webhooks (webhook_id) VALUES ('x')",
    ],
)  # fmt: skip
def test_mlflows_role_can_not(gate: Gate, bound: str, statement: str) -> None:
    before = state(gate)
    with pytest.raises(REFUSED) as refused:
        gate.sql(statement, role="mlflow")
    assert refused.value.sqlstate in ("TS403", "42501", "23503"), str(refused.value)
    assert state(gate) == before


@pytest.mark.parametrize(
    "statement",
    [
        INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'dev-gate', 1)",
        f"UPDATE mlflow.registered_model_aliases SET version = 2 {WALLED}"
        " AND alias = 'clinical-pilot'",
        "UPDATE mlflow.model_versions SET source = 'x'",
        "INSERT INTO mlflow.registered_models (workspace, name) VALUES ('sme-a', 'x')",
    ],
)
def test_the_gates_role_can_not(gate: Gate, bound: str, statement: str) -> None:
    before = state(gate)
    with pytest.raises(REFUSED) as refused:
        gate.sql(statement, role="gate")
    assert refused.value.sqlstate in ("TS403", "42501")
    assert state(gate) == before


def test_not_even_the_owner_sets_the_alias_while_the_walls_stand(gate: Gate, bound: str) -> None:
    with pytest.raises(psycopg.DatabaseError, match="clinical-pilot"):
        gate.sql(INSERT_ALIAS + "VALUES ('sme-a', 'walled', 'clinical-pilot', 2)")
    with pytest.raises(psycopg.DatabaseError, match="certificate alone"):
        gate.sql(f"DELETE FROM mlflow.registered_model_aliases {WALLED} AND alias !~ '^dev-'")


def test_a_certificate_no_longer_in_force_sets_nothing(gate: Gate) -> None:
    gate.version("withdrawn")
    submission = submit(gate, "withdrawn", 1)
    certify(gate, submission)
    gate.sql(
        "UPDATE touchstone.certificate SET in_force = false WHERE submission = %s", submission,
        role="gate",
    )  # fmt: skip
    with pytest.raises(psycopg.DatabaseError, match="no certificate in force"):
        gate.sql(INSERT_ALIAS + "VALUES ('sme-a', 'withdrawn', 'clinical-pilot', 1)", role="gate")


def test_mlflow_owns_nothing_and_may_only_what_it_needs(gate: Gate) -> None:
    owned = gate.sql(
        "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE r.rolname IN ('touchstone_mlflow', 'touchstone_gate')"
    )
    assert owned == [(0,)]
    rights = gate.sql(
        "SELECT DISTINCT privilege_type FROM information_schema.role_table_grants"
        " WHERE grantee = 'touchstone_mlflow' AND table_schema = 'mlflow' ORDER BY 1"
    )
    assert [right for (right,) in rights] == ["DELETE", "INSERT", "SELECT", "UPDATE"]
    unguarded = gate.sql(
        "SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE NOT tgisinternal AND c.relnamespace = 'mlflow'::regnamespace AND tgenabled <> 'A'"
        " AND tgname ~ '^(guard|announce)_'"
    )
    assert unguarded == []
    guards = gate.sql("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^(guard|announce)_'")
    assert guards == [(12,)]


def test_no_row_ties_a_run_to_another_organisations_model(gate: Gate) -> None:
    model_id, _ = gate.logged_model("sme-a")
    created = gate.mlflow("POST", "runs/create", "sme-b", experiment_id="0").json()
    run, experiment = (created["run"]["info"][key] for key in ("run_id", "experiment_id"))
    link = (
        "INSERT INTO mlflow.inputs (input_uuid, source_type, source_id, destination_type,"
        " destination_id, step) VALUES (md5(random()::text), %s, %s, %s, %s, 0)"
    )
    metric = (
        "INSERT INTO mlflow.logged_model_metrics (model_id, metric_name, metric_timestamp_ms,"
        " metric_step, metric_value, experiment_id, run_id) VALUES (%s, 'auc', 1, 0, 1, %s, %s)"
    )
    for statement, values in (
        (link, ("RUN_INPUT", run, "MODEL_INPUT", model_id)),
        (link, ("RUN_OUTPUT", run, "MODEL_OUTPUT", model_id)),
        (link, ("RUN_OUTPUT", run, "MODEL_OUTPUT", "m-" + "0" * 32)),
        (metric, (model_id, experiment, run)),
    ):
        with pytest.raises(psycopg.DatabaseError) as refused:
            gate.sql(statement, *values, role="mlflow")
        assert refused.value.sqlstate == "TS403", str(refused.value)
    own, _ = gate.logged_model("sme-b")
    gate.sql(link, "RUN_OUTPUT", run, "MODEL_OUTPUT", own, role="mlflow")
    gate.sql(metric, own, experiment, run, role="mlflow")
