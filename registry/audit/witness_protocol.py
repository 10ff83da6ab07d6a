"""What is said to a witness and what it answers, in the words of C2SP tlog-witness.

    >>> body = request_body(old=7, path=path, note=note)          # POST …/add-checkpoint
    >>> line, seen_at = cosignature_in(answer, note, witness, made_at, now)

Rules
-----
1. A witness's line is taken where its key fits, its signature is over this very checkpoint, and its
   time can be true: not after now, not before the checkpoint was made, clocks forgiven.
2. Lines of keys that the facility did not choose are passed over. Nothing else of an answer is
   believed, or shown to anybody.

Pure: no network and no clock. The specification is https://c2sp.org/tlog-witness.
"""

import base64
import datetime as dt
import re
from collections.abc import Sequence
from typing import Final

from registry.audit.witnesses import Witness
from registry.trust.checkpoint import WITNESS, key_id, parse, with_line, witnessed_at
from registry.trust.errors import Invalid, Refused

CALL: Final = "/add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
LARGEST_ANSWER: Final = 32 * 1024
CLOCK_SLACK: Final = dt.timedelta(minutes=5)
"""The hospital forgives ten: what is taken here it takes too."""
_MOST_HASHES = 63
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n\Z")


def request_body(old: int, path: Sequence[bytes], note: bytes) -> bytes:
    """What is posted: the size that the witness saw last, the proof from there, the checkpoint."""
    if len(path) > _MOST_HASHES:
        raise Invalid(f"a proof of {len(path)} hashes is longer than a witness takes")
    proof = b"".join(base64.b64encode(step) + b"\n" for step in path)
    return b"old %d\n" % old + proof + b"\n" + note


def size_in(content_type: str, body: bytes) -> int | None:
    """The size that a witness saw last, from its answer 409; None where it does not say."""
    found = _SIZE.match(body)
    if content_type.partition(";")[0].strip().lower() != SIZE_TYPE or found is None:
        return None
    return int(found[1])


def cosignature_in(
    answer: bytes,
    note: bytes,
    witness: Witness,
    made_at: dt.datetime | None,
    now: dt.datetime,
) -> tuple[bytes, dt.datetime]:
    """(line, when it saw the checkpoint) of `witness` in its answer to the checkpoint `note`.

    note: as the log signed it. made_at: when that was, if known. Raises Invalid for what is no
    answer, Refused (not_witnessed, witness_clock), Tampered (checkpoint_forged).
    """
    head, own = parse(note)
    if len(answer) > LARGEST_ANSWER:
        raise Invalid(f"the answer is longer than {LARGEST_ANSWER} bytes")
    expected = (witness.name, key_id(witness.name, witness.key, WITNESS))
    try:
        _, lines = parse(note + answer)
    except Invalid as error:
        raise Invalid("the answer is not made of signature lines", code="not_an_answer") from error
    for line in lines[len(own) :]:
        if (line.name, line.key_id) != expected:
            continue
        seen_at = witnessed_at(with_line(note, line.text()), witness.name, witness.key)
        _check_time(seen_at, made_at, now, witness.name)
        return line.text(), seen_at
    raise Refused(
        f"there is no line of {witness.name} by its configured key on this checkpoint of "
        f"{head.size} events",
        code="not_witnessed",
    )


def _check_time(
    seen_at: dt.datetime, made_at: dt.datetime | None, now: dt.datetime, name: str
) -> None:
    if seen_at > now + CLOCK_SLACK:
        what = "which is in the future"
    elif made_at is not None and seen_at < made_at - CLOCK_SLACK:
        what = "when this checkpoint was not made yet"
    else:
        return
    raise Refused(
        f"{name} says that it saw this checkpoint on {seen_at:%Y-%m-%d %H:%M:%S} UTC, {what}: "
        "compare its clock with this machine's",
        code="witness_clock",
    )
