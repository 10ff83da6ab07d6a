"""A registered version with a certificate in force and its bundle, as a hospital meets it."""

import json
from dataclasses import dataclass
from typing import Any

from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import STATEMENT_TYPE, new_statement
from registry.trust.dsse import unsigned
from registry.trust.keys import new_root
from tests.registry.mlflow_server import Answer, Gate, certify, network, submit
from tests.serving.certified import log_of, predicate

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
ALIAS = f"{API}/registered-models/alias"
PILOT = "clinical-pilot"
EVIL = b"""
flavors:
  onnx: {code: code, data: model.onnx}
  python_function: {loader_module: os, data: model.onnx, code: code}
metadata: {secret: of the innovator}
run_id: 11111111111111111111111111111111
"""
"""An MLmodel that would have the hospital run what no certificate covers."""


@dataclass(frozen=True)
class Piloted:
    """Where its files seem to lie, and what they are."""

    name: str
    organisation: str
    version: int
    submission: str
    files: dict[str, bytes]

    @property
    def place(self) -> str:
        return f"clinical-pilot/{self.organisation}/{self.name}/{self.submission}"


def with_weights_apart() -> dict[str, bytes]:
    """A real model in the two files that MLflow writes."""
    import tempfile
    from pathlib import Path

    import onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(
            network(), Path(folder, "model.onnx"), save_as_external_data=True,
            location="model.onnx.data", size_threshold=0,
        )  # fmt: skip
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def piloted(
    gate: Gate, name: str, files: dict[str, bytes] | None = None, organisation: str = "sme-a"
) -> Piloted:
    """Register, submit and certify a model by these files; the innovator adds its own MLmodel."""
    files = files or {"model.onnx": b"onnx"}
    model_id, folder = gate.logged_model(organisation)
    for path, data in {**files, "MLmodel": EVIL, "code/os.py": b"raise SystemExit"}.items():
        assert gate.put(f"{folder}/{path}", data, organisation).status_code == 200
    gate.mlflow("POST", "registered-models/create", organisation, name=name)
    made = gate.mlflow("POST", "model-versions/create", organisation, name=name,
                       source=f"models:/{model_id}", model_id=model_id,
                       description="described by the innovator")  # fmt: skip
    version = int(made.json()["model_version"]["version"])
    submission = submit(gate, name, version, organisation)
    bundle = {f"model/{path}": data for path, data in files.items()} | {"report.json": b"{}"}
    for path, data in bundle.items():
        gate.store.put(places.bundle(submission) + path, data)
    stated = predicate(bundle, log_of(new_root("tef", demo=True)), submission=submission)
    statement = new_statement({path: sha256_bytes(bundle[path]) for path in bundle}, stated)
    certify(gate, submission, json.dumps(unsigned(STATEMENT_TYPE, statement)))
    return Piloted(name, organisation, version, submission, files)


def events(gate: Gate, submission: str) -> list[Any]:
    """(organisation, person, detail) of each pull that the log knows."""
    return gate.sql(
        "SELECT organisation, actor, detail FROM touchstone.event"
        " WHERE kind = 'bundle-pulled' AND subject = %s ORDER BY seq", submission,
    )  # fmt: skip


def asked(gate: Gate, path: str, /, **query: Any) -> int:
    """How a hospital's question is answered."""
    return gate.ask("GET", path, "clinic", query=query).status_code


def resolved(gate: Gate, model: Piloted) -> Piloted:
    """The model, after the hospital asked for its alias, as the client does first."""
    assert asked(gate, ALIAS, name=model.name, alias=PILOT) == 200
    return model


def all_of(gate: Gate, of: Piloted, organisation: str = "clinic") -> dict[str, Answer]:
    """What every request of a load gives, each as it is sent after the alias was resolved."""
    version = f"{of.version}-unverified"
    return {
        "alias": gate.ask("GET", ALIAS, organisation, query={"name": of.name, "alias": PILOT}),
        "get": gate.mlflow("GET", "registered-models/get", organisation, name=of.name),
        "uri": gate.mlflow("GET", "model-versions/get-download-uri", organisation, name=of.name,
                           version=version),
        "list": gate.ask("GET", FILES, organisation, query={"path": of.place}),
        "file": gate.ask("GET", f"{FILES}/{of.place}/model.onnx", organisation),
        "notice": gate.ask("GET", f"{FILES}/{of.place}/UNVERIFIED.txt", organisation),
    }  # fmt: skip
