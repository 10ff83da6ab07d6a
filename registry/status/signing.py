"""What people sign of the status on their own side, and what the server makes of it.

    >>> asked = draft(facility, ada, submission)         # the next list
    >>> take_signature(facility, ada, Signature(…))      # the second different one publishes it
    >>> take_roots(facility, sam, Roots(…))              # made and signed offline

Rules
-----
1. The server keeps no signature over a list that is not the record's own: the certificates in force
   and what was lifted, by the record, to the byte.
2. What the caller has just certified or resumed, and another has not yet, may be on it too. So
   both signatures of an assessor are given in one go. It is published once it is in force.
3. An assessor signs in their own name with a key that the newest root of the status names.
4. A root proves itself: its signatures are checked as a hospital checks them, and who hands it in
   does not matter.
"""

import contextlib
import datetime as dt
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import Signature as TufSignature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.status.lists import listed_as, statement_of, wanted
from registry.status.machine_key import status_key
from registry.status.publish import SIGN_AGAIN, Kept, read_kept, renew
from registry.submissions import places
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Conflict, Invalid, Refused, Tampered, Unavailable
from registry.trust.keys import signer_name
from registry.trust.status import (
    DAYS,
    ENDORSEMENT,
    PEOPLE_NEEDED,
    Listed,
    file_name,
    holder_certificate,
    key_name,
    listed_in,
    new_targets,
    until,
)
from serving.bundle.status import checked_roots
from serving.bundle.status_parts import two_people

_SUBJECT = "status"
_YOUNG = dt.timedelta(days=DAYS["targets"] - 10)


class Signature(BaseModel):
    """An assessor's signature over the next list."""

    model_config = ConfigDict(extra="forbid")
    metadata: str = Field(max_length=8 << 20)
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{16,400}$")


class Roots(BaseModel):
    """The roots of the status that the server does not have yet, in order."""

    model_config = ConfigDict(extra="forbid")
    roots: list[str] = Field(min_length=1, max_length=50)
    endorsement: dict[str, Any]


def draft(facility: Facility, caller: Caller, submission: str | None = None) -> dict[str, Any]:
    """The list that two assessors are asked to sign.

    submission: one that the caller has certified or resumed, and another not yet: it is put on the
    list too.
    """
    require(caller, "status.sign")
    at = dt.datetime.now(dt.UTC)
    with facility.gate.transaction(caller) as now:
        kept = read_kept(now)
        machine = status_key(facility.settings).public_key()
        certificates = now.all("status_certificates")
        listed = wanted(certificates, kept.stops)
        entries = dict(listed)
        for digest, name in _vouched_for(now, caller).items():
            if name == submission:
                length = len(facility.store.get(places.statement(name)))
                entries[digest] = listed_as(length, kept.stops.get(digest))
        given = _given(now, kept, entries, machine, at)
    if given:
        metadata: Metadata[Targets] = Metadata.from_bytes(given[0]["metadata"].encode())
    else:
        midnight = at.replace(hour=0, minute=0, second=0)
        metadata = new_targets(_next(kept), until("targets", midnight), entries, machine)
    before = kept.targets
    return {
        "due": entries != listed or _is_due(facility, kept, listed, machine, at),
        "metadata": metadata.to_bytes().decode(),
        "published": None if before is None else kept.parts["targets"].content.decode(),
        "about": {
            statement_of(row)[
                0
            ]: f"{row['organisation']}/{row['model_name']} {row['model_version']}"
            for row in certificates
        },
    }


def take_signature(facility: Facility, caller: Caller, new: Signature) -> dict[str, Any]:
    """Keep an assessor's signature; the second different person's publishes the list."""
    require(caller, "status.sign")
    at = dt.datetime.now(dt.UTC)
    metadata = _parsed(new.metadata)
    with facility.gate.transaction(caller) as now:
        now.one("status_lock")
        kept = read_kept(now)
        machine = status_key(facility.settings).public_key()
        entries, listed = listed_in(metadata.signed), _wanted(now, kept)
        early = entries.keys() - listed.keys()
        if not early <= _vouched_for(now, caller).keys():
            raise _other_list()
        allowed = {**listed, **{digest: listed_as(entries[digest].length, kept.stops.get(digest))
                                for digest in early}}  # fmt: skip
        if not _is_ours(metadata, kept, allowed, machine, at):
            raise _other_list()
        _check_signature(kept.newest_root, metadata, caller, new)
        now.do(
            "status_signature_add",
            version=metadata.signed.version,
            digest=sha256_bytes(metadata.signed_bytes),
            metadata=Metadata(metadata.signed).to_bytes().decode(),
            key_id=f"sha256:{new.key}",
            signature=new.signature,
            person=caller.person,
            organisation=caller.organisation,
        )
        note(now, caller, "status-signed", _SUBJECT, {"version": metadata.signed.version})
        given = _given(now, kept, entries, machine, at)
        people = sorted({row["person"] for row in given})
        published = False
        if len(people) >= PEOPLE_NEEDED and not early:
            for row in given:
                key = row["key_id"].removeprefix("sha256:")
                metadata.signatures[key] = TufSignature(key, row["signature"])
            two_people(kept.newest_root, "targets", metadata, facility.root, at)
            now.do("status_add", role="targets", version=metadata.signed.version,
                   content=metadata.to_bytes().decode(), root_version=None)  # fmt: skip
            renew(now, facility, at)
            note(now, caller, "status-published", _SUBJECT, {"version": metadata.signed.version})
            published = True
    return {"published": published, "version": metadata.signed.version, "signed_by": people,
            "needed": PEOPLE_NEEDED}  # fmt: skip


def take_roots(facility: Facility, caller: Caller, new: Roots) -> dict[str, Any]:
    """Take roots that were made and signed offline; what is here already is passed over."""
    require(caller, "status.publish")
    at = dt.datetime.now(dt.UTC)
    with facility.gate.transaction(caller) as now:
        now.one("status_lock")
        have = [row["content"].encode() for row in now.all("status_roots")]
        given = [text.encode() for text in new.roots]
        if [_signed(data) for data in given[: len(have)]] != [
            _signed(data) for data in have[: len(given)]
        ]:
            raise Conflict("these roots are not those that this facility published before")
        added = given[len(have) :]
        files = {file_name("root", n): data for n, data in enumerate(have + added, 1)}
        endorsement = canonical(new.endorsement)
        checked_roots({**files, ENDORSEMENT: endorsement}, facility.root)
        if not have:
            now.do("status_add", role="endorsement", version=1, content=endorsement.decode(),
                   root_version=None)  # fmt: skip
        for version, data in enumerate(added, len(have) + 1):
            now.do("status_add", role="root", version=version, content=data.decode(),
                   root_version=None)  # fmt: skip
            note(now, caller, "status-root-published", _SUBJECT, {"version": version})
        if added:
            # It may wait for its assessors' list, also where a lost machine key left none to renew.
            with contextlib.suppress(Unavailable):
                renew(now, facility, at)
        kept = read_kept(now)
        present = kept.parts.get("timestamp")
        stands = present is not None and present.root_version == len(kept.roots)
    return {"version": len(kept.roots), "added": len(added), "stands": stands}


def _wanted(now: Transaction, kept: Kept) -> dict[str, Listed]:
    return wanted(now.all("status_certificates"), kept.stops)


def _next(kept: Kept) -> int:
    return kept.parts["targets"].version + 1 if "targets" in kept.parts else 1


def _is_due(
    facility: Facility,
    kept: Kept,
    listed: Mapping[str, Listed],
    machine: ec.EllipticCurvePublicKey,
    at: dt.datetime,
) -> bool:
    """Whether the assessors' list is to be signed anew."""
    signed = kept.targets
    if signed is None or listed_in(signed) != listed or signed.expires - at < SIGN_AGAIN:
        return True
    delegations = signed.delegations
    assert delegations is not None
    return key_name(machine) not in delegations.keys or not _satisfies(facility, kept, at)


def _satisfies(facility: Facility, kept: Kept, at: dt.datetime) -> bool:
    """Whether the list that stands is signed by two whom the newest root names."""
    metadata: Metadata[Targets] = kept.parts["targets"].metadata()
    try:
        two_people(kept.newest_root, "targets", metadata, facility.root, at)
    except (Refused, Tampered):
        return False
    return True


def _given(
    now: Transaction,
    kept: Kept,
    entries: Mapping[str, Listed],
    machine: ec.EllipticCurvePublicKey,
    at: dt.datetime,
) -> list[Row]:
    """The signatures that were given over one list of these entries; the first list's that came."""
    named = set(kept.newest_root.roles["targets"].keyids)
    rows = [
        row
        for row in now.all("status_signatures", version=_next(kept))
        if row["key_id"].removeprefix("sha256:") in named
        and _is_ours(_parsed(row["metadata"]), kept, entries, machine, at)
    ]
    return [row for row in rows if row["digest"] == rows[0]["digest"]]


def _is_ours(
    metadata: Metadata[Targets],
    kept: Kept,
    entries: Mapping[str, Listed],
    machine: ec.EllipticCurvePublicKey,
    at: dt.datetime,
) -> bool:
    """Whether a list is the next one of these entries, to the byte, and young enough."""
    expires = metadata.signed.expires
    ours = new_targets(_next(kept), expires, entries, machine)
    young = at + _YOUNG <= expires <= until("targets", at)
    return young and ours.signed_bytes == metadata.signed_bytes


def _check_signature(
    root: Root, metadata: Metadata[Targets], caller: Caller, new: Signature
) -> None:
    key = root.keys.get(new.key) if new.key in root.roles["targets"].keyids else None
    leaf = None if key is None else holder_certificate(key)
    if key is None or leaf is None:
        raise Refused(
            "the root of the status does not name this key as an assessor's: `touchstone status "
            "rotate` makes one that does",
            code="status_key_unknown",
        )
    if signer_name(leaf) != (caller.person, caller.organisation):
        raise Refused("the signing key belongs to another person")
    try:
        key.verify_signature(TufSignature(new.key, new.signature), metadata.signed_bytes)
    except SecureSystemsError as error:
        raise Tampered("the signature does not fit this list", code="bad_signature") from error


def _vouched_for(now: Transaction, caller: Caller) -> dict[str, str]:
    """{statement: submission} that the caller has certified or resumed, and another not yet."""
    rows = now.all("status_vouched_for", person=caller.person, organisation=caller.organisation)
    return {row["statement_digest"]: str(row["id"]) for row in rows}


def _signed(data: bytes) -> bytes:
    return _metadata(data).signed_bytes


def _metadata(data: bytes) -> Metadata[Any]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        metadata.signed_bytes  # noqa: B018 - what has no canonical form is found here
    except (DeserializationError, RepositoryError, ValueError, RecursionError) as error:
        raise Invalid("this is not TUF metadata") from error
    return metadata


def _parsed(text: str) -> Metadata[Targets]:
    metadata = _metadata(text.encode())
    if not isinstance(metadata.signed, Targets):
        raise Invalid("this is not a list of certificates in force")
    return metadata


def _other_list() -> Conflict:
    return Conflict(
        "the record has changed since this list was made, or it is another: ask for the list "
        "again and sign that one (`touchstone status sign`)",
        code="status_list_changed",
    )
