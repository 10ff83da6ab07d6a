"""The files of a bundle on disk: exactly which there are, and their bytes.

Rules
-----
1. Nothing is opened before its name and kind are known to be right, and no link is followed.
2. A file is read once; whoever needs its bytes later gets the ones that were hashed.
3. Hashing needs a block of memory, whatever the size of the file.
"""

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from registry.trust.errors import Conflict, Invalid, Tampered
from serving.bundle.layout import UNSIGNED

SMALL_BYTES = 1 << 20
"""The largest certificate.json, signers.pem and enrolments.json that are read at all."""

LARGEST_DOCUMENT = 256 << 20
"""Of what is no model and no golden vector. No digest tells how large a file is: a hole of a
terabyte would be read for hours, or into memory."""

_BLOCK = 1 << 20
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO put in place of a file must not hold us
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

Progress = Callable[[int], None]
"""Told the number of bytes that were read since it was last told."""


def list_files(directory: Path, expected: Iterable[str]) -> None:
    """Raise Tampered unless the files under `directory` are exactly those `expected`.

    Codes: link, not_a_file, hidden_file, name_collision, file_extra, file_missing. Nothing is
    opened, and no link is followed.
    """
    wanted = set(expected)
    folded = {path.lower(): path for path in wanted}
    directories = {
        "/".join(path.split("/")[:depth])
        for path in wanted
        for depth in range(1, path.count("/") + 1)
    }
    found: set[str] = set()
    pending = [""]
    while pending:
        parent = pending.pop()
        for entry in _entries(directory / parent):
            path = f"{parent}/{entry.name}" if parent else entry.name
            if entry.is_dir(follow_symlinks=False) and path in directories:
                pending.append(path)
                continue
            _check_entry(path, entry, wanted, folded)
            found.add(path)
    if missing := sorted(wanted - found):
        raise Tampered(f"{missing[0]} is missing: pull the bundle again", code="file_missing")


def check_bundle(directory: Path) -> None:
    """Raise Invalid (no_bundle) where `directory` is not there, or holds nothing of a bundle."""
    if not {entry.name for entry in _entries(directory)} & UNSIGNED:
        raise Invalid(
            f"{directory} is no bundle: name the folder that `touchstone pull` made",
            code="no_bundle",
        )


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except NotADirectoryError as error:
        raise Invalid(f"{directory} is not a directory", code="no_bundle") from error
    except FileNotFoundError as error:
        raise Invalid(f"there is no directory {directory}", code="no_bundle") from error
    except PermissionError as error:
        raise Invalid(f"{directory} may not be read by this user", code="unreadable") from error


def _check_entry(
    path: str, entry: os.DirEntry[str], wanted: set[str], folded: dict[str, str]
) -> None:
    shown = ascii(path[:120])[1:-1]
    # The entry's own stat leaves st_nlink at 0 on Windows; os.stat does not.
    status = os.stat(entry.path, follow_symlinks=False)  # noqa: PTH116
    if stat.S_ISLNK(status.st_mode):
        raise Tampered(f"{shown} is a link; a bundle holds files only", code="link")
    if entry.name.startswith("."):
        raise Tampered(f"{shown} is hidden; it is not part of the bundle", code="hidden_file")
    if path not in wanted:
        if path.lower() in folded:
            raise Tampered(
                f"{shown} differs from {folded[path.lower()]} only in upper and lower case",
                code="name_collision",
            )
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
        raise Tampered(f"the {kind} {shown} is not part of the bundle", code="file_extra")
    if not stat.S_ISREG(status.st_mode):
        raise Tampered(f"{shown} is not a regular file", code="not_a_file")
    if status.st_nlink > 1:
        raise Tampered(
            f"{shown} is hard-linked from elsewhere; copy the bundle instead", code="link"
        )


def read_small(directory: Path, path: str) -> bytes:
    """The bytes of certificate.json or signers.pem: a regular file of at most SMALL_BYTES."""
    with _open(directory / path, path) as stream:
        data = stream.read(SMALL_BYTES + 1)
    if len(data) > SMALL_BYTES:
        raise Tampered(f"{path} is larger than {SMALL_BYTES} bytes", code="file_changed")
    return data


def read_and_hash(
    directory: Path, path: str, most: int, *, keep: bool, on_bytes: Progress | None = None
) -> tuple[str, bytes | None]:
    """(digest, bytes if `keep`) of one file, read once; without `keep` in blocks of 1 MiB.

    Raises Tampered (file_changed) where it is larger than `most` bytes.
    """
    digest = hashlib.sha256()
    kept: list[bytes] = []
    with _open(directory / path, path) as stream:
        if os.fstat(stream.fileno()).st_size > most:
            raise Tampered(f"{path} is larger than {most} bytes", code="file_changed")
        if keep:
            # One read of the whole: joining blocks would hold the model twice.
            kept.append(stream.read())
            digest.update(kept[0])
            if on_bytes:
                on_bytes(len(kept[0]))
        else:
            while block := stream.read(_BLOCK):
                digest.update(block)
                if on_bytes:
                    on_bytes(len(block))
    return "sha256:" + digest.hexdigest(), kept[0] if keep else None


def settle(partial: Path, directory: Path) -> None:
    """Write everything under `partial` through to the disk and move it to `directory` at once.

    Raises Conflict when something came to lie at `directory` meanwhile.
    """
    paths = sorted(partial.rglob("*"), reverse=True)  # children before their directory
    for path in [*paths, partial]:
        _write_through(path)
    try:
        if os.path.lexists(directory):
            raise FileExistsError
        partial.rename(directory)
    except FileExistsError as error:
        raise Conflict(f"{directory} exists already", code="target_exists") from error
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise Conflict(f"{directory} exists already", code="target_exists") from error
    _write_through(directory.parent)


def _write_through(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows opens no directories
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, shown: str) -> io.FileIO:
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        raise Tampered(f"{shown} is missing: pull the bundle again", code="file_missing") from error
    except PermissionError as error:
        raise Invalid(f"{shown} may not be read by this user", code="unreadable") from error
    except OSError as error:  # ELOOP: a link
        raise Tampered(f"{shown} is not a regular file", code="not_a_file") from error
    stream = os.fdopen(descriptor, "rb", buffering=0)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        stream.close()
        raise Tampered(f"{shown} is not a regular file of its own", code="not_a_file")
    return stream
