"""A database role, alone or in the name of somebody who holds a token."""

import hashlib
import secrets
import uuid
from typing import Any

import psycopg

from registry.settings import Databases


class Role:
    """Each statement is a transaction of its own, begun by entering where there is a token."""

    def __init__(self, dsn: str | None, secret: str | None = None) -> None:
        assert dsn is not None
        self._dsn = dsn
        self._proof = hashlib.sha256(secret.encode()).digest() if secret else None

    def execute(self, statement: str, values: Any = None) -> "Answer":
        """Run one statement; what the database raises is raised."""
        with psycopg.connect(self._dsn) as connection:
            if self._proof is not None:
                connection.execute("SELECT touchstone.enter(%s)", (self._proof,))
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return Answer(cursor.fetchall() if cursor.description else [], cursor.rowcount)


class Answer:
    """The rows of a statement, and how many it touched."""

    def __init__(self, rows: list[Any], count: int) -> None:
        self._rows, self.rowcount = rows, count

    def fetchall(self) -> list[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None


def enrol_by_hand(
    database: Databases,
    person: str,
    role: str,
    *,
    organisation: str = "tef",
    key: str | None = None,
    pem: str = "pem",
) -> str:
    """A key's rows as the database's owner can forge them; returns the key.

    No signature is made: the database takes it, and whoever checks signatures does not.
    """
    key = key or "sha256:" + secrets.token_hex(32)
    statement = "sha256:" + secrets.token_hex(32)
    owner = Role(database.owner)
    owner.execute(
        "INSERT INTO touchstone.enrolment (digest, kind, envelope)"
        " VALUES (%s, 'enrolment', '{\"signatures\": []}')", (statement,),
    )  # fmt: skip
    owner.execute(
        "INSERT INTO touchstone.signer (key_id, organisation, person, pem, role, enrolment)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (key, organisation, person, pem, role, statement),
    )
    return key


def token_of(database: Databases, organisation: str, role: str, person: str) -> str:
    """A token's secret, written by the owner as a first start would.

    An assessor or steward whose key is not enrolled yet is enrolled by hand.
    """
    if role in ("assessor", "steward"):
        known = Role(database.owner).execute(
            "SELECT touchstone.is_enrolled(%s, %s, %s)", (organisation, person, role)
        )
        if known.fetchone() != (True,):
            enrol_by_hand(database, person, role, organisation=organisation)
    secret = "tst_" + secrets.token_urlsafe(32)
    proof = hashlib.sha256(secret.encode()).digest()
    Role(database.owner).execute(
        "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, now() + interval '1 day')",
        (uuid.uuid4(), organisation, role, person, hashlib.sha256(proof).digest()),
    )
    return secret


def acting(database: Databases, organisation: str, role: str, person: str) -> Role:
    """The application's role in the name of a person."""
    return Role(database.app, token_of(database, organisation, role, person))
