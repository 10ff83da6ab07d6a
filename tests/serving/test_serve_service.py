"""One certified version after another, without a refused request, and back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from registry.trust.errors import Conflict, NotFound, Refused, Tampered, TouchstoneError
from registry.trust.keys import load_certificate
from serving.bundle.verify import verify
from serving.hospital.control import order
from serving.hospital.deployment import Deployment
from serving.hospital.service import Service
from serving.hospital.watching import Watch
from serving.server import SERVING_LIMITS, Deployer, Settings, now
from serving.worker import Worker
from tests.serving import certified
from tests.serving.hospital_made import REPOSITORY, Running, write
from tests.serving.hospital_program import row, say_of
from tests.serving.test_server import inputs

TOUCHSTONE = [sys.executable, "-P", "-m", "registry.cli.main"]


@dataclass(frozen=True)
class Versions:
    """Bundles 3 and 4 of one model under one root, one of another model, one of another root."""

    three: Path
    four: Path
    other_model: Path
    other_root: Path
    wrong_golden: Path
    root: Path


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    folder = tmp_path_factory.mktemp("hospital")
    tef = certified.facility()
    mirrored = certified.model(sign=-1.0)
    made = Versions(
        write(tef, certified.model(), folder / "nodule-3"),
        write(tef, mirrored, folder / "nodule-4", version=4),
        write(tef, mirrored, folder / "mass-1", version=1, name="mass"),
        folder / "foreign" / "nodule-4",
        folder / "nodule-5",
        folder / "root.pem",
    )
    made.other_root.parent.mkdir()
    write(certified.facility(), mirrored, made.other_root, version=4)
    golden = certified.golden_of({"model.onnx": certified.model()})
    write(tef, mirrored, made.wrong_golden, version=5, golden=golden)
    return made


@pytest.fixture
def service(tmp_path: Path, versions: Versions) -> Service:
    made = Service(tmp_path / "s")
    with made.held():
        made.update(versions.three, deployer(versions), None, lambda line: None)
    return made


def deployer(versions: Versions) -> Deployer:
    return Deployer(load_certificate(versions.root), Settings(), None, now, lambda: certified.TAKES)


@pytest.fixture
def running(service: Service, versions: Versions, tmp_path: Path) -> Iterator[Running]:
    say_of(tmp_path / "status.json", others=row())
    made = Running(service.path, versions.root, {"every": 3600}, standing=tmp_path / "status.json")
    assert made.url, made.lines
    yield made
    made.stop()


def touchstone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOUCHSTONE, *map(str, arguments)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip


def answering(running: Running) -> str:
    title = httpx.post(running.url + "/v1/predict", json={"inputs": inputs()}, timeout=30)
    return str(title.json()["model"])


@dataclass
class Hammering:
    """Clients that ask without a pause until told to stop, and keep every answer."""

    url: str
    clients: int = 3
    answers: list[tuple[int, str, str, float]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Hammering":
        self.threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def more(self, answers: int) -> None:
        """Wait until so many more requests were answered."""
        enough, end = len(self.answers) + answers, time.monotonic() + 60
        while len(self.answers) < enough:
            assert time.monotonic() < end, "nothing answers"
            time.sleep(0.01)

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.stopping.is_set():
                answer = client.post("/v1/predict", json={"inputs": inputs()})
                body = answer.json()
                score = body.get("outputs", {}).get("probability", [-1.0])[0]
                self.answers.append(
                    (answer.status_code, body.get("model", body.get("code")),
                     body.get("certificate", ""), score)
                )  # fmt: skip


def test_an_update_and_a_roll_back_refuse_no_request_and_each_answer_is_of_one_version(
    running: Running, service: Service, versions: Versions
) -> None:
    with Hammering(running.url) as hammering:
        hammering.more(20)
        made = touchstone("service", "update", service.path, versions.four)
        assert made.returncode == 0, made.stderr
        assert "golden vectors" in made.stderr
        assert "nodule 4 answers now" in made.stdout
        assert answering(running) == "sme-a/nodule 4"
        hammering.more(20)
        back = touchstone("service", "rollback", service.path, "--json")
        assert back.returncode == 0, back.stderr
        assert json.loads(back.stdout)["title"] == "sme-a/nodule 3"
        assert "golden vectors" in back.stderr
        hammering.more(20)
    assert {status for status, *_ in hammering.answers} == {200}
    seen = {(model, certificate, score) for _, model, certificate, score in hammering.answers}
    assert len(seen) == 2, "a certificate and the score of its own model, and no other pair"
    assert len(running.children()) == 1, "the process that was replaced is buried"
    assert [version.title for version in service.versions()] == ["sme-a/nodule 3"]
    order(service, {"do": "update", "directory": str(versions.four)}, lambda line: None)
    running.stop(signal.SIGKILL)
    again = Running(service.path, versions.root)
    try:
        assert again.url, again.lines
        assert answering(again) == "sme-a/nodule 4", "which version answers survives a kill"
        second = Running(service.path, versions.root)
        assert second.stop() == 1
        assert second.lines[-1].startswith("service_held"), "a folder is one server's alone"
        assert (service.path / "control").stat().st_mode & 0o777 == 0o600
    finally:
        again.stop()


def test_what_does_not_verify_changes_nothing(
    running: Running, service: Service, versions: Versions, tmp_path: Path
) -> None:
    before = (service.path / "service.json").read_bytes()
    flipped = certified.copy_of(versions.four, tmp_path / "flipped")
    data = bytearray((flipped / "model/model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (flipped / "model/model.onnx").write_bytes(data)
    revoked = order_of_status(tmp_path, versions)
    for bundle, code in (
        (flipped, "file_changed"),
        (versions.other_root, "other_root"),
        (versions.wrong_golden, "golden_mismatch"),
        (versions.other_model, "other_model"),
        (versions.three, "already_active"),
        (tmp_path / "absent", None),
        (revoked, "revoked"),
    ):
        with pytest.raises(TouchstoneError) as raised:
            order(service, {"do": "update", "directory": str(bundle)}, lambda line: None)
        assert code in (None, raised.value.code)
        assert "\n" not in raised.value.message
    with pytest.raises(Conflict) as nothing:
        order(service, {"do": "rollback"}, lambda line: None)
    assert nothing.value.code == "no_previous"
    for value in ({}, {"do": "update"}, {"do": "update", "directory": "relative"}, {"do": "stop"}):
        with pytest.raises(TouchstoneError):
            order(service, value, lambda line: None)
    assert (service.path / "service.json").read_bytes() == before
    assert answering(running) == "sme-a/nodule 3"
    assert len(running.children()) == 1


def order_of_status(folder: Path, versions: Versions) -> Path:
    """Revoke version 4 in the status that the server reads, and give its bundle."""
    root = load_certificate(versions.root)
    statement = verify(versions.four, root, now(), certified.TAKES, replay=False).statement
    assert statement is not None
    say_of(folder / "status.json", others=row(), **{statement: row("revoked", "unsafe")})
    return versions.four


def test_a_bundle_that_was_exchanged_on_disk_is_not_gone_back_to(
    service: Service, versions: Versions, tmp_path: Path
) -> None:
    mine = certified.copy_of(versions.four, tmp_path / "mine")
    for bundle in (mine, versions.three):
        service.update(bundle, deployer(versions), None, lambda line: None)
    shutil.rmtree(mine)
    certified.copy_of(versions.three, mine)
    with pytest.raises(Tampered) as raised:
        service.roll_back(deployer(versions), None, lambda line: None)
    assert raised.value.code == "other_certificate"


def test_assistive_mode_needs_the_certificate_s_leave(versions: Versions, tmp_path: Path) -> None:
    bundle = write(certified.facility(), certified.model(), tmp_path / "n", pilot_mode="assistive")
    for directory, root, modes in (
        (versions.three, versions.root, ["shadow"]),
        (bundle, tmp_path / "root.pem", ["shadow", "assistive"]),
    ):
        verified = verify(
            directory, load_certificate(root), now(), certified.TAKES, replay=False, keep=True
        )
        worker = Worker(verified, limits=SERVING_LIMITS, waiting=1)
        watch = Watch(str(verified.statement), None, now)
        for mode in modes:
            marks = Deployment(verified, worker, watch, mode, now).marks()
            assert marks["mode"] == mode
            assert marks["investigational"] is True
            assert ("not shown" in marks["use"]) == (mode == "shadow")
        if "assistive" not in modes:
            with pytest.raises(Refused) as raised:
                Deployment(verified, worker, watch, "assistive", now)
            assert raised.value.code == "mode_refused"
        worker.close()


def test_the_command_line_takes_a_version_in_where_no_server_runs(
    versions: Versions, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    known = ("--root", versions.root, "--state", versions.root.parent / "state", "--no-status")
    made = touchstone("service", "update", folder, versions.three, *known)
    assert made.returncode == 0, made.stderr
    assert "golden vectors" in made.stderr
    assert "nodule 3 will answer" in made.stdout
    shown = json.loads(touchstone("service", "show", folder, "--json").stdout)
    assert [version["title"] for version in shown["versions"]] == ["sme-a/nodule 3"]
    failed = touchstone("service", "rollback", folder, *known)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: there is no earlier version")


def test_a_damaged_record_is_told_in_one_line(service: Service, versions: Versions) -> None:
    for text in ("{", "[]", '{"schema": "touchstone/service/v1", "versions": []}',
                 '{"schema": "touchstone/service/v1", "versions": [{"title": "x"}]}'):  # fmt: skip
        (service.path / "service.json").write_text(text)
        with pytest.raises(TouchstoneError) as raised:
            service.versions()
        assert raised.value.code == "service_damaged"
    with pytest.raises(Refused), service.held():
        raise Refused("the folder is free again afterwards")
    with service.held():
        pass


def test_a_roll_back_where_no_service_is_makes_nothing(versions: Versions, tmp_path: Path) -> None:
    from registry.cli.serving import rollback

    for folder in (tmp_path / "none", versions.three):
        before = sorted(folder.rglob("*"))
        with pytest.raises(NotFound, match="serves nothing yet"):
            rollback(folder, root=versions.root, state=tmp_path / "state", no_status=True)
        assert sorted(folder.rglob("*")) == before
    assert not (tmp_path / "none").exists()
