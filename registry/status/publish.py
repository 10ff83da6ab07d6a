"""The present status: made from the record and the people's signatures, renewed by itself.

    >>> publish_now(facility)                 # after every suspension, revocation, resumption
    >>> keep_up_for_ever(facility)            # by the worker
    >>> published(facility, "timestamp.json")

Rules
-----
1. What a person signed is only ever put together here. What the machine signs says which parts
   belong together, and which certificates are stopped.
2. Nothing is published that a hospital would refuse: the same check runs first.
3. A new root waits until two of the assessors that it names have signed the list; until then the
   one before it stands.
4. Timestamp and snapshot are renewed daily, the stops at half their 30 days. What assessors signed
   ends after 90 days: from the sixtieth on the worker says so, daily.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root, Targets

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.status.lists import stopped
from registry.status.machine_key import status_key
from registry.trust.errors import NotFound, TouchstoneError, Unavailable
from registry.trust.status import (
    DAYS,
    DOWNGRADE,
    ENDORSEMENT,
    TIMESTAMP,
    Stop,
    file_name,
    key_name,
    listed_in,
    new_downgrade,
    new_snapshot,
    new_timestamp,
    role_of,
    stops_in,
    until,
    version_of,
    with_signature,
)
from serving.bundle.status import checked
from serving.bundle.status_copy import NAME

DAILY = dt.timedelta(days=1)
LOOK_SECONDS = 30.0
SIGN_AGAIN = dt.timedelta(days=30)
"""So long before the assessors' signatures end they are asked for new ones."""
NOT_SET_UP = "status_not_set_up"
log = logging.getLogger("touchstone.status")


@dataclass(frozen=True)
class Part:
    """The newest version of a part."""

    version: int
    content: bytes
    at: dt.datetime
    root_version: int | None = None

    def metadata(self) -> Metadata[Any]:
        """It, parsed."""
        return Metadata.from_bytes(self.content)


@dataclass(frozen=True)
class Kept:
    """All that the record holds of the status."""

    roots: tuple[bytes, ...]
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def newest_root(self) -> Root:
        """The newest root, whether it stands already or waits."""
        signed: Root = Metadata.from_bytes(self.roots[-1]).signed
        return signed

    @property
    def targets(self) -> Targets | None:
        """The list that two assessors signed last."""
        return self.parts["targets"].metadata().signed if "targets" in self.parts else None

    @property
    def stops(self) -> dict[str, Stop]:
        """The stops that are published."""
        return stops_in(self.parts[DOWNGRADE].metadata().signed) if DOWNGRADE in self.parts else {}


def read_kept(now: Transaction) -> Kept:
    """What is in the record; NotFound (status_not_set_up) before a first root was published."""
    roots = tuple(row["content"].encode() for row in now.all("status_roots"))
    if not roots:
        raise NotFound(
            "this facility publishes no status yet: `touchstone status init` makes its root",
            code=NOT_SET_UP,
        )
    parts = {
        row["role"]: Part(row["version"], row["content"].encode(), row["at"], row["root_version"])
        for row in now.all("status_newest")
    }
    return Kept(roots, parts)


def publish(facility: Facility, at: dt.datetime | None = None) -> bool:
    """Bring what is published up to the record; whether anything was new."""
    with facility.gate.transaction() as now:
        now.one("status_lock")
        return renew(now, facility, at or dt.datetime.now(dt.UTC))


def renew(now: Transaction, facility: Facility, at: dt.datetime) -> bool:
    """As `publish`, in a transaction that holds the lock."""
    kept = read_kept(now)
    if "targets" not in kept.parts:
        return False
    targets = kept.targets
    listed = {} if targets is None else listed_in(targets)
    stops = stopped(now.all("status_certificates"), kept.stops, listed)
    standing = kept.parts["timestamp"].root_version if "timestamp" in kept.parts else 1
    assert standing is not None
    if not _is_due(kept, stops, at) and standing == len(kept.roots):
        return False
    made = _made(kept, stops, status_key(facility.settings), at)
    refusal: TouchstoneError | None = None
    for root_version in range(len(kept.roots), standing - 1, -1):
        if root_version == standing and not _is_due(kept, stops, at):
            return False
        roots = {file_name("root", n): data for n, data in enumerate(kept.roots[:root_version], 1)}
        first = {ENDORSEMENT: kept.parts["endorsement"].content}
        try:
            checked({**roots, **first, **made}, facility.root, at)
        except TouchstoneError as error:
            refusal = refusal or error
            continue
        _add(now, kept, made, root_version)
        return True
    assert refusal is not None
    raise Unavailable(
        f"the status can't be renewed, because hospitals would refuse it: {refusal.message}",
        code=refusal.code,
    )


def _is_due(kept: Kept, stops: Mapping[str, Stop], at: dt.datetime) -> bool:
    if "timestamp" not in kept.parts or stops != kept.stops:
        return True
    snapshot = kept.parts["snapshot"].metadata().signed
    return (
        at - kept.parts["timestamp"].at >= DAILY
        or snapshot.meta["targets.json"].version != kept.parts["targets"].version
        or _is_half_over(kept, DOWNGRADE, at)
    )


def _is_half_over(kept: Kept, role: str, at: dt.datetime) -> bool:
    expires: dt.datetime = kept.parts[role].metadata().signed.expires
    return expires - at < dt.timedelta(days=DAYS[role] / 2)


def _made(
    kept: Kept, stops: Mapping[str, Stop], key: ec.EllipticCurvePrivateKey, at: dt.datetime
) -> dict[str, bytes]:
    """The parts of the next status but its roots; what need not change stays the same bytes."""

    def signed(metadata: Metadata[Any]) -> bytes:
        signature = key.sign(metadata.signed_bytes, ec.ECDSA(hashes.SHA256()))
        return with_signature(metadata, key_name(key.public_key()), signature).to_bytes()

    def following(role: str) -> int:
        return kept.parts[role].version + 1 if role in kept.parts else 1

    parts = {file_name("targets", kept.parts["targets"].version): kept.parts["targets"].content}
    ours = kept.targets
    assert ours is not None
    assert ours.delegations is not None
    role = DOWNGRADE
    kept_signature = role in kept.parts and key_name(key.public_key()) in {
        *kept.parts[role].metadata().signatures
    }
    if stops == kept.stops and kept_signature and not _is_half_over(kept, role, at):
        parts[file_name(role, kept.parts[role].version)] = kept.parts[role].content
    else:
        stopping = new_downgrade(following(role), until(role, at), stops)
        parts[file_name(role, following(role))] = signed(stopping)
    snapshot = new_snapshot(following("snapshot"), until("snapshot", at), parts)
    named = file_name("snapshot", following("snapshot"))
    parts[named] = signed(snapshot)
    timestamp = new_timestamp(following("timestamp"), until("timestamp", at), (named, parts[named]))
    return {**parts, TIMESTAMP: signed(timestamp)}


def _add(now: Transaction, kept: Kept, made: Mapping[str, bytes], root_version: int) -> None:
    for name, content in made.items():
        role = "timestamp" if name == TIMESTAMP else role_of(name)
        before = kept.parts[role].version if role in kept.parts else 0
        if name != TIMESTAMP and version_of(name) <= before:
            continue
        now.do(
            "status_add",
            role=role,
            version=before + 1,
            content=content.decode(),
            root_version=root_version if role == "timestamp" else None,
        )


def published(facility: Facility, name: str) -> bytes:
    """One file of the status, as anybody may have it; NotFound where it is none."""
    if not NAME.fullmatch(name):
        raise NotFound(f"{name[:60]!a} is no file of a status")
    with facility.gate.transaction() as now:
        row: Row | None
        if name == TIMESTAMP:
            row = now.maybe("status_present")
        elif name == ENDORSEMENT:
            row = now.maybe("status_one", role="endorsement", version=1)
        else:
            row = now.maybe("status_one", role=role_of(name), version=version_of(name))
    if row is None:
        raise NotFound(f"there is no {name} in this facility's status")
    return bytes(row["content"].encode())


def publish_now(facility: Facility) -> bool:
    """Publish what is done and can't be undone; what goes wrong is logged, and tried again."""
    try:
        return publish(facility)
    except TouchstoneError as error:
        if error.code != NOT_SET_UP:
            log.error("status: %s", error.message)
        return False


def keep_up(facility: Facility, at: dt.datetime | None = None) -> bool:
    """Publish if something is due; say when the assessors' signatures come to their end."""
    moment = at or dt.datetime.now(dt.UTC)
    try:
        done = publish(facility, moment)
        if done:
            with facility.gate.transaction() as now:
                targets = read_kept(now).targets
            if targets is not None and targets.expires - moment < SIGN_AGAIN:
                log.warning("status: two assessors sign it by %s (`touchstone status sign`)",
                            targets.expires.date())  # fmt: skip
    except TouchstoneError as error:
        if error.code != NOT_SET_UP:
            log.error("status: %s", error.message)
        return False
    return done


async def keep_up_for_ever(facility: Facility) -> None:
    """The worker's schedule, beside its other work."""
    while True:
        try:
            await asyncio.to_thread(keep_up, facility)
        except Exception as error:  # noqa: BLE001 - the next look may succeed
            log.error("status: %s", type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)
