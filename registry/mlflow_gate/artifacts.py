"""What is asked of whatever keeps the files of runs and logged models, and how they are named.

    >>> artifacts = open_artifacts(settings)   # a local directory, or an S3 bucket
    >>> place = Place.parse("workspaces/acme/1/models/m-…/artifacts/model.onnx")
    >>> artifacts.publish(temporary, place)    # Conflict where other bytes are there already
    >>> artifacts.seal("acme", "1", "m-…")     # from now on every publish there is Refused
    >>> with artifacts.opened("acme", "1", "m-…") as directory: …

Rules
-----
1. A file appears whole or not at all, and is never replaced. The same bytes again are accepted,
   so that a client may repeat an upload whose answer got lost.
2. An upload that began before the registration and ends after it fails, or is part of what was
   registered: what was accepted is in the seal.
3. The seal names every file with its SHA-256 and size; reading a sealed model checks them.
"""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from registry.settings import Settings
from registry.trust.errors import Conflict, Invalid, Refused

SCHEME = "touchstone-artifacts"
_SEGMENT = re.compile(r"[A-Za-z0-9_+=@,()-][A-Za-z0-9_.+=@,()-]{0,199}\Z")
_PLACE = re.compile(
    r"workspaces/(?P<workspace>[a-z0-9-]{2,63})/(?P<experiment>[0-9]{1,12})/"
    r"(?:(?P<run>[0-9a-f]{32})|models/(?P<model>m-[0-9a-f]{32}))/artifacts(?:/(?P<rest>.+))?\Z"
)
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


def home_of(workspace: str, experiment: str, model_id: str) -> Place:
    """Where a logged model's files lie."""
    return Place.parse(f"workspaces/{workspace}/{experiment}/models/{model_id}/artifacts")


def sealed_already(place: Place) -> Refused:
    """Why nothing can be added to a registered model."""
    return Refused(
        f"the logged model {place.holder_id} is registered and sealed: its files don't "
        "change; log a new model and register it as a new version",
        code="sealed",
    )


def written_already(place: Place) -> Conflict:
    """Why other bytes can't take a file's place."""
    return Conflict(
        f"the artifact {'/'.join(place.parts)} exists and is never overwritten; "
        "log it under another name",
        code="written_once",
    )


def check_count(model_id: str, count: int) -> None:
    """Raise Invalid for a model without files, or with more than the registry takes."""
    if not count:
        raise Invalid(
            f"the logged model {model_id} has no files; log the model before registering it",
            code="model_empty",
        )
    if count > _MOST_FILES:
        raise Invalid(f"a logged model has at most {_MOST_FILES} files", code="model_files")


@dataclass(frozen=True)
class Entry:
    """A file or folder as it is listed; `path` begins at the root, a folder has no size."""

    path: str
    size: int | None


class Artifacts(Protocol):
    """Keeps artifacts; safe for many threads and processes."""

    @property
    def address(self) -> str:
        """What MLflow calls this place."""

    def incoming(self) -> AbstractContextManager[tuple[int, Path]]:
        """A new temporary file (its descriptor and path), gone afterwards unless published."""

    def discard_stale(self, before: float) -> None:
        """Remove what uploads left behind that were cut off before this time (epoch seconds)."""

    def publish(self, temporary: Path, place: Place) -> None:
        """Make `temporary` the file at `place`.

        Raises Refused where the model is sealed, Conflict where other bytes are there already.
        """

    def local_path(self, place: Place) -> Path | None:
        """Where a file or folder lies on this machine, if it does; NotFound without one."""

    def fetch(self, place: Place, target: Path) -> None:
        """Copy a file to `target`; NotFound without one."""

    def entries(self, place: Place) -> list[Entry]:
        """What lies directly in a folder, by name; nothing where there is no folder."""

    def seal(self, workspace: str, experiment: str, model_id: str) -> dict[str, dict[str, object]]:
        """Close a logged model for good; returns its files as {path: {"sha256", "size", …}}.

        Raises Invalid for a model without files. Sealing again gives the same answer.
        """

    def opened(
        self, workspace: str, experiment: str, model_id: str
    ) -> AbstractContextManager[Path]:
        """The directory of a sealed model, after every file in it was checked against the seal.

        Raises NotFound for a model that is not sealed, Tampered naming the file that differs.
        """


def open_artifacts(settings: Settings) -> Artifacts:
    """The backing that the settings name; Unavailable where it can't be opened."""
    from registry.mlflow_gate.sealed import ArtifactFolder

    if settings.s3 is None:
        return ArtifactFolder(settings.artifacts)
    from registry.mlflow_gate.sealed_bucket import open_bucket

    return open_bucket(settings.s3, settings.artifacts / ".incoming")
