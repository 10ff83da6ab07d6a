"""Fetching a bundle file by file: resumed where it stopped, checked, and complete or absent.

    download(manifest, lambda path, start: client.stream(path, start), Path("nodules-3"))

Rules
-----
1. The manifest, {path: {"digest", "size"}}, comes from a server that need not be trusted: names,
   numbers and sizes are checked before a byte is written, and nothing is written elsewhere.
2. What was fetched lies in `.NAME.partial` beside the target. A second call goes on from there;
   bytes that turn out wrong are fetched once more from the start, then refused.
3. The target appears in one move, when every digest fits. It is unverified until `verify`.
"""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from registry.trust.errors import Conflict, Invalid, Tampered, Unavailable
from serving.bundle.files import settle
from serving.bundle.layout import UNSIGNED, check_paths, check_subjects
from serving.locking import Taken, held

MAXIMUM_BYTES = 8 << 30

Fetch = Callable[[str, int], Iterable[bytes]]
"""(path, first byte wanted) → the file's bytes from there on."""
Progress = Callable[[int, int], None]
"""(bytes that are here, bytes in all)."""


class File(BaseModel):
    """One file of a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAXIMUM_BYTES, strict=True)]


_Manifest: TypeAdapter[dict[str, File]] = TypeAdapter(dict[str, File])


def download(
    manifest: Mapping[str, Any],
    fetch: Fetch,
    directory: Path,
    *,
    on_progress: Progress = lambda here, total: None,
) -> Path:
    """Fetch every file of `manifest` into the new directory; returns it.

    Raises Invalid for a manifest that is none, Conflict when the directory exists or another
    process is fetching the same, Tampered (file_changed) when a file has not the digest that was
    listed, Unavailable when the connection or the disk fails: then call again to go on.
    """
    files = _checked(manifest)
    target = directory.absolute()
    if os.path.lexists(target):
        raise Conflict(f"{directory} exists already: choose another place", code="target_exists")
    partial = target.parent / f".{target.name}.partial"
    total = sum(file.size for file in files.values())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(partial, directory):
            _tidy(partial, set(files))
            _check_space(partial, total, directory)
            before = 0
            for path, file in sorted(files.items()):
                _complete(partial, path, file, fetch, lambda here: on_progress(here, total), before)
                before += file.size
            settle(partial, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Unavailable(
                f"the disk of {directory} is full; free some space and pull again to go on",
                code="disk_full",
            ) from error
        raise Unavailable(
            f"{directory} could not be written ({error.strerror}); pull again to go on",
            code="not_written",
        ) from error
    return directory


def _checked(manifest: Mapping[str, Any]) -> dict[str, File]:
    try:
        files = _Manifest.validate_python(dict(manifest))
    except (ValidationError, TypeError, ValueError) as error:
        raise Invalid("the server's list of files is not one of digests and sizes") from error
    check_paths(files)
    if missing := sorted(UNSIGNED - set(files)):
        raise Invalid(f"the server's list lacks {missing[0]}: this is no certified model")
    check_subjects(set(files) - UNSIGNED)
    if sum(file.size for file in files.values()) > MAXIMUM_BYTES:
        raise Invalid(f"the bundle is larger than {MAXIMUM_BYTES >> 30} GiB")
    return files


@contextlib.contextmanager
def _alone(partial: Path, directory: Path) -> Iterator[None]:
    """Make the partial directory, and let no other process fetch into it meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(partial.with_suffix(".lock"), fleeting=True))
        except Taken as error:
            raise Conflict(
                f"another process is pulling into {directory}", code="already_pulling"
            ) from error
        with contextlib.suppress(FileExistsError):
            partial.mkdir(mode=0o755)
        status = partial.lstat()
        foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
        # Whoever owns it could lead us elsewhere by a link, in the middle of the download.
        if foreign or not stat.S_ISDIR(status.st_mode):
            raise Conflict(
                f"{partial} is in the way: remove it and pull again", code="partial_blocked"
            )
        yield


def _tidy(partial: Path, wanted: set[str]) -> None:
    """Remove what an earlier, other download left: names that are not wanted, and links."""
    pending = [""]
    while pending:
        parent = pending.pop()
        for entry in list((partial / parent).iterdir()):
            path = entry.relative_to(partial).as_posix()
            mode = entry.lstat().st_mode
            if stat.S_ISDIR(mode) and any(other.startswith(path + "/") for other in wanted):
                pending.append(path)
            elif stat.S_ISDIR(mode):
                shutil.rmtree(entry)
            elif path not in wanted or not stat.S_ISREG(mode):
                entry.unlink()


def _check_space(partial: Path, total: int, directory: Path) -> None:
    here = sum(path.lstat().st_size for path in partial.rglob("*"))
    free = shutil.disk_usage(partial).free
    if total - here > free:
        raise Unavailable(
            f"the bundle needs {total >> 20} MiB and the disk of {directory} has {free >> 20} MiB "
            "free; free some space and pull again",
            code="disk_full",
        )


def _complete(
    partial: Path,
    path: str,
    file: File,
    fetch: Fetch,
    on_bytes: Callable[[int], None],
    before: int,
) -> None:
    """Bring one file to its size and digest, from where it stands."""
    place = partial / path
    place.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(place, flags, 0o644), "r+b", buffering=0) as stream:
        resumed = os.fstat(stream.fileno()).st_size > 0
        if _fetched(stream, path, file, fetch, lambda n: on_bytes(before + n)):
            return
        stream.truncate(0)
        if resumed and _fetched(stream, path, file, fetch, lambda n: on_bytes(before + n)):
            return
        stream.truncate(0)
    raise Tampered(
        f"{path} came with another digest than was listed; pull again, and tell the facility if "
        "it happens twice",
        code="file_changed",
    )


def _fetched(
    stream: io.FileIO, path: str, file: File, fetch: Fetch, on_bytes: Callable[[int], None]
) -> bool:
    """Append what is missing; whether the whole then has the listed digest."""
    if os.fstat(stream.fileno()).st_size > file.size:
        return False
    digest, here = hashlib.sha256(), 0
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
        here += len(block)
    if here < file.size:
        for block in fetch(path, here):
            here += len(block)
            if here > file.size:
                return False
            digest.update(block)
            view = memoryview(block)
            while view:  # unbuffered: a full disk may take a part only
                view = view[stream.write(view) :]
            on_bytes(here)
    if here < file.size:
        raise Unavailable(
            f"the connection ended in the middle of {path}; pull again to go on",
            code="interrupted",
        )
    on_bytes(here)
    return "sha256:" + digest.hexdigest() == file.digest
