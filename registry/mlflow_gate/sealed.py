"""The files of runs and logged models: written once, sealed when a version is registered.

    >>> folder = ArtifactFolder(root)
    >>> place = Place.parse("workspaces/acme/1/models/m-…/artifacts/model.onnx")
    >>> folder.publish(temporary, place)       # Conflict where the file is there already
    >>> folder.seal("acme", "1", "m-…")        # from now on every publish there is Refused
    >>> folder.sealed_directory("acme", "1", "m-…")

Rules
-----
1. A file appears whole or not at all, and is never replaced. The same bytes again are accepted,
   so that a client may repeat an upload whose answer got lost.
2. Sealing and publishing take turns (one lock a model): an upload that began before the
   registration and ends after it fails.
3. The seal names every file with its SHA-256 and size; reading a sealed model checks them.
4. No links: what is not a regular file with one name is refused.
"""

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.trust.canonical import canonical, parse_canonical, sha256_file
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Tampered, Unavailable

_SEGMENT = re.compile(r"[A-Za-z0-9_+=@,()-][A-Za-z0-9_.+=@,()-]{0,199}\Z")
_PLACE = re.compile(
    r"workspaces/(?P<workspace>[a-z0-9-]{2,63})/(?P<experiment>[0-9]{1,12})/"
    r"(?:(?P<run>[0-9a-f]{32})|models/(?P<model>m-[0-9a-f]{32}))/artifacts(?:/(?P<rest>.+))?\Z"
)
_BLOCK = 1 << 20
_MOST_FILES = 1000


@dataclass(frozen=True)
class Place:
    """Where a file of a run or of a logged model lies; `parts` is its path below it."""

    workspace: str
    experiment: str
    holder: Literal["run", "model"]
    holder_id: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, path: str) -> "Place":
        """The place that `path` names, in the one spelling it has; raises Invalid otherwise."""
        found = _PLACE.match(path)
        parts = tuple(found["rest"].split("/")) if found and found["rest"] else ()
        if found is None or len(parts) > 12 or not all(_SEGMENT.match(part) for part in parts):
            raise Invalid(
                f"the artifact path {path[-120:]!a} is not allowed; name files with letters, "
                "digits and any of _ . + = @ , ( ) - in the folder of a run or a logged model",
                code="artifact_path",
            )
        model = found["model"]
        return cls(
            workspace=found["workspace"],
            experiment=found["experiment"],
            holder="model" if model else "run",
            holder_id=model or found["run"],
            parts=parts,
        )

    @property
    def home(self) -> Path:
        """The holder's directory, relative to the root."""
        holder = ("models", self.holder_id) if self.holder == "model" else (self.holder_id,)
        return Path("workspaces", self.workspace, self.experiment, *holder, "artifacts")

    @property
    def path(self) -> Path:
        """The file's path, relative to the root."""
        return self.home.joinpath(*self.parts)


class ArtifactFolder:
    """A directory of artifacts under the rules above; safe for many threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._incoming = self.root / ".incoming"
        self._locks = self.root / ".locks"
        self._seals = self.root / ".sealed"
        for directory in (self._incoming, self._locks, self._seals):
            directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def incoming(self) -> Iterator[tuple[int, Path]]:
        """A new temporary file (its descriptor and path), gone afterwards unless published."""
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        try:
            yield descriptor, Path(name)
        finally:
            with suppress(OSError):
                os.close(descriptor)
            Path(name).unlink(missing_ok=True)

    def discard_stale(self, before: float) -> None:
        """Remove what uploads left behind that were cut off before this time (epoch seconds)."""
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def publish(self, temporary: Path, place: Place) -> None:
        """Make `temporary` the file at `place`.

        Raises Refused where the model is sealed, Conflict where other bytes are there already.
        """
        if not place.parts:
            raise Invalid("an artifact needs a file name", code="artifact_path")
        target = self.root / place.path
        with disk_errors(), self._turn(place.holder_id):
            if place.holder == "model" and self._seal(place.workspace, place.holder_id).exists():
                raise Refused(
                    f"the logged model {place.holder_id} is registered and sealed: its files don't "
                    "change; log a new model and register it as a new version",
                    code="sealed",
                )
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.chmod(0o444)
                os.link(temporary, target, follow_symlinks=False)
            except (FileExistsError, NotADirectoryError):
                if _same_file(temporary, target):
                    return
                raise Conflict(
                    f"the artifact {'/'.join(place.parts)} exists and is never overwritten; "
                    "log it under another name",
                    code="written_once",
                ) from None
            temporary.unlink()

    def seal(self, workspace: str, experiment: str, model_id: str) -> dict[str, dict[str, object]]:
        """Close a logged model for good; returns its files as {path: {"sha256", "size"}}.

        Raises Invalid for a model without files. Sealing again gives the same answer.
        """
        home = self._home(workspace, experiment, model_id)
        seal = self._seal(workspace, model_id)
        with disk_errors(), self._turn(model_id):
            if not seal.exists():
                files = _listing(home)
                if not files:
                    raise Invalid(
                        f"the logged model {model_id} has no files; log the model before "
                        "registering it",
                        code="model_empty",
                    )
                seal.parent.mkdir(exist_ok=True)
                with self.incoming() as (descriptor, name):
                    os.write(descriptor, canonical({"experiment": experiment, "files": files}))
                    os.fsync(descriptor)
                    name.chmod(0o444)
                    os.link(name, seal)
        return self._read_seal(workspace, experiment, model_id)

    def sealed_directory(self, workspace: str, experiment: str, model_id: str) -> Path:
        """The directory of a sealed model, after every file in it was checked against the seal.

        Raises NotFound for a model that is not sealed, Tampered naming the file that differs.
        """
        sealed = self._read_seal(workspace, experiment, model_id)
        home = self._home(workspace, experiment, model_id)
        found = _listing(home)
        for path in sorted(sealed.keys() | found.keys()):
            if sealed.get(path) != found.get(path):
                raise Tampered(f"the file {path} of {model_id} is not what was registered")
        return home

    def _home(self, workspace: str, experiment: str, model_id: str) -> Path:
        path = f"workspaces/{workspace}/{experiment}/models/{model_id}/artifacts"
        return self.root / Place.parse(path).home

    def _seal(self, workspace: str, model_id: str) -> Path:
        return self._seals / workspace / f"{model_id}.json"

    def _read_seal(
        self, workspace: str, experiment: str, model_id: str
    ) -> dict[str, dict[str, object]]:
        try:
            value = parse_canonical(self._seal(workspace, model_id).read_bytes())
        except FileNotFoundError:
            raise NotFound(f"the logged model {model_id} is not registered") from None
        if value["experiment"] != experiment:
            raise Tampered(f"the seal of {model_id} is another experiment's")
        files: dict[str, dict[str, object]] = value["files"]
        return files

    @contextmanager
    def _turn(self, holder_id: str) -> Iterator[None]:
        """One at a time for this run or model, in any process."""
        with (self._locks / holder_id).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk is something to act on, not a fault of the program."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                "the registry's disk is full: nothing was stored; free space and try again",
                code="disk_full",
            ) from error
        raise


def _listing(home: Path) -> dict[str, dict[str, object]]:
    """Every file below `home`, by its path, with digest and size; refuses links."""
    files: dict[str, dict[str, object]] = {}
    for directory, folders, names in os.walk(home, followlinks=False):
        for name in (*folders, *names):
            path = Path(directory, name)
            if path.is_symlink() or (name in names and not path.is_file()):
                raise Tampered(f"{path.relative_to(home)} is not a regular file")
        for name in names:
            path = Path(directory, name)
            status = path.stat()
            if status.st_nlink != 1:
                raise Tampered(f"{path.relative_to(home)} has a second name on this disk")
            files[path.relative_to(home).as_posix()] = {
                "sha256": sha256_file(path),
                "size": status.st_size,
            }
            if len(files) > _MOST_FILES:
                raise Invalid(f"a logged model has at most {_MOST_FILES} files", code="model_files")
    return files


def _same_file(one: Path, other: Path) -> bool:
    if not other.is_file() or other.is_symlink() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(_BLOCK):
            if right.read(_BLOCK) != block:
                return False
    return True
