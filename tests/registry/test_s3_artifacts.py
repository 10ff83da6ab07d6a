"""MLflow's artifacts in S3: the same promises as on a disk, with no lock between processes."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from registry.database.embedded import EmbeddedPostgres
from registry.mlflow_gate import sealed_bucket
from registry.mlflow_gate.artifacts import Artifacts, Entry, Place
from registry.mlflow_gate.sealed import ArtifactFolder
from registry.mlflow_gate.sealed_bucket import ArtifactBucket, open_bucket
from registry.mlflow_gate.versions import model_directory
from registry.storage.s3_settings import S3Settings
from registry.trust.errors import (
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Tampered,
    TouchstoneError,
    Unavailable,
)
from tests.object_store import S3Server
from tests.registry.accounts import ChildDied, in_child
from tests.registry.mlflow_server import Gate, serving

# What an SME does and what an attacker tries, asked once more of a gate that keeps files in S3.
from tests.registry.test_mlflow_gate import client as client
from tests.registry.test_mlflow_gate import registered as registered
from tests.registry.test_mlflow_gate import (
    test_a_model_is_logged_and_registered as test_a_model_is_logged_and_registered,
)
from tests.registry.test_mlflow_gate import (
    test_the_pipeline_finds_the_registered_files_without_mlflow as test_pipeline_finds_the_files,
)
from tests.registry.test_mlflow_gate import (
    test_the_registered_model_comes_back_and_predicts as test_the_model_comes_back_and_predicts,
)
from tests.registry.test_mlflow_gate_attacks import model as model
from tests.registry.test_mlflow_gate_attacks import (
    test_a_file_is_written_once_and_sealed_with_its_registration as test_written_once_and_sealed,
)
from tests.registry.test_mlflow_gate_attacks import (
    test_a_model_without_files_is_not_registered as test_no_files_no_registration,
)
from tests.registry.test_mlflow_gate_attacks import (
    test_an_upload_that_ends_after_the_registration_fails as test_a_slow_upload_fails,
)

FILES = "/api/2.0/mlflow-artifacts/artifacts"
MODEL = "m-" + "0" * 32
HOME = f"workspaces/acme/1/models/{MODEL}/artifacts"
RUN = f"workspaces/acme/1/{'a' * 32}/artifacts"


@pytest.fixture
def settings(s3_server: S3Server) -> S3Settings:
    return s3_server.settings()


@pytest.fixture
def bucket(settings: S3Settings, tmp_path: Path) -> ArtifactBucket:
    return open_bucket(settings, tmp_path / "spool")


@pytest.fixture(params=["disk", "S3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """Each backing: what is asked of one is asked of both."""
    if request.param == "disk":
        return ArtifactFolder(tmp_path / "artifacts")
    kept: ArtifactBucket = request.getfixturevalue("bucket")
    return kept


def publish(artifacts: Artifacts, name: str, content: bytes, home: str = HOME) -> None:
    with artifacts.incoming() as (_, temporary):
        temporary.write_bytes(content)
        artifacts.publish(temporary, Place.parse(f"{home}/{name}"))


def outcome(action: Callable[[], Any]) -> str:
    try:
        action()
    except TouchstoneError as error:
        return error.code
    return "accepted"


def together(actions: list[Callable[[], Any]]) -> list[str]:
    """Run all at once; each one's outcome, in order."""
    said = [""] * len(actions)
    barrier = threading.Barrier(len(actions))

    def run(number: int) -> None:
        barrier.wait()
        said[number] = outcome(actions[number])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def read_sealed(artifacts: Artifacts) -> dict[str, bytes]:
    with artifacts.opened("acme", "1", MODEL) as directory:
        files = [path for path in directory.rglob("*") if path.is_file()]
        return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


# The contract, of both backings


def test_what_is_published_is_listed_and_fetched(artifacts: Artifacts, tmp_path: Path) -> None:
    publish(artifacts, "model.onnx", b"weights")
    publish(artifacts, "data/a.txt", b"")
    publish(artifacts, "data/deep/b.txt", b"bb")
    publish(artifacts, "notes.txt", b"of a run", RUN)
    folder = Place.parse(HOME)
    for _ in range(2):  # the same before the registration and after
        assert artifacts.entries(folder) == [
            Entry(f"{HOME}/data", None),
            Entry(f"{HOME}/model.onnx", 7),
        ]
        assert artifacts.entries(Place.parse(f"{HOME}/data")) == [
            Entry(f"{HOME}/data/a.txt", 0),
            Entry(f"{HOME}/data/deep", None),
        ]
        assert artifacts.entries(Place.parse(f"{HOME}/dat")) == []
        assert artifacts.entries(Place.parse(f"{HOME}/model.onnx")) == []
        artifacts.fetch(Place.parse(f"{HOME}/data/deep/b.txt"), tmp_path / "fetched")
        assert (tmp_path / "fetched").read_bytes() == b"bb"
        for absent in ("data/c.txt", "mode", "model.onnx.bak"):
            with pytest.raises(NotFound):
                artifacts.fetch(Place.parse(f"{HOME}/{absent}"), tmp_path / "nothing")
        sealed = artifacts.seal("acme", "1", MODEL)
    assert {path: file["size"] for path, file in sealed.items()} == {
        "data/a.txt": 0, "data/deep/b.txt": 2, "model.onnx": 7,
    }  # fmt: skip
    assert read_sealed(artifacts) == {
        "data/a.txt": b"", "data/deep/b.txt": b"bb", "model.onnx": b"weights",
    }  # fmt: skip
    assert artifacts.entries(Place.parse(RUN)) == [Entry(f"{RUN}/notes.txt", 8)]


def test_a_file_is_written_once_and_is_no_folder(artifacts: Artifacts) -> None:
    publish(artifacts, "a/b", b"x")
    publish(artifacts, "a/b", b"x")
    for name, content in (("a/b", b"y"), ("a/b", b""), ("a/b/c", b"x"), ("a", b"x")):
        with pytest.raises(Conflict, match="never overwritten"):
            publish(artifacts, name, content)
    artifacts.seal("acme", "1", MODEL)
    for name in ("a/b", "late", "a/late"):
        with pytest.raises(Refused, match="registered and sealed"):
            publish(artifacts, name, b"z")
    publish(artifacts, "late", b"a run stays open", RUN)
    assert read_sealed(artifacts) == {"a/b": b"x"}


def test_of_many_uploads_to_one_name_one_wins(artifacts: Artifacts, tmp_path: Path) -> None:
    said = together(
        [lambda n=n: publish(artifacts, "model.onnx", bytes([n]) * 9000) for n in range(12)]  # type: ignore[misc]
    )
    assert sorted(said) == ["accepted"] + ["written_once"] * 11
    artifacts.seal("acme", "1", MODEL)
    assert read_sealed(artifacts) == {"model.onnx": bytes([said.index("accepted")]) * 9000}


def test_what_was_accepted_is_sealed_and_what_was_refused_is_not(artifacts: Artifacts) -> None:
    """Whatever order uploads and registrations come in."""
    publish(artifacts, "model.onnx", b"x")
    uploads = [
        (lambda n=n: (time.sleep(n / 400), publish(artifacts, f"more-{n}", b"y")))  # type: ignore[misc]
        for n in range(16)
    ]
    seals = [lambda: (time.sleep(0.02), artifacts.seal("acme", "1", MODEL)) for _ in range(3)]
    said = together([*uploads, *seals])
    accepted = {f"more-{n}" for n in range(16) if said[n] == "accepted"}
    assert set(said[16:]) == {"accepted"}
    assert set(said) <= {"accepted", "sealed"}
    assert set(artifacts.seal("acme", "1", MODEL)) == accepted | {"model.onnx"}
    assert set(read_sealed(artifacts)) == accepted | {"model.onnx"}


def test_an_empty_model_is_not_sealed_and_stays_open(artifacts: Artifacts) -> None:
    with pytest.raises(Invalid, match="no files"):
        artifacts.seal("acme", "1", MODEL)
    with pytest.raises(NotFound):
        read_sealed(artifacts)
    publish(artifacts, "model.onnx", b"x")
    artifacts.seal("acme", "1", MODEL)
    with pytest.raises((Tampered, NotFound)):
        artifacts.opened("acme", "2", MODEL).__enter__()


# What only S3 has


@pytest.fixture
def paused(bucket: ArtifactBucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A registration that has listed the files and does not go on until the event is set."""
    publish(bucket, "model.onnx", b"x")
    listed, go_on = threading.Event(), threading.Event()
    describe = ArtifactBucket._described

    def slowly(*arguments: Any) -> Any:
        listed.set()
        assert go_on.wait(30)
        return describe(*arguments)

    monkeypatch.setattr(ArtifactBucket, "_described", slowly)
    sealing = threading.Thread(target=bucket.seal, args=("acme", "1", MODEL))
    closing = ArtifactBucket._is_closed
    before = [True]

    def closed_later(self: ArtifactBucket, place: Place) -> bool:
        if before:  # the upload begins before the registration does
            before.clear()
            assert not closing(self, place)
            sealing.start()
            assert listed.wait(30)
            return False
        return closing(self, place)

    monkeypatch.setattr(ArtifactBucket, "_is_closed", closed_later)
    yield go_on
    go_on.set()
    sealing.join()


def test_an_upload_that_comes_while_the_files_are_listed_is_refused_and_never_seen(
    bucket: ArtifactBucket, paused: threading.Event, settings: S3Settings, s3_server: S3Server,
    tmp_path: Path,
) -> None:  # fmt: skip
    threading.Timer(1, paused.set).start()
    with pytest.raises(Refused, match="registered and sealed"):
        publish(bucket, "late.data", b"y")
    names = [
        one["Key"]
        for one in s3_server.client().list_objects_v2(Bucket=settings.artifacts.name)["Contents"]
    ]
    assert f"{HOME}/late.data" in names  # the bucket has it, and nobody gets to see it
    assert bucket.entries(Place.parse(HOME)) == [Entry(f"{HOME}/model.onnx", 1)]
    with pytest.raises(NotFound):
        bucket.fetch(Place.parse(f"{HOME}/late.data"), tmp_path / "x")
    assert read_sealed(bucket) == {"model.onnx": b"x"}


def test_an_upload_that_waits_in_vain_for_a_seal_is_told_to_try_again(
    bucket: ArtifactBucket, paused: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_bucket, "_SEAL_SECONDS", 0.3)
    with pytest.raises(Unavailable, match="just being registered; try again"):
        publish(bucket, "late.data", b"y")


def test_what_was_accepted_is_sealed_across_processes(
    bucket: ArtifactBucket, settings: S3Settings, tmp_path: Path
) -> None:
    """Several registries over one bucket share nothing but the bucket."""
    publish(bucket, "model.onnx", b"x")

    def upload(number: int) -> None:
        own = open_bucket(settings, tmp_path / f"spool-{number}")
        for step in range(12):
            publish(own, f"more-{number}-{step}", b"y")

    def seal() -> None:
        own = open_bucket(settings, tmp_path / "spool-seal")
        time.sleep(0.15)
        own.seal("acme", "1", MODEL)

    uploads = [lambda n=n: in_child(lambda: upload(n)) for n in range(3)]  # type: ignore[misc]
    said = together([*uploads, *(lambda: in_child(seal) for _ in range(2))])
    sealed = set(bucket.seal("acme", "1", MODEL))
    assert set(said[:3]) <= {"sealed", "accepted"}
    assert said[3:] == ["accepted"] * 2
    for number in range(3):
        steps = {int(path.split("-")[2]) for path in sealed if path.startswith(f"more-{number}-")}
        assert steps == set(range(len(steps)))  # what was accepted before the first refusal
        assert (len(steps) == 12) == (said[number] == "accepted")


def test_a_registration_that_died_half_way_is_finished_by_the_next(
    bucket: ArtifactBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(bucket, "model.onnx", b"x")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactBucket, "_described", die)
        with pytest.raises(KeyboardInterrupt):
            bucket.seal("acme", "1", MODEL)
    with pytest.raises(Refused):
        publish(bucket, "late.data", b"y")
    with pytest.raises(NotFound):
        read_sealed(bucket)
    assert set(bucket.seal("acme", "1", MODEL)) == {"model.onnx"}
    assert read_sealed(bucket) == {"model.onnx": b"x"}


def test_nothing_done_to_the_bucket_changes_a_sealed_model(
    bucket: ArtifactBucket, settings: S3Settings, s3_server: S3Server, tmp_path: Path
) -> None:
    publish(bucket, "model.onnx", b"x")
    bucket.seal("acme", "1", MODEL)
    thief = s3_server.client("artifacts")
    for key in (f"{HOME}/model.onnx", f"sealed/acme/{MODEL}.json", f"closed/acme/{MODEL}"):
        for version in thief.list_object_versions(Bucket=settings.artifacts.name, Prefix=key)[
            "Versions"
        ]:
            with pytest.raises(ClientError, match="AccessDenied"):
                thief.delete_object(
                    Bucket=settings.artifacts.name, Key=key, VersionId=version["VersionId"]
                )
        thief.put_object(Bucket=settings.artifacts.name, Key=key, Body=b"forged")
        thief.delete_object(Bucket=settings.artifacts.name, Key=key)
    thief.put_object(Bucket=settings.artifacts.name, Key=f"{HOME}/more.data", Body=b"forged")
    assert read_sealed(bucket) == {"model.onnx": b"x"}
    assert bucket.entries(Place.parse(HOME)) == [Entry(f"{HOME}/model.onnx", 1)]
    with pytest.raises(Refused):
        publish(bucket, "another", b"y")


@pytest.mark.parametrize("claims", [True, False])
def test_a_file_that_did_not_come_through_the_registry_is_noticed(
    bucket: ArtifactBucket, settings: S3Settings, s3_server: S3Server, claims: bool
) -> None:
    publish(bucket, "model.onnx", b"x")
    thief = s3_server.client("artifacts")
    thief.put_object(
        Bucket=settings.artifacts.name, Key=f"{HOME}/w.data", Body=b"forged",
        Metadata={"sha256": "sha256:" + "0" * 64} if claims else {},
    )  # fmt: skip
    if claims:
        bucket.seal("acme", "1", MODEL)
        with pytest.raises(Tampered, match=r"w\.data .* is not what was registered"):
            read_sealed(bucket)
    else:
        with pytest.raises(Tampered, match=r"w\.data did not come through the registry"):
            bucket.seal("acme", "1", MODEL)


def test_a_seal_that_the_registry_did_not_write_is_none(
    bucket: ArtifactBucket, settings: S3Settings, s3_server: S3Server
) -> None:
    publish(bucket, "model.onnx", b"x")
    s3_server.client("artifacts").put_object(
        Bucket=settings.artifacts.name, Key=f"sealed/acme/{MODEL}.json", Body=b"{}"
    )
    for action in (lambda: bucket.seal("acme", "1", MODEL), lambda: read_sealed(bucket)):
        with pytest.raises(Tampered, match="is not the registry's"):
            action()


def test_two_files_of_which_one_lies_in_the_other_are_not_registered(
    bucket: ArtifactBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArtifactBucket, "_check_no_clash", lambda *_: None)  # both came at once
    publish(bucket, "a", b"x")
    publish(bucket, "a/b", b"x")
    with pytest.raises(Invalid, match=r"a/b of .* lies in a file"):
        bucket.seal("acme", "1", MODEL)


def test_private_copies_are_gone_after_use(bucket: ArtifactBucket, tmp_path: Path) -> None:
    publish(bucket, "model.onnx", b"x")
    bucket.seal("acme", "1", MODEL)
    with bucket.opened("acme", "1", MODEL) as directory:
        assert directory.stat().st_mode & 0o077 == 0
    with pytest.raises(KeyboardInterrupt), bucket.opened("acme", "1", MODEL):
        raise KeyboardInterrupt
    assert list((tmp_path / "spool").iterdir()) == []
    (tmp_path / "spool" / "cut-off").mkdir()
    (tmp_path / "spool" / "cut-off" / "model.onnx").write_bytes(b"x")
    bucket.discard_stale(time.time() + 60)
    assert list((tmp_path / "spool").iterdir()) == []


def test_an_artifacts_bucket_that_is_not_apart_or_not_locked_is_not_opened(
    settings: S3Settings, s3_server: S3Server, tmp_path: Path
) -> None:
    too_strong = replace(settings.artifacts, credential=settings.prepare)
    with pytest.raises(Refused, match="MLflow would reach cohorts"):
        open_bucket(replace(settings, artifacts=too_strong), tmp_path)
    plain = f"artifacts-plain-{os.getpid()}"
    s3_server.client().create_bucket(Bucket=plain)
    with pytest.raises(Unavailable, match="does not lock"):
        open_bucket(replace(settings, artifacts=replace(settings.artifacts, name=plain)), tmp_path)


# Through the running gate


@pytest.fixture(scope="module")
def gate(
    cluster: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> Iterator[Gate]:
    """A gate that keeps its files in S3, and has no credential for the objects."""
    s3 = s3_server.settings()
    s3 = replace(s3, objects=replace(s3.objects, credential=None))
    with serving(cluster, tmp_path_factory, "mlflow_gate_s3", s3) as running:
        yield running


def keys(gate: Gate, s3_server: S3Server) -> list[str]:
    assert gate.s3
    pages = s3_server.client().get_paginator("list_objects_v2")
    return [
        one["Key"]
        for page in pages.paginate(Bucket=gate.s3.artifacts.name)
        for one in page.get("Contents", [])
    ]


def test_a_large_file_goes_up_and_comes_back_by_the_stock_client(
    gate: Gate,
    client: Any,
    tmp_path: Path,
) -> None:
    content = os.urandom(1 << 20) * 40
    (tmp_path / "scan.bin").write_bytes(content)
    with client.start_run() as run:
        client.log_artifact(str(tmp_path / "scan.bin"), "raw")
        client.log_dict({"a": 1}, "notes.json")
    found = client.artifacts.list_artifacts(run_id=run.info.run_id)
    assert [(one.path, one.is_dir) for one in found] == [("notes.json", False), ("raw", True)]
    there = client.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="raw")
    assert Path(there, "scan.bin").read_bytes() == content
    assert list((gate.artifacts / ".incoming").iterdir()) == []


def test_an_upload_that_is_cut_off_stores_nothing(gate: Gate, s3_server: S3Server) -> None:
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
    deadline = time.monotonic() + 10
    while list((gate.artifacts / ".incoming").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list((gate.artifacts / ".incoming").iterdir())
    assert f"{folder}/half.onnx" not in keys(gate, s3_server)
    assert gate.ask("GET", f"{FILES}/{folder}/half.onnx").status_code == 404


def test_uploads_in_parts_signed_addresses_and_deletion_are_not_offered(gate: Gate) -> None:
    _, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"x")
    for method, path in (
        ("POST", f"/api/2.0/mlflow-artifacts/mpu/create/{folder}/model.onnx"),
        ("POST", f"/api/2.0/mlflow-artifacts/mpu/complete/{folder}/model.onnx"),
        ("POST", f"/api/2.0/mlflow-artifacts/mpu/abort/{folder}/model.onnx"),
        ("GET", f"/api/2.0/mlflow-artifacts/presigned/{folder}/model.onnx"),
        ("POST", f"/api/2.0/mlflow-artifacts/presigned/{folder}/model.onnx"),
        ("DELETE", f"{FILES}/{folder}/model.onnx"),
    ):
        answer = gate.ask(method, path, fields={} if method == "POST" else None)
        assert answer.status_code in (403, 404), path
        assert "X-Amz" not in answer.text
    assert gate.ask("GET", f"{FILES}/{folder}/model.onnx").content == b"x"


def test_another_organisations_files_are_not_there(gate: Gate) -> None:
    _, folder = gate.logged_model()
    gate.put(f"{folder}/model.onnx", b"x")
    assert gate.ask("GET", f"{FILES}/{folder}/model.onnx", "sme-b").status_code == 404
    assert gate.put(f"{folder}/more", b"x", "sme-b").status_code == 404
    listed = gate.ask("GET", FILES, "sme-b", query={"path": folder})
    assert listed.status_code in (400, 404)
    for other in ("sealed/sme-a", "closed/sme-a", f"../{folder}"):
        assert gate.ask("GET", f"{FILES}/{other}/x").status_code in (400, 403, 404, 422)


def test_a_registered_model_is_opened_as_a_private_copy(gate: Gate) -> None:
    gate.version("copied", content=b"as registered")
    of_the_model = (gate.databases.mlflow, "sme-a", "copied", 1)
    with model_directory(gate.kept, *of_the_model) as directory:
        assert (directory / "model.onnx").read_bytes() == b"as registered"
        (directory / "model.onnx").write_bytes(b"scribbled on")
    with model_directory(gate.kept, *of_the_model) as directory:
        assert (directory / "model.onnx").read_bytes() == b"as registered"


def test_the_gate_runs_without_any_credential_of_the_objects(
    gate: Gate, s3_server: S3Server
) -> None:
    environment = Path(f"/proc/{gate.process}/environ").read_bytes()
    arguments = Path(f"/proc/{gate.process}/cmdline").read_bytes()
    _, secret = s3_server.keys["objects"]
    assert secret.encode() not in environment + arguments


def test_a_gate_killed_in_the_middle_of_storing_leaves_no_file(
    bucket: ArtifactBucket, settings: S3Settings, tmp_path: Path
) -> None:
    class Killing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 20_000_000 and size:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(size)

    def publish_and_die() -> None:
        own = open_bucket(settings, tmp_path / "spool")
        own._bucket.write(f"{HOME}/large", Killing(b"x" * 40_000_000), 40_000_000)

    with pytest.raises(ChildDied, match="-9"):
        in_child(publish_and_die)
    publish(bucket, "model.onnx", b"x")
    assert bucket.entries(Place.parse(HOME)) == [Entry(f"{HOME}/model.onnx", 1)]
    assert set(bucket.seal("acme", "1", MODEL)) == {"model.onnx"}


THE_SAME = (
    test_a_model_is_logged_and_registered, test_pipeline_finds_the_files,
    test_the_model_comes_back_and_predicts, test_written_once_and_sealed,
    test_no_files_no_registration, test_a_slow_upload_fails,
)  # fmt: skip
