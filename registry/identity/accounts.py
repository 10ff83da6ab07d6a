"""Organisations, and the tokens by which their people are known.

    >>> add_organisation(record, admin, id="sme-a", kind="sme", name="Sme A")
    >>> new = NewToken(organisation="sme-a", role="innovator", person="Eva")
    >>> token = add_token(record, admin, new)
    >>> authenticate(record, token.secret).role
    'innovator'

Rules
-----
1. A token is shown once. Its SHA-256 is the proof that the database asks for, and the SHA-256
   of that is what is stored: it has 256 random bits, so that a slow hash would protect nothing.
2. A token expires, can be revoked, and belongs to one role of one person of one organisation.
3. A token of an assessor or a steward is given out by nobody: they sign in with their enrolled key
   (`registry.identity.sign_in`); the database refuses any other, whoever asks.
4. A wrong, expired or revoked token is refused with the same status; the sentence says which,
   because it is told only to somebody who holds the token.
"""

import datetime as dt
import hashlib
import secrets
import uuid
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

from registry.database.record import Record, Transaction
from registry.identity.caller import Caller, Kind, Role
from registry.identity.policy import KIND_OF_ROLE, require
from registry.mlflow_gate.naming import check_organisation
from registry.trust.canonical import canonical
from registry.trust.errors import NotFound, Refused, Unauthenticated
from registry.trust.numbers import AS_JSON

PREFIX = "tst_"
ENROLLED_ROLES = ("assessor", "steward")
SYSTEM_ADMIN = Caller("touchstone", "facility", "admin", "first start", "first-start")


class NewOrganisation(BaseModel):
    """What `org add` needs."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
    kind: Kind
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewToken(BaseModel):
    """What `token add` needs."""

    model_config = ConfigDict(extra="forbid", strict=True)
    organisation: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    role: Role
    person: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
    days: Annotated[int, Strict(), Field(ge=1, le=366), AS_JSON] = 90


@dataclass(frozen=True)
class IssuedToken:
    """A token's secret, shown this once."""

    id: str
    secret: str
    expires_at: dt.datetime


def note(
    now: Transaction, caller: Caller, kind: str, subject: str, detail: dict[str, object]
) -> None:
    """One event in the log, by `caller`, in the transaction under way."""
    now.one(
        "event_add",
        actor=caller.person,
        organisation=caller.organisation,
        kind=kind,
        subject=subject,
        detail=canonical(detail).decode(),
    )


def add_organisation(record: Record, caller: Caller, new: NewOrganisation) -> None:
    """Add an organisation; Conflict if the id is taken."""
    require(caller, "organisation.add")
    check_organisation(new.id)
    with record.transaction(caller) as now:
        now.do("organisation_add", id=new.id, kind=new.kind, name=new.name)
        note(now, caller, "organisation-added", new.id, {"kind": new.kind})


def add_token(record: Record, caller: Caller, new: NewToken) -> IssuedToken:
    """Issue a token; Refused for an assessor or steward, who sign in with their key."""
    require(caller, "token.add")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = IssuedToken(
        str(uuid.uuid4()), secret, dt.datetime.now(dt.UTC) + dt.timedelta(days=new.days)
    )
    with record.transaction(caller) as now:
        organisation = now.maybe("organisation_by_id", id=new.organisation)
        if organisation is None:
            raise NotFound(
                f"there is no organisation {new.organisation!r}; add it with `touchstone org add`"
            )
        if organisation["kind"] not in KIND_OF_ROLE[new.role]:
            raise Refused(
                f"{new.role} is not a role of a {organisation['kind']}; "
                f"it belongs to: {', '.join(KIND_OF_ROLE[new.role])}"
            )
        if new.role in ENROLLED_ROLES:
            raise Refused(
                "assessors and stewards are given no token: each signs in with their own enrolled "
                "key (`touchstone login --key`); two others enrol it (`touchstone key request`)",
                code="signs_in_with_key",
            )
        now.do(
            "token_add",
            id=token.id,
            organisation=new.organisation,
            role=new.role,
            person=new.person,
            secret_hash=hashlib.sha256(proof_of(secret)).digest(),
            expires_at=token.expires_at,
        )
        note(
            now,
            caller,
            "token-added",
            token.id,
            {"organisation": new.organisation, "role": new.role, "person": new.person},
        )
    return token


def authenticate(record: Record, secret: str) -> Caller:
    """The caller who holds this token; Unauthenticated otherwise (0004_tenancy.sql says why)."""
    proof = proof_of(secret)
    with record.transaction() as now:
        row = now.one("enter", proof=proof)
    return Caller(
        row["organisation"], row["kind"], row["role"], row["person"], str(row["token"]), proof
    )


def proof_of(secret: str) -> bytes:
    """What the holder of a token shows to the database."""
    return hashlib.sha256(secret.encode()).digest()


def bearer(header: str | None) -> str:
    """The token in an Authorization header; Unauthenticated without one."""
    scheme, _, secret = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("no token: send `Authorization: Bearer …` (set TOUCHSTONE_TOKEN)")
    return secret.strip()
