"""That the log took a certificate in: the file `log.json` that goes with its bundle.

    >>> data = certificate_proof(facility, row)         # of touchstone.certificate

Rules
-----
1. It proves the event by which the model was certified, which names the signed statement, under
   a checkpoint over it, the first where nobody co-signs; and that this log is the one whose state
   the statement quotes, continued.
2. Where witnesses co-signed states over the event, it is proven under the one that most of them
   co-signed within a day of the first: a log that was signed twice between two looks of a witness
   has a state that they never saw. Not under a later one, which would date the certificate anew.
3. It is made once for a checkpoint with its lines and kept, so that a download that broke off finds
   the same bytes. Where witnesses co-signed later, the next pull has it.
4. It is checked before it is handed out, as the hospital will.
"""

import datetime as dt
from typing import Any

from registry.audit.checkpoints import make_checkpoint, path_of, stored_sizes
from registry.audit.cosignatures import with_cosignatures
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.database.record import Row
from registry.facility import Facility
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import parse_statement
from registry.trust.checkpoint import parse, verified
from registry.trust.dsse import payload_of
from registry.trust.errors import Tampered
from registry.trust.event import Event, parse_event
from registry.trust.log_proof import check_proof, proof_bytes

SOON = dt.timedelta(days=1)


def certificate_proof(facility: Facility, row: Row) -> bytes:
    """The bytes of log.json; Tampered where the log does not hold the certificate in `row`."""
    event = _event(facility, str(row["submission"]))
    size = _size(facility, event)
    note = with_cosignatures(facility, facility.store.get(path_of(size)))
    place = places.log_proof(str(row["submission"]), sha256_bytes(note))
    if facility.store.exists(place):
        return facility.store.get(place)
    data = _made(facility, row["envelope"], event, size, note)
    facility.store.put(place, data)
    return data


def _size(facility: Facility, event: Event) -> int:
    """The size of the checkpoint under which the event is proven: rule 2."""
    with facility.gate.transaction() as now:
        rows = now.all("cosigned_from", size=event.seq)
    if rows:
        soon = min(row["seen_at"] for row in rows) + SOON
        at_once = [row for row in rows if row["seen_at"] <= soon]
        return int(max(at_once, key=lambda row: (row["witnesses"], -row["size"]))["size"])
    size = next((size for size in stored_sizes(facility) if size >= event.seq), None)
    return parse(make_checkpoint(facility))[0].size if size is None else size


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
