"""That the log took a certificate in: the file `log.json` that goes with its bundle.

    >>> data = certificate_proof(facility, row)         # of touchstone.certificate

Rules
-----
1. It proves the event by which the model was certified, which names the signed statement, under
   the first checkpoint over it; and that this log is the one whose state the statement quotes,
   continued.
2. It is made once for a checkpoint and kept, so that a download that broke off finds the same
   bytes. Where witnesses co-signed later, `witnessed` keeps what they added, and the next pull has
   it.
3. It is checked before it is handed out, as the hospital will.
"""

import datetime as dt
from typing import Any

from registry.audit.checkpoints import make_checkpoint, path_of, stored_sizes
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.database.record import Row
from registry.facility import Facility
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import parse_statement
from registry.trust.checkpoint import parse, parse_witness_key, verified, with_line, witnessed_at
from registry.trust.dsse import payload_of
from registry.trust.errors import Tampered
from registry.trust.event import Event, parse_event
from registry.trust.log_proof import check_proof, proof_bytes


def certificate_proof(facility: Facility, row: Row) -> bytes:
    """The bytes of log.json; Tampered where the log does not hold the certificate in `row`."""
    event = _event(facility, str(row["submission"]))
    size = next((size for size in stored_sizes(facility) if size >= event.seq), None)
    if size is None:
        size = parse(make_checkpoint(facility))[0].size
    note = _note(facility, size)
    place = places.log_proof(str(row["submission"]), sha256_bytes(note))
    if facility.store.exists(place):
        return facility.store.get(place)
    data = _made(facility, row["envelope"], event, size, note)
    facility.store.put(place, data)
    return data


def witnessed(facility: Facility, size: int, line: bytes, witness: str) -> bytes:
    """Keep what a witness added to the checkpoint of `size` events; returns the note with it.

    line: the cosignature line; witness: the witness's verifier key, by which it is checked.
    """
    name, public = parse_witness_key(witness)
    note = with_line(_note(facility, size), line)
    witnessed_at(note, name, public)
    facility.store.put(_witnessed_at(size, len(parse(note)[1])), note)
    return note


def _witnessed_at(size: int, lines: int) -> str:
    return f"log/witnessed/{size:020d}/{lines:03d}.txt"


def _note(facility: Facility, size: int) -> bytes:
    """The checkpoint of `size` events, with the most cosignatures that are kept."""
    kept = sorted(facility.store.list(f"log/witnessed/{size:020d}/"))
    return facility.store.get(kept[-1] if kept else path_of(size))


def _event(facility: Facility, submission: str) -> Event:
    with facility.gate.transaction() as now:
        row = now.maybe("certificate_event", submission=submission)
    if row is None:
        raise Tampered(
            "the log has no event of this certificate: it can't be proven to a hospital; "
            "`touchstone audit verify` says more",
            code="log_broken",
        )
    return parse_event({key: value for key, value in row.items() if key != "hash"})


def _made(facility: Facility, envelope: Any, event: Event, size: int, note: bytes) -> bytes:
    key = log_key(facility)
    signed = verified(note, key.origin, key.key.public_key())
    _, predicate = parse_statement(payload_of(envelope))
    quoted = parse(predicate.log.checkpoint.encode())[0]
    tree = KnownTree(facility.gate).at(size, signed.root)
    data = proof_bytes(
        [(event, tree.inclusion_path(event.seq - 1, size))],
        note,
        key.certificate,
        tree.consistency_path(quoted.size, size),
    )
    if not check_proof(data, facility.root, dt.datetime.now(dt.UTC)).extends(quoted):
        raise Tampered("the log is not the one whose state the certificate quotes",
                       code="log_broken")  # fmt: skip
    return data
