"""What we ask of MLflow's tables ourselves, without importing MLflow.

    >>> apply_gate(owner_dsn)                        # after MLflow's own migrations
    >>> registered_version(dsn, "acme", "nodule", 3)
    RegisteredVersion(organisation='acme', model_name='nodule', version=3, model_id='m-…', …)
    >>> set_clinical_pilot(gate_dsn, "acme", "nodule", 3)

Rules
-----
1. The walls are SQL, in `sql/mlflow_gate.sql`; this module runs it and asks named questions.
2. `clinical-pilot` is written as the role `touchstone_gate`, and only with a certificate in force:
   the database decides, not this code.
3. An address may be SQLAlchemy's (`postgresql+psycopg://…`) or plain (`postgresql://…`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from registry.database.record import named_queries
from registry.trust.errors import NotFound, Refused, Unavailable

GATE_SQL = Path(__file__).parent / "sql" / "mlflow_gate.sql"
_LOCK = 7460002
_REFUSAL = "TS403"


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model, as the record has it."""

    organisation: str
    model_name: str
    version: int
    source: str
    location: str
    created_at: datetime
    aliases: tuple[str, ...]

    @property
    def model_id(self) -> str:
        """MLflow's id of the logged model that it was registered from (`m-` and 32 hex)."""
        return self.source.removeprefix("models:/")


def plain_dsn(url: str) -> str:
    """The address without SQLAlchemy's driver name."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


@contextmanager
def migrating(owner_url: str) -> Iterator[None]:
    """Create the schema `mlflow` and keep a second migration waiting until this one is done."""
    with _connected(owner_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute("CREATE SCHEMA IF NOT EXISTS mlflow")
        yield


def apply_gate(owner_url: str) -> None:
    """Put grants and triggers on MLflow's tables; idempotent, all in one transaction."""
    with _connected(owner_url) as connection:
        connection.execute(GATE_SQL.read_bytes())


def schema_revision(owner_url: str) -> str | None:
    """The revision of MLflow's schema, None before its first migration."""
    with _connected(owner_url) as connection:
        query = named_queries()
        if not connection.execute(query["mlflow_is_there"]).fetchone():
            return None
        row = connection.execute(query["mlflow_revision"]).fetchone()
        return None if row is None else str(row["version_num"])


def ensure_workspace(url: str, organisation: str) -> None:
    """Let `organisation` have its workspace in MLflow; nothing happens where it has one."""
    with _connected(url) as connection:
        connection.execute(named_queries()["workspace_add"], {"organisation": organisation})


def registered_version(
    url: str, organisation: str, model_name: str, version: int
) -> RegisteredVersion:
    """The version; NotFound where there is none, or where it was deleted."""
    with _connected(url) as connection:
        row = connection.execute(
            named_queries()["version_by_name"],
            {"organisation": organisation, "model_name": model_name, "version": version},
        ).fetchone()
    if row is None:
        raise NotFound(
            f"there is no version {version} of the model {model_name} of {organisation}; "
            "register it first"
        )
    return RegisteredVersion(
        organisation=row["workspace"],
        model_name=row["name"],
        version=row["version"],
        source=row["source"],
        location=row["storage_location"],
        created_at=datetime.fromtimestamp(row["creation_time"] / 1000, UTC),
        aliases=tuple(row["aliases"]),
    )


def latest_version(url: str, organisation: str, model_name: str) -> int:
    """The number of the newest version that was not deleted; NotFound without one."""
    with _connected(url) as connection:
        row = connection.execute(
            named_queries()["version_latest"],
            {"organisation": organisation, "model_name": model_name},
        ).fetchone()
    if row is None or row["version"] is None:
        raise NotFound(f"{organisation} has no registered model {model_name}; register it first")
    return int(row["version"])


def set_clinical_pilot(gate_url: str, organisation: str, model_name: str, version: int) -> None:
    """Point `clinical-pilot` at the version; Refused unless a certificate is in force for it."""
    with _connected(gate_url) as connection:
        connection.execute(
            named_queries()["pilot_set"],
            {"organisation": organisation, "model_name": model_name, "version": version},
        )


def remove_clinical_pilot(gate_url: str, organisation: str, model_name: str, version: int) -> bool:
    """Take `clinical-pilot` off the version; False where it was not there."""
    with _connected(gate_url) as connection:
        return bool(
            connection.execute(
                named_queries()["pilot_remove"],
                {"organisation": organisation, "model_name": model_name, "version": version},
            ).rowcount
        )


@contextmanager
def _connected(url: str, *, autocommit: bool = False) -> Iterator[psycopg.Connection[Any]]:
    """A connection for one transaction; what the database says comes out in our errors."""
    try:
        with psycopg.connect(
            plain_dsn(url), autocommit=autocommit, row_factory=dict_row
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"the database can't be reached: {str(error).splitlines()[0]}; is it running?"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused("the database refuses this to the role that asked") from error
    except psycopg.DatabaseError as error:
        if error.sqlstate == _REFUSAL and error.diag.message_primary:
            raise Refused(error.diag.message_primary, code="against_the_record") from error
        raise
