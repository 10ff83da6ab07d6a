"""PostgreSQL without an installation: a private server over one folder, and no network.

    >>> with EmbeddedPostgres(home / "postgres") as cluster:
    ...     cluster.dsn("touchstone_app", password)

Rules
-----
1. It listens on a socket in a folder of its own (0700, short path) and on no port.
2. As root it runs as `nobody` (see `binaries`). If `nobody` can't reach the folder, the data lies
   in one below /var/lib/touchstone, and `data-is-in` in the folder says which.
3. One owner at a time, by a lock that dies with its holder. A server whose owner was killed is
   stopped and started again; a crashed one recovers by its own log.
4. Data once made is never silently made anew: if it is out of reach or gone, starting fails.
5. After `stop` nothing is left but the data: no process, no socket, no temporary file.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from registry.database import postmaster
from registry.database.binaries import (
    Account,
    find_binaries,
    major_version,
    runnable_binaries,
)
from registry.database.initialise import SUPERUSER, initialise, write_private
from registry.trust.errors import Conflict, Unavailable

DATABASE = "touchstone"
RELOCATED = Path("/var/lib/touchstone")
_SOCKETS = re.compile(r"/tmp/touchstone-[a-z0-9_]+\Z")  # noqa: S108 - owner and mode are checked


class EmbeddedPostgres:
    """One PostgreSQL server over one folder, owned by this process.

    Entering starts it (making the data first where there is none), leaving stops it. Raises
    Conflict while another process owns it, Unavailable with one line where it can't run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._account = Account.for_server()
        self._binaries = self._data = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = -1
        self.socket_directory = Path()

    def __enter__(self) -> Self:
        try:
            self._open()
        except OSError as error:
            self.stop()
            raise Unavailable(
                f"PostgreSQL can't be started in {self._directory}: "
                f"{error.filename or 'writing'}: {error.strerror}"
            ) from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """Where the server writes what it has to say."""
        return self._directory / "postgres.log"

    @property
    def data(self) -> Path:
        """PostgreSQL's own data directory, once started."""
        return self._data

    @property
    def pid(self) -> int | None:
        """The server's process id, if it is running."""
        if self._process is not None:
            self._process.poll()
        return postmaster.running(self._data) if self._data != Path() else None

    @property
    def superuser_dsn(self) -> str:
        """For making roles, and for nothing else."""
        return self.dsn(SUPERUSER, self._password())

    def dsn(self, role: str, password: str, database: str = DATABASE) -> str:
        """The address for a role, through the socket."""
        host = quote(str(self.socket_directory), safe="")
        return f"postgresql://{role}:{quote(password, safe='')}@/{database}?host={host}"

    def alive(self) -> bool:
        """Whether the server is running."""
        return self.pid is not None

    def start(self) -> None:
        """Start it again, after a crash, on the same socket."""
        postmaster.stop(self._data, self._process)
        self._process = postmaster.launch(
            self._binaries, self._data, self.socket_directory, self.log, self._account
        )

    def stop(self) -> None:
        """Stop it cleanly, take the socket's folder away, let go of the folder."""
        if self._lock < 0:
            return  # never ours
        if self._data != Path():
            postmaster.stop(self._data, self._process)
            self._process = None
        self._remove_sockets()
        self.socket_directory = Path()
        os.close(self._lock)
        self._lock = -1

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._lock = _take(self._directory)
        if self._account.other and self._directory.stat().st_uid == 0:
            self._directory.chmod(0o711)  # whatever the umask: `nobody` must get through
        base = self._base()
        _check_owner(base / "data", self._account)
        self._data = base / "data"
        self._binaries = runnable_binaries(find_binaries(), self._account, base)
        postmaster.stop(self._data)  # its owner was killed: the lock was free
        self._remove_sockets()
        if not (self._data / "PG_VERSION").exists():
            initialise(self._directory, self._data, self.log, self._binaries, self._account)
        self._check_version()
        self._make_sockets()
        self.start()
        self._create_database()

    def _base(self) -> Path:
        """Where data, and a copy of the programs if one is needed, lie: here, or relocated."""
        pointer = self._directory / "data-is-in"
        if pointer.exists():
            return Path(pointer.read_text().strip())
        if self._account.passes(self._directory):
            return self._directory
        if (self._directory / "data").exists():
            raise Unavailable(
                f"PostgreSQL, which runs as `nobody`, can't reach {self._directory / 'data'} any "
                "more; give back the right to pass (chmod o+x) to each folder above it"
            )
        RELOCATED.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{self._directory.parent.name}-", dir=RELOCATED))
        place.chmod(0o711)
        if not self._account.passes(place):
            place.rmdir()
            raise Unavailable(
                f"PostgreSQL, which runs as `nobody`, reaches neither {self._directory} nor "
                f"{RELOCATED}; set TOUCHSTONE_HOME to a folder that everybody may pass through"
            )
        write_private(pointer, f"{place}\n")
        return place

    def _check_version(self) -> None:
        made, here = (self._data / "PG_VERSION").read_text().strip(), major_version(self._binaries)
        if made != str(here):
            raise Unavailable(
                f"{self._data} was made by PostgreSQL {made} and {self._binaries} is {here}; set "
                f"TOUCHSTONE_POSTGRES_BIN to the programs of version {made}"
            )

    def _make_sockets(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="touchstone-", dir="/tmp"))
        self.socket_directory = folder
        write_private(self._directory / "socket-is-in", str(folder))
        self._account.own(folder)

    def _remove_sockets(self) -> None:
        """The socket's folder, this server's or that of one that was killed."""
        noted = self._directory / "socket-is-in"
        folder = str(self.socket_directory)
        with contextlib.suppress(OSError):
            folder = noted.read_text()
        if _SOCKETS.match(folder):
            with contextlib.suppress(OSError):
                if os.lstat(folder).st_uid in (os.geteuid(), self._account.uid):
                    shutil.rmtree(folder)  # does not follow links
        noted.unlink(missing_ok=True)

    def _password(self) -> str:
        kept = self._directory / "superuser"
        try:
            return kept.read_text()
        except FileNotFoundError:
            raise Unavailable(
                f"{kept} is missing, and with it the way into the database; restore it from a "
                "backup"
            ) from None

    def _create_database(self) -> None:
        import psycopg

        try:
            with psycopg.connect(
                self.dsn(SUPERUSER, self._password(), "postgres"), autocommit=True
            ) as connection:
                if not connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
                ).fetchone():
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.Error as error:
            raise Unavailable(
                f"PostgreSQL in {self._data} runs and does not let us in: {error} (see {self.log})"
            ) from error


def discard(directory: Path) -> None:
    """Remove a stopped server's folder, and its data wherever it lies. There is no way back."""
    if not directory.exists():
        return
    lock = _take(directory)
    try:
        pointer = directory / "data-is-in"
        place = Path(pointer.read_text().strip()) if pointer.exists() else directory
        postmaster.stop(place / "data")  # its owner was killed: the lock was free
        if place.parent == RELOCATED:
            shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(directory)
    finally:
        os.close(lock)


def _take(directory: Path) -> int:
    """The lock of a server's folder; Conflict while another process holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(directory / "lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict(
            f"{directory.parent} is in use by another `touchstone up`; stop that one, "
            "or set TOUCHSTONE_HOME to another folder"
        ) from None
    return lock


def _check_owner(data: Path, account: Account) -> None:
    if data.exists() and data.stat().st_uid != account.uid:
        raise Conflict(
            f"{data} belongs to account {data.stat().st_uid}; run touchstone as whoever made it, "
            "or set TOUCHSTONE_HOME to another folder"
        )
