"""Many SMEs at once, on a bad line, with the registry killed: nothing lost, nothing doubled."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from registry.database.embedded import discard
from registry.settings import SILENCE
from tests.journeys.faulty_proxy import FaultyProxy
from tests.journeys.test_up import start

ROOT = Path(__file__).parents[2]
FILES = "/api/2.0/mlflow-artifacts/artifacts"
API = "/api/2.0/mlflow"


@dataclass(frozen=True)
class Facility:
    """A facility that runs under `touchstone up`."""

    port: int
    up: int
    admin: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def part(self, name: str) -> int:
        """The process id of `server` or `worker`, a child of `up`."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                command = (status.parent / "cmdline").read_text().split("\0")
            except (OSError, ValueError):
                continue
            if parent == self.up and name in command:
                return int(status.parent.name)
        raise AssertionError(f"there is no {name}")

    def database(self, part: str, variable: str) -> str:
        """What a part of the facility connects to the database by."""
        environment = Path(f"/proc/{self.part(part)}/environ").read_text().split("\0")
        return dict(line.split("=", 1) for line in environment if "=" in line)[variable]

    def sme(self, organisation: str) -> str:
        """A new SME; the token of one of its people."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as http:
            http.headers["Authorization"] = f"Bearer {self.admin}"
            for path, new in (
                ("organisations", {"id": organisation, "kind": "sme", "name": organisation}),
                ("tokens", {"organisation": organisation, "role": "innovator", "person": "Eva"}),
            ):
                answer = http.post(
                    f"/api/v1/{path}", json=new, headers={"Idempotency-Key": str(uuid.uuid4())}
                )
                assert answer.status_code == 201, answer.text
            return str(answer.json()["token"])


@pytest.fixture(scope="module")
def facility() -> Iterator[Facility]:
    home = Path(tempfile.mkdtemp(prefix="touchstone-many-"))
    home.chmod(0o711)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    up = start(home, port)
    try:
        yield Facility(port, up.pid, (home / "keys" / "admin.token").read_text().strip())
    finally:
        up.send_signal(signal.SIGINT)
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()
        discard(home / "facility" / "postgres")
        shutil.rmtree(home, ignore_errors=True)


def storm(
    facility: Facility, tokens: dict[str, str], versions: int, kills: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """What each SME was told, and the faults that were made meanwhile."""
    with FaultyProxy(facility.port, one_in=101) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        asked = {"url": url, "tokens": tokens, "versions": versions}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "TOUCHSTONE_"))}
        clients = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.journeys.many_clients",
             json.dumps(asked)],
            cwd=ROOT, env=kept | SILENCE | {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stopper = threading.Event()
        killed: list[str] = []

        def kill() -> None:
            for number in range(kills):
                if not wait_for(facility, tokens, 1 + number * len(tokens), stopper):
                    return
                os.kill(facility.part("server"), signal.SIGKILL)
                killed.append("the registry")

        killer = threading.Thread(target=kill)
        killer.start()
        said, _ = clients.communicate(timeout=900)
        stopper.set()
        killer.join()
        assert clients.returncode == 0, said
        return json.loads(said.splitlines()[-1]), proxy.faults + killed


def wait_for(
    facility: Facility, tokens: dict[str, str], registered: int, stopper: threading.Event
) -> bool:
    """Until so many versions are registered: in the middle of it all."""
    dsn = facility.database("worker", "TOUCHSTONE_DATABASE_URL")
    while not stopper.wait(0.1):
        with psycopg.connect(dsn) as connection:
            row = connection.execute(
                "SELECT count(*) FROM touchstone.registration WHERE organisation = ANY(%s)",
                (list(tokens),),
            ).fetchone()
        if row and row[0] >= registered:
            return True
    return False


def ready(facility: Facility) -> None:
    """Wait until the registry, which may just have been killed, answers again."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{facility.url}/health/ready", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError("the registry did not come back")


def check_nothing_lost(facility: Facility, tokens: dict[str, str], said: list[Any]) -> None:
    """What a client was told is there, with exactly its bytes."""
    for client in said:
        organisation = client["organisation"]
        with asking(facility, tokens[organisation]) as http:
            for told in client["told"]:
                query = {"name": f"net-{organisation}", "version": told["version"]}
                version = http.get(f"{API}/model-versions/get", params=query).json()
                assert version["model_version"]["source"] == f"models:/{told['model_id']}"
                file = f"{FILES}/{folder(organisation, told)}/model.onnx"
                content = http.get(file).content
                assert hashlib.sha256(content).hexdigest() == told["digest"]


def check_nothing_doubled(facility: Facility, tokens: dict[str, str], said: list[Any]) -> None:
    """One row a version in the outbox and in MLflow; more than was told only where one failed."""
    with psycopg.connect(facility.database("server", "TOUCHSTONE_MLFLOW_DATABASE_URL")) as mlflow:
        versions = mlflow.execute(
            "SELECT workspace, name, version, source FROM mlflow.model_versions"
            " WHERE workspace = ANY(%s) ORDER BY 1, 2, 3", (list(tokens),),
        ).fetchall()  # fmt: skip
    with psycopg.connect(facility.database("worker", "TOUCHSTONE_DATABASE_URL")) as worker:
        outbox = worker.execute(
            "SELECT organisation, model_name, version, source FROM touchstone.registration"
            " WHERE organisation = ANY(%s) ORDER BY 1, 2, 3", (list(tokens),),
        ).fetchall()  # fmt: skip
    assert outbox == versions
    assert len({(row[0], row[1], row[3]) for row in versions}) == len(versions)
    for client in said:
        organisation = client["organisation"]
        own = [row[2] for row in versions if row[0] == organisation]
        told = [row["version"] for row in client["told"]]
        assert own == list(range(1, len(own) + 1))
        assert len(set(told)) == len(told)
        assert set(told) <= set(own)
        assert len(own) <= len(told) + len(client["failed"]), client


def check_nothing_shared(facility: Facility, tokens: dict[str, str], said: list[Any]) -> None:
    """Each asks for all that the others have, by its exact name."""
    for asker, token in tokens.items():
        with asking(facility, token) as http:
            for client in said:
                other = client["organisation"]
                if other == asker or not client["told"]:
                    continue
                told, name = client["told"][0], f"net-{other}"
                for path, query in (
                    ("registered-models/get", {"name": name}),
                    ("model-versions/get", {"name": name, "version": 1}),
                    ("runs/get", {"run_id": told["run_id"]}),
                    (f"logged-models/{told['model_id']}", {}),
                ):
                    answer = http.get(f"{API}/{path}", params=query)
                    assert answer.status_code == 404, answer.text
                file = f"{FILES}/{folder(other, told)}/model.onnx"
                assert http.get(file).status_code == 404
            found = http.get(f"{API}/registered-models/search", params={"max_results": 1000}).json()
            assert [model["name"] for model in found["registered_models"]] == [f"net-{asker}"]


def asking(facility: Facility, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=facility.url, headers=headers, trust_env=False, timeout=60)


def folder(organisation: str, told: dict[str, Any]) -> str:
    """Where a logged model's files lie."""
    return f"workspaces/{organisation}/{told['experiment_id']}/models/{told['model_id']}/artifacts"


@pytest.mark.parametrize(
    ("smes", "versions", "kills"),
    [pytest.param(5, 1, 1, id="five"),
     pytest.param(20, 3, 2, id="twenty",
                  marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)  # fmt: skip
def test_nothing_is_lost_doubled_or_shared_when_many_upload_at_once(
    facility: Facility, smes: int, versions: int, kills: int
) -> None:
    tokens = {f"sme-{smes}-{n}": facility.sme(f"sme-{smes}-{n}") for n in range(smes)}
    began = time.monotonic()
    said, faults = storm(facility, tokens, versions, kills)
    seconds = time.monotonic() - began
    ready(facility)
    told = sum(len(client["told"]) for client in said)
    failed = [sentence for client in said for sentence in client["failed"]]
    print(f"{smes} SMEs, {told} versions in {seconds:.0f} s; faults: {len(faults)} {set(faults)};"
          f" attempts that failed: {len(failed)} {failed[:3]}")  # fmt: skip
    assert faults.count("the registry") == kills
    assert len(faults) > kills, "the line was bad"
    assert told == smes * versions, failed
    check_nothing_lost(facility, tokens, said)
    check_nothing_doubled(facility, tokens, said)
    check_nothing_shared(facility, tokens, said)
