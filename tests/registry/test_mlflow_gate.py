"""An SME uses nothing but the stock MLflow client and a token."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from registry.mlflow_gate.versions import (
    model_directory,
    remove_clinical_pilot,
    resolve,
    set_clinical_pilot,
)
from registry.trust.errors import NotFound, Refused, Tampered
from tests.registry.mlflow_server import Gate, certify, network, submit

MODEL = "nodule-malignancy"


@pytest.fixture
def client(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", gate.tokens["sme-a"])
    mlflow.set_tracking_uri(gate.url)
    mlflow.set_registry_uri(gate.url)
    yield mlflow
    mlflow.end_run()
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def registered(gate: Gate) -> Any:
    """A version that was trained, logged and registered the way an SME does it."""
    import mlflow
    import mlflow.onnx

    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_TOKEN", gate.tokens["sme-a"])
    mlflow.set_tracking_uri(gate.url)
    mlflow.set_registry_uri(gate.url)
    with mlflow.start_run() as run:
        mlflow.log_params({"depth": 3, "rate": 0.1})
        mlflow.log_metric("auc", 0.91, step=1)
        mlflow.log_metric("auc", 0.94, step=2)
        mlflow.set_tag("team", "lung")
        mlflow.log_dict({"features": ["shape"]}, "features.json")
        info = mlflow.onnx.log_model(network(), name="net", registered_model_name=MODEL)
    patch.undo()
    return run.info.run_id, info


def test_a_model_is_logged_and_registered(client: Any, registered: Any) -> None:
    run_id, info = registered
    assert str(info.registered_model_version) == "1"
    run = client.get_run(run_id)
    assert run.data.metrics == {"auc": 0.94}
    assert run.data.params == {"depth": "3", "rate": "0.1"}
    history = client.MlflowClient().get_metric_history(run_id, "auc")
    assert [(point.step, point.value) for point in history] == [(1, 0.91), (2, 0.94)]


def test_runs_can_be_compared(client: Any, registered: Any) -> None:
    with client.start_run():
        client.log_metric("auc", 0.5)
    runs = client.search_runs(order_by=["metrics.auc DESC"])
    assert list(runs["metrics.auc"][:1]) == [0.94]
    assert registered[0] in set(runs["run_id"])


def test_the_registered_model_comes_back_and_predicts(client: Any, registered: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    directory = Path(client.artifacts.download_artifacts(f"models:/{MODEL}/1"))
    assert len(list(directory.glob("*.data"))) == 1
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    shape = np.zeros((2, 64), dtype="float32")
    assert session.run(None, {"shape": shape})[0].tolist() == [[0.5] * 64] * 2


def test_a_dev_alias_is_set_moved_and_removed(client: Any, registered: Any) -> None:
    registry = client.MlflowClient()
    registry.set_registered_model_alias(MODEL, "dev-best", "1")
    assert registry.get_model_version_by_alias(MODEL, "dev-best").version == "1"
    registry.set_model_version_tag(MODEL, "1", "note", "wide margin")
    assert registry.get_model_version(MODEL, "1").tags == {"note": "wide margin"}
    registry.delete_registered_model_alias(MODEL, "dev-best")
    assert registry.get_registered_model(MODEL).aliases == {}


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda c: c.set_registered_model_alias(MODEL, "clinical-pilot", "1"), "certificate alone"),
        (lambda c: c.set_registered_model_alias(MODEL, "champion", "1"), "use 'dev-'"),
        (lambda c: c.rename_registered_model(MODEL, "better-name"), "keeps its name"),
        (lambda c: c.delete_registered_model(MODEL), "stays on record"),
        (lambda c: c.transition_model_version_stage(MODEL, "1", "Production"), "stages are not"),
        (lambda c: c.set_model_version_tag(MODEL, "1", "touchstone.verdict", "pass"), "reserved"),
        (lambda c: c.create_registered_model("new", tags={"Touchstone": "x"}), "reserved"),
        (lambda c: c.create_experiment("e", artifact_location="s3://cohorts/x"), "artifact_loc"),
        (lambda c: c.delete_experiment("1"), "not offered"),
        (lambda c: c.search_traces(locations=["1"]), "not offered"),
        (lambda c: c.create_webhook("w", "https://x.example", ["registered_model.created"]), "not"),
    ],
)  # fmt: skip
def test_the_client_shows_why_something_is_refused(
    client: Any, registered: Any, attempt: Any, sentence: str
) -> None:
    with pytest.raises(client.exceptions.MlflowException, match=sentence):
        attempt(client.MlflowClient())


def test_the_pipeline_finds_the_registered_files_without_mlflow(
    gate: Gate, registered: Any
) -> None:
    version = resolve(gate.databases.mlflow, "sme-a", f"models:/{MODEL}/latest")
    assert (version.version, version.model_id) == (1, registered[1].model_id)
    with model_directory(gate.kept, gate.databases.mlflow, "sme-a", MODEL, 1) as directory:
        names = {path.name for path in directory.iterdir()}
    assert {"MLmodel", "model.onnx"} < names
    for organisation, model in (("sme-b", f"models:/{MODEL}/1"), ("sme-a", "models:/absent/1")):
        with pytest.raises(NotFound):
            resolve(gate.databases.mlflow, organisation, model)
    with pytest.raises(NotFound):
        resolve(gate.databases.mlflow, "sme-a", f"models:/{MODEL}/99")


def test_a_changed_file_on_the_disk_is_noticed(gate: Gate) -> None:
    gate.version("touched", content=b"as registered")
    of_the_model = (gate.kept, gate.databases.mlflow, "sme-a", "touched", 1)
    with model_directory(*of_the_model) as directory:
        file = directory / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"as rewritten!")
    with pytest.raises(Tampered, match=r"model\.onnx"), model_directory(*of_the_model):
        pass
    file.write_bytes(b"as registered")
    (directory / "more").symlink_to("/etc/hostname")
    with pytest.raises(Tampered, match="more"), model_directory(*of_the_model):
        pass


def test_a_registration_is_announced_in_the_outbox(gate: Gate) -> None:
    gate.version("announced")
    rows = gate.sql(
        "SELECT organisation, version, source ~ '^models:/m-' FROM touchstone.registration "
        "WHERE model_name = 'announced'"
    )
    assert rows == [("sme-a", 1, True)]


def test_a_logged_model_is_registered_once_however_often_it_is_asked_for(gate: Gate) -> None:
    """A client whose answer got lost asks again; two of its requests may even cross."""
    model_id, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"once")
    gate.mlflow("POST", "registered-models/create", name="once")
    other_id, other = gate.logged_model()
    gate.put(f"{other}/model.onnx", b"another")

    def register(chosen: str) -> str:
        answer = gate.mlflow(
            "POST", "model-versions/create",
            name="once", source=f"models:/{chosen}", model_id=chosen,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model_version"]["version"])

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(register, [model_id, other_id] * 6))
    assert len(set(told[::2])) == len(set(told[1::2])) == 1
    assert set(told) == {"1", "2"}
    versions = gate.sql("SELECT version FROM mlflow.model_versions WHERE name = 'once' ORDER BY 1")
    outbox = gate.sql("SELECT version FROM touchstone.registration WHERE model_name = 'once'"
                      " ORDER BY 1")  # fmt: skip
    assert versions == outbox == [(1,), (2,)]
    with pytest.raises(psycopg.DatabaseError, match="a version of once already"):
        gate.sql(
            "INSERT INTO mlflow.model_versions (workspace, name, version, current_stage, source,"
            " storage_location) SELECT workspace, name, 9, current_stage, source, storage_location"
            " FROM mlflow.model_versions WHERE name = 'once' AND version = 1", role="mlflow",
        )  # fmt: skip


def test_only_a_certificate_sets_clinical_pilot(gate: Gate, client: Any) -> None:
    name = "certified-model"
    gate.version(name)
    gate.version(name)
    with pytest.raises(Refused, match="no certificate in force"):
        set_clinical_pilot(gate.databases.gate, "sme-a", name, 1)
    submission = submit(gate, name, 1)
    certify(gate, submission)
    with pytest.raises(Refused, match="no certificate in force"):
        set_clinical_pilot(gate.databases.gate, "sme-a", name, 2)
    set_clinical_pilot(gate.databases.gate, "sme-a", name, 1)
    registry = client.MlflowClient()
    assert registry.get_model_version_by_alias(name, "clinical-pilot").version == "1"
    for attempt in (
        lambda: registry.set_registered_model_alias(name, "clinical-pilot", "2"),
        lambda: registry.delete_registered_model_alias(name, "clinical-pilot"),
        lambda: registry.delete_model_version(name, "1"),
    ):
        with pytest.raises(client.exceptions.MlflowException):
            attempt()
    assert resolve(gate.databases.mlflow, "sme-a", f"models:/{name}/1").aliases == (
        "clinical-pilot",
    )
    assert remove_clinical_pilot(gate.databases.gate, "sme-a", name, 1)
    assert not remove_clinical_pilot(gate.databases.gate, "sme-a", name, 1)


def test_a_submitted_version_can_not_be_deleted_and_another_can(gate: Gate, client: Any) -> None:
    name = "kept"
    gate.version(name)
    gate.version(name)
    submit(gate, name, 1)
    registry = client.MlflowClient()
    with pytest.raises(client.exceptions.MlflowException, match="was submitted and stays"):
        registry.delete_model_version(name, "1")
    registry.delete_model_version(name, "2")
    assert gate.version(name) == 3, "a number is never used twice"


def test_the_gate_starts_soon_and_stays_small(gate: Gate) -> None:
    status = Path(f"/proc/{gate.process}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    started = time.monotonic()
    for _ in range(50):
        assert gate.mlflow("GET", "experiments/search", max_results=1).status_code == 200
    rate = 50 / (time.monotonic() - started)
    print(f"start {gate.seconds_to_start:.1f} s, {resident:.0f} MiB, {rate:.0f} requests/s")
    assert resident < 450
