# mypy: disallow-untyped-calls=False
"""MLflow's artifact repository for `touchstone-artifacts:///root`: written once, own files only.

    >>> WriteOnceArtifactRepository("touchstone-artifacts:///var/lib/touchstone/artifacts")

Rules
-----
1. Every path is parsed by `sealed.Place`; there is one spelling of each.
2. Only the caller's own workspace is seen or written; without a caller nothing is.
3. Nothing is deleted or replaced, and `sealed` decides whether a file may still appear.

It is registered for this process alone (`server.install`), so a client's MLflow never loads it.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import urlparse

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository, StreamUploadMixin

from registry.identity.caller import current_caller
from registry.mlflow_gate.refusal import in_mlflow_words
from registry.mlflow_gate.sealed import ArtifactFolder, Place, disk_errors
from registry.trust.errors import NotFound, Refused, TouchstoneError, Unauthenticated

SCHEME = "touchstone-artifacts"
_BLOCK = 1 << 20


class WriteOnceArtifactRepository(ArtifactRepository, StreamUploadMixin):
    """Artifacts in a local directory, under the rules of `sealed`."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        address = urlparse(artifact_uri)
        if address.scheme != SCHEME or address.netloc or not address.path.startswith("/"):
            raise ValueError(f"{artifact_uri} is not a {SCHEME}:/// address")
        self._folder = ArtifactFolder(Path(address.path))

    def get_local_path(self, artifact_path: str) -> str:
        """Where a file or directory of the caller's lies."""
        found = self._folder.root / _own(artifact_path).path
        if not found.exists():
            raise in_mlflow_words(NotFound(f"there is no artifact {artifact_path[-120:]!a}"))
        return str(found)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What lies directly in a directory of the caller's."""
        place = _own(path or "")
        directory = self._folder.root / place.path
        if not directory.is_dir():
            return []
        infos = []
        for child in sorted(directory.iterdir()):
            is_directory = child.is_dir()
            size = None if is_directory else child.stat().st_size
            name = child.relative_to(self._folder.root).as_posix()
            infos.append(FileInfo(name, is_directory, size))
        return infos

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        shutil.copyfile(self.get_local_path(remote_file_path), local_path)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Publish a copy of a file of this machine."""
        with Path(local_file).open("rb") as stream:
            self.log_artifact_from_stream(stream, Path(local_file).name, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Publish copies of every file below a directory."""
        for directory, _, names in os.walk(local_dir):
            below = Path(directory).relative_to(local_dir).as_posix()
            parts = [part for part in (artifact_path, below) if part and part != "."]
            for name in names:
                self.log_artifact(str(Path(directory, name)), "/".join(parts))

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Publish what the stream gives."""
        place = _own(_joined(artifact_path, artifact_file_name))
        with _mlflow_words(), self._folder.incoming() as (descriptor, temporary):
            with disk_errors(), os.fdopen(os.dup(descriptor), "wb") as target:
                shutil.copyfileobj(stream, target, _BLOCK)
            self._folder.publish(temporary, place)

    async def log_artifact_from_async_stream(
        self,
        chunks: AsyncIterable[bytes],
        artifact_file_name: str,
        artifact_path: str | None = None,
    ) -> None:
        """Publish what the chunks give, once all have arrived."""
        place = _own(_joined(artifact_path, artifact_file_name))
        with _mlflow_words(), self._folder.incoming() as (descriptor, temporary):
            with disk_errors(), os.fdopen(os.dup(descriptor), "wb") as target:
                waiting = bytearray()
                async for chunk in chunks:
                    waiting += chunk
                    if len(waiting) >= _BLOCK:
                        await asyncio.to_thread(target.write, bytes(waiting))
                        waiting.clear()
                target.write(waiting)
            await asyncio.to_thread(self._folder.publish, temporary, place)

    def delete_artifacts(self, artifact_path: str | None = None) -> NoReturn:
        """Refused, always."""
        raise in_mlflow_words(Refused("artifacts stay on record and are not deleted"))


class _mlflow_words:  # noqa: N801
    """Turns our errors into MLflow's on the way out."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, TouchstoneError):
            raise in_mlflow_words(error) from error


def _joined(artifact_path: str | None, name: str) -> str:
    return f"{artifact_path}/{name}" if artifact_path else name


def _own(path: str) -> Place:
    """The place, if it is the caller's organisation's."""
    caller = current_caller.get()
    try:
        if caller is None:
            raise Unauthenticated("artifacts are reached with a token")
        place = Place.parse(path)
        if place.workspace != caller.organisation:
            raise NotFound(f"there is no artifact {path[-120:]!a}")
    except TouchstoneError as error:
        raise in_mlflow_words(error) from error
    return place
