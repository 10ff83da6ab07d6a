"""Keys of assessors and stewards: the statements that enrol them, as the facility keeps them.

    >>> load_founding(record, root, admin, NewFounding(envelope=…, certificates=[…]))
    >>> enrol(record, root, steward, NewEnrolment(envelope=…, certificate=…))
    >>> register_of(now)                 # what goes into a bundle, and what a hospital checks

Rules
-----
1. Every signature is checked here, before the database is asked; it checks again who countersigned
   (0007_duties.sql), and a hospital checks all of it a third time.
2. The founding statement is loaded once. Who loads it decides nothing: the root signed it.
3. Taking a key away takes one person of the facility; what it signed before stands.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field

from registry.database.record import Record, Row, Transaction
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.trust.dsse import payload_of
from registry.trust.enrolment import (
    EnrolledRole,
    Register,
    enrolled,
    needed_for,
    parse_enrolment,
    signing_keys,
)
from registry.trust.errors import Conflict, Invalid, NotFound, Refused
from registry.trust.keys import key_id, parse_certificate, pem_of

_KEY = re.compile(r"sha256:[0-9a-f]{64}\Z")
_ARTICLE: dict[EnrolledRole, str] = {"assessor": "an assessor", "steward": "a steward"}
Reason = Annotated[str, Field(min_length=3, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewFounding(BaseModel):
    """The founding statement and the certificates (PEM) of those whom it names."""

    model_config = ConfigDict(extra="forbid")
    envelope: dict[str, Any]
    certificates: Annotated[list[str], Field(min_length=2, max_length=100)]


class NewEnrolment(BaseModel):
    """One enrolment statement, signed by two others, and the certificate (PEM) that it names."""

    model_config = ConfigDict(extra="forbid")
    envelope: dict[str, Any]
    certificate: str


class NewRevocation(BaseModel):
    """Why a key is taken away."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason


def load_founding(
    record: Record, root: x509.Certificate, caller: Caller, new: NewFounding
) -> list[dict[str, Any]]:
    """Enrol the first people, once; returns the keys that are enrolled now."""
    require(caller, "key.found")
    leaves = tuple(parse_certificate(pem.encode()) for pem in new.certificates)
    enrolled(Register(new.envelope, (), leaves), root)
    pems = {key_id(leaf): pem_of(leaf).decode() for leaf in leaves}
    with record.transaction(caller) as now:
        now.one("founding_load", envelope=new.envelope, pems=pems)
    return keys(record, caller)


def enrol(
    record: Record, root: x509.Certificate, caller: Caller, new: NewEnrolment
) -> dict[str, Any]:
    """Enrol one key that two others approved."""
    require(caller, "key.enrol")
    leaf = parse_certificate(new.certificate.encode())
    person = parse_enrolment(payload_of(new.envelope))
    with record.transaction(caller) as now:
        known = register_of(now)
        rows = {row["key_id"]: row for row in now.all("signers")}
        if person.key in rows:
            raise Conflict(f"this key of {person.person} is enrolled already")
        approvers = signing_keys(new.envelope)
        for key in approvers & set(rows):
            if rows[key]["revoked_at"] is not None:
                raise Refused(f"the key of {rows[key]['person']}, who approves, was revoked")
        known = needed_for(known, approvers)
        enrolled(
            Register(
                known.founding,
                (*known.enrolments, new.envelope),
                (*known.certificates, leaf),
            ),
            root,
        )
        now.one("key_enrol", envelope=new.envelope, pem=pem_of(leaf).decode())
        return shown(now.one("signer_by_key", key_id=person.key))


def revoke(record: Record, caller: Caller, key: str, new: NewRevocation) -> dict[str, Any]:
    """Take a key away: it signs no new decision, and approves nobody."""
    require(caller, "key.revoke")
    with record.transaction(caller) as now:
        if now.maybe("signer_by_key", key_id=key) is None:
            raise NotFound("no such key is enrolled; see `touchstone key list`")
        now.one("key_revoke", key=key, reason=new.reason)
        return shown(now.one("signer_by_key", key_id=key))


def keys(
    record: Record, caller: Caller, after: tuple[str, ...] | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """Keys that were ever enrolled, by organisation, person and age, those behind `after`."""
    require(caller, "key.list")
    organisation, person, enrolled_at, key = after or (None,) * 4
    with record.transaction(caller) as now:
        rows = now.all("signer_page", after_organisation=organisation, after_person=person,
                       after_enrolled_at=enrolled_at, after_key=key, limit=limit)  # fmt: skip
    return [shown(row) for row in rows]


def place(key: dict[str, Any]) -> tuple[str, ...]:
    """Where a key stands in the list."""
    return (key["organisation"], key["person"], key["enrolled_at"], key["key"])


def register_of(now: Transaction) -> Register:
    """Every statement with the certificates it names; Conflict before the first people."""
    return register_from(now.all("enrolments"), now.all("signers"))


def register_from(statements: Sequence[Row], signers: Sequence[Row]) -> Register:
    """The same, of rows that were read already."""
    founding, enrolments = None, []
    for row in statements:
        if row["kind"] == "founding":
            founding = row["envelope"]
        else:
            enrolments.append(row["envelope"])
    if founding is None:
        raise Conflict(
            "nobody is enrolled yet: the root's holder signs the founding statement first "
            "(`touchstone key found`)"
        )
    leaves = []
    for row in signers:
        with suppress(Invalid):  # a row that holds no certificate enrols nobody
            leaves.append(parse_certificate(row["pem"].encode()))
    return Register(founding, tuple(enrolments), tuple(leaves))


def shown(row: Row) -> dict[str, Any]:
    """A key's row, ready for JSON."""
    revoked = row["revoked_at"]
    return {
        "key": row["key_id"],
        "person": row["person"],
        "organisation": row["organisation"],
        "role": row["role"],
        "enrolled_at": row["enrolled_at"].isoformat(),
        "revoked_at": revoked.isoformat() if revoked else None,
    }


def assessor_key(
    now: Transaction, caller: Caller, envelope: dict[str, Any], submission: str
) -> tuple[str, x509.Certificate]:
    """(key, certificate) of an envelope that the caller signed, as one who may decide.

    Refused unless the key is enrolled for the caller as an assessor, was not revoked, and the
    caller locked neither cohort nor protocol of the submission.
    """
    key, leaf = _own_key(now, caller, envelope, "assessor")
    if now.one("locked_it", submission=submission, person=caller.person)["locked"]:
        raise Refused(
            "you locked the cohort or the protocol of this submission; two other assessors decide "
            "on it",
            code="own_lock",
        )
    return key, leaf


def steward_key(
    now: Transaction, caller: Caller, envelope: dict[str, Any]
) -> tuple[str, x509.Certificate]:
    """The same of one who may lock: Refused unless the key is the caller's, as a steward."""
    return _own_key(now, caller, envelope, "steward")


def _own_key(
    now: Transaction, caller: Caller, envelope: dict[str, Any], role: EnrolledRole
) -> tuple[str, x509.Certificate]:
    signatures = envelope.get("signatures")
    entry = signatures[0] if isinstance(signatures, list) and len(signatures) == 1 else None
    key = str(entry.get("keyid")) if isinstance(entry, dict) else ""
    if not _KEY.match(key):
        raise Invalid("one signature is expected, and it names its key")
    signer = now.maybe("signer_by_key", key_id=key)
    if signer is None or (signer["person"], signer["organisation"], signer["role"]) != (
        caller.person, caller.organisation, role,
    ):  # fmt: skip
        raise Refused(
            f"this key is not enrolled for you as {_ARTICLE[role]}; use the key that belongs to "
            "your token, or have it enrolled by two others (`touchstone key request`)",
            code="not_enrolled",
        )
    if signer["revoked_at"] is not None:
        raise Refused(f"this key was revoked on {signer['revoked_at']:%Y-%m-%d}; it signs nothing")
    return key, parse_certificate(signer["pem"].encode())
