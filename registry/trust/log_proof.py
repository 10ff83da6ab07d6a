"""A proof that events are in the log, in one file that a stranger checks with root.pem alone.

    >>> data = proof_bytes([(event, tree.inclusion_path(event.seq - 1, size))], note, certificate)
    >>> proven = check_proof(data, root, at=now)
    >>> [event.kind for event in proven.events], proven.checkpoint.size

Rules
-----
1. Nothing in the file is believed that does not follow from the root: the root names the log's key,
   the key signed the checkpoint, the checkpoint's root includes every event, to the byte.
2. An event that the proof does not reach makes the whole proof worthless.
3. The proof says that the events were logged, in that order and not since changed. That nobody is
   shown another log is what witnesses are for: their lines stand in the checkpoint.
4. It may prove in addition that the log extends an earlier state of itself (`since`).
5. There is one spelling of a proof: a bit that means nothing may not be another.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from registry.trust import merkle
from registry.trust.canonical import canonical, parse_canonical
from registry.trust.checkpoint import Checkpoint
from registry.trust.errors import Invalid, Tampered
from registry.trust.event import Event, parse_event
from registry.trust.keys import parse_certificate, pem_of
from registry.trust.log_key import verified_checkpoint

PROOF_TYPE = "urn:touchstone:log-proof:v1"
LONGEST = 16 * 1024 * 1024
_FIELDS = {"type", "checkpoint", "certificate", "entries"}
_HASH_BYTES = 32


@dataclass(frozen=True)
class Proven:
    """What a proof showed."""

    checkpoint: Checkpoint
    note: bytes
    events: tuple[Event, ...]
    since: tuple[bytes, ...] | None = None
    """The path that proves it to extend an earlier state, unchecked: the state is the caller's."""

    def extends(self, earlier: Checkpoint) -> bool:
        """Whether the file proves that the log is `earlier`, continued."""
        now = self.checkpoint
        return earlier.origin == now.origin and merkle.extends(
            earlier.size, earlier.root, now.size, now.root, self.since or ()
        )


def proof_bytes(
    entries: Sequence[tuple[Event, Sequence[bytes]]],
    note: bytes,
    certificate: x509.Certificate,
    since: Sequence[bytes] | None = None,
) -> bytes:
    """The file: canonical JSON. `entries` are events with their inclusion paths, `since` the
    consistency path from an earlier state."""
    return canonical(
        {
            "type": PROOF_TYPE,
            "checkpoint": note.decode(),
            "certificate": pem_of(certificate).decode(),
            "entries": [
                {"event": event.as_json(), "path": _in_base64(path)} for event, path in entries
            ],
            **({} if since is None else {"since": _in_base64(since)}),
        }
    )


def check_proof(data: bytes, root: x509.Certificate, at: dt.datetime) -> Proven:
    """What the file proves under the facility's `root`.

    Raises Invalid for a malformed file, Refused for a log that `root` does not know, Tampered for a
    signature that does not fit or an event that is not in the log.
    """
    if len(data) > LONGEST:
        raise Invalid(f"a proof is at most {LONGEST} bytes long")
    try:
        value = parse_canonical(data)
    except (ValueError, RecursionError) as error:
        raise Invalid("this is not a proof: it is not canonical JSON") from error
    if (
        not isinstance(value, dict)
        or set(value) - {"since"} != _FIELDS
        or value["type"] != PROOF_TYPE
    ):
        raise Invalid(f"this is not a proof of the log ({PROOF_TYPE})")
    if not all(isinstance(value[field], str) for field in ("checkpoint", "certificate")):
        raise Invalid("the proof's checkpoint and certificate are not text")
    note = value["checkpoint"].encode()
    certificate = parse_certificate(value["certificate"].encode())
    if pem_of(certificate) != value["certificate"].encode():
        raise Invalid("the proof's certificate is not plain PEM")
    checkpoint = verified_checkpoint(note, certificate, root, at)
    entries = value["entries"]
    if not isinstance(entries, list) or not entries:
        raise Invalid("the proof names no event")
    events = tuple(_included(entry, checkpoint) for entry in entries)
    since = _hashes(value["since"], "`since`") if "since" in value else None
    return Proven(checkpoint, note, events, since)


def _included(entry: Any, checkpoint: Checkpoint) -> Event:
    if not isinstance(entry, dict) or set(entry) != {"event", "path"}:
        raise Invalid("an entry of the proof is an event and a path")
    event = parse_event(entry["event"])
    path = _hashes(entry["path"], f"the path of event {event.seq}")
    if not merkle.includes(event.leaf(), event.seq - 1, checkpoint.size, path, checkpoint.root):
        raise Tampered(
            f"event {event.seq} is not in the log of {checkpoint.size} events that was signed",
            code="not_in_the_log",
        )
    return event


def _in_base64(path: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(step).decode() for step in path]


def _hashes(steps: Any, what: str) -> tuple[bytes, ...]:
    try:
        path = tuple(base64.b64decode(step, validate=True) for step in steps)
    except (ValueError, TypeError, binascii.Error) as error:
        raise Invalid(f"{what} is not a list of base64 hashes") from error
    if _in_base64(path) != list(steps) or any(len(step) != _HASH_BYTES for step in path):
        raise Invalid(f"{what} is not a list of hashes in their one spelling")
    return path
