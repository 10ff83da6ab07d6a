"""What a caller may read of the log, and the proofs that they may take away.

    >>> page = events(facility, caller, after=0, limit=1000)
    >>> data = prove(facility, trees, caller, submission)         # a file for `audit check`

Rules
-----
1. An auditor reads every event; others those of their own organisation. The database says so too.
2. A proof is checked before it is handed out: what would not convince a stranger is an error here.
"""

import datetime as dt
import uuid
from typing import Any

from registry.audit.checkpoints import covering, path_of, stored_sizes
from registry.audit.cosignatures import with_cosignatures
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import reach, require
from registry.trust.checkpoint import verified, verifier_key
from registry.trust.errors import Invalid, NotFound
from registry.trust.event import parse_event
from registry.trust.keys import pem_of
from registry.trust.log_proof import check_proof, proof_bytes

LARGEST_PAGE = 5000


def events(facility: Facility, caller: Caller, after: int, limit: int) -> list[Row]:
    """The next events after `after` that the caller may read, each with its hash."""
    require(caller, "audit.read")
    with facility.record.transaction(caller) as now:
        return now.all(
            "log_events",
            after=after,
            organisation=_own(caller),
            limit=limit,
        )


def checkpoints(facility: Facility, caller: Caller, after: int, limit: int) -> list[dict[str, Any]]:
    """The stored checkpoints beyond `after` events, as they lie in the object store."""
    require(caller, "audit.read")
    sizes = [size for size in stored_sizes(facility) if size > after]
    return [
        {"size": size, "note": facility.store.get(path_of(size)).decode(errors="replace")}
        for size in sizes[:limit]
    ]


def index(facility: Facility, caller: Caller, after: int, limit: int) -> list[Row]:
    """The database's own list of checkpoints, to be held against the store's."""
    require(caller, "audit.read")
    with facility.record.transaction(caller) as now:
        return now.all("checkpoints_indexed", after=after, limit=limit)


def log_of(facility: Facility, caller: Caller) -> dict[str, Any]:
    """Which log this is: its origin, its certificate, and its key as witnesses are told it.

    `reach` says whether the caller reads all of it or their own organisation's events.
    """
    require(caller, "audit.read")
    key = log_key(facility)
    return {
        "origin": key.origin,
        "certificate": pem_of(key.certificate).decode(),
        "verifier_key": verifier_key(key.origin, key.key.public_key()),
        "reach": reach(caller, "audit.read"),
    }


def prove(facility: Facility, trees: KnownTree, caller: Caller, name: str) -> bytes:
    """The proof of one event (by its number) or of a submission's events (by its id)."""
    require(caller, "audit.read")
    seq, subject = _named(name)
    with facility.record.transaction(caller) as now:
        rows = now.all("log_events_about", seq=seq, subject=subject, organisation=_own(caller))
    if not rows:
        raise NotFound(f"there is no event about {name[:40]!r} that you may see")
    found = [parse_event({k: v for k, v in row.items() if k != "hash"}) for row in rows]
    checkpoint, signed = covering(facility, found[-1].seq)
    tree = trees.at(checkpoint.size, checkpoint.root)
    key = log_key(facility)
    data = proof_bytes(
        [(event, tree.inclusion_path(event.seq - 1, checkpoint.size)) for event in found],
        with_cosignatures(facility, signed),
        key.certificate,
    )
    check_proof(data, facility.root, dt.datetime.now(dt.UTC))
    return data


def consistency(
    facility: Facility, trees: KnownTree, caller: Caller, first: int, second: int
) -> list[bytes]:
    """The proof that the log of `second` events, whose checkpoint is stored, extends `first`."""
    require(caller, "audit.read")
    if not 0 <= first <= second:
        raise Invalid(f"a log of {second} events does not extend one of {first}")
    key = log_key(facility)
    signed = verified(facility.store.get(path_of(second)), key.origin, key.key.public_key())
    return trees.at(second, signed.root).consistency_path(first, second)


def _own(caller: Caller) -> str | None:
    return caller.organisation if reach(caller, "audit.read") == "own" else None


def _named(name: str) -> tuple[int | None, str | None]:
    """(event number, None) or (None, subject): what a caller's ID means."""
    if name.isascii() and name.isdigit() and len(name) < 16:
        return int(name), None
    try:
        return None, str(uuid.UUID(name))
    except ValueError:
        raise Invalid(f"{name[:40]!r} is neither an event's number nor a submission's id") from None
