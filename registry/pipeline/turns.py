"""Whose turn it is: the fair choice of the next submission, and what became of each turn.

    >>> with next_turn(facility, "worker-1") as turn:
    ...     turn.submission            # turn is None when nothing waits

Rules
-----
1. The organisation that was served least recently comes first; within it the submission that
   waits longest without a turn. Fifty submissions of one organisation cost another's one nothing.
2. Choosing is done one worker at a time, and what was chosen is claimed (`database.claim`).
3. A turn that nobody ended and nobody holds is a worker that died: it counts against the
   submission it died on. After three, the submission isn't tried again. Where the database was down
   since the turn began, its claim was lost by that, and it counts against nobody.
4. Turns are also what an organisation's use of compute is counted by, successful or not.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from registry.database.claim import claims
from registry.facility import Facility
from registry.trust.errors import TouchstoneError, Unavailable

Outcome = Literal["done", "again", "unforeseen"]
QUEUES: Final = ("cpu", "gpu")
"""A submission is in the one that its protocol names (`compute`)."""
MOST_DEATHS: Final = 3
MOST_UNFORESEEN: Final = 2
END_TRIES: Final = 30
END_PAUSE_SECONDS: Final = 2.0


@dataclass
class Turn:
    """One worker's turn at one submission, and how often earlier ones were lost in its state.

    `outcome` is what the turn is closed with, `code` why it is to be taken again. `check` raises
    Unavailable once the claim is lost: another may have the submission's turn by then.
    """

    number: int
    submission: str
    died: int
    unforeseen: int
    outcome: Outcome = "done"
    code: str | None = None
    check: Callable[[], None] = lambda: None

    @property
    def last_try(self) -> bool:
        """Whether a fault of ours ends the submission, instead of another try."""
        return self.unforeseen >= MOST_UNFORESEEN

    @property
    def hopeless(self) -> bool:
        """Whether workers died on it so often that no further one is risked."""
        return self.died >= MOST_DEATHS


@contextmanager
def next_turn(
    facility: Facility, worker: str, queues: Sequence[str] = QUEUES
) -> Iterator[Turn | None]:
    """Choose and claim the next submission; None when there is none that nobody works on."""
    with claims(facility.databases.app) as ours:
        turn = None
        with facility.record.transaction() as now:
            now.one("choosing")
            for row in now.all("candidates", queues=list(queues)):
                submission = str(row["id"])
                if not ours.claim(submission):
                    continue
                now.do("turns_died", submission=submission)
                lost = now.one("turns_lost", submission=submission, state=row["state"])
                begun = now.one(
                    "turn_begin",
                    submission=submission,
                    organisation=row["organisation"],
                    worker=worker,
                )
                turn = Turn(
                    begun["number"], submission, lost["died"], lost["unforeseen"], check=ours.check
                )
                break
        try:
            yield turn
        except Exception as error:
            if turn is not None and turn.outcome == "done":
                turn.outcome = "again"
                turn.code = error.code if isinstance(error, TouchstoneError) else None
            raise
        finally:
            if turn is not None:
                _end(facility, turn)


def _end(facility: Facility, turn: Turn) -> None:
    """Close the turn; a database that comes back within a minute doesn't make it a death."""
    for _ in range(END_TRIES):
        try:
            with facility.record.transaction() as now:
                now.do("turn_end", number=turn.number, outcome=turn.outcome, code=turn.code)
            return
        except Unavailable:
            time.sleep(END_PAUSE_SECONDS)
