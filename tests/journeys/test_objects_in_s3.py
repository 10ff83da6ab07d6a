"""The facility with its objects in S3: a cohort sealed and verified, and the whole journey."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo.hospital import hospital
from demo.journey import facility_at_work, register, review, submit, try_again
from demo.stage import TOUCHSTONE
from demo.story import Story
from registry.storage.s3 import open_s3
from registry.storage.s3_settings import S3Settings
from registry.trust.errors import Conflict
from tests.object_store import S3Server
from tests.object_store import s3_server as s3_server
from tests.validators.cohort_example import SHARD, contract, few_scans
from validators.cohort.ingest import ingest
from validators.cohort.key_store import create_keys, open_keys
from validators.cohort.manifest import manifest_bytes, parse_manifest
from validators.cohort.seal import seal
from validators.cohort.stream import read_reference, stream
from validators.cohort.verify import verify

MANIFEST = "cohorts/nodules/1/manifest.json"


def touchstone(settings: S3Settings, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """`touchstone … --json` where these buckets are set: status, object, what went wrong."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TOUCHSTONE_")}
    prepare = settings.prepare
    if prepare:
        kept["TOUCHSTONE_S3_PREPARE_ACCESS_KEY"] = prepare.access_key
        kept["TOUCHSTONE_S3_PREPARE_SECRET_KEY"] = prepare.secret_key
    done = subprocess.run(
        [*TOUCHSTONE, *arguments, "--json"],
        env=kept | settings.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_a_cohort_is_sealed_into_s3_and_stays_what_it_was(
    s3_server: S3Server, tmp_path: Path
) -> None:
    settings = s3_server.settings()
    staged = ingest(
        few_scans(tmp_path / "few.sqlite"), tmp_path / "staged", contract=contract(), half="all"
    )
    store = open_s3(settings)
    keys = create_keys(tmp_path / "keys", "nodules", "1")
    sealing = {"cohort_id": "nodules", "version": "1", "keys": keys, "shard_size": SHARD}
    manifest = seal(staged, store, **sealing)  # type: ignore[arg-type]
    store.put(MANIFEST, manifest_bytes(manifest))
    assert manifest_bytes(seal(staged, store, **sealing)) == store.get(MANIFEST)  # type: ignore[arg-type]

    thief = s3_server.client("objects")
    for entry in manifest.objects:
        place = {"Bucket": settings.objects.name, "Key": entry.path}
        thief.put_object(**place, Body=b"another cohort")
        thief.delete_object(**place)
    with pytest.raises(Conflict):
        store.put(manifest.objects[0].path, b"another cohort")

    again = open_s3(settings)
    read = parse_manifest(again.get(MANIFEST))
    assert read == manifest
    verify(read, again, open_keys(tmp_path / "keys", read))
    shards = list(stream(read, again, keys.inputs()))
    assert sum(len(shard.cases) for shard in shards) == read.counts.cases
    assert read_reference(read, again, keys.reference()).num_rows == read.counts.cases
    status, said, error = touchstone(settings, "storage", "check")
    assert (status, "find out who has the credential" in error) == (1, True)
    assert said["buckets"][0]["meddled"] == sorted(entry.path for entry in manifest.objects)


def test_buckets_are_made_by_one_command_and_checked_by_another(s3_server: S3Server) -> None:
    settings = s3_server.settings()
    new = replace(
        settings,
        objects=replace(settings.objects, name=settings.objects.name + "-new"),
        artifacts=replace(settings.artifacts, name=settings.artifacts.name + "-new"),
    )
    both = [new.objects.name, new.artifacts.name]
    status, _, error = touchstone(new, "storage", "check")
    assert status == 1
    assert touchstone(new, "storage", "prepare")[1] == {"buckets": both, "made": both}
    assert touchstone(new, "storage", "prepare")[1] == {"buckets": both, "made": []}
    status, said, error = touchstone(new, "storage", "check")
    assert (status, error) == (0, "")
    assert [one["fault"] for one in said["buckets"]] == [None, None]
    status, _, error = touchstone(replace(new, prepare=None), "storage", "prepare")
    assert (status, error.count("\n")) == (1, 1)
    assert "TOUCHSTONE_S3_PREPARE_CREDENTIALS" in error
    lock = s3_server.client().get_object_lock_configuration(Bucket=new.objects.name)
    assert lock["ObjectLockConfiguration"]["Rule"]["DefaultRetention"] == {
        "Mode": "COMPLIANCE", "Days": 30,
    }  # fmt: skip


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="touchstone-s3-journey-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_whole_journey_with_every_object_and_artifact_in_s3(
    s3_server: S3Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_server.settings()
    facility = Story.facility.fget  # type: ignore[attr-defined]
    more = settings.environment()
    monkeypatch.setattr(Story, "facility", property(lambda story: facility(story) | more))
    with facility_at_work(home / "demo") as story:
        register(story)
        submit(story)
        if story.submissions["a"]["outcome"] != "pass":
            try_again(story)
        review(story)
        assert story.submissions["a"]["state"] == "certified"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        hospital(story, "a", port)
    assert not [one for one in story.stage.steps if one["outcome"].startswith("failed")]
    here = home / "demo" / "facility"
    assert not [path for path in (here / "objects").rglob("*") if path.is_file()]
    assert not [path for path in (here / "artifacts").rglob("*") if path.is_file()]
    kinds = {path.split("/")[0] for path in open_s3(settings).list("")}
    assert {"cohorts", "submissions", "models"} <= kinds
    assert touchstone(settings, "storage", "check")[0] == 0
