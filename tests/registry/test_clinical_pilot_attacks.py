"""What a hospital's token opens at the MLflow gate, and what it does not: decision 0038's list."""

import hashlib
from collections.abc import Iterator

import psycopg
import pytest

from registry.identity.policy import POLICY
from registry.mlflow_gate.clinical_pilot import ROUTES
from registry.mlflow_gate.routes import ROUTES as MLFLOWS
from registry.submissions import places
from tests.registry.mlflow_server import Gate
from tests.registry.piloted import (
    ALIAS,
    API,
    FILES,
    PILOT,
    Piloted,
    all_of,
    asked,
    events,
    piloted,
    resolved,
)
from tests.registry.role import token_of


@pytest.fixture(scope="module")
def model(gate: Gate) -> Piloted:
    return resolved(gate, piloted(gate, "attacked"))


@pytest.fixture(scope="module")
def other(gate: Gate) -> Piloted:
    """Another certified model, of another organisation."""
    return resolved(gate, piloted(gate, "others", {"model.onnx": b"another's"}, "sme-b"))


def test_every_request_of_a_load_is_answered_to_a_hospital_alone(
    gate: Gate, model: Piloted
) -> None:
    found = all_of(gate, model)
    assert {what: answer.status_code for what, answer in found.items()} == dict.fromkeys(found, 200)
    assert found["file"].content == model.files["model.onnx"]
    # MLflow's own answers to whom the model belongs; the alias itself was not set in these tests.
    mine = all_of(gate, model, "sme-a")
    assert mine["get"].json()["registered_model"]["latest_versions"][0]["version"] == "1"
    assert {mine[what].status_code for what in mine if what != "get"} <= {400, 404, 422}
    theirs = all_of(gate, model, "sme-b")
    assert {answer.status_code for answer in theirs.values()} <= {400, 404, 422}
    assert {answer.status_code for answer in all_of(gate, model, "tef").values()} == {403}


def test_who_did_not_begin_with_the_alias_gets_nothing(gate: Gate) -> None:
    """By hand all addresses can be guessed, but for the log's knowing of it."""
    gate.sql("INSERT INTO touchstone.organisation VALUES ('late-clinic', 'hospital', 'L')")
    model = piloted(gate, "not-begun")
    found = all_of(gate, model)
    assert {answer.status_code for answer in found.values()} == {200}
    other = token_of(gate.databases, "late-clinic", "clinician", "Lea")
    version = f"{model.version}-unverified"
    for path, query in (
        (f"{API}/model-versions/get-download-uri", {"name": model.name, "version": version}),
        (FILES, {"path": model.place}),
        (f"{FILES}/{model.place}/model.onnx", {}),
        (f"{FILES}/{model.place}/UNVERIFIED.txt", {}),
    ):
        headers = {"Authorization": f"Bearer {other}"}
        answer = gate.ask("GET", path, None, headers=headers, query=query)
        assert answer.status_code == 404
        assert "begin with models:/not-begun@clinical-pilot" in answer.json()["message"]


@pytest.mark.parametrize("alias", ["dev-best", "Clinical-Pilot", "clinical-pilot ", "champion",
                                   "clinical-pilot\n", "сlinical-pilot", ""])  # fmt: skip
def test_no_other_alias(gate: Gate, model: Piloted, alias: str) -> None:
    before = events(gate, model.submission)
    assert asked(gate, ALIAS, name=model.name, alias=alias) == 404
    assert events(gate, model.submission) == before


@pytest.mark.parametrize("uri", ["models:/{}/1", "models:/{}/latest", "models:/{}/Production",
                                 "models:/{}/1-unverified", "models:/{}@dev-x",
                                 "models:/sme-a.{}@clinical-pilot",
                                 "models:/{}@clinical-pilot/model.onnx"])  # fmt: skip
def test_the_stock_client_loads_by_nothing_but_the_alias(
    gate: Gate, model: Piloted, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import requests

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", gate.tokens["clinic"])
    mlflow.set_tracking_uri(gate.url)
    mlflow.set_registry_uri(gate.url)
    refusals = (mlflow.exceptions.MlflowException, requests.HTTPError)
    with pytest.raises(refusals, match=r"offered|certified|loads|whole"):
        mlflow.artifacts.download_artifacts(uri.format(model.name))


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "get"])
def test_no_other_method(gate: Gate, model: Piloted, method: str) -> None:
    for path in (ALIAS, FILES, f"{FILES}/{model.place}/model.onnx", f"{FILES}/{model.place}/new"):
        answer = gate.ask(
            method, f"{path}?name={model.name}&alias={PILOT}", "clinic", content=b'{"name": "x"}'
        )
        assert answer.status_code in (400, 404), f"{method} {path}: {answer.text}"
    assert gate.store.get(places.bundle(model.submission) + "model/model.onnx") == b"onnx"


@pytest.mark.parametrize(
    "spelled",
    ["//api/2.0/mlflow/registered-models/alias", "/api/2.0//mlflow/registered-models/alias",
     "/api/2.0/mlflow/./registered-models/alias", "/api/2.0/mlflow/x/../registered-models/alias",
     "/api/2.0/mlflow/registered%2Dmodels/alias", "/api/2.0/mlflow/registered-models/alias/",
     "/api/2.0/mlflow/registered-models/%2561lias", "/ajax-api/2.0/mlflow/registered-models/alias",
     "/api/3.0/mlflow/registered-models/alias", "/API/2.0/mlflow/registered-models/alias",
     "/api/2.0/mlflow/registered-models/alias;x"],
)  # fmt: skip
def test_a_path_has_one_spelling(gate: Gate, model: Piloted, spelled: str) -> None:
    answer = gate.ask("GET", f"{spelled}?name={model.name}&alias={PILOT}", "clinic")
    assert answer.status_code in (403, 404)
    assert model.submission not in answer.text


@pytest.mark.parametrize(
    "query",
    ["", "name={n}", "alias=clinical-pilot", "name={n}&alias=clinical-pilot&alias=clinical-pilot",
     "name={n}&name={o}&alias=clinical-pilot", "name={n}&alias=clinical-pilot&version=1",
     "name={n}&alias=clinical-pilot&workspace=sme-a", "name={n}&alias=clinical-pilot&",
     "name={n}&alias=clinical-pilot&x", "Name={n}&alias=clinical-pilot",
     "name={n};alias=clinical-pilot", "name=%7bn%7d&alias=clinical-pilot",
     "name=&alias=clinical-pilot",
     "name={n}%00&alias=clinical-pilot", "name={n}%ff&alias=clinical-pilot",
     "name=sme-a/{n}&alias=clinical-pilot", "name=sme-a%2f{n}&alias=clinical-pilot",
     "name={n}%0a&alias=clinical-pilot", "name={n}' OR 1=1&alias=clinical-pilot"],
)  # fmt: skip
def test_a_query_is_exactly_its_fields(
    gate: Gate, model: Piloted, other: Piloted, query: str
) -> None:
    before = events(gate, model.submission)
    text = query.replace("{n}", model.name).replace("{o}", other.name).replace(" ", "%20")
    assert gate.ask("GET", f"{ALIAS}?{text}", "clinic").status_code == 422
    assert events(gate, model.submission) == before
    assert asked(gate, FILES, path=model.place, page_token="x") == 422
    assert gate.ask("GET", f"{FILES}/{model.place}/model.onnx?x=1", "clinic").status_code == 422


@pytest.mark.parametrize("header", ["X-MLFLOW-WORKSPACE", "x-mlflow-workspace"])
def test_a_hospital_names_no_workspace(gate: Gate, model: Piloted, header: str) -> None:
    answer = gate.ask("GET", ALIAS, "clinic", headers={header: "sme-a"},
                      query={"name": model.name, "alias": PILOT})  # fmt: skip
    assert answer.status_code == 422
    assert "MLFLOW_WORKSPACE" in answer.json()["message"]


def places_elsewhere(gate: Gate, model: Piloted, other: Piloted) -> Iterator[str]:
    """Folders that are none of this hospital's, some of them real."""
    run = gate.mlflow("POST", "runs/create", experiment_id="0").json()["run"]["info"]
    yield run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    for workspace in ("sme-a", "sme-b"):
        yield gate.logged_model(workspace)[1]
    (location,) = gate.sql(
        "SELECT storage_location FROM mlflow.model_versions WHERE name = %s", model.name
    )[0]
    yield location.removeprefix("mlflow-artifacts:/")
    yield f"{PILOT}/sme-a/{model.name}/{other.submission}"
    yield f"{PILOT}/sme-b/{model.name}/{model.submission}"
    yield f"{PILOT}/sme-a/{other.name}/{other.submission}"
    yield f"{PILOT}/sme-a/{model.name}/{'0' * 8}-0000-0000-0000-{'0' * 12}"
    yield f"{PILOT}/sme-a/{model.name}"
    yield f"{PILOT}/sme-a"
    yield PILOT
    yield f"/{model.place}"
    yield f"{model.place}/"
    yield model.place.upper()
    yield f"{PILOT}/../{model.place}"
    yield f"workspaces/{model.place}"


def test_only_the_places_of_certificates_in_force_are_there(
    gate: Gate, model: Piloted, other: Piloted
) -> None:
    for place in places_elsewhere(gate, model, other):
        assert asked(gate, FILES, path=place) == 404, place
        answer = gate.ask("GET", f"{FILES}/{place}/model.onnx", "clinic")
        assert answer.status_code in (403, 404), place
        assert b"onnx" not in answer.content or b"artifact" in answer.content


@pytest.mark.parametrize(
    "file",
    ["report.json", "model/model.onnx", "certificate.json", "code/os.py", "model.onnx/x", "absent",
     "MLmodel/x", "../model.onnx", "model.onnx.data", "UNVERIFIED.txt.bak", "mlmodel", ".hidden",
     "%6dodel.onnx", "model%2eonnx"],
)  # fmt: skip
def test_only_the_model_and_two_files_are_there(gate: Gate, model: Piloted, file: str) -> None:
    answer = gate.ask("GET", f"{FILES}/{model.place}/{file}", "clinic")
    assert answer.status_code in (403, 404)
    assert asked(gate, FILES, path=f"{model.place}/{file}") == 404


def test_the_innovators_own_mlmodel_and_code_never_arrive(gate: Gate, model: Piloted) -> None:
    listed = gate.ask("GET", FILES, "clinic", query={"path": model.place}).json()["files"]
    assert [file["path"] for file in listed] == ["MLmodel", "UNVERIFIED.txt", "model.onnx"]
    for file in listed:
        answer = gate.ask("GET", f"{FILES}/{model.place}/{file['path']}", "clinic")
        assert len(answer.content) == file["file_size"]
        assert b"secret" not in answer.content


def test_a_certificate_names_its_own_file_whatever_another_holds(
    gate: Gate, model: Piloted, other: Piloted
) -> None:
    answer = gate.ask("GET", f"{FILES}/{other.place}/model.onnx", "clinic")
    assert answer.content == b"another's"


def test_another_models_version_or_a_number_leads_nowhere(gate: Gate, model: Piloted) -> None:
    for version in ("1", "2-unverified", "01-unverified", "1-Unverified", "latest", "-1", "1-"):
        answer = gate.mlflow("GET", "model-versions/get-download-uri", "clinic", name=model.name,
                             version=version)  # fmt: skip
        assert answer.status_code == 404, version


def test_everything_else_of_mlflow_is_closed_to_a_hospital(gate: Gate, model: Piloted) -> None:
    for route in MLFLOWS:
        if route.method == "GET" and route.path in ROUTES:
            continue
        path = route.path.format(model="m-" + "0" * 32, file=f"{model.place}/model.onnx")
        answer = gate.ask(route.method, path, "clinic", query={"name": model.name})
        assert answer.status_code == 404, f"{route.method} {path}: {answer.text}"
        assert "is not offered here" in answer.text


def test_a_hospital_gets_no_workspace(gate: Gate, model: Piloted) -> None:
    asked(gate, ALIAS, name=model.name, alias=PILOT)
    assert gate.sql("SELECT name FROM mlflow.workspaces WHERE name = 'clinic'") == []


def test_no_role_has_both_sides_of_the_gate() -> None:
    for role, actions in POLICY.items():
        assert not {"mlflow.use", "certified.pull"} <= actions.keys(), role
    assert [role for role, actions in POLICY.items() if "certified.pull" in actions] == [
        "clinician"
    ]


def test_the_database_lets_nobody_but_hospitals_see_anothers_certificate(
    gate: Gate, model: Piloted
) -> None:
    """Behind the front, too: what the handler asks for is answered by row-level security."""
    for organisation, role, seen in (
        ("clinic", "clinician", 1), ("sme-a", "innovator", 1), ("sme-b", "innovator", 0),
    ):  # fmt: skip
        with psycopg.connect(gate.databases.app) as connection:
            secret = token_of(gate.databases, organisation, role, "Looker")
            proof = hashlib.sha256(secret.encode()).digest()
            connection.execute("SELECT touchstone.enter(%s)", (proof,))
            found = connection.execute(
                "SELECT count(*) FROM touchstone.certificate WHERE submission = %s",
                (model.submission,),
            ).fetchone()
            assert found == (seen,), organisation
