"""Objects in a local directory.

    >>> store = LocalStore(home / "objects")
    >>> store.put("submissions/1/report.json", data)
    >>> store.get("submissions/1/report.json")

Rules, beyond those of every store
-----
1. A link is never followed, wherever on the way it lies: each folder is opened from the one above.
   One that is found is somebody's work, and reported as such (Tampered).
2. A writer that is killed leaves nothing: bytes get their name after they are on the disk. (On file
   systems without nameless files a `.partial-` file may stay; it is never listed or read.)
3. Objects are read-only (0400), folders open to their owner alone (0700).
4. `keep` promises nothing: a disk keeps nothing from whoever owns it. Only S3's Object Lock does.
"""

import contextlib
import datetime as dt
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from registry.storage.store import parts_of
from registry.trust.errors import Conflict, NotFound, Tampered, Unavailable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OBJECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMELESS = getattr(os, "O_TMPFILE", None)
_LEFTOVER = re.compile(r"/\.partial-[0-9a-f]{16}\Z")
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


class LocalStore:
    """An `ObjectStore` over one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"the store {root} can't be made: {error.strerror}") from error

    def get(self, path: str) -> bytes:
        """The object's bytes; NotFound without one."""
        with self.open(path) as stream, self._reading(path):
            return stream.read()

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable stream; NotFound without one."""
        *folders, name = parts_of(path)
        with self._reading(path), self._folder(folders) as folder:
            handle = os.open(name, _OBJECT, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise NotFound(f"there is no object {path}")
            return os.fdopen(handle, "rb")

    def size(self, path: str) -> int:
        """The object's size in bytes; NotFound without one."""
        with self.open(path) as stream:
            return os.fstat(stream.fileno()).st_size

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self.open(path).close()
        except NotFound:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        """The paths of every object below the folder `prefix` ("" for all), sorted."""
        return sorted(
            path
            for path, mode in self._below(prefix)
            if stat.S_ISREG(mode) and not path.rpartition("/")[2].startswith(".")
        )

    def names(self, folder: str) -> tuple[str, ...]:
        """As `list`, and all else but folders, rule 2's leftovers apart."""
        return tuple(sorted(path for path, _ in self._below(folder) if not _LEFTOVER.search(path)))

    def _below(self, prefix: str) -> Iterator[tuple[str, int]]:
        """What lies below, folders apart: path and mode. Raises Tampered for a link."""
        within = parts_of(prefix.rstrip("/")) if prefix else ()
        none = contextlib.suppress(NotFound)
        with none, self._reading(prefix), self._folder(within) as top:
            for place, folders, names, folder in os.fwalk(".", onerror=_raise, dir_fd=top):
                inside = (*within, *Path(place).parts)
                for name in (*folders, *names):
                    path = "/".join((*inside, name))
                    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                    if stat.S_ISLNK(mode):
                        raise _link(path)
                    if not stat.S_ISDIR(mode):
                        yield path, mode

    def put(self, path: str, data: bytes | bytearray) -> None:
        """Write once. Conflict if other bytes are there, Unavailable if they can't be stored."""
        *folders, name = parts_of(path)
        try:
            with self._folder(folders, make=True) as folder:
                try:
                    _write(folder, name, data)
                except FileExistsError:
                    if not self._holds(path, data):
                        raise Conflict(f"the object {path} exists with other content") from None
                os.fsync(folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise (
                    _link(path)
                    if self._crosses_link(folders)
                    else Conflict(
                        f"the object {path} can't be written: part of its path is an object"
                    )
                ) from error
            raise Unavailable(
                f"the object {path} can't be written: {error.strerror}; free some space or check "
                f"the permissions of {self._root}"
            ) from error

    def keep(self, path: str, until: dt.date) -> None:
        """Rule 4: see that the object is there. NotFound without one."""
        self.open(path).close()

    def _holds(self, path: str, data: bytes | bytearray) -> bool:
        try:
            return self.size(path) == len(data) and self.get(path) == data
        except NotFound:
            return False  # a folder has that name

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """The folder's descriptor, reached without following a link."""
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if make:
                    _make_folder(folder, part)
                below = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """The operating system's errors in this house's words."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {path}") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                if self._crosses_link(path.split("/")):
                    raise _link(path) from error
                raise NotFound(f"there is no object {path}") from error
            raise Unavailable(f"the object {path} can't be read: {error.strerror}") from error

    def _crosses_link(self, parts: Sequence[str]) -> bool:
        below = [self._root.joinpath(*parts[: n + 1]) for n in range(len(parts))]
        return any(place.is_symlink() for place in below)


def _raise(error: OSError) -> None:
    raise error


def _link(path: str) -> Tampered:
    return Tampered(f"the object {path} is, or lies behind, a link that this store never makes")


def _make_folder(above: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        return
    os.fsync(above)


def _write(folder: int, name: str, data: bytes | bytearray) -> None:
    """Give `data` its name once it is on the disk; FileExistsError where the name is taken."""
    if _NAMELESS is not None:
        try:
            handle = os.open(".", _NAMELESS | os.O_WRONLY | os.O_CLOEXEC, 0o400, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
        else:
            with os.fdopen(handle, "wb") as stream:
                _fill(stream, data)
                os.link(f"/proc/self/fd/{handle}", name, dst_dir_fd=folder, follow_symlinks=True)
            return
    partial = f".partial-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(partial, flags, 0o400, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            _fill(stream, data)
        os.link(partial, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    finally:
        os.unlink(partial, dir_fd=folder)


def _fill(stream: BinaryIO, data: bytes | bytearray) -> None:
    stream.write(data)
    stream.flush()
    os.fsync(stream.fileno())
