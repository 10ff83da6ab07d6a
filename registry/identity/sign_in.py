"""Signing in with an enrolled key: how assessors and stewards get a token that nobody else saw.

    >>> challenge = begin(record, settings.own_address, NewSignIn(person="Ada", …))
    >>> given = finish(record, root, settings.own_address, Signed(envelope=…))
    >>> given.role, given.secret
    ('assessor', 'tst_…')

Rules
-----
1. A challenge is ours, for one person and key, good once and for five minutes.
2. What counts is the key's enrolment, by the statements that lead to the root, as for a decision.
   A row that somebody wrote into the database opens nothing.
3. The token lasts twelve hours at most, in the role of the enrolment, and ends with the key.
4. Whoever is signed in so may say which login at the identity provider is theirs; before that no
   such login gives a token in these roles, whatever an administrator linked.
"""

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Annotated, Any

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field

from registry.database.record import Record
from registry.identity.accounts import PREFIX, proof_of
from registry.identity.caller import Caller
from registry.identity.enrolment import register_from
from registry.identity.login import LoggedIn
from registry.identity.policy import require
from registry.trust.enrolment import enrolled, needed_for
from registry.trust.errors import NotFound, Unauthenticated
from registry.trust.keys import parse_certificate
from registry.trust.sign_in import check_sign_in, signing_key

_LINE = r"^[^\x00-\x1f\x7f]+$"


class NewSignIn(BaseModel):
    """Who wants to sign in, by which key, as their certificate says it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    person: Annotated[str, Field(min_length=1, max_length=200, pattern=_LINE)]
    organisation: Annotated[str, Field(min_length=1, max_length=200, pattern=_LINE)]
    key: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="The key's digest.")]


class Signed(BaseModel):
    """The statement that was signed: a DSSE envelope."""

    model_config = ConfigDict(extra="forbid")
    envelope: dict[str, Any]


class NewConfirmation(BaseModel):
    """A login at the identity provider that is one's own."""

    model_config = ConfigDict(extra="forbid", strict=True)
    subject: Annotated[
        str, Field(min_length=1, max_length=255, pattern=_LINE, description="The provider's `sub`.")
    ]


@dataclass(frozen=True)
class Challenge:
    """What is to be signed, and until when."""

    nonce: str = field(repr=False)
    server: str
    expires_at: dt.datetime


def begin(record: Record, server: str, new: NewSignIn) -> Challenge:
    """A fresh challenge. It says nothing of whether such a key is enrolled.

    `record` connects as touchstone_login; `server` is the registry's own address.
    """
    nonce = secrets.token_urlsafe(32)
    with record.transaction() as now:
        made = now.one(
            "sign_in_begin",
            nonce=_digest(nonce),
            organisation=new.organisation,
            person=new.person,
            key=new.key,
        )
    return Challenge(nonce, server, made["expires_at"])


def finish(record: Record, root: x509.Certificate, server: str, signed: Signed) -> LoggedIn:
    """A token, for a challenge that an enrolled key signed.

    Raises Unauthenticated for a key that is not enrolled or was revoked, and for a challenge that
    was used, is over, or was another's; otherwise as `check_sign_in`.
    """
    key = signing_key(signed.envelope)
    with record.transaction() as now:
        statements, rows = now.all("sign_in_enrolments"), now.all("sign_in_signers")
    row = next((row for row in rows if row["key_id"] == key), None)
    register = needed_for(register_from(statements, rows), [key])
    if row is None or key not in enrolled(register, root):
        raise Unauthenticated(
            "this key is not enrolled here; two others approve it first (`touchstone key request`)",
            code="not_enrolled",
        )
    said = check_sign_in(
        signed.envelope,
        parse_certificate(row["pem"].encode()),
        root,
        server=server,
        now=dt.datetime.now(dt.UTC),
    )
    secret = PREFIX + secrets.token_urlsafe(32)
    with record.transaction() as now:
        made = now.one(
            "sign_in_make",
            nonce=_digest(said.nonce),
            envelope=signed.envelope,
            secret_hash=hashlib.sha256(proof_of(secret)).digest(),
        )
    return LoggedIn(
        str(made["token"]), secret, made["organisation"], made["role"], made["person"],
        made["expires_at"],
    )  # fmt: skip


def confirm(record: Record, caller: Caller, new: NewConfirmation) -> str:
    """Say that a login at the identity provider is one's own; returns the linked person's id."""
    require(caller, "login.confirm")
    with record.transaction(caller) as now:
        person = now.one("login_confirm", subject=new.subject)["person"]
    if person is None:
        raise NotFound(
            f"no login of this subject is linked to {caller.person}; an administrator links it "
            "first (`touchstone person add`)"
        )
    return str(person)


def _digest(nonce: str) -> bytes:
    return hashlib.sha256(nonce.encode()).digest()
