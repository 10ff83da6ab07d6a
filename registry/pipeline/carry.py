"""Carry a submission as far as it goes without people.

Rules
-----
1. One step after another, each from the state in the record: a worker that died is taken over by
   the next, which starts at the first unfinished step.
2. A submission that somebody stopped meanwhile is let go without a word: the record takes nothing
   more for it, and its sandbox is dead already (`watch`).
3. What the model did wrong, and what is wrong with a file, ends the submission with one code.
4. What we did wrong ends it too, after three tries; so does a submission on which workers die.
   Whose fault it was is found in `ending`.
5. What may pass by itself (database or inference server away, the disk full) is raised, for the
   queue to retry.
6. Who lost its claim, because the database was down, ends nothing: another may have the turn, and
   what the record then refuses is nobody's fault.
"""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from registry.database.record import Row
from registry.facility import Facility
from registry.pipeline.ending import fail
from registry.pipeline.release import RELEASE_ENDED
from registry.pipeline.steps import STEPS
from registry.pipeline.turns import Turn
from registry.pipeline.watch import Watch
from registry.pipeline.work import Progress, Work
from registry.submissions.fault import LOCKED_THINGS
from registry.trust.errors import TouchstoneError, Unavailable
from serving.sandbox.failures import ModelFailure

log = logging.getLogger("touchstone.pipeline")


class Unforeseen(Exception):
    """A fault of ours, by kind and place; worth another try."""


def carry(
    facility: Facility,
    turn: Turn,
    *,
    allow_unsandboxed: bool = False,
    progress: Progress = lambda done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> str:
    """Take every step that is due; returns the state reached. Raises only what may be retried.

    stopping: whether this worker has been asked to stop; it then gives the submission up.
    """
    with Watch(facility.record, turn.submission, stopping) as watch:
        while True:
            row = _row(facility, turn.submission)
            step = STEPS.get(row["state"])
            if step is None:
                return str(row["state"])
            work = Work(facility, row, watch, allow_unsandboxed, progress)
            if turn.hopeless:
                _end(work, "worker_died", f"{turn.died} workers ended while they were at it")
                continue
            watch.until(None)
            try:
                step(work)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody is told
                if _row(facility, turn.submission)["state"] != row["state"]:
                    continue  # stopped, or taken on: what failed here matters to nobody
                if watch.interrupted:
                    raise Unavailable("this worker is stopping; another goes on") from None
                if watch.expired:
                    raise Unavailable(RELEASE_ENDED, code="release_ended") from None
                turn.check()
                _failed(work, turn, error)


def _row(facility: Facility, submission: str) -> Row:
    with facility.record.transaction() as now:
        return now.one("submission_by_id", id=submission)


def _failed(work: Work, turn: Turn, error: Exception) -> None:
    """End the submission for what its error says, or raise what is worth another try."""
    if isinstance(error, Unavailable) and error.code not in LOCKED_THINGS:
        raise error
    if isinstance(error, TouchstoneError):
        says_so = isinstance(error, ModelFailure) or error.code == "not_repeatable"
        blamed = says_so or work.row["state"] == "intake"
        _end(work, error.code, error.message, blamed=blamed)
        return
    where = _where(error)
    log.error("submission %s, %s: %s", work.id, work.row["state"], where)
    if not turn.last_try:
        turn.outcome = "unforeseen"
        raise Unforeseen(where) from None  # the queue logs what it is given
    kind = type(error).__name__
    _end(work, "unforeseen", f"an error that nobody foresaw ({kind}); the facility's log has more")


def _end(work: Work, code: str, message: str, *, blamed: bool = False) -> None:
    fail(
        work.facility,
        work.row,
        code=code,
        message=message,
        model_had_a_hand=work.trace.model_had_a_hand or code == "worker_died",
        start=work.start_own_sandbox,
        blamed=blamed,
    )


def _where(error: Exception) -> str:
    """The kind of an unforeseen error and its place. Its text could hold a patient's value."""
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__} at {' > '.join(places)}"
