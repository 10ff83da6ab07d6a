"""An event of the log, as everybody computes it: its hash in the chain and its leaf in the tree.

    >>> event = parse_event(row)
    >>> event.hash() == stored_hash and event.previous == hash_of_the_event_before
    >>> merkle.leaf_hash(event.leaf())

Rules
-----
1. The leaf is the canonical JSON (RFC 8785) of the eight fields below and nothing else: `at` is
   UTC with six digits of a second, `detail` is text as it was logged, `previous` is in hex.
2. Event `seq` is leaf `seq - 1`: the log begins with 1 and has no gap.
3. The hash is SHA-256 over the previous hash and the other fields in the order of the table, parted
   by U+001F, which no field may hold. It is not part of the leaf: it follows from it.
4. Reading an event is strict: a field too many, or one of another type, and it is refused.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from registry.trust.errors import Invalid

BEFORE_THE_FIRST = "00" * 32
_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_TEXTS = ("actor", "organisation", "kind", "subject", "detail")
_FIELDS = frozenset({"seq", "at", "previous", *_TEXTS})
_MOST = 1 << 53


@dataclass(frozen=True)
class Event:
    """Who did what to what, when; as one row of the log."""

    seq: int
    at: str
    actor: str
    organisation: str
    kind: str
    subject: str
    detail: str
    previous: str

    def leaf(self) -> bytes:
        """The bytes of its leaf."""
        # What RFC 8785 asks of a flat object of ASCII keys, text and one integer, 20 times faster.
        return json.dumps(
            asdict(self), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        ).encode()

    def hash(self) -> str:
        """Its hash in the chain, in hex."""
        fields = (str(self.seq), self.at, self.actor, self.organisation, self.kind, self.subject,
                  self.detail)  # fmt: skip
        text = "\x1f".join(fields).encode()
        return hashlib.sha256(bytes.fromhex(self.previous) + text).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Its fields as plain JSON values."""
        return asdict(self)


def parse_event(value: Any) -> Event:
    """The event in a JSON object of exactly the eight fields; Invalid otherwise."""
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise Invalid(f"an event has exactly the fields {', '.join(sorted(_FIELDS))}")
    seq = value["seq"]
    if type(seq) is not int or not 1 <= seq < _MOST:
        raise Invalid("an event's seq is a number from 1 on")
    for field in _TEXTS:
        if not isinstance(value[field], str) or _CONTROL.search(value[field]):
            raise Invalid(f"event {seq}: {field} is not text without control characters")
    if not isinstance(value["at"], str) or not _AT.match(value["at"]):
        raise Invalid(f"event {seq}: `at` is not a time in UTC with six digits of a second")
    if not isinstance(value["previous"], str) or not _HEX.match(value["previous"]):
        raise Invalid(f"event {seq}: `previous` is not a hash in hex")
    return Event(**value)
