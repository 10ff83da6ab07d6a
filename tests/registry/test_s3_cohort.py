"""A locked cohort in S3: what a store's administrator can do to it, and what reading does then."""

import datetime as dt
from contextlib import suppress
from typing import Any

import pytest
from botocore.exceptions import ClientError

from registry.storage.s3 import S3Store, open_s3
from registry.storage.s3_settings import S3Settings
from registry.trust.errors import NotFound, Tampered
from tests.object_store import S3Server
from tests.registry.test_s3_store import ATTACKS
from tests.validators.cohort_example import SHARD, Sealed, sealed_example
from validators.cohort.seal import seal
from validators.cohort.stream import stream
from validators.cohort.verify import check_listed, verify


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed_example(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def settings(s3_server: S3Server) -> S3Settings:
    return s3_server.settings()


@pytest.fixture
def store(settings: S3Settings, sealed: Sealed) -> S3Store:
    store = open_s3(settings)
    seal(sealed.staged, store, cohort_id="nodules", version="1", keys=sealed.keys,
         shard_size=SHARD)  # fmt: skip
    return store


@pytest.fixture(params=["prepare", "objects"])
def administrator(request: pytest.FixtureRequest, s3_server: S3Server) -> Any:
    return s3_server.client(request.param)


def test_a_cohort_is_read_by_version_whatever_an_administrator_puts_in_front(
    store: S3Store, settings: S3Settings, sealed: Sealed, administrator: Any
) -> None:
    named: list[Any] = []
    store._bucket._client.meta.events.register(  # type: ignore[attr-defined]
        "provide-client-params.s3.GetObject",
        lambda params, **_: named.append(params.get("VersionId")),
    )
    bucket = settings.objects.name
    for entry in sealed.manifest.objects:
        with suppress(ClientError):
            administrator.put_object(Bucket=bucket, Key=entry.path, Body=b"x" * entry.size)
        with suppress(ClientError):
            administrator.delete_object(Bucket=bucket, Key=entry.path)  # a marker hides it
    verify(sealed.manifest, store, sealed.keys)
    assert sum(len(shard.cases) for shard in stream(
        sealed.manifest, store, sealed.keys.inputs())) == sealed.manifest.counts.cases  # fmt: skip
    assert len(named) >= len(sealed.manifest.objects)
    assert all(named)


def test_a_cohort_is_locked_until_its_day_and_for_no_less_by_anybody(
    store: S3Store, settings: S3Settings, sealed: Sealed, administrator: Any
) -> None:
    until = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=400)
    bucket = settings.objects.name
    for entry in sealed.manifest.objects:
        for day in (until, until - dt.timedelta(days=200)):  # an earlier day shortens nothing
            store.keep(entry.path, day)
        (version,) = [
            one["VersionId"]
            for one in administrator.list_object_versions(Bucket=bucket, Prefix=entry.path)[
                "Versions"
            ]
            if one["Key"] == entry.path
        ]
        locked = {"Bucket": bucket, "Key": entry.path, "VersionId": version}
        for attack in ATTACKS.values():
            with pytest.raises(ClientError):
                attack(administrator, locked)
        head = administrator.head_object(**locked)
        assert head["ObjectLockMode"] == "COMPLIANCE"
        assert head["ObjectLockRetainUntilDate"].date() == until
    verify(sealed.manifest, store, sealed.keys)


def test_what_is_not_there_is_not_kept(store: S3Store) -> None:
    with pytest.raises(NotFound):
        store.keep("cohorts/nodules/1/lock.json", dt.date(2031, 1, 1))


def test_an_object_that_somebody_puts_beside_a_cohort_is_named(
    store: S3Store, settings: S3Settings, sealed: Sealed, administrator: Any
) -> None:
    folder = "cohorts/nodules/1"
    administrator.put_object(Bucket=settings.objects.name, Key=f"{folder}0/x", Body=b"x")
    check_listed(sealed.manifest, store.names(folder))  # another version's folder
    for name in (".z", "inputs/0 0", "\n", "inputs/99999"):
        added = f"{folder}/{name}"
        administrator.put_object(Bucket=settings.objects.name, Key=added, Body=b"x")
        assert added in store.names(folder)
        with pytest.raises(Tampered) as refused:
            check_listed(sealed.manifest, [added])
        assert repr(added)[1:-1] in refused.value.message
        assert "\n" not in refused.value.message
        with pytest.raises(Tampered, match="was added"):
            check_listed(sealed.manifest, store.names(folder))
