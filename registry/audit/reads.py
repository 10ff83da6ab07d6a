"""Who reads locked data leaves an event behind, before the data is read.

    >>> note_read(facility, row, "reference-read", part="reference standard")

Rules
-----
1. The event is committed before the first byte is read: a reader that crashes has been logged.
2. It says what was read for what, and never what was in it.
3. What the pipeline reads for a submission is about that submission and its organisation's to see.
"""

from registry.database.record import Row
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.trust.canonical import canonical
from registry.trust.errors import NotFound


def note_verification(facility: Facility, caller: Caller, cohort: str, version: str) -> None:
    """Log that the caller is about to read a locked cohort to verify it."""
    require(caller, "cohort.verify")
    with facility.record.transaction(caller) as now:
        row = now.maybe("cohort_latest", id=cohort, version=version)
        if row is None:
            raise NotFound(f"there is no locked cohort {cohort[:80]!r} {version[:40]!r}")
        note(now, caller, "cohort-read", f"{cohort}/{version}", {"for": "verification"})


def note_read(facility: Facility, row: Row, kind: str, **detail: object) -> None:
    """Log that the pipeline is about to read locked data for the submission in `row`."""
    about = {"cohort": row["cohort_id"], "version": row["cohort_version"], **detail}
    with facility.record.transaction() as now:
        now.one(
            "event_add",
            actor="touchstone",
            organisation=row["organisation"],
            kind=kind,
            subject=str(row["id"]),
            detail=canonical(about).decode(),
        )
