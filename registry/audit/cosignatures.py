"""The co-signatures that are kept, and the checkpoints that carry them.

    >>> take(facility, witness, note, answer)            # checked; twice is once
    >>> note = with_cosignatures(facility, note)         # for whoever is shown the checkpoint

Rules
-----
1. Only a witness that the facility chose has its lines kept, one for a checkpoint: the first.
2. A kept line is checked again each time that it is handed out, by the key it was taken with. What
   no longer holds is left out: a line too few is noticed by whoever asks for it.
3. The checkpoint in the object store stays as the log signed it.
"""

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any

from registry.audit.checkpoints import latest_note, path_of
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.audit.witness_protocol import cosignature_in, request_body
from registry.audit.witnesses import Witness, configured
from registry.database.record import Row
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.trust.checkpoint import (
    parse,
    parse_witness_key,
    verified,
    verifier_key,
    with_line,
    witnessed_at,
)
from registry.trust.errors import Invalid, NotFound, TouchstoneError

log = logging.getLogger("touchstone.log")


def take(facility: Facility, witness: Witness, note: bytes, answer: bytes) -> dt.datetime:
    """Keep the line of `witness` in its answer to the checkpoint `note`; returns its time.

    Raises what `cosignature_in` does. A line that is kept already is not taken again.
    """
    size = parse(note)[0].size
    with facility.gate.transaction() as now:
        made = now.maybe("checkpoint_made", size=size)
    line, seen_at = cosignature_in(
        answer, note, witness, made["made_at"] if made else None, dt.datetime.now(dt.UTC)
    )
    with facility.gate.transaction() as now:
        now.do(
            "cosignature_add",
            size=size,
            witness=witness.verifier_key,
            line=line.decode(),
            seen_at=seen_at,
        )
        now.do("witness_answered", witness=witness.verifier_key, trouble=None)
    return seen_at


def note_trouble(facility: Facility, witness: Witness, trouble: str) -> None:
    """Remember why `witness` did not co-sign, for the list."""
    with facility.gate.transaction() as now:
        now.do("witness_answered", witness=witness.verifier_key, trouble=trouble[:500])


def with_cosignatures(facility: Facility, note: bytes) -> bytes:
    """The checkpoint, as the log signed it, with every kept line that holds."""
    with facility.gate.transaction() as now:
        rows = now.all("cosignatures", size=parse(note)[0].size)
    for row in rows:
        try:
            longer = with_line(note, row["line"].encode())
            witnessed_at(longer, *parse_witness_key(row["witness"]))
        except TouchstoneError as error:
            log.error("a kept co-signature of %s: %s", row["witness"][:80], error.message)
            continue
        note = longer
    return note


def seen_by(note: bytes, witnesses: Sequence[Witness]) -> list[str]:
    """The names of those witnesses that co-signed the checkpoint."""
    names = []
    for witness in witnesses:
        try:
            witnessed_at(note, witness.name, witness.key)
        except TouchstoneError:
            continue
        names.append(witness.name)
    return names


def last_seen(facility: Facility) -> dict[str, Row]:
    """By verifier key: the largest size that each witness co-signed here, and when."""
    with facility.gate.transaction() as now:
        return {row["witness"]: row for row in now.all("cosigned_last")}


def in_trouble(facility: Facility) -> set[str]:
    """The verifier keys of those whose last answer was no co-signature."""
    with facility.gate.transaction() as now:
        rows = now.all("witness_answers")
    return {row["witness"] for row in rows if row["trouble"] is not None}


def listing(facility: Facility, caller: Caller) -> dict[str, Any]:
    """The facility's witnesses, what each co-signed last, and what the last question came to.

    `verifier_key` is the log's own, which a witness is told.
    """
    require(caller, "witness.read")
    chosen = configured(facility)
    note = latest_note(facility)
    size = parse(note)[0].size if note else 0
    seen = last_seen(facility)
    with facility.gate.transaction() as now:
        answers = {row["witness"]: row for row in now.all("witness_answers")}
    rows = []
    for witness in chosen.all:
        last: Row = seen.get(witness.verifier_key, {})
        answer: Row = answers.get(witness.verifier_key, {})
        rows.append({
            "name": witness.name,
            "key": witness.verifier_key,
            "url": witness.url,
            "size": last.get("size"),
            "seen_at": last.get("seen_at"),
            "behind": size - last.get("size", 0),
            "answered_at": answer.get("at"),
            "trouble": answer.get("trouble"),
        })  # fmt: skip
    key = log_key(facility)
    return {
        "origin": key.origin,
        "verifier_key": verifier_key(key.origin, key.key.public_key()),
        "needed": chosen.needed,
        "size": size,
        "witnesses": rows,
    }


def request_for(
    facility: Facility, trees: KnownTree, caller: Caller, name: str, old: int | None
) -> bytes:
    """What the witness is to be given: the newest checkpoint, and the proof that it extends `old`.

    old: what the witness saw last; where left out, what it co-signed last for this facility.
    """
    require(caller, "witness.read")
    witness = configured(facility).named(name)
    note = latest_note(facility)
    if note is None:
        raise NotFound("the log has no checkpoint yet")
    key = log_key(facility)
    head = verified(note, key.origin, key.key.public_key())
    if old is None:
        old = last_seen(facility).get(witness.verifier_key, {}).get("size", 0)
    if old > head.size:
        raise Invalid(
            f"{name} is said to have seen {old} events and the newest checkpoint is of {head.size}"
        )
    path = trees.at(head.size, head.root).consistency_path(old, head.size)
    return request_body(old, path, note)


def hand_in(
    facility: Facility, caller: Caller, name: str, size: int, answer: bytes
) -> dict[str, Any]:
    """Take what a witness answered to the checkpoint of `size` events, from a file."""
    require(caller, "witness.answer")
    witness = configured(facility).named(name)
    try:
        note = facility.store.get(path_of(size))
    except NotFound as error:
        raise NotFound(f"there is no checkpoint of {size} events") from error
    seen_at = take(facility, witness, note, answer)
    return {"witness": name, "size": size, "seen_at": seen_at.isoformat()}
