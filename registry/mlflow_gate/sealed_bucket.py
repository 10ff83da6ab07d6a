"""The files of runs and logged models in an S3 bucket (`artifacts.Artifacts`).

    >>> artifacts = open_bucket(settings.s3, spool)

Rules, beyond those of every backing
-----
1. Uploads come through this process: it spools a file, takes its SHA-256, and stores both. No
   address or credential of the bucket ever reaches a client.
2. No lock is held between processes. A registration first writes `closed/…`, then lists the
   files, then writes `sealed/…`; an upload first writes its file, then looks for `closed/…`.
   S3 reads what was written, so an upload that finds nothing there is in the list. One that finds
   it waits for the seal and is accepted only if the seal names it.
3. Of a sealed model only what the seal names can be listed, fetched or opened, in the version that
   it names. What a late upload left behind is never seen.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from registry.mlflow_gate.artifacts import (
    SCHEME,
    Entry,
    Place,
    check_count,
    home_of,
    sealed_already,
    written_already,
)
from registry.mlflow_gate.sealed import Incoming, disk_errors
from registry.storage.s3_bucket import PART, LockedBucket, Version
from registry.storage.s3_check import check_apart, check_locked
from registry.storage.s3_client import bucket_client
from registry.storage.s3_settings import S3Settings
from registry.trust.canonical import canonical, parse_canonical, sha256_file
from registry.trust.errors import Invalid, NotFound, Tampered, Unavailable

_DIGEST = "sha256"
_SEAL_SECONDS = 20.0
Files = dict[str, dict[str, object]]


def open_bucket(settings: S3Settings, spool: Path) -> "ArtifactBucket":
    """The artifacts' bucket; refused unless it is locked and apart from the objects' bucket."""
    client = bucket_client(settings, settings.artifacts)
    name = settings.artifacts.name
    check_locked(client, name)
    check_apart(settings)
    return ArtifactBucket(LockedBucket(client, name, days=settings.artifacts.retention_days), spool)


class ArtifactBucket(Incoming):
    """A bucket of artifacts under the rules above; safe for many threads and processes."""

    def __init__(self, bucket: LockedBucket, spool: Path) -> None:
        super().__init__(spool)
        self._bucket = bucket

    @property
    def address(self) -> str:
        """What MLflow calls this place."""
        return f"{SCHEME}:///s3/{self._bucket.name}"

    def publish(self, temporary: Path, place: Place) -> None:
        """Store `temporary` as the file at `place`.

        Raises Refused where the model is sealed, Conflict where other bytes are there already.
        """
        if not place.parts:
            raise Invalid("an artifact needs a file name", code="artifact_path")
        if self._is_closed(place):
            raise sealed_already(place)
        key = place.path.as_posix()
        digest, size = sha256_file(temporary), temporary.stat().st_size
        first, mine = self._bucket.first(key), False
        if first is None:
            self._check_no_clash(place)
            with temporary.open("rb") as stream:
                first, mine = self._bucket.write(key, stream, size, {_DIGEST: digest})
        if not mine:
            if first.size != size or self._bucket.metadata(first).get(_DIGEST) != digest:
                raise written_already(place)
            self._bucket.hold(first)
        if self._is_closed(place):
            self._must_be_sealed(place, first)

    def local_path(self, place: Place) -> Path | None:
        """Nothing lies on this machine."""
        return None

    def fetch(self, place: Place, target: Path) -> None:
        """Download a file to `target`; NotFound without one."""
        sealed = self._seal(place)
        if sealed is None:
            first = self._bucket.first(place.path.as_posix()) if place.parts else None
            if first is None:
                raise NotFound(f"there is no artifact {place.path.as_posix()[-120:]}")
            self._download(first, target)
        else:
            path = "/".join(place.parts)
            if path not in sealed:
                raise NotFound(f"there is no artifact {place.path.as_posix()[-120:]}")
            self._download_sealed(place, path, sealed[path], target)

    def entries(self, place: Place) -> list[Entry]:
        """What lies directly in a folder, by name; nothing where there is no folder."""
        prefix = place.path.as_posix() + "/"
        sealed = self._seal(place)
        if sealed is None:
            files, folders = self._bucket.children(prefix)
            found = {one.key: one.size for one in files} | dict.fromkeys(
                (folder.rstrip("/") for folder in folders), None
            )
        else:
            home = place.home.as_posix() + "/"
            found = {}
            for path, file in sealed.items():
                if (home + path).startswith(prefix):
                    name, _, more = (home + path).removeprefix(prefix).partition("/")
                    found[prefix + name] = None if more else int(str(file["size"]))
        return [Entry(path, found[path]) for path in sorted(found)]

    def seal(self, workspace: str, experiment: str, model_id: str) -> Files:
        """Close a logged model for good; returns its files as {path: {"sha256", "size", …}}.

        Raises Invalid for a model without files. Sealing again gives the same answer.
        """
        home = home_of(workspace, experiment, model_id)
        sealed = self._seal(home)
        if sealed is not None:
            return sealed
        self._check(home, self._listed(home))
        self._bucket.write(_closed(home), BytesIO(), 0)
        versions = self._listed(home)
        self._check(home, versions)
        files = {path: self._described(path, version) for path, version in versions.items()}
        data = canonical({"experiment": experiment, "files": files})
        self._bucket.write(_sealed(home), BytesIO(data), len(data))
        sealed = self._seal(home)  # of two who seal at once, the first decides for both
        if sealed is None:
            raise Unavailable(f"the seal of {model_id} could not be written; register it again")
        return sealed

    @contextmanager
    def opened(self, workspace: str, experiment: str, model_id: str) -> Iterator[Path]:
        """A private copy of a sealed model, checked against the seal; gone afterwards.

        Raises NotFound for a model that is not sealed, Tampered naming the file that differs.
        """
        home = home_of(workspace, experiment, model_id)
        sealed = self._seal(home)
        if sealed is None:
            raise NotFound(f"the logged model {model_id} is not registered")
        directory = Path(tempfile.mkdtemp(dir=self._incoming))
        try:
            for path, file in sealed.items():
                parts = Place.parse(f"{home.path.as_posix()}/{path}").parts
                target = directory.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._download_sealed(home, path, file, target)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _is_closed(self, place: Place) -> bool:
        return place.holder == "model" and self._bucket.first(_closed(place)) is not None

    def _must_be_sealed(self, place: Place, version: Version) -> None:
        """Rule 2: the upload of a file crossed a registration; was it in time?"""
        deadline = time.monotonic() + _SEAL_SECONDS
        while (sealed := self._seal(place)) is None:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the logged model {place.holder_id} is just being registered; try again"
                )
            time.sleep(0.1)
        if sealed.get("/".join(place.parts), {}).get("version") != version.id:
            raise sealed_already(place)

    def _seal(self, place: Place) -> Files | None:
        """The files that the model's seal names; None where there is none."""
        first = self._bucket.first(_sealed(place)) if place.holder == "model" else None
        if first is None:
            return None
        try:
            value = parse_canonical(self._bucket.read(first))
            experiment, files = value["experiment"], value["files"]
        except (Invalid, KeyError, TypeError) as error:
            raise Tampered(f"the seal of {place.holder_id} is not the registry's") from error
        if experiment != place.experiment:
            raise Tampered(f"the seal of {place.holder_id} is another experiment's")
        return dict(files)

    def _listed(self, home: Place) -> dict[str, Version]:
        prefix = home.path.as_posix() + "/"
        return {one.key.removeprefix(prefix): one for one in self._bucket.below(prefix)}

    def _check(self, home: Place, versions: dict[str, Version]) -> None:
        check_count(home.holder_id, len(versions))
        for path in versions:
            above = path.split("/")
            if any("/".join(above[:n]) in versions for n in range(1, len(above))):
                raise Invalid(
                    f"{path} of {home.holder_id} lies in a file; log the model again",
                    code="artifact_path",
                )

    def _check_no_clash(self, place: Place) -> None:
        """A file is no folder, as on a disk. (Two uploads at once may slip by: `_check`.)"""
        home = place.home.as_posix()
        for n in range(1, len(place.parts)):
            if self._bucket.first("/".join((home, *place.parts[:n]))):
                raise written_already(place)
        if next(self._bucket.below(place.path.as_posix() + "/"), None):
            raise written_already(place)

    def _described(self, path: str, version: Version) -> dict[str, object]:
        digest = self._bucket.metadata(version).get(_DIGEST)
        if digest is None:
            raise Tampered(f"the file {path} did not come through the registry")
        return {"sha256": digest, "size": version.size, "version": version.id}

    def _download_sealed(self, place: Place, path: str, file: dict[str, Any], target: Path) -> None:
        key = f"{place.home.as_posix()}/{path}"
        try:
            digest = self._download(Version(key, file["version"], file["size"]), target)
        except NotFound:
            digest = ""
        if digest != file["sha256"]:
            raise Tampered(f"the file {path} of {place.holder_id} is not what was registered")

    def _download(self, version: Version, target: Path) -> str:
        digest = hashlib.sha256()
        with disk_errors(), target.open("wb") as stream:
            for start in range(0, version.size, PART):
                data = self._bucket.read(version, start, start + PART)
                digest.update(data)
                stream.write(data)
        return f"sha256:{digest.hexdigest()}"


def _closed(place: Place) -> str:
    return f"closed/{place.workspace}/{place.holder_id}"


def _sealed(place: Place) -> str:
    return f"sealed/{place.workspace}/{place.holder_id}.json"
