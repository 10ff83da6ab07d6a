"""The life of a cohort version: sealed → locked → retired, and burned from either of the last two.

    >>> sign(facility, sam, "lidc-nodules", "1", SignedLock(envelope=…))["state"]
    'sealed'
    >>> sign(facility, uma, "lidc-nodules", "1", SignedLock(envelope=…))["state"]
    'locked'

Rules
-----
1. Two stewards sign one statement, each with their own enrolled key, on their own side. The server
   checks signatures; it can't make one. The database counts them again (0015_cohort_life.sql).
2. The record with both signatures is written to the log and, once, beside the manifest. Every run
   checks it there against the root before it opens the cohort (`check_lock`).
3. A cohort locked by one steward in an earlier version stays locked; no run opens it before two
   have signed, and its submissions wait.
4. Retired: no new submission or protocol. Burned (something of it was disclosed): nothing of it is
   opened any more, also by runs under way. Certificates stay as they are.
"""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.enrolment import register_of, steward_key
from registry.identity.policy import require
from registry.submissions import places
from registry.submissions.lock import cohort, keep, load_manifest
from registry.submissions.near import near_versions
from registry.trust.canonical import sha256_bytes
from registry.trust.cohort_lock import (
    LOCK_TYPE,
    STEWARDS_NEEDED,
    LockRecord,
    checked,
    lock_of,
    parse_lock,
    parse_record,
)
from registry.trust.dsse import payload_of, unsigned, verified_signers
from registry.trust.enrolment import needed_for, signing_keys
from registry.trust.errors import Conflict, NotFound, Refused, Tampered, Unavailable

Act = Literal["retire", "burn", "keep", "destroy-keys"]
_CLOCKS = dt.timedelta(minutes=10)


class SignedLock(BaseModel):
    """A steward's signature on the statement of a cohort's lock: a DSSE envelope."""

    model_config = ConfigDict(extra="forbid")
    envelope: dict[str, Any]


class NewCohortAct(BaseModel):
    """What is done to a cohort version, and why."""

    model_config = ConfigDict(extra="forbid")
    kind: Act
    reason: Annotated[str, Field(min_length=3, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
    until: dt.date | None = None


def life(facility: Facility, caller: Caller, name: str, version: str) -> dict[str, Any]:
    """State, statement to sign, who signed it, and what was done since."""
    require(caller, "cohort.read_life")
    row = cohort(facility, caller, name, version)
    with facility.record.transaction(caller) as now:
        signed = now.all("cohort_signatures", id=name, version=version)
        locked = now.maybe("cohort_lock", id=name, version=version)
        acts = now.all("cohort_acts", id=name, version=version)
        near = near_versions(now, row)
    if locked is not None:
        _put_record(facility, row, locked["record"].encode())
    envelope = locked["envelope"] if locked else _latest(signed)
    keys = signing_keys(envelope) if envelope else set()
    return {
        "id": name,
        "version": version,
        "state": row["state"],
        "sealed_by": row["locked_by"],
        "warnings": near,
        "locked_alone": row["locked_alone"] and locked is None,
        "until": max((day for day in (row["until"], *(act["until"] for act in acts)) if day),
                     default=None),
        "envelope": envelope,
        "signed_by": [one["person"] for one in signed if one["key_id"] in keys],
        "locked_at": locked["locked_at"] if locked else None,
        "record": sha256_bytes(locked["record"].encode()) if locked else None,
        "acts": [act | {"at": act["at"].isoformat()} for act in acts],
    }  # fmt: skip


def sign(
    facility: Facility, caller: Caller, name: str, version: str, signed: SignedLock
) -> dict[str, Any]:
    """Keep one steward's signature; the second steward's on the same statement locks the cohort."""
    require(caller, "cohort.lock")
    row = cohort(facility, caller, name, version)
    with facility.record.transaction(caller) as now:
        key, leaf = steward_key(now, caller, signed.envelope)
        lock = parse_lock(payload_of(signed.envelope))
        moment = dt.datetime.now(dt.UTC)
        verified_signers(signed.envelope, LOCK_TYPE, [leaf], facility.root, moment)
        if lock.said() != lock_of(row, lock.date).said():
            raise Refused("what was signed is another cohort than the one that was sealed here")
        if lock.date > moment + _CLOCKS or lock.date < row["locked_at"] - _CLOCKS:
            raise Refused("the statement's date is not between the sealing and now; sign it anew")
        payload = sha256_bytes(payload_of(signed.envelope))
        kept = now.all("cohort_signatures", id=name, version=version)
        if (key, payload) not in {(one["key_id"], one["payload"]) for one in kept}:
            now.do(
                "cohort_signature_add",
                id=name,
                version=version,
                payload=payload,
                key_id=key,
                person=caller.person,
                organisation=caller.organisation,
                envelope=signed.envelope,
            )
            note(now, caller, "cohort-lock-signed", f"{name}/{version}",
                 {"root": row["root"], "key": key})  # fmt: skip
        record = _lock(facility, now, row, signed.envelope)
    if record is not None:
        _put_record(facility, row, record)
    return life(facility, caller, name, version)


def act(
    facility: Facility, caller: Caller, name: str, version: str, new: NewCohortAct
) -> dict[str, Any]:
    """Retire, burn or keep a cohort longer, or say that its keys are about to be destroyed."""
    if new.kind == "burn":
        require(caller, "cohort.burn")
    elif new.kind == "destroy-keys":
        require(caller, "cohort.destroy_keys")
    else:
        require(caller, "cohort.retire")
    row = cohort(facility, caller, name, version)
    with facility.record.transaction(caller) as now:
        done = {given["kind"] for given in now.all("cohort_acts", id=name, version=version)}
        if new.kind == "keep" or new.kind not in done:
            now.do("cohort_act_add", id=name, version=version, kind=new.kind, until=new.until,
                   person=caller.person, organisation=caller.organisation,
                   reason=new.reason)  # fmt: skip
    if new.kind == "keep" and new.until is not None:
        keep(facility, load_manifest(facility, row), new.until)
    return life(facility, caller, name, version)


def check_lock(facility: Facility, row: Row) -> None:
    """Raise unless two stewards' record of the cohort in a submission's row holds, here and now.

    Unavailable where two have not signed yet: the submission waits. Tampered, naming the object,
    where the record in the store is not the one of the log, or not of this cohort, or does not
    lead to the facility's root.
    """
    name, version = row["cohort_id"], row["cohort_version"]
    with facility.record.transaction() as now:
        locked = now.maybe("cohort_lock", id=name, version=version)
    if locked is None:
        raise Unavailable(
            f"the cohort {name} {version} waits for the signatures of two stewards: "
            f"touchstone cohort sign {name} --version {version} --key …",
            code="not_locked",
        )
    path = places.cohort_lock(name, version)
    _put_record(facility, {"id": name, "version": version}, locked["record"].encode())
    try:
        lock, _ = checked(parse_record(facility.store.get(path)), facility.root)
    except (Tampered, NotFound) as error:
        raise Tampered(f"{path}: {error.message}") from error
    if (lock.cohort, lock.version, lock.root, lock.manifest) != (
        name, version, row["cohort_root"], row["manifest_digest"],
    ):  # fmt: skip
        raise Tampered(f"{path} is the lock of another cohort than the one in the record")


def _lock(facility: Facility, now: Transaction, row: Row, envelope: dict[str, Any]) -> bytes | None:
    """Write the lock where two different stewards have signed this statement; its record."""
    name, version = row["id"], row["version"]
    payload = sha256_bytes(payload_of(envelope))
    given = [
        one
        for one in now.all("cohort_signatures", id=name, version=version)
        if one["payload"] == payload
    ]
    first = {(one["organisation"], one["person"]): one for one in reversed(given)}
    if len(first) < STEWARDS_NEEDED:
        return None
    if (locked := now.maybe("cohort_lock", id=name, version=version)) is not None:
        return bytes(locked["record"].encode())
    two = sorted(first.values(), key=lambda one: one["number"])[:STEWARDS_NEEDED]
    together = {
        **unsigned(LOCK_TYPE, payload_of(envelope)),
        "signatures": [one["envelope"]["signatures"][0] for one in two],
    }
    register = needed_for(register_of(now), [one["key_id"] for one in two])
    record = LockRecord(together, register)
    checked(record, facility.root)
    now.do("cohort_lock_add", id=name, version=version, payload=payload, envelope=together,
           record=record.as_bytes().decode())  # fmt: skip
    return record.as_bytes()


def _put_record(facility: Facility, row: Row, record: bytes) -> None:
    """The record beside the manifest; the same bytes again do nothing."""
    path = places.cohort_lock(row["id"], row["version"])
    try:
        facility.store.put(path, record)
    except Conflict as error:
        raise Tampered(f"{path} is not the lock that two stewards signed") from error
    if row.get("until") is not None:
        facility.store.keep(path, row["until"])


def _latest(signed: list[Row]) -> dict[str, Any] | None:
    """The statement that was signed last, with every signature that it has."""
    if not signed:
        return None
    last = signed[-1]
    return {
        **unsigned(LOCK_TYPE, payload_of(last["envelope"])),
        "signatures": [
            one["envelope"]["signatures"][0] for one in signed if one["payload"] == last["payload"]
        ],
    }
