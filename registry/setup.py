"""Set up a facility on one machine: folders, database roles, tables, root and first administrator.

    >>> with embedded_databases(settings) as databases:
    ...     made = set_up(settings, databases)

Rules
-----
1. Safe to repeat: what exists stays as it is, what is missing is made.
2. The root's key goes into the key folder of whoever runs this, never into the data directory.
   A root made here is a demo's: hospitals refuse it for patients.
3. Passwords of database roles lie in one 0600 file of the data directory.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from registry.audit.log_key import make_log_key
from registry.database.embedded import EmbeddedPostgres
from registry.database.migrate import (
    APP,
    GATE,
    LOGIN,
    MLFLOW,
    OWNER,
    ROLES,
    WORKER,
    create_roles,
    is_done,
    mark_done,
    mlflow_name,
)
from registry.database.migrate import migrate as migrate_record
from registry.database.mlflow_gate import GATE_SQL
from registry.database.record import Record
from registry.identity.accounts import (
    SYSTEM_ADMIN,
    NewOrganisation,
    NewToken,
    add_organisation,
    add_token,
)
from registry.settings import Databases, Settings
from registry.status.machine_key import make_status_key
from registry.trust.canonical import sha256_file
from registry.trust.errors import Unavailable
from registry.trust.keys import is_demo, load_certificate, new_root, pem_of, save_identity

FACILITY = "tef"


@dataclass(frozen=True)
class Made:
    """What a set-up left behind."""

    migrations: list[str]
    demo_root: bool
    first_token: str | None


@contextmanager
def embedded_databases(settings: Settings) -> Iterator[tuple[EmbeddedPostgres, Databases]]:
    """The embedded Postgres, running, with one connection string a role; stopped on leaving."""
    _make_home(settings)
    with EmbeddedPostgres(settings.home / "postgres") as cluster:
        yield cluster, databases_of(settings, cluster)


def databases_of(settings: Settings, cluster: EmbeddedPostgres) -> Databases:
    """Create the roles where they are missing; the connection string of each."""
    passwords = _passwords(settings)
    create_roles(cluster.superuser_dsn, passwords)
    return Databases(
        app=cluster.dsn(APP, passwords[APP]),
        gate=cluster.dsn(GATE, passwords[GATE]),
        mlflow=cluster.dsn(MLFLOW, passwords[MLFLOW]),
        login=cluster.dsn(LOGIN, passwords[LOGIN]),
        worker=cluster.dsn(WORKER, passwords[WORKER]),
        owner=cluster.dsn(OWNER, passwords[OWNER]),
    )


def migrate_all(databases: Databases) -> list[str]:
    """Bring our tables and MLflow's to the present shape, as the owner.

    MLflow takes seconds to import, so it is asked only when its version or our walls around its
    tables have changed.
    """
    if databases.owner is None:
        raise Unavailable("migrating needs TOUCHSTONE_OWNER_DATABASE_URL")
    ran = migrate_record(databases.owner)
    name = mlflow_name()
    walls = sha256_file(GATE_SQL)
    if not is_done(databases.owner, name, walls):
        from registry.mlflow_gate.schema import prepare_schema

        prepare_schema(databases.owner)
        mark_done(databases.owner, name, walls)
        ran.append(name)
    return ran


def lay_ground(settings: Settings) -> bool:
    """The folders and the root; returns whether the root is a demo's own."""
    _make_home(settings)
    root_path = settings.keys / "root.pem"
    if not settings.root_certificate.exists():
        if not root_path.exists():
            save_identity(new_root(FACILITY, demo=True), settings.keys, "root")
        settings.root_certificate.write_bytes(pem_of(load_certificate(root_path)))
    make_log_key(settings)
    make_status_key(settings)
    return is_demo(load_certificate(settings.root_certificate))


def set_up(settings: Settings, databases: Databases) -> Made:
    """Everything that a first start needs; see the rules above."""
    demo_root = lay_ground(settings)
    ran = migrate_all(databases)
    return Made(
        migrations=ran,
        demo_root=demo_root,
        first_token=_first_administrator(settings, databases),
    )


def _make_home(settings: Settings) -> None:
    try:
        # 0711: as root, PostgreSQL runs as `nobody` and must get through; nothing inside is open.
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o711)
        for folder in (settings.artifacts, settings.keys):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"{error.filename} can't be made ({error.strerror}); set TOUCHSTONE_HOME and "
            "TOUCHSTONE_KEYS to folders you may write"
        ) from error


def _passwords(settings: Settings) -> dict[str, str]:
    path = settings.home / "database-roles.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = [role for role in ROLES if role not in known]
    if missing:
        known |= {role: secrets.token_urlsafe(32) for role in missing}
        partial = path.with_suffix(".partial")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as stream:
            json.dump(known, stream)
        partial.rename(path)
    return known


def _first_administrator(settings: Settings, databases: Databases) -> str | None:
    """The facility and its first administrator, once; the token goes to a 0600 file."""
    if databases.owner is None:
        raise Unavailable("the first administrator needs TOUCHSTONE_OWNER_DATABASE_URL")
    record = Record(databases.owner, size=1)  # nobody has a token yet
    try:
        with record.transaction() as now:
            known = now.maybe("organisation_by_id", id=FACILITY)
        if known is None:
            new = NewOrganisation(id=FACILITY, kind="facility", name="Testing facility")
            add_organisation(record, SYSTEM_ADMIN, new)
        if settings.admin_token.exists():
            return None
        token = add_token(
            record,
            SYSTEM_ADMIN,
            NewToken(organisation=FACILITY, role="admin", person="administrator", days=366),
        )
    finally:
        record.close()
    handle = os.open(settings.admin_token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(token.secret + "\n")
    return token.secret
