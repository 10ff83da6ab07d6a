"""The embedded PostgreSQL: private, durable, and gone without a trace when stopped."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.database import postmaster
from registry.database.binaries import Account, find_binaries, runnable_binaries
from registry.database.embedded import EmbeddedPostgres, discard
from registry.trust.errors import Conflict, Unavailable
from tests.registry.accounts import ORDINARY, ChildDied, as_account, in_child

ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Home:
    """A data directory, and the account that works in it (None: the one that runs the tests)."""

    path: Path
    account: str | None

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"


@pytest.fixture(
    scope="module", params=["this account", "an ordinary account"] if ROOT else ["this account"]
)
def made(request: pytest.FixtureRequest) -> Iterator[Home]:
    """A home where a server has run, for root and for an ordinary account (root plays both)."""
    top = Path(tempfile.mkdtemp(prefix="touchstone-test-"))
    top.chmod(0o755)
    home = Home(top / "made", None)
    home.path.mkdir(mode=0o711)
    with pytest.MonkeyPatch.context() as environment:
        if request.param == "an ordinary account":
            home = Home(home.path, ORDINARY)
            shutil.chown(home.path, ORDINARY)
            # That account may be unable to reach the virtual environment that the tests run in.
            account = pwd.getpwnam(ORDINARY)
            programs = runnable_binaries(
                find_binaries(), Account(account.pw_uid, account.pw_gid, other=True), top
            )
            environment.setenv("TOUCHSTONE_POSTGRES_BIN", str(programs))
        as_account(home.account, lambda: EmbeddedPostgres(home.postgres).__enter__().stop())
        yield home
    shutil.rmtree(top)


@pytest.fixture
def empty(made: Home) -> Iterator[Home]:
    """A home where nothing has run yet."""
    path = Path(tempfile.mkdtemp(prefix="home-", dir=made.path.parent))
    path.chmod(0o711)
    shutil.copystat(made.path, path)
    shutil.chown(path, made.path.stat().st_uid, made.path.stat().st_gid)
    yield Home(path, made.account)
    discard(path / "postgres")


@pytest.fixture
def home(made: Home, empty: Home) -> Home:
    """A copy of the home where a server has run."""
    subprocess.run(["cp", "-a", str(made.postgres), str(empty.postgres)], check=True)
    return empty


def ask(cluster: EmbeddedPostgres, query: str, *values: object) -> Any:
    """The first value of the first row, asked as the superuser."""
    with psycopg.connect(cluster.superuser_dsn, autocommit=True) as connection:
        cursor = connection.execute(query, values)  # type: ignore[arg-type]
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def exists(pid: int) -> bool:
    """Whether there is a process with this id that has not ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_it_is_private_while_it_runs_and_leaves_only_the_data_behind(empty: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(empty.postgres) as cluster:
            pid, sockets = cluster.pid, cluster.socket_directory
            assert pid is not None
            assert ask(cluster, "SHOW listen_addresses") == ""
            assert ask(cluster, "SHOW data_checksums") == "on"
            assert ask(cluster, "SHOW fsync") == "on"
            assert ask(cluster, "SELECT current_database()") == "touchstone"
            assert len(str(sockets)) < 60
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
            for path in (empty.postgres / "superuser", cluster.log):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(cluster.dsn("touchstone_superuser", "guessed"))
        assert not exists(pid)
        assert not sockets.exists()
        assert not (cluster.data / "postmaster.pid").exists()
        kept = {path.name for path in empty.postgres.iterdir()}
        assert kept == {"data", "superuser", "initialised", "lock", "postgres.log"}

    as_account(empty.account, play)


def test_what_was_written_is_there_after_a_stop_and_a_second_owner_is_refused(home: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            ask(cluster, "CREATE TABLE kept AS SELECT 42 AS answer")
            with pytest.raises(Conflict, match="in use by another `touchstone up`"):
                EmbeddedPostgres(home.postgres).__enter__()
            assert ask(cluster, "SELECT answer FROM kept") == 42
        with EmbeddedPostgres(home.postgres) as cluster:
            assert ask(cluster, "SELECT answer FROM kept") == 42

    as_account(home.account, play)


def test_a_killed_server_starts_again_with_everything_committed(home: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            ask(cluster, "CREATE TABLE kept AS SELECT 42 AS answer")
            busy = psycopg.connect(cluster.superuser_dsn, autocommit=True)
            busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 5000000)")
            pid = cluster.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            while cluster.alive():
                time.sleep(0.01)
            cluster.start()  # waits for the busy session, which outlives its server, to end
            assert cluster.pid not in (None, pid)
            assert ask(cluster, "SELECT answer FROM kept") == 42
            busy.close()

    as_account(home.account, play)


def test_a_server_whose_owner_was_killed_is_taken_over(home: Home) -> None:
    noted = home.path / "noted"

    def die() -> None:
        cluster = EmbeddedPostgres(home.postgres).__enter__()
        ask(cluster, "CREATE TABLE kept AS SELECT 42 AS answer")
        noted.write_text(f"{cluster.pid} {cluster.socket_directory}")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildDied):
        in_child(lambda: as_account(home.account, die))
    pid, sockets = noted.read_text().split()
    assert exists(int(pid))

    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            assert cluster.pid != int(pid)
            assert ask(cluster, "SELECT answer FROM kept") == 42
            assert not exists(int(pid))
            assert not Path(sockets).exists()

    as_account(home.account, play)


def test_a_process_id_left_by_a_crash_is_never_signalled(home: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            data = cluster.data
        bystander = os.fork()
        if bystander == 0:
            time.sleep(60)
            os._exit(0)
        try:
            for left in (f"{bystander}\n{data}\n", "0\n", "abc\n"):
                (data / "postmaster.pid").write_text(left)
                assert postmaster.running(data) is None
                with EmbeddedPostgres(home.postgres) as cluster:
                    assert ask(cluster, "SELECT 1") == 1
                assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
        finally:
            os.kill(bystander, signal.SIGKILL)
            os.waitpid(bystander, 0)

    as_account(home.account, play)


def test_characters_and_length_of_a_path_mean_nothing(empty: Home) -> None:
    odd = empty.path / "a b'\"$(touch gone);`id`%41\\ü" / ("long" * 40)

    def play() -> None:
        with EmbeddedPostgres(odd / "postgres") as cluster:
            assert ask(cluster, "SELECT 1") == 1
        discard(odd / "postgres")

    as_account(empty.account, play)


def test_where_it_cannot_be_set_up_one_line_says_why_and_where_to_look(empty: Home) -> None:
    import resource

    def play() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        EmbeddedPostgres(empty.postgres).__enter__()

    with pytest.raises(Unavailable) as caught:
        in_child(lambda: as_account(empty.account, play))
    assert "could not make its data directory" in caught.value.message
    assert str(empty.postgres / "postgres.log") in caught.value.message
    assert "child process" in (empty.postgres / "postgres.log").read_text()
    left = {path.name for path in empty.postgres.iterdir()}
    assert left == {"superuser", "lock", "postgres.log"}
    # … and once there is room, the same folder works.
    as_account(empty.account, lambda: EmbeddedPostgres(empty.postgres).__enter__().stop())


def test_data_that_is_gone_is_never_made_anew_in_silence(home: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            data = cluster.data
        kept = data.rename(data.with_name("kept"))
        with pytest.raises(Unavailable, match="is gone; restore it from a backup"):
            EmbeddedPostgres(home.postgres).__enter__()
        kept.rename(data)
        (home.postgres / "superuser").unlink()
        with pytest.raises(Unavailable, match="superuser is missing, and with it the way into"):
            EmbeddedPostgres(home.postgres).__enter__()
        assert postmaster.running(data) is None

    as_account(home.account, play)


def test_data_of_another_version_is_refused_with_what_to_set(home: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            made = cluster.data / "PG_VERSION"
        made.write_text("14\n")
        with pytest.raises(Unavailable, match="set TOUCHSTONE_POSTGRES_BIN to the programs of ver"):
            EmbeddedPostgres(home.postgres).__enter__()

    as_account(home.account, play)


def test_no_value_of_a_row_gets_into_the_log(home: Home) -> None:
    def play() -> None:
        with EmbeddedPostgres(home.postgres) as cluster:
            ask(cluster, "CREATE TABLE cases (id text PRIMARY KEY, age int CHECK (age < 120))")
            ask(cluster, "INSERT INTO cases VALUES (%s, %s)", "patient-4711", 60)
            for values in (
                ("patient-4711", 61),
                ("patient-4712", 777_000_777),
                ("patient-4713", "old"),
            ):
                with pytest.raises(psycopg.Error):
                    ask(cluster, "INSERT INTO cases VALUES (%s, %s)", *values)
            said = cluster.log.read_text()
        assert said.count("ERROR") >= 3
        assert "patient-47" not in said
        assert "777000777" not in said

    as_account(home.account, play)
