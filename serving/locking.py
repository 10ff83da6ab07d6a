"""One process at a time: a lock on a file, which the system gives back when its process ends.

    >>> with held(Path("state/lock"), patience=20.0):
    ...     ...                                  # whoever else asks waits, or is told

Rules
-----
1. Linux and macOS lock by `flock`, Windows by `msvcrt.locking`; to the caller it is the same.
2. A lock's file that is `fleeting` goes when the lock is given back. So a lock counts only on the
   file that still lies at its path.
"""

import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PAUSE: Final = 0.05
_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Taken(Exception):
    """Another process, or another part of this one, holds the lock."""


@contextlib.contextmanager
def held(path: Path, *, patience: float = 0.0, fleeting: bool = False) -> Iterator[None]:
    """Hold the lock of the file at `path`, which is made where there is none.

    patience: seconds to wait for whoever holds it. Raises Taken, OSError.
    """
    until = time.monotonic() + patience
    while (descriptor := _taken(path)) is None:
        if time.monotonic() >= until:
            raise Taken(str(path))
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        if fleeting:
            _remove(path)
        _give_back(descriptor)
        os.close(descriptor)
        if fleeting and not _is_posix():  # Windows removes no file that is open
            _remove(path)


def _taken(path: Path) -> int | None:
    """The open, locked file; None where another has it."""
    descriptor = os.open(path, _FLAGS, 0o600)
    try:
        if _try_lock(descriptor) and _still_there(descriptor, path):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    if not _is_posix():
        try:
            _on_windows(descriptor, "LK_NBLCK")
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_back(descriptor: int) -> None:
    if not _is_posix():
        with contextlib.suppress(OSError):
            _on_windows(descriptor, "LK_UNLCK")


def _on_windows(descriptor: int, what: str) -> None:
    msvcrt: Any = importlib.import_module("msvcrt")
    os.lseek(descriptor, 0, os.SEEK_SET)  # the byte that is locked is the one at hand
    msvcrt.locking(descriptor, getattr(msvcrt, what), 1)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _is_posix() -> bool:
    try:
        importlib.import_module("fcntl")
    except ImportError:
        return False
    return True
