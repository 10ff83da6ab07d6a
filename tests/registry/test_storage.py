"""Every object store: written once, whole or not at all. The local one: no link is followed."""

import contextlib
import os
import resource
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.storage import local
from registry.storage.local import LocalStore
from registry.storage.s3 import open_s3
from registry.storage.store import ObjectStore, parts_of
from registry.trust.errors import Conflict, Invalid, NotFound, Tampered, Unavailable
from tests.registry.accounts import ChildDied, in_child

PATH = "submissions/1/report.json"


@pytest.fixture(params=["nameless files", "named files"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a store, with and without the kernel's nameless files."""
    if request.param == "named files":
        monkeypatch.setattr(local, "_NAMELESS", None)
    return tmp_path / "objects"


@pytest.fixture
def local_store(root: Path) -> LocalStore:
    return LocalStore(root)


@pytest.fixture(params=["nameless files", "named files", "S3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    """Each kind of store: what is asked of one is asked of all."""
    if request.param == "S3":
        return open_s3(request.getfixturevalue("s3_server").settings())
    if request.param == "named files":
        monkeypatch.setattr(local, "_NAMELESS", None)
    return LocalStore(tmp_path / "objects")


def names_in(root: Path) -> list[str]:
    """Every file below, of any name."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def test_what_is_put_is_got_streamed_measured_and_listed(store: ObjectStore) -> None:
    store.put(PATH, b"evidence")
    store.put("submissions/10/report.json", b"")
    assert store.get(PATH) == b"evidence"
    with store.open(PATH) as stream:
        stream.seek(4)
        assert stream.read() == b"ence"
    assert store.size(PATH) == 8
    assert store.get("submissions/10/report.json") == b""
    assert store.list("submissions/1") == store.list("submissions/1/") == [PATH]
    assert store.list("") == [PATH, "submissions/10/report.json"]
    assert store.list("cohorts") == []
    assert store.exists(PATH)
    assert not store.exists("submissions/1")


def test_on_the_disk_an_object_is_its_owners_alone(local_store: LocalStore, root: Path) -> None:
    local_store.put(PATH, b"evidence")
    local_store.put("submissions/10/report.json", b"")
    assert stat.S_IMODE((root / PATH).stat().st_mode) == 0o400
    assert stat.S_IMODE((root / PATH).parent.stat().st_mode) == 0o700
    assert names_in(root) == [PATH, "submissions/10/report.json"]


def test_the_same_bytes_again_do_nothing_and_other_bytes_are_refused(store: ObjectStore) -> None:
    store.put(PATH, b"evidence")
    store.put(PATH, b"evidence")
    for other in (b"Evidence", b"evidence!", b""):
        with pytest.raises(Conflict, match=r"submissions/1/report\.json exists with other content"):
            store.put(PATH, other)
    assert store.get(PATH) == b"evidence"


def test_on_the_disk_an_object_is_no_folder(local_store: LocalStore) -> None:
    local_store.put(PATH, b"evidence")
    with pytest.raises(Conflict, match="exists with other content"):
        local_store.put("submissions/1", b"in place of a folder")
    with pytest.raises(Conflict, match="part of its path is an object"):
        local_store.put(f"{PATH}/more", b"below an object")
    assert local_store.get(PATH) == b"evidence"


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    store.put(PATH, b"evidence")
    for path in ("submissions/2/report.json", "submissions/1", "submissions", f"{PATH}/more"):
        for ask in (store.get, store.open, store.size):
            with pytest.raises(NotFound):
                ask(path)
        assert not store.exists(path)


BAD = ("", "/", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b", "a\n", "a\0b",
       "é", "．．/a", ".hidden", "a/.partial-1", "~root", "-rf",
       "a b", "x" * 202, "a/" * 600 + "a")  # fmt: skip


@pytest.mark.parametrize("path", BAD)
def test_a_path_against_the_rules_reaches_nothing(store: ObjectStore, path: str) -> None:
    for ask in (store.get, store.open, store.size, store.exists):
        with pytest.raises(Invalid, match="is not a path of an object"):
            ask(path)
    with pytest.raises(Invalid):
        store.put(path, b"anything")
    assert store.list("") == []


@given(st.text(alphabet="aZ0_.@=+-/\\~ \n\0é．", max_size=12))
def test_a_path_that_is_accepted_stays_inside_and_has_one_spelling(path: str) -> None:
    with contextlib.suppress(Invalid):
        parts = parts_of(path)
        assert "/".join(parts) == path == os.path.normpath(path)
        assert not path.startswith(("/", "."))
        assert path.isascii()


@pytest.mark.parametrize("linked", ["submissions", "submissions/1", PATH])
def test_a_link_on_the_way_is_reported_and_never_followed(
    local_store: LocalStore, root: Path, tmp_path: Path, linked: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "submissions" / "1").mkdir(parents=True)
    (elsewhere / PATH).write_bytes(b"somebody else's")
    (root / linked).parent.mkdir(parents=True, exist_ok=True)
    (root / linked).symlink_to(elsewhere / linked)
    for ask in (local_store.get, local_store.open, local_store.size, local_store.exists):
        with pytest.raises(Tampered, match="a link that this store never makes"):
            ask(PATH)
    with pytest.raises(Tampered):
        local_store.list("")
    with pytest.raises((Tampered, Conflict)):
        local_store.put(PATH, b"mine")
    with pytest.raises((Tampered, NotFound)):
        local_store.get("submissions/1/other.json")
    assert names_in(elsewhere) == [PATH]
    assert (elsewhere / PATH).read_bytes() == b"somebody else's"


def test_what_is_no_file_is_no_object(local_store: LocalStore, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(NotFound):  # and it does not wait for a writer
        local_store.get("pipe")
    assert local_store.list("") == []
    assert local_store.names("") == ("pipe",)


def test_names_that_no_object_can_have_are_named(local_store: LocalStore, root: Path) -> None:
    local_store.put("a/b", b"")
    odd = [os.fsdecode(name) for name in (b"a/.hidden", b"a/.x/y", b"a/\xff", b"a/b c")]
    for name in (*odd, "a/.partial-0123456789abcdef"):  # the last: what a dead writer may leave
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    assert local_store.names("a") == tuple(sorted([*odd, "a/b"]))


def test_of_many_who_write_one_path_at_once_exactly_one_wins(store: ObjectStore) -> None:
    begin_read, begin_write = os.pipe()
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            status = 2
            try:
                os.close(begin_write)
                os.read(begin_read, 1)  # until the parent opens the gate
                store.put(PATH, bytes([number]) * 100_000)
                status = 0
            except Conflict:
                status = 1
            finally:
                os._exit(status)
        children.append(child)
    os.close(begin_read)
    os.close(begin_write)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(ended) == [0, 1, 1, 1, 1, 1, 1, 1]
    assert store.get(PATH) == bytes([ended.index(0)]) * 100_000


def test_a_writer_killed_before_the_end_leaves_no_object(
    local_store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_and_die() -> None:
        fill = local._fill

        def die(stream: object, data: bytes) -> None:
            fill(stream, data)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(local, "_fill", die)
        local_store.put(PATH, b"evidence" * 10_000)

    with pytest.raises(ChildDied, match="-9"):
        in_child(put_and_die)
    assert not local_store.exists(PATH)
    assert local_store.list("") == []
    assert all(Path(name).name.startswith(".partial-") for name in names_in(root))
    if local._NAMELESS is not None:
        assert names_in(root) == []
    local_store.put(PATH, b"evidence")
    assert local_store.get(PATH) == b"evidence"


def test_where_there_is_no_room_nothing_of_the_object_stays(
    local_store: LocalStore, root: Path
) -> None:
    def put() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        local_store.put("small", b"evidence")
        local_store.put(PATH, b"evidence" * 10_000)

    with pytest.raises(Unavailable, match=r"report\.json can't be written: File too large; free"):
        in_child(put)
    assert names_in(root) == ["small"]
    local_store.put(PATH, b"evidence" * 10_000)
    assert local_store.size(PATH) == 80_000


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte; only root can mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill")
    place = Path(tempfile.mkdtemp(prefix="touchstone-test-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this root may not mount a small file system to fill")
    yield place
    subprocess.run(["umount", str(place)], check=True)
    place.rmdir()


def test_a_full_disk_is_one_line_and_takes_nothing_away(small_disk: Path) -> None:
    store = LocalStore(small_disk / "objects")
    store.put("first", b"1" * 600_000)
    with pytest.raises(Unavailable) as caught:
        store.put("second", b"2" * 600_000)
    assert "No space left on device; free some space" in caught.value.message
    assert names_in(small_disk / "objects") == ["first"]
    assert store.get("first") == b"1" * 600_000
    store.put("third", b"3" * 100_000)


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="can't be made"):
        LocalStore(tmp_path / "file" / "objects")
