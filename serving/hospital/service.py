"""A service folder: which certified version answers, which ones came before, and how to change it.

    service = Service(Path("/srv/nodule"))
    with service.held():
        service.update(bundle, deploy, stage, say)       # verified, replayed, recorded, switched
        service.roll_back(deploy, stage, say)

`service.json` in the folder lists the versions, the one that answers first: where its bundle lies
and the digest of its certificate. Bundles stay where they are.

Rules
-----
1. A version is recorded only once it was verified here and replayed its golden vectors here, in
   the process that will answer. What fails changes nothing: neither the file nor what answers.
2. The file is replaced in one step, before requests switch: a server that dies in between comes up
   with the new version, which was verified.
3. The bundle of a version must still be the certificate that was recorded.
4. An update is another version of the same model. A roll-back takes the version that answers off
   the list and goes to the one before, verified as if it were new.
5. One process holds a folder at a time.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from registry.trust.canonical import DIGEST
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Tampered
from serving.hospital.deployment import Deployment, Stage
from serving.listening import Say
from serving.locking import Taken, held
from serving.whole_file import put_whole

RECORD: Final = "service.json"
CONTROL: Final = "control"
_LOCK: Final = "lock"
_SCHEMA: Final = "touchstone/service/v1"
KEPT: Final = 5
"""How many versions the list holds."""

Deploy = Callable[[Path, Say], Deployment]
"""Verifies a bundle and brings its model up. Raises what it found."""


@dataclass(frozen=True)
class Version:
    """A certified version: its bundle's folder, its certificate's digest, its name for people."""

    directory: str
    certificate: str
    title: str


class Service:
    """One service folder, made where there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def control(self) -> Path:
        """The Unix socket on which a running server takes orders."""
        return self.path / CONTROL

    def versions(self) -> tuple[Version, ...]:
        """The one that answers first. Raises NotFound where there is none yet, Invalid."""
        try:
            value = json.loads((self.path / RECORD).read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                f"{self.path} serves nothing yet: `touchstone service update {self.path} BUNDLE`"
            ) from error
        except (OSError, ValueError) as error:
            raise self._damaged() from error
        return self._parsed(value)

    @contextlib.contextmanager
    def held(self, *, made: bool = True) -> Iterator[None]:
        """The folder is this process's alone. Raises Conflict (service_held).

        made: make it where there is none; False raises NotFound there, and leaves nothing.
        """
        if not made:
            self.versions()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(self.path / _LOCK))
            except Taken as error:
                raise Conflict(
                    f"another process holds {self.path}: let it finish, or stop it",
                    code="service_held",
                ) from error
            yield

    def current(self, deploy: Deploy, say: Say) -> Deployment:
        """The recorded version, verified anew and brought up. Raises what was found."""
        return self._deployed(self.versions()[0], deploy, say)

    def update(self, bundle: Path, deploy: Deploy, stage: Stage | None, say: Say) -> Version:
        """Verify another version and let it answer. stage None: no server runs.

        Raises what verification found, Refused (other_model), Conflict (already_active).
        """
        known = () if not (self.path / RECORD).exists() else self.versions()
        new = deploy(bundle, say)
        try:
            version = Version(str(bundle.resolve()), new.statement, new.title)
            if known and known[0].certificate == version.certificate:
                raise Conflict(
                    f"{version.title} under this certificate answers already",
                    code="already_active",
                )
            if known and _model_of(known[0].title) != _model_of(version.title):
                raise Refused(
                    f"{version.title} is another model than {known[0].title}: give it a service "
                    "folder of its own",
                    code="other_model",
                )
            self._record((version, *known)[:KEPT])
        except BaseException:
            new.worker.close()
            raise
        _switch(new, stage)
        return version

    def roll_back(self, deploy: Deploy, stage: Stage | None, say: Say) -> Version:
        """Verify the version before and let it answer again.

        Raises what verification found, Conflict (no_previous), Tampered (other_certificate).
        """
        known = self.versions()
        if len(known) < 2:
            raise Conflict(
                "there is no earlier version to go back to: `touchstone service update` with the "
                "bundle that is wanted",
                code="no_previous",
            )
        new = self._deployed(known[1], deploy, say)
        try:
            self._record(known[1:])
        except BaseException:
            new.worker.close()
            raise
        _switch(new, stage)
        return known[1]

    def _deployed(self, version: Version, deploy: Deploy, say: Say) -> Deployment:
        deployment = deploy(Path(version.directory), say)
        if deployment.statement != version.certificate:
            deployment.worker.close()
            raise Tampered(
                f"{version.directory} holds another certificate than the one that was taken into "
                "service: put the bundle back, or take it in by `touchstone service update`",
                code="other_certificate",
            )
        return deployment

    def _record(self, versions: tuple[Version, ...]) -> None:
        value = {"schema": _SCHEMA, "versions": [asdict(version) for version in versions]}
        put_whole(self.path / RECORD, json.dumps(value, indent=1).encode() + b"\n")

    def _parsed(self, value: Any) -> tuple[Version, ...]:
        try:
            if value["schema"] != _SCHEMA:
                raise self._damaged()
            versions = tuple(Version(**row) for row in value["versions"])
        except (KeyError, TypeError) as error:
            raise self._damaged() from error
        whole = all(
            isinstance(text, str) for version in versions for text in asdict(version).values()
        )
        if not versions or not whole or not all(DIGEST.match(v.certificate) for v in versions):
            raise self._damaged()
        return versions

    def _damaged(self) -> Invalid:
        return Invalid(
            f"{self.path / RECORD} is damaged: remove it and take the bundle in again by "
            "`touchstone service update`",
            code="service_damaged",
        )


def is_service(path: Path) -> bool:
    """Whether the folder is a service folder, and no bundle."""
    return (path / RECORD).is_file()


def _switch(new: Deployment, stage: Stage | None) -> None:
    if stage is None:
        new.worker.close()
    else:
        stage.switch(new)


def _model_of(title: str) -> str:
    return title.rpartition(" ")[0]
