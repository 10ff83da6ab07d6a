"""Ways around the gate that worked elsewhere; each must fail here, and say why."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from registry.mlflow_gate.body import MOST_JSON
from tests.registry.mlflow_server import Gate

ALIAS = "/api/2.0/mlflow/registered-models/alias"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def model(gate: Gate) -> str:
    gate.version("target")
    gate.version("target")
    return "target"


def aliases(gate: Gate) -> set[str]:
    return {row[0] for row in gate.sql("SELECT alias FROM mlflow.registered_model_aliases")}


@pytest.mark.parametrize(
    "path",
    [
        "/" + ALIAS,
        ALIAS.replace("mlflow/", "mlflow//"),
        ALIAS + "/",
        ALIAS.replace("alias", "%61lias"),
        ALIAS.replace("alias", "%2561lias"),
        ALIAS.replace("alias", "./alias"),
        ALIAS.replace("alias", "x/../alias"),
        ALIAS.replace("alias", "x/%2e%2e/alias"),
        ALIAS.replace("/reg", "\\reg"),
        ALIAS + ";x=1",
        ALIAS.replace("api", "ajax-api"),
        ALIAS.replace("api", "API"),
        ALIAS.replace("2.0", "3.0"),
        ALIAS.replace("registered-models/alias", "registered%2dmodels/alias"),
        "/graphql",
        "/mlflow" + ALIAS,
        ALIAS + "%0a",
        ALIAS + "%00",
    ],
)
def test_no_other_spelling_of_a_path_is_taken(gate: Gate, model: str, path: str) -> None:
    body = {"name": model, "alias": "dev-spelled", "version": "1"}
    answer = gate.ask("POST", path, fields=body)
    assert answer.status_code in (403, 404, 422)
    assert answer.json()["message"]
    assert "dev-spelled" not in aliases(gate)


@pytest.mark.parametrize(
    "alias",
    [
        "clinical-pilot", "Clinical-Pilot", "clinical-pilot\n", "dev-x\n", "dev-é", "dev-Х",
        "dev-" + "a" * 61, "dev-", "DEV-x", "ｄev-x", "dev-x y", "clinical\u2010pilot",
        "dev-x\u0000", "clinical%2Dpilot", " clinical-pilot", "dev-x;drop",
    ],
)  # fmt: skip
def test_no_other_alias_is_taken(gate: Gate, model: str, alias: str) -> None:
    before = aliases(gate)
    answer = gate.mlflow("POST", "registered-models/alias", name=model, alias=alias, version="1")
    assert answer.status_code in (400, 403, 422)
    assert aliases(gate) == before


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(json.dumps({"name": "target", "alias": "dev-x", "version": "1"})),
        '{"name":"target","alias":"dev-x","alias":"clinical-pilot","version":"1"}',
        "[]", "null", "{", "\ufeff{}", '{"name":"\ud800"}', '{"name":"\\ud800"}', "", "NaN",
        '{"name":"x\\u0000"}', '{"x\\u0000":1}',
        '{"a":' * 2000 + "1" + "}" * 2000,
    ],
)  # fmt: skip
def test_a_body_is_one_plain_json_object(gate: Gate, model: str, body: str) -> None:
    answer = gate.ask("POST", ALIAS, content=body.encode("utf-8", "surrogatepass"))
    assert answer.status_code == 422
    assert "JSON object" in answer.json()["message"]


def test_a_body_without_its_type_or_in_a_form_changes_nothing(gate: Gate, model: str) -> None:
    before = aliases(gate)
    form = {"name": model, "alias": "clinical-pilot", "version": "1"}
    assert gate.ask("POST", ALIAS, content=urlencode(form)).status_code == 422
    for kind in ("text/plain", "application/x-protobuf", "multipart/form-data"):
        headers = {"Content-Type": kind}
        answer = gate.ask("POST", ALIAS, content=json.dumps(form), headers=headers)
        assert answer.status_code in (400, 403)
    assert aliases(gate) == before


def test_a_get_with_a_body_or_another_method_in_a_header_is_still_a_get(
    gate: Gate, model: str
) -> None:
    body = json.dumps({"name": model, "alias": "dev-by-get", "version": "1"})
    headers = {"X-HTTP-Method-Override": "POST", "X-Method-Override": "POST"}
    gate.ask("GET", ALIAS, content=body, headers=headers)
    assert "dev-by-get" not in aliases(gate)


def test_a_body_too_large_is_refused(gate: Gate) -> None:
    answer = gate.ask("POST", ALIAS, content=b"x" * (MOST_JSON + 1))
    assert answer.status_code == 413
    chunks = (b"x" * 65536 for _ in range(MOST_JSON // 65536 + 2))
    assert gate.ask("POST", ALIAS, content=chunks).status_code == 413


@pytest.mark.parametrize(("organisation", "status"), [(None, 401), ("tef", 403), ("clinic", 404)])
def test_mlflow_is_for_innovators(gate: Gate, organisation: str | None, status: int) -> None:
    """A hospital's token has a few routes of its own, where nothing else is there."""
    answer = gate.ask("POST", "/api/2.0/mlflow/runs/search", organisation, fields={})
    assert answer.status_code == status
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic dXNlcjpwYXNz", "bearer a b", "Bearer " * 900],
)
def test_a_wrong_token_is_told_apart_from_a_right_one(gate: Gate, header: str) -> None:
    answer = gate.ask("GET", FILES, None, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"


def test_a_forged_workspace_header_is_overwritten(gate: Gate, model: str) -> None:
    for name in ("X-MLFLOW-WORKSPACE", "x_mlflow_workspace", "X-Mlflow_Workspace"):
        answer = gate.ask(
            "GET", "/api/2.0/mlflow/registered-models/get", "sme-b",
            headers={name: "sme-a"}, query={"name": model},
        )  # fmt: skip
        assert answer.status_code == 404


def test_another_organisations_things_do_not_exist(gate: Gate, model: str) -> None:
    run = gate.mlflow("POST", "runs/create", experiment_id="0").json()["run"]["info"]
    run_id, experiment = run["run_id"], run["experiment_id"]
    model_id, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"secret")
    for method, path, fields in (
        ("GET", "registered-models/get", {"name": model}),
        ("GET", "model-versions/get", {"name": model, "version": "1"}),
        ("GET", "model-versions/get-download-uri", {"name": model, "version": "1"}),
        ("POST", "registered-models/alias", {"name": model, "alias": "dev-b", "version": "1"}),
        ("GET", "runs/get", {"run_id": run_id}),
        ("POST", "runs/log-metric", {"run_id": run_id, "key": "x", "value": 1, "timestamp": 1}),
        ("POST", "runs/log-parameter", {"run_id": run_id, "key": "x", "value": "1"}),
        ("POST", "runs/log-batch", {"run_id": run_id, "params": [{"key": "x", "value": "1"}]}),
        ("POST", "runs/set-tag", {"run_id": run_id, "key": "x", "value": "1"}),
        ("POST", "runs/update", {"run_id": run_id, "status": "FINISHED"}),
        ("POST", "runs/outputs", {"run_id": run_id, "models": [{"model_id": model_id}]}),
        ("POST", "runs/log-inputs", {"run_id": run_id, "models": [{"model_id": model_id}]}),
        ("GET", "metrics/get-history", {"run_id": run_id, "metric_key": "auc"}),
        ("GET", "artifacts/list", {"run_id": run_id}),
        ("GET", "experiments/get", {"experiment_id": experiment}),
        ("POST", "runs/create", {"experiment_id": experiment}),
        ("POST", "logged-models", {"experiment_id": experiment, "name": "x"}),
        ("POST", "logged-models", {"experiment_id": "0", "name": "x", "source_run_id": run_id}),
        ("GET", f"logged-models/{model_id}", {}),
        ("PATCH", f"logged-models/{model_id}", {"model_id": model_id, "status": 2}),
        ("PATCH", f"logged-models/{model_id}/tags", {"tags": [{"key": "a", "value": "b"}]}),
        ("POST", f"logged-models/{model_id}/params", {"params": [{"key": "a", "value": "b"}]}),
    ):
        answer = gate.mlflow(method, path, "sme-b", **fields)
        assert answer.status_code in (400, 404), f"{method} {path}: {answer.text}"
        assert "secret" not in answer.text
    for path in (folder + "/model.onnx", folder + "/new.onnx"):
        assert gate.ask("GET", f"{FILES}/{path}", "sme-b").status_code == 404
        assert gate.put(path, b"mine", "sme-b").status_code == 404
    listing = gate.ask("GET", FILES, "sme-b", query={"path": folder})
    assert listing.status_code in (400, 404)


@pytest.mark.parametrize(
    "filter_string",
    ["name = 'x' OR 1=1", "name ILIKE '%'", "name = 'x'; DROP TABLE runs", "1=1",
     "name = 'x') OR (1=1", "name LIKE '%' AND workspace = 'sme-a'"],
)  # fmt: skip
def test_a_filter_finds_nothing_of_another_organisation(
    gate: Gate, model: str, filter_string: str
) -> None:
    for path in ("registered-models/search", "model-versions/search", "experiments/search"):
        answer = gate.mlflow("GET", path, "sme-b", filter=filter_string, max_results=100)
        assert model not in answer.text
        assert "sme-a" not in answer.text.replace(filter_string, "")
        assert "SQL" not in answer.text.replace(filter_string, "")
    one = gate.mlflow("GET", "experiments/get-by-name", "sme-a", experiment_name="Default").json()
    found = gate.mlflow(
        "POST", "runs/search", "sme-b", experiment_ids=[one["experiment"]["experiment_id"]]
    )
    assert not found.json().get("runs")


@pytest.mark.parametrize(
    "source",
    ["s3://locked-cohorts/x", "file:///etc", "/etc/passwd", "models:/target/1", "runs:/{run}/a",
     "mlflow-artifacts:/workspaces/sme-a/1/models", "models:/m-{zero}\n", "models:/{other}",
     "http://localhost/api/2.0/mlflow-artifacts/artifacts/x", "models:/M-{zero}",
     "models://touchstone@{zero}/x", "models:/m-{zero}", "gs://x/y", "dbfs:/x", ""],
)  # fmt: skip
def test_a_version_comes_from_a_model_logged_here(gate: Gate, model: str, source: str) -> None:
    other, folder = gate.logged_model("sme-b")
    gate.put(f"{folder}/model.onnx", b"theirs", "sme-b")
    source = source.format(zero="0" * 32, run="0" * 32, other=other)
    fields: dict[str, Any] = {"name": model, "source": source}
    for more in ({}, {"model_id": other}, {"run_id": "0" * 32}):
        answer = gate.mlflow("POST", "model-versions/create", **fields, **more)
        assert answer.status_code in (400, 403, 404), answer.text
    assert gate.sql("SELECT count(*) FROM mlflow.model_versions WHERE name = %s", model) == [(2,)]


@pytest.mark.parametrize(
    "key",
    ["touchstone.verdict", "Touchstone.x", " touchstone", "ｔouchstone", "touch\u00adstone",
     "\ttouchstone", "mlflow.prompt.is_prompt"],
)  # fmt: skip
def test_reserved_tags_come_in_by_no_door(gate: Gate, model: str, key: str) -> None:
    tag = {"key": key, "value": "true"}
    model_id, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"x")
    run = gate.mlflow("POST", "runs/create", experiment_id="0").json()["run"]["info"]["run_id"]
    for method, path, fields in (
        ("POST", "registered-models/create", {"name": "tagged", "tags": [tag]}),
        ("POST", "registered-models/set-tag", {"name": model, **tag}),
        ("DELETE", "registered-models/delete-tag", {"name": model, "key": key}),
        ("POST", "model-versions/set-tag", {"name": model, "version": "1", **tag}),
        ("DELETE", "model-versions/delete-tag", {"name": model, "version": "1", "key": key}),
        ("POST", "model-versions/create",
         {"name": model, "source": f"models:/{model_id}", "model_id": model_id,
          "tags": [tag]}),
        ("POST", "experiments/create", {"name": f"e{key}", "tags": [tag]}),
        ("POST", "experiments/set-experiment-tag", {"experiment_id": "0", **tag}),
        ("POST", "runs/create", {"experiment_id": "0", "tags": [tag]}),
        ("POST", "runs/set-tag", {"run_id": run, **tag}),
        ("POST", "runs/log-batch", {"run_id": run, "tags": [tag]}),
        ("POST", "logged-models", {"experiment_id": "0", "name": "n", "tags": [tag]}),
        ("PATCH", f"logged-models/{model_id}/tags", {"tags": [tag]}),
    ):  # fmt: skip
        answer = gate.mlflow(method, path, **fields)
        assert answer.status_code in (400, 403), f"{path}: {answer.text}"
    assert gate.mlflow("GET", "registered-models/get", name="tagged").status_code == 404


def test_a_file_is_written_once_and_sealed_with_its_registration(gate: Gate) -> None:
    model_id, folder = gate.logged_model()
    assert gate.put(f"{folder}/model.onnx", b"first").status_code == 200
    assert gate.put(f"{folder}/model.onnx", b"first").status_code == 200, "a repeated upload"
    again = gate.put(f"{folder}/model.onnx", b"other")
    assert (again.status_code, again.json()["error_code"]) == (409, "RESOURCE_CONFLICT")
    assert gate.put(f"{folder}/model.onnx/x", b"under a file").status_code == 409
    gate.mlflow("POST", "registered-models/create", name="sealed")
    created = gate.mlflow(
        "POST",
        "model-versions/create",
        name="sealed",
        source=f"models:/{model_id}",
        model_id=model_id,
    )
    assert created.status_code == 200
    for name, content in (("model.onnx", b"other"), ("late.data", b"new"), ("a/b/c", b"new")):
        late = gate.put(f"{folder}/{name}", content)
        assert late.status_code == 403
        assert "registered and sealed" in late.json()["message"]
    assert gate.ask("DELETE", f"{FILES}/{folder}/model.onnx").status_code == 404
    assert gate.ask("GET", f"{FILES}/{folder}/model.onnx").content == b"first"


def test_an_upload_that_ends_after_the_registration_fails(gate: Gate) -> None:
    model_id, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"first")
    gate.mlflow("POST", "registered-models/create", name="raced")
    begun, registered = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"first half, "
        begun.set()
        assert registered.wait(30)
        yield b"second half"

    answers: list[Any] = []
    upload = threading.Thread(
        target=lambda: answers.append(gate.put(f"{folder}/late.data", slowly()))
    )
    upload.start()
    assert begun.wait(30)
    created = gate.mlflow(
        "POST",
        "model-versions/create",
        name="raced",
        source=f"models:/{model_id}",
        model_id=model_id,
    )
    registered.set()
    upload.join(60)
    assert created.status_code == 200
    assert answers[0].status_code == 403
    assert gate.ask("GET", f"{FILES}/{folder}/late.data").status_code == 404


def test_an_upload_that_is_cut_off_leaves_nothing(gate: Gate) -> None:
    _, folder = gate.logged_model()
    host, port = gate.url.removeprefix("http://").split(":")
    head = (
        f"PUT {FILES}/{folder}/half.onnx HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {gate.tokens['sme-a']}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + b"x" * 500)
        time.sleep(0.3)
        assert list((gate.artifacts / ".incoming").iterdir())
    for _ in range(100):
        if not list((gate.artifacts / ".incoming").iterdir()):
            break
        time.sleep(0.05)
    assert not list((gate.artifacts / ".incoming").iterdir())
    assert gate.ask("GET", f"{FILES}/{folder}/half.onnx").status_code == 404


def test_a_model_without_files_is_not_registered(gate: Gate, model: str) -> None:
    model_id, _ = gate.logged_model()
    answer = gate.mlflow(
        "POST", "model-versions/create", name=model, source=f"models:/{model_id}", model_id=model_id
    )
    assert answer.status_code == 400
    assert "no files" in answer.json()["message"]


@pytest.mark.parametrize(
    "name",
    ["../x", "..%2fx", "%2e%2e/x", ".hidden", "a//b", "a/./b", "a b", "a%20b", "é", "a\\b", "a;b",
     "%2568", "a?b=/../c", "a%00", "x/" * 14 + "y", "n" * 201],
)  # fmt: skip
def test_artifacts_have_plain_names(gate: Gate, name: str) -> None:
    _, folder = gate.logged_model()
    before = {path for path in gate.artifacts.rglob("*") if path.is_file()}
    answer = gate.put(f"{folder}/{name}", b"x")
    if name == "a?b=/../c":
        assert answer.status_code == 200
        before.add(gate.artifacts / folder / "a")
    else:
        assert answer.status_code in (400, 403, 404, 422)
    files = {path for path in gate.artifacts.rglob("*") if path.is_file()}
    assert {path for path in files if ".locks" not in path.parts} == {
        path for path in before if ".locks" not in path.parts
    }


@pytest.mark.parametrize("path", [".sealed", ".locks", "workspaces", "workspaces/sme-a", "x",
                                  "workspaces/sme-a/../sme-b/1/models"])  # fmt: skip
def test_the_folders_own_things_are_not_reached(gate: Gate, path: str) -> None:
    assert gate.put(f"{path}/x", b"x").status_code in (403, 404, 422)
    assert gate.ask("GET", f"{FILES}/{path}/x").status_code in (403, 404, 422)
    assert gate.ask("GET", FILES, query={"path": path}).status_code in (400, 404)


def test_no_answer_shows_sql_or_an_address_of_the_database(gate: Gate, model: str) -> None:
    run = gate.mlflow("POST", "runs/create", experiment_id="0").json()["run"]["info"]["run_id"]
    for path, fields in (
        ("experiments/create", {"name": "Default"}),
        ("experiments/create", {"name": "n\u0000ul"}),
        ("runs/log-metric",
         {"run_id": run, "key": "x", "value": 1, "timestamp": 2**63 - 1, "step": 2**63 - 1}),
        ("runs/log-parameter", {"run_id": run, "key": "p\u0000", "value": "v"}),
        ("registered-models/create", {"name": "x", "description": "d" * 9000}),
        ("model-versions/set-tag", {"name": model, "version": "99999999999", "key": "k"}),
        ("runs/search", {"experiment_ids": ["x' OR 1=1"]}),
    ):  # fmt: skip
        answer = gate.mlflow("POST", path, **fields)
        for word in ("psycopg", "sqlalchemy", "SELECT", "INSERT", "/tmp", "Traceback"):
            assert word not in answer.text, f"{path}: {answer.text}"
