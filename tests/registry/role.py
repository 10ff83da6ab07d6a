"""A database role, alone or in the name of somebody who holds a token."""

import base64
import hashlib
import json
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

    An assessor or steward signs in by hand; whose key is not enrolled yet is enrolled by hand.
    """
    if role in ("assessor", "steward"):
        found = (
            Role(database.owner)
            .execute(
                "SELECT key_id FROM touchstone.signer s WHERE organisation = %s AND person = %s"
                " AND role = %s AND NOT EXISTS"
                " (SELECT FROM touchstone.revoked_key r WHERE r.key_id = s.key_id)",
                (organisation, person, role),
            )
            .fetchone()
        )
        key = (
            found[0] if found else enrol_by_hand(database, person, role, organisation=organisation)
        )
        return sign_in_by_hand(database, organisation, person, key)
    secret = "tst_" + secrets.token_urlsafe(32)
    Role(database.owner).execute(
        "INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, now() + interval '1 day')",
        (uuid.uuid4(), organisation, role, person, stored(secret)),
    )
    return secret


def sign_in_by_hand(
    database: Databases, organisation: str, person: str, key: str, **changes: Any
) -> str:
    """What the registry's process does once it has checked a signature: nobody signed here.

    The database takes it from whoever holds the password of touchstone_login: it knows no ECDSA.
    """
    login, nonce, secret = (
        Role(database.login),
        secrets.token_urlsafe(32),
        secrets.token_urlsafe(32),
    )
    digest = hashlib.sha256(nonce.encode()).digest()
    login.execute(
        "SELECT touchstone.sign_in_begin(%s, %s, %s, %s)", (digest, organisation, person, key)
    )
    login.execute(
        "SELECT touchstone.sign_in_make(%s, %s::jsonb, %s)",
        (digest, statement(organisation, person, key, nonce, **changes), stored("tst_" + secret)),
    )
    return "tst_" + secret


def statement(organisation: str, person: str, key: str, nonce: str, /, **changes: Any) -> str:
    """A sign-in without a signature, as JSON."""
    said = {
        "purpose": "sign-in", "person": person, "facility": organisation, "key": key,
        "nonce": nonce, "server": "http://127.0.0.1:1", "date": "2026-11-28T09:00:00Z",
    }  # fmt: skip
    return json.dumps({
        "payload": base64.b64encode(json.dumps(said | changes).encode()).decode(),
        "payloadType": "application/vnd.touchstone.sign-in.v1+json",
        "signatures": [{"keyid": key, "sig": ""}],
    })  # fmt: skip


def stored(secret: str) -> bytes:
    """What the record keeps of a token."""
    return hashlib.sha256(hashlib.sha256(secret.encode()).digest()).digest()


def acting(database: Databases, organisation: str, role: str, person: str) -> Role:
    """The application's role in the name of a person."""
    return Role(database.app, token_of(database, organisation, role, person))
