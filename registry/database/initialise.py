"""Make PostgreSQL's data directory, whole or not at all, and once.

Rules
-----
1. It is made under another name and renamed, so that half a one is never used.
2. Passwords alone let anybody in (SCRAM), the superuser's is random and kept in a 0600 file.
3. What was made is on the disk before it counts as made; a mark says that it was. Where the mark
   is and the data is not, the data is lost, and making an empty one would hide that.
"""

import contextlib
import os
import secrets
import shutil
import sys
from pathlib import Path

from registry.database import postmaster
from registry.database.binaries import Account, major_version, run
from registry.trust.errors import Unavailable

SUPERUSER = "touchstone_superuser"
_SYNCFS_SINCE = 17


def initialise(directory: Path, data: Path, log: Path, binaries: Path, account: Account) -> None:
    """Make `data` for `account`; password, mark and log go to `directory`.

    Raises Unavailable when it can't be made, for one line's reason, and when it was made before.
    """
    mark = directory / "initialised"
    if mark.exists():
        raise Unavailable(
            f"the database in {data} is gone; restore it from a backup (or, to begin with "
            f"nothing, remove {directory})"
        )
    partial, given = data.with_name("partial"), data.with_name("password")
    for old in (partial, data):
        shutil.rmtree(old, ignore_errors=True)
    password = secrets.token_urlsafe(32)
    write_private(directory / "superuser", password)
    write_private(given, password)
    try:
        account.own(given)
        partial.mkdir(mode=0o700)
        account.own(partial)
        status, said = run(
            account,
            binaries / "initdb",
            f"--pgdata={partial}",
            f"--username={SUPERUSER}",
            f"--pwfile={given}",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--locale=C.UTF-8",
            "--encoding=UTF8",
            *_sync_at_once(binaries),
        )
    finally:
        given.unlink(missing_ok=True)
    if status != 0:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError), log.open("a") as stream:  # the disk may be full
            log.chmod(0o600)
            stream.write(said)
        raise Unavailable(
            f"PostgreSQL could not make its data directory {data}: {postmaster.reason(said)} "
            f"(see {log})"
        )
    partial.rename(data)
    write_private(mark, "")


def _sync_at_once(binaries: Path) -> list[str]:
    """One sync of the file system instead of one a file: as durable, seconds faster."""
    known = sys.platform == "linux" and major_version(binaries) >= _SYNCFS_SINCE
    return ["--sync-method=syncfs"] if known else []


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file in place of what may be there, and see it on the disk."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
