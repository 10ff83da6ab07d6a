# mypy: disallow-untyped-calls=False
"""MLflow's artifact repository over `artifacts.Artifacts`: written once, own files only.

    >>> WriteOnceArtifactRepository(artifacts.address, artifacts=artifacts)

Rules
-----
1. Every path is parsed by `artifacts.Place`; there is one spelling of each.
2. Only the caller's own workspace is seen or written; without a caller nothing is.
3. Nothing is deleted or replaced, and the backing decides whether a file may still appear.
4. No upload in parts and no signed address is offered: MLflow asks for mixins that this lacks.

It is registered for this process alone (`server.install`), so a client's MLflow never loads it.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository, StreamUploadMixin

from registry.identity.caller import current_caller
from registry.mlflow_gate.artifacts import Artifacts, Place
from registry.mlflow_gate.refusal import in_mlflow_words
from registry.mlflow_gate.sealed import disk_errors
from registry.trust.errors import NotFound, Refused, TouchstoneError, Unauthenticated

_BLOCK = 1 << 20


class WriteOnceArtifactRepository(ArtifactRepository, StreamUploadMixin):
    """The one place for artifacts that this process's MLflow knows."""

    def __init__(
        self,
        artifact_uri: str,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        *,
        artifacts: Artifacts,
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        if artifact_uri != artifacts.address:
            raise ValueError(f"{artifact_uri} is not where this registry keeps artifacts")
        self._artifacts = artifacts

    def get_local_path(self, artifact_path: str) -> str | None:
        """Where a file or directory of the caller's lies on this machine, if it does."""
        with _mlflow_words():
            found = self._artifacts.local_path(_own(artifact_path))
        return None if found is None else str(found)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What lies directly in a directory of the caller's."""
        with _mlflow_words():
            entries = self._artifacts.entries(_own(path or ""))
        return [FileInfo(entry.path, entry.size is None, entry.size) for entry in entries]

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        """Copy one file of the caller's to a directory of this machine."""
        place = _own(artifact_path)
        # Here and not in MLflow's pool of threads, which knows no caller.
        target = Path(dst_path or tempfile.mkdtemp(), *place.parts[-1:])
        with _mlflow_words():
            self._artifacts.fetch(place, target)
        return str(target)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        with _mlflow_words():
            self._artifacts.fetch(_own(remote_file_path), Path(local_path))

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
        with _mlflow_words(), self._artifacts.incoming() as (descriptor, temporary):
            with disk_errors(), os.fdopen(os.dup(descriptor), "wb") as target:
                shutil.copyfileobj(stream, target, _BLOCK)
            self._artifacts.publish(temporary, place)

    async def log_artifact_from_async_stream(
        self,
        chunks: AsyncIterable[bytes],
        artifact_file_name: str,
        artifact_path: str | None = None,
    ) -> None:
        """Publish what the chunks give, once all have arrived."""
        place = _own(_joined(artifact_path, artifact_file_name))
        with _mlflow_words(), self._artifacts.incoming() as (descriptor, temporary):
            with disk_errors(), os.fdopen(os.dup(descriptor), "wb") as target:
                waiting = bytearray()
                async for chunk in chunks:
                    waiting += chunk
                    if len(waiting) >= _BLOCK:
                        await asyncio.to_thread(target.write, bytes(waiting))
                        waiting.clear()
                target.write(waiting)
            await asyncio.to_thread(self._artifacts.publish, temporary, place)

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
