# mypy: disallow-untyped-calls=False
"""MLflow's tables: made by MLflow's own migrations, then walled in by our SQL.

    >>> prepare_schema("postgresql+psycopg://touchstone_owner:…@/touchstone?host=/run/…")
    >>> ensure_workspace(mlflow_url, "acme")

Rules
-----
1. The tables lie in the schema `mlflow` of the same database; `search_path` leads MLflow there.
2. The owner's role migrates. MLflow itself runs as `touchstone_mlflow`, which owns nothing.
3. Running it again changes nothing; two that run at once wait for each other.
"""

import logging
from urllib.parse import quote

from registry.database import mlflow_gate
from registry.mlflow_gate.naming import check_organisation


def prepare_schema(owner_url: str) -> None:
    """Create or upgrade MLflow's tables and put the walls up. Takes about 1.5 s the first time.

    `owner_url` is PostgreSQL's address as the role that owns the schemas `touchstone` (which must
    be migrated before) and `mlflow`. Raises Unavailable where the database can't be reached.
    """
    from mlflow.store.db import utils

    with mlflow_gate.migrating(owner_url):
        if mlflow_gate.schema_revision(owner_url) != utils._get_latest_schema_revision():
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            engine = utils.create_sqlalchemy_engine(in_mlflow_schema(owner_url))
            try:
                if utils._is_empty_database(engine):
                    utils._initialize_tables(engine)
                else:
                    utils._upgrade_db(engine)
            finally:
                engine.dispose()
        mlflow_gate.apply_gate(owner_url)


def ensure_workspace(url: str, organisation: str) -> None:
    """Give `organisation` its workspace, in which all it logs and registers lives."""
    check_organisation(organisation)
    mlflow_gate.ensure_workspace(url, organisation)


def in_mlflow_schema(url: str, *, most_seconds: int = 0) -> str:
    """SQLAlchemy's address of MLflow's schema: psycopg 3, `search_path` set.

    A statement, and a wait for a lock, ends after `most_seconds`; 0 is no limit (migrations).
    """
    address = url.replace("postgresql://", "postgresql+psycopg://", 1)
    if "search_path" in address:
        return address
    options = "-csearch_path=mlflow"
    if most_seconds:
        options += f" -cstatement_timeout={most_seconds}s"
    return f"{address}{'&' if '?' in address else '?'}options={quote(options)}"
