"""Objects in a local directory, each written once.

    >>> store = LocalStore(home / "objects")
    >>> store.put("submissions/1/report.json", data)
    >>> store.get("submissions/1/report.json")

Rules
-----
1. A path is relative, ASCII, and has no part that begins with a dot.
2. An object appears whole or not at all: temporary file, fsync, link under its name.
3. Writing the same bytes again does nothing; other bytes under the same path are refused.
4. Files are read-only (0400), and links are never followed.
"""

import contextlib
import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Protocol

from registry.trust.errors import Conflict, Invalid, NotFound, Tampered, Unavailable

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@=+-]{0,200}\Z")


class ObjectStore(Protocol):
    """What the rooms ask of a store, wherever it lies."""

    def get(self, path: str) -> bytes: ...
    def put(self, path: str, data: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def list(self, prefix: str) -> list[str]: ...


class LocalStore:
    """An `ObjectStore` over one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get(self, path: str) -> bytes:
        """The object's bytes; NotFound without one."""
        place = self._place(path)
        try:
            handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {path}") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Tampered(f"the object {path} is a link") from error
            raise Unavailable(f"the object {path} can't be read: {error.strerror}") from error
        with os.fdopen(handle, "rb") as stream:
            return stream.read()

    def put(self, path: str, data: bytes) -> None:
        """Write once. Conflict if other bytes are there, Unavailable if the disk is full."""
        place = self._place(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(prefix=".partial-", dir=place.parent)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(temporary).chmod(0o400)
                os.link(temporary, place)  # fails where the name is taken: exactly one writer wins
            finally:
                with contextlib.suppress(FileNotFoundError):
                    Path(temporary).unlink()
            _sync(place.parent)
        except FileExistsError:
            if self.get(path) != data:
                raise Conflict(f"the object {path} exists with other content") from None
        except OSError as error:
            raise Unavailable(
                f"the object {path} can't be written: {error.strerror}; free some space or check "
                f"the permissions of {self._root}"
            ) from error

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self._place(path).is_file()

    def list(self, prefix: str) -> list[str]:
        """The paths of every object below the folder `prefix`, sorted."""
        folder = self._place(prefix.rstrip("/"))
        return sorted(
            str(found.relative_to(self._root))
            for found in folder.rglob("*")
            if found.is_file() and not found.name.startswith(".")
        )

    def _place(self, path: str) -> Path:
        if not path or not all(_PART.match(part) for part in path.split("/")):
            raise Invalid(f"{path[:80]!r} is not a path of an object")
        return self._root / path


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
