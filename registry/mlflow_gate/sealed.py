"""The files of runs and logged models in a local directory (`artifacts.Artifacts`).

    >>> folder = ArtifactFolder(root)
    >>> place = Place.parse("workspaces/acme/1/models/m-…/artifacts/model.onnx")
    >>> folder.publish(temporary, place)       # Conflict where the file is there already
    >>> folder.seal("acme", "1", "m-…")        # from now on every publish there is Refused
    >>> with folder.opened("acme", "1", "m-…") as directory: …

Rules, beyond those of every backing
-----
1. Sealing and publishing take turns, by one lock a model.
2. No links: what is not a regular file with one name is refused.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.mlflow_gate.artifacts import (
    SCHEME,
    Entry,
    Place,
    check_count,
    home_of,
    sealed_already,
    written_already,
)
from registry.trust.canonical import canonical, parse_canonical, sha256_file
from registry.trust.errors import Invalid, NotFound, Tampered, Unavailable

_BLOCK = 1 << 20


class Incoming:
    """A folder of this machine for what is still on its way."""

    def __init__(self, folder: Path) -> None:
        self._incoming = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

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
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()


class ArtifactFolder(Incoming):
    """A directory of artifacts under the rules above; safe for many threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        super().__init__(self.root / ".incoming")
        self._locks = self.root / ".locks"
        self._seals = self.root / ".sealed"
        for directory in (self._locks, self._seals):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        """What MLflow calls this place."""
        return f"{SCHEME}://{self.root}"

    def local_path(self, place: Place) -> Path:
        """Where a file or folder lies on this machine; NotFound without one."""
        path = self.root / place.path
        if not path.exists():
            raise NotFound(f"there is no artifact {place.path.as_posix()[-120:]}")
        return path

    def fetch(self, place: Place, target: Path) -> None:
        """Copy a file to `target`."""
        shutil.copyfile(self.local_path(place), target)

    def entries(self, place: Place) -> list[Entry]:
        """What lies directly in a folder, by name; nothing where there is no folder."""
        folder = self.root / place.path
        return [
            Entry(
                child.relative_to(self.root).as_posix(),
                None if child.is_dir() else child.stat().st_size,
            )
            for child in (sorted(folder.iterdir()) if folder.is_dir() else ())
        ]

    def publish(self, temporary: Path, place: Place) -> None:
        """Make `temporary` the file at `place`.

        Raises Refused where the model is sealed, Conflict where other bytes are there already.
        """
        if not place.parts:
            raise Invalid("an artifact needs a file name", code="artifact_path")
        target = self.root / place.path
        with disk_errors(), self._turn(place.holder_id):
            if place.holder == "model" and self._seal(place.workspace, place.holder_id).exists():
                raise sealed_already(place)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.chmod(0o444)
                os.link(temporary, target, follow_symlinks=False)
            except (FileExistsError, NotADirectoryError):
                if _same_file(temporary, target):
                    return
                raise written_already(place) from None
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
                check_count(model_id, len(files))
                seal.parent.mkdir(exist_ok=True)
                with self.incoming() as (descriptor, name):
                    os.write(descriptor, canonical({"experiment": experiment, "files": files}))
                    os.fsync(descriptor)
                    name.chmod(0o444)
                    os.link(name, seal)
        return self._read_seal(workspace, experiment, model_id)

    @contextmanager
    def opened(self, workspace: str, experiment: str, model_id: str) -> Iterator[Path]:
        """The directory of a sealed model, after every file in it was checked against the seal.

        Raises NotFound for a model that is not sealed, Tampered naming the file that differs.
        """
        sealed = self._read_seal(workspace, experiment, model_id)
        home = self._home(workspace, experiment, model_id)
        found = _listing(home)
        for path in sorted(sealed.keys() | found.keys()):
            if sealed.get(path) != found.get(path):
                raise Tampered(f"the file {path} of {model_id} is not what was registered")
        yield home

    def _home(self, workspace: str, experiment: str, model_id: str) -> Path:
        return self.root / home_of(workspace, experiment, model_id).home

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
            check_count(home.parent.name, len(files))
    return files


def _same_file(one: Path, other: Path) -> bool:
    if not other.is_file() or other.is_symlink() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(_BLOCK):
            if right.read(_BLOCK) != block:
                return False
    return True
