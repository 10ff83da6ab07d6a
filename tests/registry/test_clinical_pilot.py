"""A hospital loads `models:/NAME@clinical-pilot` by the stock MLflow client, and sees the mark."""

import datetime as dt
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.mlflow_gate.unverified import Pilot
from registry.trust.keys import new_root
from serving.bundle.pack import write_bundle
from serving.bundle.verify import verify
from tests.registry.mlflow_server import Gate
from tests.registry.piloted import Piloted, events, piloted, with_weights_apart
from tests.registry.role import token_of
from tests.serving.certified import TAKES_DEMO

MARK = "no: run touchstone pull and touchstone verify"


@pytest.fixture(scope="module")
def model(gate: Gate) -> Piloted:
    """A certified model with its weights in a second file."""
    return piloted(gate, "nodule.net-2", with_weights_apart())


@pytest.fixture
def client(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow as a clinician sets it up: an address and a token."""
    import mlflow.onnx
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", gate.tokens["clinic"])
    mlflow.set_tracking_uri(gate.url)
    mlflow.set_registry_uri(gate.url)
    yield mlflow
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def folder(client: Any, model: Piloted, tmp_path: Path) -> Path:
    """What the client downloads."""
    uri = f"models:/{model.name}@clinical-pilot"
    return Path(client.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))


def test_the_version_says_that_it_is_unverified_and_nothing_of_the_innovator(
    gate: Gate, client: Any, model: Piloted
) -> None:
    found = client.MlflowClient().get_model_version_by_alias(model.name, "clinical-pilot")
    assert (found.name, found.version) == (model.name, "1-unverified")
    assert found.tags == {"touchstone.verified": MARK}
    assert MARK in found.description
    assert "certified by a demo" in found.description, "the gate of the tests has a demo's root"
    assert (found.run_id or "", found.source, found.user_id) == ("", "", "")
    answer = gate.mlflow("GET", "registered-models/get", "clinic", name=model.name).text
    assert MARK in answer
    assert "innovator" not in answer
    assert "Eva" not in answer


def test_the_folder_holds_the_certified_files_and_two_that_were_made(
    folder: Path, model: Piloted
) -> None:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found.keys() == {
        "model.onnx", "model.onnx.data", "MLmodel", "UNVERIFIED.txt",
        "registered_model_meta",  # the client's own note
    }  # fmt: skip
    assert {name: found[name] for name in model.files} == model.files
    assert b"1-unverified" in found["registered_model_meta"]
    notice = found["UNVERIFIED.txt"].decode()
    assert "NOT FOR USE ON PATIENTS" in notice
    assert f"touchstone pull sme-a/{model.name} --to DIR" in notice
    assert "touchstone verify DIR --root FILE --state STATE" in notice
    assert "The registry that sent them is a demo" in notice
    described = json.loads(found["MLmodel"])
    assert described["flavors"]["python_function"]["loader_module"] == "mlflow.onnx"
    assert "code" not in json.dumps(described), "what the innovator's file would have had run"


def test_mlflows_loaders_take_it(client: Any, model: Piloted, tmp_path: Path) -> None:
    uri = f"models:/{model.name}@clinical-pilot"
    loaded = client.onnx.load_model(uri)
    assert loaded.graph.name == "network"
    made = client.pyfunc.load_model(uri).predict({"shape": np.zeros((1, 64), "float32")})
    assert made["score"].tolist() == [[0.5] * 64]


def test_whoever_loads_it_as_a_python_function_is_shown_the_mark(
    client: Any, model: Piloted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the stock client's own warning, on the loaded model, and when that is printed."""
    said: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("mlflow.pyfunc"), "warning", lambda text, *more: said.append(text % more)
    )
    loaded = client.pyfunc.load_model(f"models:/{model.name}@clinical-pilot")
    assert any(
        "UNVERIFIED copy, not for use on patients: read UNVERIFIED.txt" in one for one in said
    )
    assert loaded.metadata.metadata == {"touchstone.verified": MARK}
    assert "UNVERIFIED" in repr(loaded)


def test_such_a_folder_never_passes_for_a_bundle(folder: Path) -> None:
    root = new_root("tef", demo=True).certificate
    result = verify(folder, root, dt.datetime.now(dt.UTC), TAKES_DEMO, replay=False)
    assert result.error is not None
    assert result.error.code == "no_bundle"


def test_the_verified_folder_is_for_onnx_runtime_and_mlflow_says_it_has_no_mlmodel(
    client: Any, model: Piloted, tmp_path: Path
) -> None:
    """As UNVERIFIED.txt says: a bundle's `model` holds what was certified, and no MLmodel."""
    onnxruntime = pytest.importorskip("onnxruntime")
    bundle = {f"model/{name}": data for name, data in model.files.items()}
    verified = write_bundle(bundle, tmp_path / "bundle") / "model"
    session = onnxruntime.InferenceSession(verified / "model.onnx")
    assert session.run(None, {"shape": np.zeros((1, 64), "float32")})[0].tolist() == [[0.5] * 64]
    for load in (client.onnx.load_model, client.pyfunc.load_model):
        with pytest.raises(client.exceptions.MlflowException, match="MLmodel"):
            load(str(verified))


def test_each_resolved_alias_is_in_the_log_and_notices_reach_the_hospital(
    gate: Gate, client: Any
) -> None:
    model = piloted(gate, "logged-alias")
    registry = client.MlflowClient()
    for count in (1, 2):
        registry.get_model_version_by_alias(model.name, "clinical-pilot")
        detail = f'{{"by":"mlflow","model":"{model.name}"}}'
        assert events(gate, model.submission) == [("clinic", "Eva", detail)] * count
    client.artifacts.download_artifacts(f"models:/{model.name}@clinical-pilot")
    assert len(events(gate, model.submission)) == 3, "once, whatever number of files follow"
    gate.sql(
        "UPDATE touchstone.submission SET state = 'certified' WHERE id = %s", model.submission,
        role="gate",
    )  # fmt: skip
    told = gate.sql(
        "SELECT organisation FROM touchstone.notice WHERE submission = %s", model.submission
    )
    assert ("clinic",) in told


def test_every_hospital_gets_the_same(gate: Gate, model: Piloted) -> None:
    gate.sql("INSERT INTO touchstone.organisation VALUES ('other-clinic', 'hospital', 'O')")
    secret = token_of(gate.databases, "other-clinic", "clinician", "Otto")
    answers = [
        gate.ask(
            "GET", "/api/2.0/mlflow/registered-models/alias", None, headers=headers,
            query={"name": model.name, "alias": "clinical-pilot"},
        )
        for headers in (
            {"Authorization": f"Bearer {secret}"},
            {"Authorization": f"Bearer {gate.tokens['clinic']}"},
        )
    ]  # fmt: skip
    assert answers[0].status_code == 200
    assert answers[0] == answers[1]


def test_a_demo_is_named_only_where_it_is_one() -> None:
    pilot = Pilot(organisation="sme-a", model="net", version=3, submission="x")
    texts = [pilot.description, pilot.files(["model.onnx"])["UNVERIFIED.txt"].decode()]
    assert all("demo" not in text for text in texts)
    assert all("UNVERIFIED" in text for text in texts)
    assert pilot.as_version == "3-unverified"
