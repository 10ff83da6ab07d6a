"""The gate as it runs: a real PostgreSQL, a real server process, real accounts.

`gate` is one server for the whole session. Run as a program, this module is that server.
"""

import functools
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import psycopg
import pytest

from registry.database.embedded import EmbeddedPostgres
from registry.database.migrate import (
    APP,
    GATE,
    LOGIN,
    MLFLOW,
    OWNER,
    ROLES,
    WORKER,
    create_roles,
    migrate,
)
from registry.database.record import Record
from registry.facility import Facility
from registry.identity.accounts import (
    SYSTEM_ADMIN,
    NewOrganisation,
    NewToken,
    add_organisation,
    add_token,
)
from registry.mlflow_gate.artifacts import Artifacts
from registry.mlflow_gate.sealed import ArtifactFolder
from registry.mlflow_gate.sealed_bucket import open_bucket
from registry.settings import SILENCE, Databases, Settings
from registry.storage.local import LocalStore
from registry.storage.s3_settings import S3Settings, read_s3
from registry.trust.keys import new_root
from tests.registry.role import enrol_by_hand, token_of

ORGANISATIONS = {"sme-a": "sme", "sme-b": "sme", "tef": "facility", "clinic": "hospital"}
ROLE_OF = {"sme-a": "innovator", "sme-b": "innovator", "tef": "steward", "clinic": "clinician"}
PASSWORD = "for-tests"

D1, D2, D3 = ("sha256:" + digit * 64 for digit in "123")


class _Verbatim(HTTPConnection):
    """A client that corrects nothing."""

    def _validate_path(self, url: str) -> None:
        """Whatever the test says."""

    def _encode_request(self, request: str) -> bytes:
        return request.encode("utf-8")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status_code: int
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Gate:
    """Where the server is, and the tokens by organisation."""

    url: str
    databases: Databases
    artifacts: Path
    tokens: dict[str, str]
    process: int
    seconds_to_start: float
    s3: S3Settings | None = None

    @property
    def store(self) -> LocalStore:
        """The objects, bundles among them."""
        return LocalStore(self.artifacts / ".objects")

    @property
    def kept(self) -> Artifacts:
        """The artifacts, as the pipeline opens them."""
        return _artifacts(self.artifacts, self.s3)

    def ask(
        self,
        method: str,
        path: str,
        organisation: str | None = "sme-a",
        *,
        content: Any = None,
        fields: Any = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One HTTP request; `path` goes out as it is spelled, to the byte."""
        sent = dict(headers or {})
        if organisation:
            sent["Authorization"] = f"Bearer {self.tokens[organisation]}"
        if fields is not None:
            content = json.dumps(fields).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = _Verbatim(self.url.removeprefix("http://"), timeout=60)
        try:
            target = f"{path}?{urlencode(query)}" if query else path
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, content, sent)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def mlflow(self, method: str, path: str, organisation: str = "sme-a", **fields: Any) -> Answer:
        """One question to MLflow's own interface, fields as JSON or query."""
        address = f"/api/2.0/mlflow/{path}"
        if method == "GET":
            return self.ask(method, address, organisation, query=fields)
        return self.ask(method, address, organisation, fields=fields)

    def sql(self, statement: str, *values: Any, role: str = "owner") -> list[Any]:
        """What a role gets for a statement."""
        dsn = getattr(self.databases, role)
        with psycopg.connect(dsn, autocommit=True) as connection:
            answer = connection.execute(statement, values)  # type: ignore[call-overload]
            return answer.fetchall() if answer.description else []

    def version(self, name: str, organisation: str = "sme-a", content: bytes = b"onnx") -> int:
        """Log a model of one file and register it, by MLflow's interface."""
        model_id, folder = self.logged_model(organisation)
        assert self.put(f"{folder}/model.onnx", content, organisation).status_code == 200
        self.mlflow("POST", "registered-models/create", organisation, name=name)
        answer = self.mlflow(
            "POST", "model-versions/create", organisation, name=name, source=f"models:/{model_id}",
            model_id=model_id,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return int(answer.json()["model_version"]["version"])

    def logged_model(self, organisation: str = "sme-a") -> tuple[str, str]:
        """A new logged model without files: its id, and its folder among the artifacts."""
        answer = self.mlflow("POST", "logged-models", organisation, experiment_id="0", name="net")
        info = answer.json()["model"]["info"]
        return info["model_id"], info["artifact_uri"].removeprefix("mlflow-artifacts:/")

    def put(self, path: str, content: Any, organisation: str = "sme-a") -> Answer:
        """Upload an artifact."""
        route = f"/api/2.0/mlflow-artifacts/artifacts/{path}"
        return self.ask("PUT", route, organisation, content=content)


def submit(gate: Gate, model: str, version: int, organisation: str = "sme-a") -> str:
    """A submission that binds the version."""
    name = str(uuid.uuid4())
    gate.sql(
        "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
        " protocol_digest, cohort_id, cohort_version, submitted_by)"
        " VALUES (%s, %s, %s, %s, %s, 'c', '1', 'Eva')",
        name, organisation, model, version, D1, role="owner",
    )  # fmt: skip
    return name


def certify(gate: Gate, submission: str, envelope: str = "{}") -> None:
    """Take the submission along the arrows to a certificate with two signers."""
    for state in ("intake", "queued", "running", "assessed", "in_review"):
        more = f", verdict='pass', report_digest='{D2}'" if state == "assessed" else ""
        gate.sql(
            f"UPDATE touchstone.submission SET state='{state}'{more} WHERE id=%s",
            submission, role="owner",
        )  # fmt: skip
    for person, key in (("Ada", D1), ("Ben", D2)):
        gate.sql(
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature)"
            f" VALUES (%s, '{key}', '{person}', 'certify', 'because', '{D2}', '{{}}', '{{}}')",
            submission, role="owner",
        )  # fmt: skip
    gate.sql(
        "INSERT INTO touchstone.certificate (submission, organisation, model_name, model_version,"
        " envelope, signers, not_after) SELECT id, organisation, model_name, model_version,"
        " %s::jsonb, '', now() + interval '1 day' FROM touchstone.submission WHERE id = %s",
        envelope, submission, role="gate",
    )  # fmt: skip


def network(seed: int = 0) -> Any:
    """A small real ONNX model whose weights are large enough to be written beside it."""
    from onnx import TensorProto, helper, numpy_helper

    drawn = np.random.default_rng(seed).normal(size=(64, 64)).astype("float32")
    weights = numpy_helper.from_array(drawn, "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["shape", "w"], ["hidden"]),
            helper.make_node(
                "ReduceMean", ["hidden"], ["mean"], keepdims=1, noop_with_empty_axes=1
            ),
            helper.make_node("Sigmoid", ["mean"], ["score"]),
        ],
        "network",
        [helper.make_tensor_value_info("shape", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 64])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture(scope="session")
def gate(cluster: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """One running gate for the session."""
    with serving(cluster, tmp_path_factory) as running:
        yield running


@contextmanager
def serving(
    cluster: EmbeddedPostgres,
    tmp_path_factory: pytest.TempPathFactory,
    name: str = "mlflow_gate",
    s3: S3Settings | None = None,
) -> Iterator[Gate]:
    """A running gate with a database of its own; its artifacts in a folder, or in S3."""
    databases = _database(cluster, name)
    tokens = _accounts(databases)
    artifacts = tmp_path_factory.mktemp("artifacts")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "owner": databases.owner, "app": databases.app, "mlflow": databases.mlflow,
        "artifacts": str(artifacts), "port": port, "s3": s3.environment() if s3 else {},
    }  # fmt: skip
    log = tmp_path_factory.mktemp("log") / "server.log"
    started = time.monotonic()
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.registry.mlflow_server", json.dumps(settings)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **SILENCE},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(server, url, log)
        seconds = time.monotonic() - started
        yield Gate(url, databases, artifacts, tokens, server.pid, seconds, s3)
    finally:
        server.terminate()
        server.wait(20)


def _database(cluster: EmbeddedPostgres, name: str) -> Databases:
    with psycopg.connect(cluster.superuser_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    create_roles(
        cluster.superuser_dsn.replace("@/touchstone?", f"@/{name}?"),
        dict.fromkeys(ROLES, PASSWORD),
    )
    databases = Databases(
        app=cluster.dsn(APP, PASSWORD, name),
        gate=cluster.dsn(GATE, PASSWORD, name),
        mlflow=cluster.dsn(MLFLOW, PASSWORD, name),
        login=cluster.dsn(LOGIN, PASSWORD, name),
        worker=cluster.dsn(WORKER, PASSWORD, name),
        owner=cluster.dsn(OWNER, PASSWORD, name),
    )
    assert databases.owner
    migrate(databases.owner)
    return databases


def _accounts(databases: Databases) -> dict[str, str]:
    assert databases.owner
    record = Record(databases.owner, size=1)
    tokens = {}
    for name, kind in ORGANISATIONS.items():
        organisation = NewOrganisation(id=name, kind=kind, name=name)  # type: ignore[arg-type]
        add_organisation(record, SYSTEM_ADMIN, organisation)
        if ROLE_OF[name] == "steward":
            tokens[name] = token_of(databases, name, "steward", "Eva")
            continue
        token = NewToken(organisation=name, role=ROLE_OF[name], person="Eva")  # type: ignore[arg-type]
        tokens[name] = add_token(record, SYSTEM_ADMIN, token).secret
    record.close()
    with psycopg.connect(databases.owner, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
            " title, positives, negatives, patients, contract_digest, locked_by)"
            f" VALUES ('c','1','{D1}','{D1}','x','t',10,10,10,'{D1}','Sam')"
        )
        connection.execute(
            "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
            f" VALUES ('{D1}','p','1','{{}}',2,'Sam')"
        )
    for person, key in (("Ada", D1), ("Ben", D2)):
        enrol_by_hand(databases, person, "assessor", key=key)
    return tokens


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            break
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}")


def _artifacts(home: Path, s3: S3Settings | None) -> Artifacts:
    return open_bucket(s3, home / ".incoming") if s3 else ArtifactFolder(home)


def _facility(words: dict[str, Any], record: Record) -> Facility:
    """What hospitals are answered from: the record, the gate's objects, a demo's root."""
    databases = Databases(app=words["app"], gate="", mlflow=words["mlflow"], login="")
    settings = Settings(home=Path("/"), server="", token=None, keys=Path("/"), databases=databases)
    return Facility(
        settings=settings, databases=databases, record=record, gate=record, login=record,
        store=LocalStore(Path(words["artifacts"]) / ".objects"),
        artifacts=_artifacts(Path(words["artifacts"]), read_s3(words["s3"])),
        root=new_root("tef", demo=True).certificate,
    )  # fmt: skip


def main() -> None:
    """Serve the gate with these settings until terminated."""
    import uvicorn

    from registry.api.wire import Wire
    from registry.identity.accounts import authenticate
    from registry.mlflow_gate.app import create_app
    from registry.mlflow_gate.clinical_pilot import ClinicalPilot
    from registry.mlflow_gate.schema import prepare_schema
    from registry.submissions.quota import take_storage

    settings = json.loads(sys.argv[1])
    prepare_schema(settings["owner"])
    prepare_schema(settings["owner"])  # twice does no harm
    record = Record(settings["app"], size=4)
    facility = _facility(settings, record)
    app = create_app(
        mlflow_url=settings["mlflow"].replace("postgresql://", "postgresql+psycopg://"),
        artifacts=facility.artifacts,
        authenticate=lambda token: authenticate(record, token),
        hospital=ClinicalPilot(facility),
        take=functools.partial(take_storage, record),
    )
    uvicorn.run(
        app, host="127.0.0.1", port=settings["port"], log_level="warning", http=Wire, ws="none"
    )


if __name__ == "__main__":
    main()
