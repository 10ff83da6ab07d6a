"""The state of the log that a certificate quotes, with what witnesses co-signed of it.

    >>> log = certified_log(facility, last_event)       # not_witnessed: come again

Rules
-----
1. The witnesses are asked now, and not waited for beyond their deadline. Who did not co-sign when
   asked last is left to the worker's schedule: a draft that comes again costs no more waiting.
2. Where the facility needs so many of them, a draft waits until so many have co-signed one state
   that covers it; which one is left open, so that a witness asked by files can take its time.
3. What is missing is said by name.
"""

import asyncio

from registry.audit.asking import ask
from registry.audit.checkpoints import make_checkpoint, path_of
from registry.audit.cosignatures import seen_by, with_cosignatures
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.audit.witnesses import Witnesses, configured
from registry.facility import Facility
from registry.trust.certificate import CertifiedLog
from registry.trust.errors import Unavailable
from registry.trust.keys import pem_of


def certified_log(facility: Facility, last_event: int | None = None) -> CertifiedLog:
    """A state of the log that covers `last_event`, in the form that a certificate carries.

    last_event: left out, the state is of the log as it stands. Raises Tampered where the log is not
    what was signed before, Unavailable (not_witnessed, witnesses_unreadable).
    """
    chosen = configured(facility)
    note = _earlier(facility, chosen, last_event) if chosen.needed and last_event else None
    if note is None:
        note = make_checkpoint(facility)
        if chosen.all:
            asyncio.run(ask(facility, KnownTree(facility.gate), after_trouble=False))
        note = with_cosignatures(facility, note)
    _check_enough(note, chosen)
    certificate = pem_of(log_key(facility).certificate).decode()
    return CertifiedLog(checkpoint=note.decode(), certificate=certificate)


def _earlier(facility: Facility, chosen: Witnesses, last_event: int) -> bytes | None:
    """The first state over the event that enough witnesses have co-signed already."""
    ours = [witness.verifier_key for witness in chosen.all]
    with facility.gate.transaction() as now:
        row = now.maybe("cosigned_enough", size=last_event, witnesses=ours, needed=chosen.needed)
    if row is None:
        return None
    return with_cosignatures(facility, facility.store.get(path_of(row["size"])))


def _check_enough(note: bytes, chosen: Witnesses) -> None:
    seen = seen_by(note, chosen.all)
    if len(seen) < chosen.needed:
        missing = [witness.name for witness in chosen.all if witness.name not in seen]
        raise Unavailable(
            f"{len(seen)} of the {chosen.needed} witnesses that a certificate needs have co-signed "
            f"the log; missing: {', '.join(missing)}; `touchstone audit witnesses` says why",
            code="not_witnessed",
        )
