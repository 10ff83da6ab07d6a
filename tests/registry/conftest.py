"""A real PostgreSQL for the tests of the registry: one server a session, one database a module."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

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
    migrate,
)
from registry.settings import Databases
from tests.object_store import s3_server  # noqa: F401
from tests.registry.house import House
from tests.registry.mlflow_server import gate  # noqa: F401

PASSWORD = "for-tests"


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedPostgres]:
    """One embedded PostgreSQL, in a folder that its account can reach."""
    home = Path(tempfile.mkdtemp(prefix="touchstone-test-"))
    home.chmod(0o711)
    try:
        with EmbeddedPostgres(home / "postgres") as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def empty_database(cluster: EmbeddedPostgres, request: pytest.FixtureRequest) -> Databases:
    """A fresh database with the roles and no table, one a test module."""
    name = request.module.__name__.rpartition(".")[2]
    with psycopg.connect(cluster.superuser_dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    superuser = cluster.superuser_dsn.replace("@/touchstone?", f"@/{name}?")
    create_roles(superuser, dict.fromkeys(ROLES, PASSWORD))
    return Databases(
        app=cluster.dsn(APP, PASSWORD, name),
        gate=cluster.dsn(GATE, PASSWORD, name),
        mlflow=cluster.dsn(MLFLOW, PASSWORD, name),
        login=cluster.dsn(LOGIN, PASSWORD, name),
        worker=cluster.dsn(WORKER, PASSWORD, name),
        owner=cluster.dsn(OWNER, PASSWORD, name),
    )


@pytest.fixture(scope="module")
def database(empty_database: Databases) -> Databases:
    """The same, migrated: the record as the application finds it."""
    assert empty_database.owner is not None
    migrate(empty_database.owner)
    return empty_database


@pytest.fixture(scope="module")
def house(
    cluster: EmbeddedPostgres,
    empty_database: Databases,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[House]:
    """A facility with people, keys and submissions in review, one a module."""
    name = request.module.__name__.rpartition(".")[2]
    superuser = cluster.superuser_dsn.replace("@/touchstone?", f"@/{name}?")
    made = House(empty_database, tmp_path_factory.mktemp("house"), superuser)
    yield made
    made.facility.close()
