"""A registered model version, written into MLflow's tables as its client would bring it about."""

import uuid

from tests.registry.role import Role


def register(owner: Role, organisation: str, model: str, version: int = 1) -> None:
    """Nothing where it is there already. Without MLflow's tables, the outbox's row alone."""
    known = "SELECT 1 FROM touchstone.registration WHERE (organisation, model_name, version) = "
    if owner.execute(known + "(%s, %s, %s)", (organisation, model, version)).fetchone():
        return
    there = owner.execute("SELECT to_regclass('mlflow.model_versions')").fetchone()
    if there == (None,):
        owner.execute(
            "INSERT INTO touchstone.registration (organisation, model_name, version, source)"
            " VALUES (%s, %s, %s, 's')", (organisation, model, version),
        )  # fmt: skip
        return
    logged = f"m-{uuid.uuid4().hex}"
    owner.execute(
        "INSERT INTO mlflow.experiments (name, lifecycle_stage, workspace)"
        " VALUES (%(name)s, 'active', %(whose)s)", {"name": logged, "whose": organisation},
    )  # fmt: skip
    found = owner.execute("SELECT experiment_id FROM mlflow.experiments WHERE name = %s", (logged,))
    (experiment,) = found.fetchone()
    place = f"mlflow-artifacts:/workspaces/{organisation}/{experiment}/models/{logged}/artifacts"
    owner.execute(
        "INSERT INTO mlflow.logged_models (model_id, experiment_id, name, artifact_location,"
        " creation_timestamp_ms, last_updated_timestamp_ms, status)"
        " VALUES (%s, %s, %s, %s, 1, 1, 2)",
        (logged, experiment, model, place),
    )
    owner.execute(
        "INSERT INTO mlflow.registered_models (workspace, name) VALUES (%s, %s)"
        " ON CONFLICT DO NOTHING", (organisation, model),
    )  # fmt: skip
    owner.execute(
        "INSERT INTO mlflow.model_versions (workspace, name, version, creation_time, current_stage,"
        " source, storage_location, status) VALUES (%s, %s, %s, 1, 'None', %s, %s, 'READY')",
        (organisation, model, version, f"models:/{logged}", place),
    )
