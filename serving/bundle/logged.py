"""Whether the facility's log took this certificate in, when, and that no other log is shown.

Rules
-----
1. `log.json` proves one event, `certificate-issued`, and that event names the signed statement.
2. The time of signing is when the witnesses that the hospital asks for had seen it; where it asks
   for none, what the log says. No clock of this machine and no date in the certificate counts.
3. The log only grows. Its state in the certificate, that of the proof, the last one seen by this
   hospital and the published one must be states of one log: each extends the one before it, by
   proof. What can't be proven is refused (log_unproven), what is disproven is told (log_forked).
"""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registry.trust.checkpoint import Checkpoint, verified, witnessed_at
from registry.trust.errors import Invalid, Refused, Tampered, TouchstoneError, Unavailable
from registry.trust.event import Event
from registry.trust.log_proof import Proven, check_proof
from registry.trust.merkle import Proofs, extends
from registry.trust.tiles import TiledTree, read_checkpoint
from serving.bundle.files import read_small
from serving.bundle.layout import LOG
from serving.bundle.policy import Policy

KIND = "certificate-issued"
CLOCK_SLACK = dt.timedelta(minutes=10)


@dataclass(frozen=True)
class Logged:
    """What log.json proves: the event, when it was there, and who saw it."""

    proven: Proven
    event: Event
    at: dt.datetime
    witnesses: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Where and when, for people."""
        seen = f", seen by {' and '.join(self.witnesses)}" if self.witnesses else ""
        return (
            f"event {self.event.seq} of {self.proven.checkpoint.size} in the log "
            f"{self.proven.checkpoint.origin}, {self.at:%Y-%m-%d %H:%M} UTC{seen}"
        )


@dataclass(frozen=True)
class State:
    """A signed state of the log, where it comes from, and the note."""

    what: str
    checkpoint: Checkpoint
    note: bytes


def read_logged(
    directory: Path, statement: str, root: x509.Certificate, policy: Policy, at: dt.datetime
) -> Logged:
    """What the bundle's log.json proves of the signed `statement`, under the pinned root.

    Raises Tampered (log_malformed, not_in_the_log, ...), Refused (not_witnessed, other_root,
    clock_behind).
    """
    data = read_small(directory, LOG)
    try:
        proven = check_proof(data, root, at)
        logged_at = _read_time(proven.events[0].at)
    except (ValueError, OverflowError, UnsupportedAlgorithm) as error:
        raise _malformed("a part of it does not parse") from error
    except Invalid as error:
        raise _malformed(error.message) from error
    event = proven.events[0]
    if len(proven.events) != 1 or event.kind != KIND or _named(event) != statement:
        raise Tampered(
            f"{LOG} proves another event than the one by which this certificate was issued",
            code="not_in_the_log",
        )
    logged = Logged(proven, event, *_time(proven, logged_at, policy))
    if at < logged.at - CLOCK_SLACK:
        raise Refused(
            f"the certificate was logged on {logged.at:%Y-%m-%d %H:%M} UTC and this machine's "
            f"clock says {at:%Y-%m-%d %H:%M}: set the clock",
            code="clock_behind",
        )
    return logged


def _named(event: Event) -> str | None:
    try:
        detail = json.loads(event.detail)
    except (ValueError, RecursionError):
        return None
    named = detail.get("statement") if isinstance(detail, dict) else None
    return named if isinstance(named, str) else None


def _read_time(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.UTC)


def _malformed(reason: str) -> Tampered:
    return Tampered(f"{LOG} is damaged: {reason}; pull the bundle again", code="log_malformed")


def _time(
    proven: Proven, logged: dt.datetime, policy: Policy
) -> tuple[dt.datetime, tuple[str, ...]]:
    """When the last of the needed witnesses had seen it, and who has; else what the log says."""
    seen: list[tuple[dt.datetime, str]] = []
    for witness in policy.witnesses:
        try:
            seen.append((witnessed_at(proven.note, witness.name, witness.key), witness.name))
        except Refused:
            continue
    if len(seen) < policy.witnesses_needed:
        raise Refused(
            f"{len(seen)} of the {policy.witnesses_needed} witnesses that are asked for have seen "
            "the log with this certificate: pull it again later, or ask the facility",
            code="not_witnessed",
        )
    seen.sort()
    if not policy.witnesses_needed:
        return logged, tuple(name for _, name in seen)
    return seen[policy.witnesses_needed - 1][0], tuple(name for _, name in seen)


def check_history(
    logged: Logged, quoted: Checkpoint, policy: Policy, key: Ed25519PublicKey
) -> tuple[str, State]:
    """(sentence, newest state) where all states that are known are of one log that only grew.

    quoted: the state in the signed certificate. Raises Tampered (log_forked), Unavailable
    (log_unproven), Refused (other_log).
    """
    proven = logged.proven
    if not proven.extends(quoted):
        raise _forked("the certificate", "the proof beside it")
    states = [State("the proof beside the certificate", proven.checkpoint, proven.note)]
    published = read_checkpoint(policy.tiles) if policy.tiles else None
    for what, note in (
        ("the last one seen here", policy.last_checkpoint),
        ("the published one", published),
    ):
        if note is not None:
            states.append(State(what, _signed(note, what, proven.checkpoint.origin, key), note))
    states.sort(key=lambda state: state.checkpoint.size)
    _check_grew(states, policy.tiles)
    too = " and what was seen here before" if policy.last_checkpoint else ""
    return f"{logged.sentence}; it continues what the assessors saw{too}", states[-1]


def _signed(note: bytes, what: str, origin: str, key: Ed25519PublicKey) -> Checkpoint:
    try:
        return verified(note, origin, key)
    except Invalid as error:
        raise Tampered(f"{what} is no state of a log: {error.message}",
                       code="log_malformed") from error  # fmt: skip
    except TouchstoneError as error:
        if error.code != "other_log":
            raise
        raise Refused(
            f"{error.message} ({what}): the facility began another log; ask why before you go on",
            code="other_log",
        ) from error


def _check_grew(states: Sequence[State], tiles: Path | None) -> None:
    newest = states[-1].checkpoint.size
    tree: Proofs | None = TiledTree(tiles, newest) if tiles else None
    for before, after in pairwise(states):
        first, second = before.checkpoint, after.checkpoint
        if first.size == second.size:
            holds = first.root == second.root
        elif tree is None:
            raise Unavailable(
                f"{after.what} is of {second.size} events, {before.what} of {first.size}, and the "
                "log's tree that proves them one log is not here: fetch the facility's status",
                code="log_unproven",
            )
        else:
            path = tree.consistency_path(first.size, second.size)
            holds = extends(first.size, first.root, second.size, second.root, path)
        if not holds:
            raise _forked(before.what, after.what)


def _forked(first: str, second: str) -> Tampered:
    return Tampered(
        f"the facility's log was rewritten or shows two faces: {first} and {second} are not states "
        "of one log. Don't use the model, keep both files, and tell an auditor",
        code="log_forked",
    )
