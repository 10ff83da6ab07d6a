"""What the facility's status says, checked under the pinned root: pure, from files in memory.

    >>> status = checked(files, root, at, memory.remembered)
    >>> fresh(status, at, grace)                  # ("ok", sentence), or Refused
    >>> in_force(status, statement_digest, at, grace)

Rules
-----
1. Everything leads to the one root that the hospital pinned: its key signed the first root of the
   status, and each later root is signed by two people of the one before and two of its own.
2. Two people are two names in certificates under the pinned root, whatever the files call enough.
   A key has one name, so that it can't count twice.
3. Each part is the very one that the part above it names; none is older than what was seen before,
   or differs from it under the same version; no stop that was seen goes away unlifted. Where the
   root replaced the machine's keys its versions begin anew (TUF 1.0, 5.3.11): the thief of a key
   could else have ended a hospital's status for good by one of a huge version.
4. No part is believed for longer than its role's days from now: so a stolen key can't give itself
   years. The hospital's grace adds to what a machine signed, never to what people signed, and
   never beyond 90 days from the last renewal.

Codes of refusals: status_incomplete, status_malformed, status_other_root, status_bad_signature,
status_one_signer, status_one_person, status_key_twice, status_mixed, status_rolled_back,
status_forked, status_weakened, status_dates, status_expired; not_listed, suspended, revoked.
"""

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from cryptography import x509
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import check_signature
from registry.trust.enrolment import signing_keys
from registry.trust.errors import Invalid, Refused, Tampered, TouchstoneError
from registry.trust.keys import key_id
from registry.trust.status import (
    DAYS,
    DOWNGRADE,
    ENDORSEMENT,
    ENDORSEMENT_TYPE,
    HARD_DAYS,
    TIMESTAMP,
    Listed,
    Stop,
    file_name,
    listed_in,
    moment_of,
    stops_in,
)
from serving.bundle.memory import CLOCK_TOLERANCE, Remembered, Seen
from serving.bundle.standing import Standing
from serving.bundle.status_parts import (
    AGAIN,
    check_key_names,
    check_machine_signed,
    incomplete,
    malformed,
    named_part,
    read_part,
    two_people,
)

Found = tuple[Literal["ok", "warning", "skipped", "failed"], str]
NO_GRACE = dt.timedelta(0)
_PEOPLE = ("root", "targets")
_MACHINE = ("snapshot", DOWNGRADE, "timestamp")
MOST_ROOTS = 1000


@dataclass(frozen=True)
class Status:
    """A status whose every signature holds. Whether it is fresh, and for whom, is asked of it."""

    signed_at: dt.datetime
    machine_until: dt.datetime
    """When the first of the parts that a machine renews ends."""
    people_until: dt.datetime
    """When the first of the parts that people signed ends."""
    listed: Mapping[str, Listed]
    stops: Mapping[str, Stop]
    seen: Mapping[str, Seen]
    signers: tuple[tuple[str, str], ...]
    """The people behind the list of certificates in force."""
    stopped_by: tuple[str, ...]
    """The machine keys that may stop one."""

    def use_until(self, grace: dt.timedelta = NO_GRACE) -> dt.datetime:
        """After this moment the status says nothing any more, by a hospital's policy."""
        hard = self.signed_at + dt.timedelta(days=HARD_DAYS)
        return min(self.machine_until + max(grace, NO_GRACE), self.people_until, hard)

    def standing(self, statement: str, grace: dt.timedelta = NO_GRACE) -> Standing:
        """What it says of the certificate with this statement; Refused where it lists none."""
        listed, stop = self.listed.get(statement), self.stops.get(statement)
        if listed is None and stop is None:
            raise Refused(
                f"the facility's status of {self.signed_at:%Y-%m-%d} does not list this "
                "certificate: it was never in force, or has ended; ask the facility",
                code="not_listed",
            )
        lifts = None if listed is None else listed.lifts
        # What was revoked does not come back, whatever a list lifts.
        if stop is None or (stop.state == "suspended" and (lifts or "") >= stop.since):
            return Standing("in_force", "", self.signed_at, self.use_until(grace))
        return Standing(stop.state, stop.reason, self.signed_at, self.use_until(grace))


def fresh(status: Status, at: dt.datetime, grace: dt.timedelta = NO_GRACE) -> Found:
    """Whether the status may still be relied on at `at`; Refused (status_expired) if not."""
    until = status.use_until(grace)
    Standing("in_force", "", status.signed_at, until).require(at)
    said = f"the facility's status of {status.signed_at:%Y-%m-%d}, good until {until:%Y-%m-%d}"
    if at > status.machine_until:
        return "warning", f"{said} by this hospital's own grace: fetch a newer one"
    return "ok", said


def in_force(
    status: Status, statement: str, at: dt.datetime, grace: dt.timedelta = NO_GRACE
) -> Found:
    """Whether the certificate with this statement is in force; Refused with the reason if not."""
    standing = status.standing(statement, grace)
    standing.require(at)
    return "ok", (
        f"in force by the facility's status of {status.signed_at:%Y-%m-%d}; look again before "
        f"{standing.use_until:%Y-%m-%d}"
    )


def checked(
    files: Mapping[str, bytes],
    root: x509.Certificate,
    at: dt.datetime,
    remembered: Remembered | None = None,
) -> Status:
    """The status in `files`, everything checked but whether it has ended.

    Raises Tampered, Refused or Invalid with a code of the module's list.
    """
    roots = checked_roots(files, root)
    last = roots[-1].signed
    timestamp = read_part(Timestamp, files, TIMESTAMP, "timestamp")
    check_machine_signed(last, "timestamp", timestamp)
    _check_dates("timestamp", timestamp, at)
    signed_at = timestamp.signed.expires - dt.timedelta(days=DAYS["timestamp"])
    snapshot = named_part(Snapshot, files, "snapshot", timestamp.signed.snapshot_meta)
    check_machine_signed(last, "snapshot", snapshot)
    if set(snapshot.signed.meta) != {"targets.json", f"{DOWNGRADE}.json"}:
        raise malformed("snapshot", "it names other parts than targets and downgrade")
    targets = named_part(Targets, files, "targets", snapshot.signed.meta["targets.json"])
    signers = two_people(last, "targets", targets, root, signed_at)
    downgrade = named_part(Targets, files, DOWNGRADE, snapshot.signed.meta[f"{DOWNGRADE}.json"])
    _check_delegation(targets.signed)
    check_machine_signed(targets.signed, DOWNGRADE, downgrade)
    parts: dict[str, Metadata[Any]] = {
        "root": roots[-1],
        "targets": targets,
        "snapshot": snapshot,
        DOWNGRADE: downgrade,
        "timestamp": timestamp,
    }
    for role in ("root", "targets", "snapshot", DOWNGRADE):
        _check_dates(role, parts[role], at)
    try:
        listed, stops = listed_in(targets.signed), stops_in(downgrade.signed)
    except Invalid as error:
        raise malformed("list of certificates", error.message) from error
    _check_moments(stops, at)
    era = _era(roots)
    seen = {
        role: _seen(part, era if role in _MACHINE else 0)
        for role, part in ({"first-root": roots[0]} | parts).items()
    }
    if remembered is not None:
        _check_remembered(roots, seen, listed, stops, remembered)
    return Status(
        signed_at=signed_at,
        machine_until=min(parts[role].signed.expires for role in set(parts) - set(_PEOPLE)),
        people_until=min(parts[role].signed.expires for role in _PEOPLE),
        listed=listed,
        stops=stops,
        seen=seen,
        signers=tuple(signers),
        stopped_by=_check_delegation(targets.signed),
    )


def checked_roots(files: Mapping[str, bytes], root: x509.Certificate) -> list[Metadata[Root]]:
    """Every root of the status in order, each believed because of the one before it."""
    versions = sorted(_version(name) for name in files if name.endswith(".root.json"))
    if versions != list(range(1, len(versions) + 1)) or not 0 < len(versions) <= MOST_ROOTS:
        raise incomplete("its roots from the first to the last")
    roots = [read_part(Root, files, file_name("root", number), "root") for number in versions]
    _check_endorsement(files, roots[0], root)
    for number, (before, now) in enumerate(zip([roots[0], *roots], roots, strict=False), start=1):
        if now.signed.version != number or not now.signed.consistent_snapshot:
            raise malformed("root", "its version is not that of its name")
        for role in ("root", "targets", "snapshot", "timestamp"):
            check_key_names(now.signed.keys, now.signed.roles[role].keyids)
        for delegator in (before.signed, now.signed):
            two_people(delegator, "root", now, root, None)
    return roots


def _check_endorsement(
    files: Mapping[str, bytes], first: Metadata[Root], root: x509.Certificate
) -> None:
    if ENDORSEMENT not in files:
        raise incomplete(ENDORSEMENT)
    try:
        envelope = json.loads(files[ENDORSEMENT])
        signed_with = signing_keys(envelope)
    except (ValueError, RecursionError, Invalid) as error:
        raise malformed("endorsement", "it is not a DSSE envelope") from error
    if signed_with != {key_id(root)}:
        raise Refused(
            "the status belongs to another root than the one that was pinned here",
            code="status_other_root",
        )
    try:
        payload = check_signature(envelope, ENDORSEMENT_TYPE, root)
    except TouchstoneError as error:
        raise Tampered(
            f"the pinned root did not sign this status: {AGAIN}", code="status_bad_signature"
        ) from error
    if payload != first.signed_bytes:
        raise Tampered(
            f"the pinned root signed another first root than the one in this status: {AGAIN}",
            code="status_bad_signature",
        )


def _check_delegation(targets: Targets) -> tuple[str, ...]:
    delegations = targets.delegations
    roles = None if delegations is None else delegations.roles
    if delegations is None or roles is None or set(roles) != {DOWNGRADE}:
        raise malformed("list of certificates", "it does not say who may stop one, and only that")
    check_key_names(delegations.keys, roles[DOWNGRADE].keyids)
    return tuple(sorted(delegations.keys))


def _check_dates(role: str, part: Metadata[Any], at: dt.datetime) -> None:
    if part.signed.expires > at + dt.timedelta(days=DAYS[role]) + CLOCK_TOLERANCE:
        raise Refused(
            f"the {role} of this status is good until {part.signed.expires:%Y-%m-%d}, more than "
            f"{DAYS[role]} days from now: this machine's clock is behind, or the date is false",
            code="status_dates",
        )


def _check_moments(stops: Mapping[str, Stop], at: dt.datetime) -> None:
    """A stop of the year 9999 could be lifted by nobody, also when the key that made it is gone."""
    latest = moment_of(at + dt.timedelta(days=DAYS["timestamp"]))
    if any(stop.since > latest for stop in stops.values()):
        raise Refused(
            f"a suspension or revocation in this status is of more than {DAYS['timestamp']} days "
            "from now: this machine's clock is behind, or the moment is false",
            code="status_dates",
        )


def _era(roots: list[Metadata[Root]]) -> int:
    """How often the machine's keys were replaced."""
    keys = [
        {role: sorted(of.signed.roles[role].keyids) for role in ("timestamp", "snapshot")}
        for of in roots
    ]
    return sum(now != before for before, now in pairwise(keys))


def _seen(part: Metadata[Any], era: int = 0) -> Seen:
    return Seen(version=part.signed.version, digest=sha256_bytes(part.signed_bytes), era=era)


def _check_remembered(
    roots: list[Metadata[Root]],
    seen: Mapping[str, Seen],
    listed: Mapping[str, Listed],
    stops: Mapping[str, Stop],
    remembered: Remembered,
) -> None:
    for role, before in remembered.seen.items():
        now = seen.get(role)
        if now is not None and now.era > before.era:
            continue
        if now is None or (now.era, now.version) < (before.era, before.version):
            raise Refused(
                f"this status went back: its {role} has version {now.version if now else 'none'}, "
                f"and {before.version} was seen here before; fetch the present one",
                code="status_rolled_back",
            )
        same = roots[before.version - 1] if role == "root" else None
        then = now if same is None else _seen(same)
        if then.version == before.version and then.digest != before.digest:
            raise Tampered(
                f"two statuses with the same version {before.version} of {role} were shown to "
                "this hospital: stop, and tell the facility",
                code="status_forked",
            )
    for statement, since in remembered.stops.items():
        stop, lifts = stops.get(statement), getattr(listed.get(statement), "lifts", None)
        if (stop is None or stop.since < since) and (lifts or "") < since:
            raise Tampered(
                "a suspension or revocation that was seen here is gone from this status, and no "
                "two assessors lifted it: stop, and tell the facility",
                code="status_weakened",
            )


def _version(name: str) -> int:
    text = name.partition(".")[0]
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise malformed("folder", f"{name[:40]!a} is not a name of it")
    return int(text)
