"""Cohorts as two stewards lock them, each with a key of their own, enrolled under the root."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from psycopg.types.json import Jsonb

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.settings import Databases
from registry.submissions.cohort_life import SignedLock, life, sign
from registry.submissions.lock import propose_cohort
from registry.submissions.use import Statement, declare
from registry.trust.cohort_lock import LOCK_TYPE, lock_of, new_lock, parse_lock
from registry.trust.dsse import add_signature, payload_of, unsigned
from registry.trust.enrolment import EnrolledRole, founded, person_of
from registry.trust.keys import Identity, issue, key_id, pem_of
from tests.registry.role import Role
from validators.cohort.data_use import NO_RESTRICTION

STEWARDS = ("Sam", "Uma")


def found_stewards(
    databases: Databases, root: Identity, people: Iterable[str] = STEWARDS
) -> dict[str, Identity]:
    """Keys of the first people of the facility `tef`, stewards all, as its root names them."""
    now = dt.datetime.now(dt.UTC)
    role: EnrolledRole = "steward"
    keys = {person: issue(root, person, organisation="tef") for person in people}
    named = [person_of(key.certificate, role, now) for key in keys.values()]
    pems = {key_id(key.certificate): pem_of(key.certificate).decode() for key in keys.values()}
    owner = Role(databases.owner)
    owner.execute(
        "INSERT INTO touchstone.organisation VALUES ('tef', 'facility', 'tef')"
        " ON CONFLICT DO NOTHING"
    )
    owner.execute(
        "SELECT touchstone.load_founding(%s, %s)",
        (Jsonb(founded(root, "tef", named, now)), Jsonb(pems)),
    )
    return keys


def signature(
    facility: Facility, caller: Caller, key: Identity, name: str, version: str = "1", **changes: Any
) -> SignedLock:
    """What a steward's own machine sends; on the statement of whoever signed before."""
    begun = life(facility, caller, name, version)["envelope"]
    if begun is not None and not changes:
        lock = parse_lock(payload_of(begun))
    else:
        with facility.record.transaction(caller) as now:
            row = now.one("cohort_latest", id=name, version=version)
        lock = lock_of(row, dt.datetime.now(dt.UTC)).model_copy(update=changes)
    return SignedLock(envelope=add_signature(unsigned(LOCK_TYPE, new_lock(lock)), key))


def lock_cohort(
    facility: Facility,
    people: dict[str, Caller],
    keys: dict[str, Identity],
    path: str,
    until: dt.date | None = None,
) -> Row:
    """Propose the cohort whose manifest lies at `path`, and have Sam and Uma sign."""
    row = propose_cohort(facility, people["Sam"], path, until)
    for person in STEWARDS:
        signed = signature(facility, people[person], keys[person], row["id"], row["version"])
        sign(facility, people[person], row["id"], row["version"], signed)
    return row


def no_restriction(facility: Facility, people: dict[str, Caller], cohort: str) -> None:
    """Sam says that the cohort has no conditions, and Uma confirms it."""
    for person in STEWARDS:
        declare(facility, people[person], cohort, Statement(codes=[NO_RESTRICTION]))
