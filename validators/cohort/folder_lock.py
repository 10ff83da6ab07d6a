"""One process at a time on one folder, however the one before it ended.

    >>> with held(Path("staged")):
    ...     write_into(Path("staged"))

Rules
-----
1. The lock is the kernel's (`flock`) on a file beside the folder. It ends with its process, also
   with one that was killed, so a file that is left over stops nobody.
2. Who comes second is refused at once, in one line.
3. The file is removed by who holds it. Who got hold of a removed one tries the new one.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from registry.trust.errors import Conflict


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder`, which need not exist. Raises Conflict where another process does."""
    real = folder.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)
    lock = real.with_name(f".{real.name}.lock")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise Conflict(
                f"another ingest writes {folder} just now; wait for it or name another folder"
            ) from None
        if _is_named(handle, lock):
            break
        os.close(handle)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _is_named(handle: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
