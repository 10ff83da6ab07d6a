"""The lock of a cohort: one statement that two stewards sign, each with their own enrolled key.

    >>> envelope = add_signature(unsigned(LOCK_TYPE, new_lock(lock)), sam)
    >>> record = LockRecord(add_signature(envelope, uma), register)
    >>> checked(parse_record(record.as_bytes()), root)
    (CohortLock(cohort='lidc-nodules', …), (Person(person='Sam', …), Person(person='Uma', …)))

Rules
-----
1. The statement names the cohort version, its root, its manifest's and its contract's digest, its
   counts and the day until which it is kept. Whoever changes one of them needs two signatures.
2. A person counts once, however many keys they have. A signer is a steward by the statements that
   lead to the facility's root, enrolled before the statement's date.
3. The record carries those statements and certificates, so that it is checked offline, against the
   root's certificate and nothing else.
4. Pure. A record that does not hold is Tampered, whatever is wrong with it.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, parse_canonical
from registry.trust.certificate import Digest
from registry.trust.dsse import Envelope, is_exact, payload_of, verified_signers
from registry.trust.enrolment import (
    Person,
    Register,
    check_stewards,
    parse_register,
    signing_keys,
)
from registry.trust.errors import Invalid, Tampered, TouchstoneError
from registry.trust.keys import key_id

LOCK_TYPE = "application/vnd.touchstone.cohort-lock.v1+json"
STEWARDS_NEEDED = 2
_Count = Annotated[int, Field(ge=0)]
_Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class CohortLock(BaseModel):
    """What two stewards sign over one cohort version."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cohort: _Line
    version: _Line
    root: Digest
    manifest: Digest
    contract: Digest
    patients: _Count
    positives: _Count
    negatives: _Count
    until: dt.date | None
    """Until when the store keeps it from everybody; None for the store's own days."""
    date: dt.datetime

    def said(self) -> dict[str, Any]:
        """Everything but the date: what must be the same as in the record."""
        return self.model_dump(mode="json", exclude={"date"})


@dataclass(frozen=True)
class LockRecord:
    """The signed statement, and the statements that make its signers stewards."""

    envelope: Envelope
    register: Register

    def as_bytes(self) -> bytes:
        """The canonical form that lies beside the manifest."""
        return canonical(
            {"lock": self.envelope, "enrolments": parse_canonical(self.register.as_bytes())}
        )


def lock_of(row: Mapping[str, Any], date: dt.datetime) -> CohortLock:
    """What two stewards are asked to sign over the cohort in this row."""
    return CohortLock(
        cohort=row["id"],
        version=row["version"],
        root=row["root"],
        manifest=row["manifest_digest"],
        contract=row["contract_digest"],
        patients=row["patients"],
        positives=row["positives"],
        negatives=row["negatives"],
        until=row["until"],
        date=date,
    )


def new_lock(lock: CohortLock) -> bytes:
    """The canonical bytes that are signed."""
    return canonical(lock.model_dump(mode="json"))


def parse_lock(payload: bytes) -> CohortLock:
    """The statement in a payload; Invalid unless it is in its one form."""
    try:
        lock = CohortLock.model_validate(parse_canonical(payload))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Invalid(f"the statement of the lock is malformed at {place}") from error
    if lock.date.tzinfo is None:
        raise Invalid("the statement of the lock has a date without a time zone")
    return lock


def parse_record(data: bytes) -> LockRecord:
    """The record that lies beside a manifest; Tampered unless its form is exact."""
    try:
        value = parse_canonical(data)
        if not isinstance(value, dict) or set(value) != {"lock", "enrolments"}:
            raise Invalid("other fields than lock and enrolments")
        record = LockRecord(value["lock"], parse_register(canonical(value["enrolments"])))
        if not is_exact(record.envelope) or record.as_bytes() != data:
            raise Invalid("it is not in the one form that its content has")
    except TouchstoneError as error:
        raise _broken(error.message) from error
    return record


def checked(record: LockRecord, root: x509.Certificate) -> tuple[CohortLock, tuple[Person, ...]]:
    """The statement and its stewards; Tampered unless two different ones signed it."""
    try:
        lock = parse_lock(payload_of(record.envelope))
        keys = signing_keys(record.envelope)
        leaves = [leaf for leaf in record.register.certificates if key_id(leaf) in keys]
        verified_signers(record.envelope, LOCK_TYPE, leaves, root, lock.date)
        stewards = check_stewards(record.register, leaves, root, lock.date)
    except TouchstoneError as error:
        raise _broken(error.message) from error
    people = {person.name for person in stewards}
    if len(people) < STEWARDS_NEEDED:
        raise _broken(f"{len(people)} steward signed it, {STEWARDS_NEEDED} different ones must")
    return lock, stewards


def _broken(why: str) -> Tampered:
    return Tampered(f"the cohort's lock does not hold: {why}")
