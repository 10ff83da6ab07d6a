"""Each layer holds alone: what is behind the front is asked directly, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.settings import SILENCE
from tests.registry.mlflow_server import Gate

PROGRAM = r"""
import json, os, sys
from pathlib import Path
from registry.identity.caller import Caller, current_caller
from registry.mlflow_gate.sealed import ArtifactFolder
from registry.mlflow_gate.server import install

url, artifacts = sys.argv[1:]
install(mlflow_url=url, artifacts=ArtifactFolder(Path(artifacts)))
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.server import app, handlers
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.workspace_context import ServerWorkspaceContext

said = {}
def attempt(name, action):
    try:
        said[name] = f"done: {action()}"
    except Exception as error:
        said[name] = f"{getattr(error, 'error_code', type(error).__name__)}: {error}"

flask = app.test_client()
alias = {"name": "layered", "alias": "clinical-pilot", "version": "1"}
def web(path, body, **more):
    answer = flask.post(path, json=body, **more)
    return f"{answer.status_code} {answer.get_json()['message']}"
API = "/api/2.0/mlflow/registered-models"
registry, tracking = handlers._get_model_registry_store(), handlers._get_tracking_store()
inside = Caller("sme-a", "sme", "innovator", "Eva", "t")

attempt("web without a caller", lambda: web(API + "/alias", alias))
attempt("store without a caller", lambda: registry.get_registered_model("layered"))
attempt("tracking without a caller", lambda: tracking.search_experiments())
repository = handlers._get_artifact_repo_mlflow_artifacts
attempt("files without a caller", lambda: repository().list_artifacts("workspaces/sme-a/1"))
current_caller.set(inside)
header = {"X-MLFLOW-WORKSPACE": "sme-b"}
attempt("web, the alias", lambda: web(API + "/alias", alias, headers=header))
attempt("web, the twin", lambda: web("/ajax-api/2.0/mlflow/registered-models/alias", alias))
attempt("web, rename", lambda: web(API + "/rename", {"name": "layered", "new_name": "x"}))
attempt("web, gateway", lambda: web("/api/3.0/mlflow/gateway/secrets/create", {}))
attempt("web, graphql", lambda: web("/graphql", {"query": "{ test { output } }"}))
with ServerWorkspaceContext("sme-b"):
    attempt("store, another's workspace", lambda: registry.get_registered_model("layered"))
with ServerWorkspaceContext("sme-a"):
    attempt("store, own model", lambda: registry.get_registered_model("layered").name)
    for name, action in {
        "alias": lambda: registry.set_registered_model_alias("layered", "clinical-pilot", "1"),
        "alias newline": lambda: registry.set_registered_model_alias("layered", "dev-x\n", "1"),
        "tag": lambda: registry.set_registered_model_tag(
            "layered", RegisteredModelTag("touchstone.x", "1")),
        "rename": lambda: registry.rename_registered_model("layered", "x"),
        "delete": lambda: registry.delete_registered_model("layered"),
        "stage": lambda: registry.transition_model_version_stage("layered", "1", "Production", 0),
        "source": lambda: registry.create_model_version("layered", "s3://locked/x"),
        "webhook": lambda: registry.create_webhook("w", "https://x.example", []),
        "traces": lambda: tracking.search_traces(["1"]),
        "scorer": lambda: tracking.register_scorer("1", "s", "{}"),
        "delete run": lambda: tracking.delete_run("0" * 32),
        "client": lambda: MlflowClient().set_registered_model_alias("layered", "x", "1"),
    }.items():
        attempt("store, " + name, action)
attempt("files, delete", lambda: repository().delete_artifacts("workspaces/sme-a/1"))
other = f"workspaces/sme-b/1/{'0' * 32}/artifacts/x"
attempt("files, other's", lambda: repository().get_local_path(other))
for scheme in ("s3://locked/x", "file:///etc", "/etc", "http://x.example/y", "runs:/a/b"):
    attempt("files, " + scheme, lambda: get_artifact_repository(scheme))
with registry.engine.connect() as connection:
    said["most seconds"] = connection.exec_driver_sql("SHOW statement_timeout").scalar()
said["environment"] = str([k for k, v in os.environ.items() if "touchstone_mlflow" in v])
said["loaded"] = str([m for m in sys.modules if sys.modules[m] and m.startswith(
    ("mlflow.server.auth", "mlflow.server.fastapi_app", "mlflow.server.gateway_api",
     "mlflow.server.assistant", "mlflow.server.job_api", "mlflow.server.mcp_server_api"))])
print(json.dumps(said))
"""


# What an operator's shell may hold for an MLflow client; the server must not follow it.
MISLEADING = {
    "MLFLOW_WORKSPACE": "sme-b",
    "MLFLOW_REGISTRY_URI": "sqlite:////tmp/x.db",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "_MLFLOW_STATIC_PREFIX": "/x",
}  # fmt: skip


@pytest.fixture(scope="module")
def said(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Any:
    gate.version("layered")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, gate.databases.mlflow,
         str(tmp_path_factory.mktemp("artifacts"))],
        cwd=Path(__file__).parents[2], env={**os.environ, **SILENCE, **MISLEADING},
        capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_web_layer_asks_for_a_caller_and_for_an_endpoint_on_the_list(said: Any) -> None:
    assert said["web without a caller"].startswith("done: 401")
    for name in ("web, the alias", "web, the twin"):
        assert said[name].startswith("done: 403 the alias 'clinical-pilot'"), said[name]
    for name in ("web, rename", "web, gateway", "web, graphql"):
        assert "not offered" in said[name]


def test_the_stores_refuse_without_the_layers_before_them(said: Any) -> None:
    assert said.pop("store, own model") == "done: layered"
    expected = {"store without a caller": "UNAUTH", "tracking without a caller": "UNAUTH"}
    for name, answer in said.items():
        if name.startswith(("store", "tracking")):
            assert answer.startswith(expected.get(name, "PERMISSION_DENIED")), f"{name}: {answer}"
    assert sum(name.startswith("store, ") for name in said) == 13


def test_the_files_refuse_without_the_layers_before_them(said: Any) -> None:
    assert said["files without a caller"].startswith("UNAUTH")
    assert said["files, delete"].startswith("PERMISSION_DENIED")
    assert said["files, other's"].startswith("RESOURCE_DOES_NOT_EXIST")
    for scheme in ("s3://locked/x", "file:///etc", "/etc", "http://x.example/y", "runs:/a/b"):
        assert "Could not find a registered artifact repository" in said[f"files, {scheme}"]


def test_the_process_inherits_and_loads_nothing_that_it_need_not(said: Any) -> None:
    assert said["environment"] == "[]"
    assert said["loaded"] == "[]"


def test_the_database_gives_mlflow_seconds_for_a_statement_and_no_more(said: Any) -> None:
    assert said["most seconds"] == "20s"
