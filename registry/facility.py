"""The testing facility at work: the open handles that the rooms of the registry share."""

from dataclasses import dataclass

from cryptography import x509

from registry.database.migrate import wait_until_migrated
from registry.database.record import Record
from registry.mlflow_gate.artifacts import Artifacts, open_artifacts
from registry.settings import Databases, Settings
from registry.storage.opening import open_store
from registry.storage.store import ObjectStore
from registry.trust.errors import Unavailable
from registry.trust.keys import load_certificate


@dataclass(frozen=True)
class Facility:
    """Record, objects, MLflow's artifacts, and the root certificate."""

    settings: Settings
    databases: Databases
    record: Record
    gate: Record
    login: Record
    store: ObjectStore
    artifacts: Artifacts
    root: x509.Certificate

    def close(self) -> None:
        """Give back every connection."""
        self.record.close()
        self.gate.close()
        self.login.close()


def open_facility(settings: Settings) -> Facility:
    """Open what `settings` names; Unavailable when it was never set up."""
    if settings.databases is None:
        raise Unavailable(
            "no database is named: start everything with `touchstone up`, "
            "or set TOUCHSTONE_DATABASE_URL"
        )
    if not settings.root_certificate.exists():
        raise Unavailable(f"{settings.home} is not set up; run `touchstone init` first")
    wait_until_migrated(settings.databases.app)
    settings.artifacts.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Facility(
        settings=settings,
        databases=settings.databases,
        record=Record(settings.databases.app),
        gate=Record(settings.databases.gate, size=2),
        login=Record(settings.databases.login, size=2),
        store=open_store(settings),
        artifacts=open_artifacts(settings),
        root=load_certificate(settings.root_certificate),
    )
