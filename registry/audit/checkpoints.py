"""Checkpoints: signed, written once to the object store, and never against an earlier one.

    >>> note = make_checkpoint(facility)       # of the log as it stands
    >>> keep_up(facility)                      # by the worker, twice a minute; cheap if not due

Rules
-----
1. Before anything is signed, the whole tree is read from the database and held against the last
   checkpoint in the store. A log that was rolled back, forked or rewritten is never signed.
2. The store is believed before the database: whoever rewrites the one can't rewrite the other.
3. A checkpoint is made every ten minutes if the log has grown, with every statement that assessors
   are asked to sign, and after every certificate.
"""

import asyncio
import datetime as dt
import logging
import re

from registry.audit.log_key import log_key
from registry.audit.tree import grow
from registry.facility import Facility
from registry.trust.checkpoint import Checkpoint, parse, sign, verified
from registry.trust.errors import Conflict, Tampered, TouchstoneError
from registry.trust.log_key import LogKey
from registry.trust.merkle import Tree

FOLDER = "log/checkpoints/"
EVERY = dt.timedelta(minutes=10)
LOOK_SECONDS = 30.0
_PATH = re.compile(re.escape(FOLDER) + r"([0-9]{20})\.txt\Z")
log = logging.getLogger("touchstone.log")


def path_of(size: int) -> str:
    """Where the checkpoint of `size` events lies in the store."""
    return f"{FOLDER}{size:020d}.txt"


def stored_sizes(facility: Facility) -> list[int]:
    """The sizes of every checkpoint in the store, rising."""
    found = (_PATH.match(path) for path in facility.store.list(FOLDER))
    return [int(match[1]) for match in found if match]


def latest_note(facility: Facility) -> bytes | None:
    """The last checkpoint in the store, as it was signed; None before the first."""
    sizes = stored_sizes(facility)
    return facility.store.get(path_of(sizes[-1])) if sizes else None


def make_checkpoint(facility: Facility) -> bytes:
    """The note of the log as it stands; Tampered where the log is not what was signed before."""
    key = log_key(facility)
    last = latest_note(facility)
    tree = grow(Tree(), facility.gate)
    if last is not None:
        check_extends(tree, last, key)
    if tree.size == 0:
        raise Conflict("the log is empty: there is nothing to sign yet")
    head = Checkpoint(key.origin, tree.size, tree.root())
    note = sign(head, key.key)
    try:
        facility.store.put(path_of(tree.size), note)
    except Conflict as error:
        raise _broken(f"another checkpoint of {tree.size} events lies in the store") from error
    with facility.gate.transaction() as now:
        now.do("checkpoint_add", size=tree.size, root=head.root, path=path_of(tree.size))
    return note


def check_extends(tree: Tree, last: bytes, key: LogKey) -> None:
    """Raise Tampered unless the log begins with the checkpoint that was signed last."""
    signed = verified(last, key.origin, key.key.public_key())
    if tree.size < signed.size:
        raise _broken(
            f"it has {tree.size} events, and a checkpoint of {signed.size} was signed: the "
            "database was rolled back"
        )
    if tree.root(signed.size) != signed.root:
        raise _broken(f"its first {signed.size} events are not the ones that were signed")


def _broken(reason: str) -> Tampered:
    return Tampered(
        f"the log is not signed any further: {reason}; `touchstone audit verify` says more",
        code="log_broken",
    )


def covering(facility: Facility, seq: int) -> tuple[Checkpoint, bytes]:
    """(checkpoint, note) of the last checkpoint, made now if event `seq` has none over it yet."""
    note = latest_note(facility)
    if note is None or parse(note)[0].size < seq:
        note = make_checkpoint(facility)
    return parse(note)[0], note


def is_due(size: int, signed: int | None, made_at: dt.datetime | None, at: dt.datetime) -> bool:
    """Whether the schedule asks for a checkpoint of a log of `size` events at the time `at`."""
    if size == 0 or size == signed:
        return False
    return made_at is None or at - made_at >= EVERY


def keep_up(facility: Facility, at: dt.datetime | None = None) -> bool:
    """Make a checkpoint if one is due; returns whether. What goes wrong is logged, not raised."""
    try:
        with facility.gate.transaction() as now:
            state = now.one("log_state")
    except TouchstoneError as error:
        log.error("checkpoint: %s", error.message)
        return False
    moment = at or dt.datetime.now(dt.UTC)
    if not is_due(state["size"], state["checkpoint"], state["made_at"], moment):
        return False
    return checkpoint_now(facility)


async def keep_up_for_ever(facility: Facility) -> None:
    """The worker's schedule, beside its other work: a long log delays nobody."""
    while True:
        try:
            await asyncio.to_thread(keep_up, facility)
        except Exception as error:  # noqa: BLE001 - the next look may succeed
            log.error("checkpoint: %s", type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)


def checkpoint_now(facility: Facility) -> bool:
    """Make a checkpoint of what is done and can't be undone; returns whether.

    What goes wrong is logged, not raised: the next one covers the same events.
    """
    try:
        make_checkpoint(facility)
    except TouchstoneError as error:
        log.error("checkpoint: %s", error.message)
        return False
    return True
