"""Stop the compute of a submission that somebody stopped, also while the model hangs.

    >>> with Watch(record, submission) as watch:
    ...     watch.over(sandbox)        # from now on it dies when the submission is stopped

Rules
-----
1. A thread asks the record for the state, twice a second, and kills what it watches over by the
   process's own id as soon as the submission is out of the pipeline.
2. It kills no more than that: what the step does then is to fail, and `carry` sees why.
3. So does the end of the release under which a key is held (`until`): the submission stays where it
   is, and its next turn gets a release of its own.
4. A worker that is told to stop gives its submission up in the same way; another goes on with it.
5. A database that is away stops nothing.
"""

import datetime as dt
import threading
from collections.abc import Callable
from typing import Final, Self

from registry.database.record import Record
from registry.pipeline.release import RELEASE_ENDED
from registry.submissions.states import PIPELINE
from registry.trust.errors import TouchstoneError, Unavailable
from serving.calls import Model

ASK_SECONDS: Final = 0.5


class Watch:
    """Watches over the sandboxes of one submission. Use it as a context manager."""

    def __init__(
        self, record: Record, submission: str, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.interrupted = False
        self._ends: dt.datetime | None = None
        self._stopping = stopping
        self._record = record
        self._submission = submission
        self._sandboxes: list[Model] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._ask_for_ever, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def stopped(self) -> bool:
        """Whether the sandboxes were killed: the submission was stopped, or this worker is."""
        return self._stopped

    @property
    def expired(self) -> bool:
        """Whether the release of the key that is held now has ended."""
        return self._ends is not None and dt.datetime.now(dt.UTC) >= self._ends

    def until(self, ends: dt.datetime | None) -> None:
        """What is watched over from now on ends by then; None for what holds no key."""
        self._ends = ends

    def check_release(self) -> None:
        """Raise Unavailable once the release has ended."""
        if self.expired:
            raise Unavailable(RELEASE_ENDED, code="release_ended")

    def over(self, sandbox: Model) -> Model:
        """Watch over this sandbox too; it is stopped at once if the submission was."""
        with self._lock:
            self._sandboxes.append(sandbox)
            stopped = self._stopped
        if stopped:
            sandbox.stop()
        return sandbox

    def _ask_for_ever(self) -> None:
        while not self._end.wait(ASK_SECONDS):
            if self._stopping():
                self.interrupted = True
                self._stop()
                return
            if self.expired:
                self._stop()
                return
            try:
                with self._record.transaction() as now:
                    state = now.one("submission_state", id=self._submission)["state"]
            except TouchstoneError:
                continue
            if state not in PIPELINE:
                self._stop()
                return

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            waiting = list(self._sandboxes)
        for sandbox in waiting:
            sandbox.stop()
