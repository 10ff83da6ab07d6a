"""Objects in S3: what the server locks, what is read past, and what is said when it fails."""

import datetime as dt
import io
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from registry.storage import s3_bucket
from registry.storage.s3 import S3Store, open_s3
from registry.storage.s3_bucket import LockedBucket
from registry.storage.s3_check import check, check_apart, prepare
from registry.storage.s3_client import bucket_client
from registry.storage.s3_settings import Credential, S3Settings, read_s3
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from tests.object_store import S3Server
from tests.registry.accounts import ChildDied, in_child

PATH = "submissions/1/report.json"
LARGE = np.random.default_rng(1).bytes(s3_bucket.PART * 2 + 7)


@pytest.fixture
def settings(s3_server: S3Server) -> S3Settings:
    return s3_server.settings()


@pytest.fixture
def store(settings: S3Settings) -> S3Store:
    return open_s3(settings)


@pytest.fixture(params=["prepare", "objects"])
def attacker(request: pytest.FixtureRequest, s3_server: S3Server) -> Any:
    """A plain S3 client with the strongest credentials that anybody has."""
    return s3_server.client(request.param)


def versions(attacker: Any, settings: S3Settings, key: str = PATH) -> list[str]:
    """The ids of a key's versions, newest first."""
    found = attacker.list_object_versions(Bucket=settings.objects.name, Prefix=key)
    return [one["VersionId"] for one in found.get("Versions", []) if one["Key"] == key]


Attack = Callable[[Any, dict[str, Any]], Any]
SOON = dt.timedelta(seconds=1)


def _retention(mode: str) -> dict[str, Any]:
    return {"Mode": mode, "RetainUntilDate": dt.datetime.now(dt.UTC) + SOON}


ATTACKS: dict[str, Attack] = {
    "delete the version": lambda c, v: c.delete_object(**v),
    "delete it as governance": lambda c, v: c.delete_object(**v, BypassGovernanceRetention=True),
    "shorten its retention": lambda c, v: c.put_object_retention(
        **v, Retention=_retention("COMPLIANCE")
    ),
    "weaken its retention": lambda c, v: c.put_object_retention(
        **v, Retention=_retention("GOVERNANCE"), BypassGovernanceRetention=True
    ),
    "suspend versioning": lambda c, v: c.put_bucket_versioning(
        Bucket=v["Bucket"], VersioningConfiguration={"Status": "Suspended"}
    ),
    "delete the bucket": lambda c, v: c.delete_bucket(Bucket=v["Bucket"]),
}


@pytest.mark.parametrize("data", [b"evidence", LARGE], ids=["whole", "in parts"])
def test_the_server_refuses_whatever_would_take_an_object_away(
    store: S3Store, settings: S3Settings, attacker: Any, data: bytes
) -> None:
    store.put(PATH, data)
    (version,) = versions(attacker, settings)
    locked = {"Bucket": settings.objects.name, "Key": PATH, "VersionId": version}
    done = []
    for name, attack in ATTACKS.items():
        with suppress(ClientError):
            attack(attacker, locked)
            done.append(name)
    assert done == []
    head = attacker.head_object(**locked)
    assert head["ObjectLockMode"] == "COMPLIANCE"
    left = head["ObjectLockRetainUntilDate"] - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=29) < left <= dt.timedelta(days=30, minutes=1)
    assert store.get(PATH) == data


def test_many_deletions_in_one_request_delete_nothing(
    store: S3Store, settings: S3Settings, attacker: Any
) -> None:
    store.put(PATH, b"evidence")
    one = {"Key": PATH, "VersionId": versions(attacker, settings)[0]}
    said = attacker.delete_objects(Bucket=settings.objects.name, Delete={"Objects": [one]})
    assert said["Errors"]
    assert store.get(PATH) == b"evidence"


def test_a_delete_marker_hides_nothing_and_is_noticed(
    store: S3Store, settings: S3Settings, attacker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(PATH, b"evidence")
    attacker.delete_object(Bucket=settings.objects.name, Key=PATH)
    with pytest.raises(ClientError):
        attacker.get_object(Bucket=settings.objects.name, Key=PATH)  # a naive reader is fooled
    assert store.get(PATH) == b"evidence"
    assert "the first version stands" in caplog.text
    assert store.exists(PATH)
    assert store.size(PATH) == 8
    assert store.open(PATH).read() == b"evidence"
    assert store.list("") == [PATH]
    with pytest.raises(Conflict):
        store.put(PATH, b"mine now")
    store.put(PATH, b"evidence")
    assert len(versions(attacker, settings)) == 1
    objects, artifacts = check(settings)
    assert (objects.fault, objects.meddled) == (None, (PATH,))
    assert (artifacts.fault, artifacts.meddled) == (None, ())


def test_a_second_version_is_read_past_and_is_noticed(
    store: S3Store, settings: S3Settings, attacker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(PATH, b"evidence")
    for number in range(3):
        attacker.put_object(Bucket=settings.objects.name, Key=PATH, Body=b"forged %d" % number)
    attacker.delete_object(Bucket=settings.objects.name, Key=PATH)
    attacker.put_object(
        Bucket=settings.objects.name, Key=PATH, Body=b"forged last", IfNoneMatch="*"
    )
    for read in (store.get, lambda path: store.open(path).read()):
        assert read(PATH) == b"evidence"
    assert store.size(PATH) == 8
    assert store.list("submissions") == [PATH]
    assert "the first version stands" in caplog.text
    store.put(PATH, b"evidence")
    with pytest.raises(Conflict):
        store.put(PATH, b"forged last")
    assert check(settings)[0].meddled == (PATH,)


BYTES = st.sampled_from([b"", b"a", b"b"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), BYTES),
        st.tuples(st.sampled_from(["overwrite", "slip in", "hide", "remove"]), BYTES),
    ),
    max_size=7,
)


@given(steps=STEPS, number=st.uuids())
@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_done_an_object_stays_what_was_stored_first(
    store: S3Store, settings: S3Settings, s3_server: S3Server, steps: list[Any], number: Any
) -> None:
    attacker = s3_server.client("objects")
    place = {"Bucket": settings.objects.name, "Key": f"law/{number}"}
    first: bytes | None = None  # what lies there since our own `put` has returned
    squatted = False
    for step, data in steps:
        if step == "put":
            with suppress(Conflict):
                store.put(place["Key"], data)
                first = data if first is None else first
                assert data == first
                squatted = False
        elif step == "hide":
            attacker.delete_object(**place)
        elif step == "remove":
            for version in versions(attacker, settings, place["Key"]):
                with suppress(ClientError):
                    attacker.delete_object(**place, VersionId=version)
        elif first is not None or not squatted:
            more = {"IfNoneMatch": "*"} if step == "slip in" else {}
            with suppress(ClientError):
                attacker.put_object(**place, Body=data, **more)
            squatted = first is None
        if first is not None:
            assert store.get(place["Key"]) == first
            assert store.size(place["Key"]) == len(first)
            assert place["Key"] in store.list("law")


def test_the_first_version_is_found_behind_a_thousand_others(
    store: S3Store, settings: S3Settings, s3_server: S3Server
) -> None:
    store.put("a/b", b"evidence")
    store.put("a/b-neighbour", b"another")
    client = s3_server.client("objects")
    for _ in range(1001):
        client.put_object(Bucket=settings.objects.name, Key="a/b", Body=b"noise")
    assert store.get("a/b") == b"evidence"
    assert store.get("a/b-neighbour") == b"another"
    assert store.list("a") == ["a/b", "a/b-neighbour"]


def test_bytes_that_somebody_laid_there_before_are_locked_or_refused(
    store: S3Store, settings: S3Settings, s3_server: S3Server
) -> None:
    client = s3_server.client("objects")
    squat = {"Bucket": settings.objects.name, "Body": b"evidence"}
    brief = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": _soon()}
    client.put_object(Key="same", **squat, **brief)
    client.put_object(Key="other", **squat | {"Body": b"forged"}, **brief)
    with pytest.raises(Conflict):
        store.put("other", b"evidence")
    store.put("same", b"evidence")
    time.sleep(2.1)
    (version,) = versions(client, settings, "same")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=settings.objects.name, Key="same", VersionId=version)
    (version,) = versions(client, settings, "other")
    client.delete_object(Bucket=settings.objects.name, Key="other", VersionId=version)
    store.put("other", b"evidence")
    assert store.get("other") == b"evidence"


def _soon() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + 2 * SOON


def test_of_two_who_put_in_parts_the_first_to_finish_wins(
    store: S3Store, settings: S3Settings
) -> None:
    late = LARGE[::-1]
    bucket = LockedBucket(bucket_client(settings, settings.objects), settings.objects.name, days=1)
    stream = _Reader(late, lambda: store.put(PATH, LARGE))
    first, mine = bucket.write(PATH, stream, len(late))
    assert not mine
    assert (first.size, first.followed) == (len(LARGE), False)
    assert store.get(PATH) == LARGE
    with pytest.raises(Conflict):
        store.put(PATH, late)


class _Reader(io.BytesIO):
    """A stream that does something after its first part was read."""

    def __init__(self, data: bytes, then: Callable[[], None]) -> None:
        super().__init__(data)
        self._then: Callable[[], None] | None = then

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if self.tell() > s3_bucket.PART and self._then:
            then, self._then = self._then, None
            then()
        return data


def test_a_large_object_is_streamed_a_range_at_a_time(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(PATH, LARGE)
    asked: list[int] = []
    read = LockedBucket.read

    def counted(self: Any, version: Any, start: int = 0, stop: int | None = None) -> bytes:
        data = read(self, version, start, stop)
        asked.append(len(data))
        return data

    monkeypatch.setattr(LockedBucket, "read", counted)
    with store.open(PATH) as stream:
        assert stream.seekable()
        assert stream.seek(-7, os.SEEK_END) == len(LARGE) - 7
        assert stream.read() == LARGE[-7:]
        assert stream.read() == b""
        stream.seek(1000)
        assert stream.read(10) == LARGE[1000:1010]
        assert stream.seek(5, os.SEEK_CUR) == 1015
        assert stream.read(1) == LARGE[1015:1016]
        assert sum(asked) < len(LARGE) / 4
        stream.seek(0)
        assert stream.read() == LARGE
        with pytest.raises(ValueError, match="before its beginning"):
            stream.seek(-1)
    assert store.size(PATH) == len(LARGE)


def test_an_upload_killed_in_the_middle_leaves_no_object(
    store: S3Store, settings: S3Settings, s3_server: S3Server
) -> None:
    def put_and_die() -> None:
        bucket = LockedBucket(
            bucket_client(settings, settings.objects), settings.objects.name, days=1
        )
        die = _Reader(LARGE, lambda: os.kill(os.getpid(), signal.SIGKILL))
        bucket.write(PATH, die, len(LARGE))

    with pytest.raises(ChildDied, match="-9"):
        in_child(put_and_die)
    uploads = s3_server.client().list_multipart_uploads(Bucket=settings.objects.name)
    assert len(uploads["Uploads"]) == 1  # it had begun
    assert not store.exists(PATH)
    assert store.list("") == []
    with pytest.raises(NotFound):
        store.get(PATH)
    store.put(PATH, LARGE)
    assert store.get(PATH) == LARGE


def test_an_upload_that_fails_takes_its_parts_with_it(
    store: S3Store, settings: S3Settings, s3_server: S3Server
) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    bucket = LockedBucket(bucket_client(settings, settings.objects), settings.objects.name, days=1)
    with pytest.raises(KeyboardInterrupt):
        bucket.write(PATH, _Reader(LARGE, fail), len(LARGE))
    with pytest.raises(Unavailable, match="changed while it was being stored"):
        bucket.write(PATH, io.BytesIO(LARGE[:-1]), len(LARGE))
    assert (
        not s3_server.client().list_multipart_uploads(Bucket=settings.objects.name).get("Uploads")
    )
    assert not store.exists(PATH)


def test_a_forked_process_reads_its_own_answers(store: S3Store) -> None:
    for number in range(4):
        store.put(f"fork/{number}", bytes([number]) * 200_000)

    def read_all() -> bool:
        return all(
            store.get(f"fork/{n}") == bytes([n]) * 200_000 for _ in range(5) for n in range(4)
        )

    said: list[bool] = []
    threads = [threading.Thread(target=lambda: said.append(in_child(read_all))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert read_all()
    for thread in threads:
        thread.join()
    assert said == [True] * 4


def test_keys_that_are_no_paths_are_not_listed(
    store: S3Store, settings: S3Settings, s3_server: S3Server
) -> None:
    client = s3_server.client("objects")
    for key in (".hidden", "a b", "a/.partial-1", "a/ä"):
        client.put_object(Bucket=settings.objects.name, Key=key, Body=b"x")
    store.put("a/b", b"")
    assert store.list("") == ["a/b"]
    assert store.names("a") == ("a/.partial-1", "a/b", "a/ä")


# What is said when something is wrong


def test_a_bucket_without_object_lock_is_not_opened(
    settings: S3Settings, s3_server: S3Server
) -> None:
    client = s3_server.client()
    name = f"objects-plain-{os.getpid()}"
    client.create_bucket(Bucket=name)
    plain = replace(settings, objects=replace(settings.objects, name=name))
    with pytest.raises(Unavailable, match=r"does not lock .* `touchstone storage prepare`"):
        open_s3(plain)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(Unavailable, match="does not lock"):
        open_s3(plain)
    with pytest.raises(Unavailable, match="does not lock"):
        prepare(plain)
    assert "does not lock" in str(check(plain)[0].fault)


def test_each_failure_is_one_line_that_says_what_to_do(
    settings: S3Settings, s3_server: S3Server
) -> None:
    access, secret = s3_server.keys["objects"]
    objects = settings.objects
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cases = {
            "credential": replace(objects, credential=Credential(access, "wrong-secret")),
            "SignatureDoesNotMatch": replace(objects, credential=Credential(access, "wrong")),
            "InvalidAccessKeyId": replace(objects, credential=Credential("nobody", secret)),
            "AccessDenied": replace(objects, credential=settings.artifacts.credential),
            "has no credential": replace(objects, credential=None),
        }
        attempts = {name: replace(settings, objects=bucket) for name, bucket in cases.items()}
        attempts["did not answer"] = replace(settings, endpoint=nobody)
        for words, changed in attempts.items():
            with pytest.raises(Unavailable, match=words) as caught:
                open_s3(changed)
            said = caught.value.message
            assert "\n" not in said
            assert len(said) < 300
            for hidden in (secret, "wrong-secret", access):
                assert hidden not in said
    missing = replace(objects, name="objects-missing", credential=settings.prepare)
    with pytest.raises(Unavailable, match="there is no S3 bucket objects-missing; make it with"):
        open_s3(replace(settings, objects=missing))


def test_what_an_operators_shell_says_to_aws_tools_is_not_followed(
    store: S3Store, settings: S3Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = elsewhere\n")
    for name, value in {
        "AWS_PROFILE": "nobody", "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_CA_BUNDLE": "/nowhere", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_SESSION_TOKEN": "z", "AWS_REGION": "elsewhere", "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store.put(PATH, b"evidence")
    assert open_s3(settings).get(PATH) == b"evidence"


def test_over_tls_only_a_server_with_the_right_certificate_is_believed(
    settings: S3Settings, s3_server: S3Server
) -> None:
    secure = replace(settings, endpoint=s3_server.secure_endpoint)
    trusting = open_s3(replace(secure, ca_file=s3_server.ca_file))
    trusting.put(PATH, b"evidence")
    assert open_s3(settings).get(PATH) == b"evidence"
    with pytest.raises(Unavailable, match=r"\(SSLError\).*TOUCHSTONE_S3_CA_FILE"):
        open_s3(secure)


def test_a_connection_that_breaks_is_tried_again(store: S3Store, settings: S3Settings) -> None:
    store.put(PATH, LARGE)
    with _BreakingProxy(settings.endpoint, after=3_000_000, times=2) as address:
        through = open_s3(replace(settings, endpoint=address))
        assert through.get(PATH) == LARGE
    with _BreakingProxy(settings.endpoint, after=3_000_000, times=1000) as address:
        through = open_s3(replace(settings, endpoint=address))
        with pytest.raises(Unavailable, match=r"did not answer for the object submissions/1/repo"):
            through.get(PATH)


class _BreakingProxy:
    """Carries bytes to the server, and cuts a connection after so many came back."""

    def __init__(self, endpoint: str, *, after: int, times: int) -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._server, self._after, self._times = (host, int(port)), after, times
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def _back(self, source: socket.socket, target: socket.socket) -> None:
        seen = 0
        with suppress(OSError), source, target:
            while data := source.recv(65536):
                seen += len(data)
                if seen > self._after and self._times > 0:
                    self._times -= 1
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)


# Who may reach what


def test_the_artifacts_credential_reaches_nothing_of_the_objects(
    store: S3Store, settings: S3Settings, s3_server: S3Server
) -> None:
    store.put(PATH, b"cohort")
    stranger = s3_server.client("artifacts")
    own = {"Bucket": settings.artifacts.name, "Key": "x"}
    locked = {"Bucket": settings.objects.name, "Key": PATH}
    version = versions(s3_server.client(), settings)[0]
    attempts: list[Callable[[], Any]] = [
        lambda: stranger.get_object(**locked),
        lambda: stranger.get_object(**locked, VersionId=version),
        lambda: stranger.head_object(**locked),
        lambda: stranger.list_objects_v2(Bucket=settings.objects.name),
        lambda: stranger.list_object_versions(Bucket=settings.objects.name),
        lambda: stranger.copy_object(**own, CopySource=locked),
        lambda: stranger.put_object(**locked, Body=b"x"),
        lambda: stranger.delete_object(**locked),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError, match=r"AccessDenied|Forbidden"):
            attempt()
    stranger.put_object(**own, Body=b"its own")
    assert settings.objects.name not in [b["Name"] for b in stranger.list_buckets()["Buckets"]]
    check_apart(settings)


def test_an_artifacts_credential_that_opens_the_objects_is_refused_at_the_start(
    store: S3Store, settings: S3Settings
) -> None:
    too_strong = replace(settings.artifacts, credential=settings.prepare)
    with pytest.raises(Refused, match="MLflow would reach cohorts") as caught:
        check_apart(replace(settings, artifacts=too_strong))
    assert caught.value.code == "storage_not_apart"


# Settings


def environment(tmp_path: Path) -> dict[str, str]:
    for name in ("objects", "artifacts"):
        (tmp_path / name).write_text(f"{name}-access\n{name}-secret\n")
        (tmp_path / name).chmod(0o600)
    return {
        "TOUCHSTONE_S3_ENDPOINT": "https://s3.example:9000/",
        "TOUCHSTONE_S3_OBJECTS_BUCKET": "tef-objects",
        "TOUCHSTONE_S3_ARTIFACTS_BUCKET": "tef-artifacts",
        "TOUCHSTONE_S3_OBJECTS_CREDENTIALS": str(tmp_path / "objects"),
        "TOUCHSTONE_S3_ARTIFACTS_CREDENTIALS": str(tmp_path / "artifacts"),
    }


def test_settings_are_read_and_handed_to_a_child_without_the_preparing_credential(
    tmp_path: Path,
) -> None:
    given = environment(tmp_path) | {
        "TOUCHSTONE_S3_PREPARE_ACCESS_KEY": "p", "TOUCHSTONE_S3_PREPARE_SECRET_KEY": "root-secret",
        "TOUCHSTONE_S3_RETENTION_DAYS": "7", "TOUCHSTONE_S3_CA_FILE": "/ca.pem",
    }  # fmt: skip
    settings = read_s3(given)
    assert settings is not None
    assert settings.endpoint == "https://s3.example:9000"
    assert (settings.objects.retention_days, settings.artifacts.retention_days) == (7, 365)
    assert settings.objects.credential == Credential("objects-access", "objects-secret")
    assert settings.prepare == Credential("p", "root-secret")
    assert "secret" not in repr(settings)
    assert read_s3(settings.environment()) == replace(settings, prepare=None)
    assert read_s3({"TOUCHSTONE_S3_OBJECTS_BUCKET": "x"}) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ENDPOINT": "http://s3.example"}, "in the clear"),
        ({"ENDPOINT": "https://me:secret@s3.example"}, "without a name or pass"),
        ({"ENDPOINT": "s3.example"}, "is an address like"),
        ({"OBJECTS_BUCKET": ""}, "TOUCHSTONE_S3_OBJECTS_BUCKET names a bucket"),
        ({"OBJECTS_BUCKET": "Upper"}, "TOUCHSTONE_S3_OBJECTS_BUCKET names a bucket"),
        ({"ARTIFACTS_BUCKET": "tef-objects"}, "need a bucket each"),
        ({"ARTIFACTS_CREDENTIALS": "objects"}, "need a credential each"),
        ({"ARTIFACTS_CREDENTIALS": "open"}, "can be read by everybody; run chmod 600"),
        ({"ARTIFACTS_CREDENTIALS": "absent"}, "can't be read"),
        ({"ARTIFACTS_CREDENTIALS": "short"}, "holds two lines"),
        ({"RETENTION_DAYS": "0"}, "TOUCHSTONE_S3_RETENTION_DAYS is a number of days"),
        ({"PREPARE_ACCESS_KEY": "p"}, "go together"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(
    tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    given = environment(tmp_path)
    for name, mode, text in (("open", 0o644, "a\nb"), ("short", 0o600, "a")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    for name, value in changed.items():
        is_file = name.endswith("_CREDENTIALS")
        given[f"TOUCHSTONE_S3_{name}"] = str(tmp_path / value) if is_file else value
    with pytest.raises(Invalid, match=words) as caught:
        read_s3(given)
    assert not re.search("secret$|-secret", caught.value.message)
