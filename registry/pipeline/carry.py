"""Carry a submission as far as it goes without people.

Rules
-----
1. One step after another, each from the state in the record: a worker that died is taken over by
   the next, which starts at the first unfinished step.
2. What the model did wrong, and what is wrong with a file, ends the submission with one code.
3. What we did wrong ends it too, after three tries, and the attempt is given back.
4. What may pass by itself (the database away, the disk full) is raised, for the queue to retry.
"""

import logging
import traceback
from pathlib import Path

from registry.facility import Facility
from registry.pipeline.steps import STEPS, Progress, Work
from registry.trust.errors import Tampered, TouchstoneError, Unavailable

FAULTS_OF_THE_HOST = frozenset({"sandbox_unavailable", "sandbox_level", "sandbox_start"})
log = logging.getLogger("touchstone.pipeline")


class Unforeseen(Exception):
    """A fault of ours, by kind and place; worth another try."""


def carry(
    facility: Facility,
    submission: str,
    *,
    last_try: bool = False,
    allow_unsandboxed: bool = False,
    progress: Progress = lambda done, total: None,
) -> str:
    """Take every step that is due; returns the state reached. Raises only what may be retried."""
    while True:
        with facility.record.transaction() as now:
            row = now.one("submission_by_id", id=submission)
        step = STEPS.get(row["state"])
        if step is None:
            return str(row["state"])
        try:
            step(Work(facility, row, allow_unsandboxed, progress))
        except Unavailable:
            raise
        except Tampered as error:
            _stop(facility, submission, error.code, error.message, ours=True)
        except TouchstoneError as error:
            ours = error.code in FAULTS_OF_THE_HOST
            _stop(facility, submission, error.code, error.message, ours=ours)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours
            log.error("submission %s, %s: %s", submission, row["state"], _where(error))
            if not last_try:
                raise Unforeseen(_where(error)) from None  # the queue logs what it is given
            message = f"a fault of the facility ({type(error).__name__}); its log has the rest"
            _stop(facility, submission, "facility_fault", message, ours=True)


def _where(error: Exception) -> str:
    """The kind of an unforeseen error and its place. Its text could hold a patient's value."""
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__} at {' > '.join(places)}"


def _stop(facility: Facility, submission: str, code: str, message: str, *, ours: bool) -> None:
    """End a submission as a technical failure; give the attempt back if the fault is ours."""
    log.warning("submission %s: %s: %s", submission, code, message)
    with facility.record.transaction() as now:
        now.do("submission_failed", id=submission, code=code, message=message)
        if ours:
            now.do("attempt_return", submission=submission, reason=f"{code}: {message}"[:2000])
