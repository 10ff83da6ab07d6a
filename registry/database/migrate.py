"""Bring a database to the present shape, and no further.

    >>> create_roles(superuser_dsn, {"touchstone_owner": "…", "touchstone_app": "…", …})
    >>> migrate(owner_dsn)

Rules
-----
1. Migrations are numbered files; each runs once, in order, all in one transaction.
2. A file that has run is never edited: its digest is kept, and a changed file is an error.
3. The owner's role migrates and is used for nothing else. No other role owns anything.
4. Two that migrate at once: one waits for the other.
"""

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Conflict, Unavailable

OWNER, APP, MLFLOW, GATE, WORKER, LOGIN = (
    "touchstone_owner",
    "touchstone_app",
    "touchstone_mlflow",
    "touchstone_gate",
    "touchstone_worker",
    "touchstone_login",
)
ROLES = (OWNER, APP, MLFLOW, GATE, WORKER, LOGIN)
_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7460000
_QUEUE_GRANTS = """
    GRANT USAGE ON SCHEMA queue TO touchstone_app, touchstone_worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA queue
        TO touchstone_app, touchstone_worker;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA queue TO touchstone_app, touchstone_worker;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA queue TO touchstone_app, touchstone_worker;
"""


def create_roles(superuser_dsn: str, passwords: Mapping[str, str]) -> None:
    """Create the roles where they are missing, and let the owner create schemas."""
    with psycopg.connect(superuser_dsn, autocommit=True) as connection:
        for role in ROLES:
            exists = connection.execute(
                "SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)
            ).fetchone()
            verb = sql.SQL("ALTER" if exists else "CREATE")
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.Literal(passwords[role])
                )
            )
        database = sql.Identifier(connection.info.dbname)
        connection.execute(
            sql.SQL("GRANT CREATE, CONNECT ON DATABASE {} TO {}").format(
                database, sql.Identifier(OWNER)
            )
        )


def migrate(owner_dsn: str) -> list[str]:
    """Apply what is missing; returns the names of the migrations that ran."""
    try:
        with psycopg.connect(owner_dsn) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute("CREATE SCHEMA IF NOT EXISTS touchstone")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS touchstone.migration ("
                "name text PRIMARY KEY, digest text NOT NULL, ran_at timestamptz DEFAULT now())"
            )
            rows = connection.execute("SELECT name, digest FROM touchstone.migration").fetchall()
            applied = {str(name): str(digest) for name, digest in rows}
            ran = [
                path.name
                for path in sorted(_FOLDER.glob("[0-9]*.sql"))
                if _apply(connection, path, applied)
            ]
            ran += _queue_schema(connection, applied)
            connection.execute(_QUEUE_GRANTS)
            return ran
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"the database can't be reached: {str(error).splitlines()[0]}; is it running?"
        ) from error


def wait_until_migrated(dsn: str, seconds: float = 120.0) -> None:
    """Return when every migration of this version has run, ours and MLflow's.

    Servers and workers may start before whoever migrates; Unavailable when nobody does.
    """
    needed = {path.name for path in _FOLDER.glob("[0-9]*.sql")} | {"queue", mlflow_name()}
    deadline = time.monotonic() + seconds
    while True:
        try:
            with psycopg.connect(dsn, connect_timeout=5) as connection:
                rows = connection.execute("SELECT name FROM touchstone.migration").fetchall()
            if needed <= {str(name) for (name,) in rows}:
                return
        except (psycopg.OperationalError, psycopg.ProgrammingError):
            pass  # no server yet, no schema yet, or no grant on it yet
        if time.monotonic() > deadline:
            raise Unavailable(
                "the database is not migrated; run `touchstone migrate` with the owner's address"
            )
        time.sleep(0.1)


def mlflow_name() -> str:
    """The name under which MLflow's tables, at the installed version, are marked as done."""
    return f"mlflow {version('mlflow')}"


def is_done(owner_dsn: str, name: str, digest: str) -> bool:
    """Whether something that is migrated elsewhere (MLflow's tables) stands at this digest."""
    with psycopg.connect(owner_dsn) as connection:
        row = connection.execute(
            "SELECT 1 FROM touchstone.migration WHERE name = %s AND digest = %s", (name, digest)
        ).fetchone()
        return row is not None


def mark_done(owner_dsn: str, name: str, digest: str) -> None:
    """Remember that it does."""
    with psycopg.connect(owner_dsn) as connection:
        connection.execute(
            "INSERT INTO touchstone.migration (name, digest) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, ran_at = now()",
            (name, digest),
        )


def _apply(connection: psycopg.Connection, path: Path, applied: Mapping[str, str]) -> bool:
    text = path.read_bytes()
    digest = sha256_bytes(text)
    if path.name in applied:
        if applied[path.name] != digest:
            raise Conflict(
                f"migration {path.name} was edited after it ran; restore it and add a new one"
            )
        return False
    connection.execute(text)
    _remember(connection, path.name, digest)
    return True


def _remember(connection: psycopg.Connection, name: str, digest: str) -> None:
    connection.execute(
        "INSERT INTO touchstone.migration (name, digest) VALUES (%s, %s)", (name, digest)
    )


def _queue_schema(connection: psycopg.Connection, applied: Mapping[str, str]) -> list[str]:
    """Procrastinate's own tables, in a schema of their own."""
    if "queue" in applied:
        return []
    from procrastinate.schema import SchemaManager

    text = SchemaManager.get_schema().encode()
    connection.execute("CREATE SCHEMA queue")
    connection.execute("SET LOCAL search_path TO queue")
    connection.execute(text)
    connection.execute("SET LOCAL search_path TO public")
    _remember(connection, "queue", sha256_bytes(text))
    return ["queue"]
