"""Whether the certificate that is served still stands, asked again and again.

    watch = Watch(statement, standing_of, clock)
    watch.check()       # asks; never raises
    watch.require()     # Refused where nothing may be predicted now

Rules
-----
1. A request never waits for the question: it is held against the last answer, and against its
   `use_until`, which needs no answer to pass.
2. Where the question can't be answered (the folder is away, the status is damaged or went back),
   the last good answer holds until its own `use_until`, and nothing is predicted after it. Where
   there never was an answer, nothing is predicted at all.
   Two of its sentences end it at once: a good status that lists the certificate no more, and a
   clock that was set back, by which no answer would ever end.
3. What was suspended or revoked comes back by a newer answer that says so, and by nothing else.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from registry.trust.errors import TouchstoneError, Unavailable
from serving.bundle.standing import Standing, StandingOf

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]
_ENDS = ("not_listed", "clock_set_back")


class Watch:
    """The standing of one certificate; `standing_of` None: nobody is asked and all is well."""

    def __init__(self, statement: str, standing_of: StandingOf | None, clock: Clock) -> None:
        self._statement, self._standing_of, self._clock = statement, standing_of, clock
        self._last: Standing | None = None
        self._error: TouchstoneError | None = None

    def check(self) -> None:
        """Ask for the standing now. What the question raises is kept, not raised."""
        if self._standing_of is None:
            return
        try:
            self._last = self._standing_of(self._statement, self._clock())
            self._error = None
        except TouchstoneError as error:
            self._error = error
            if error.code in _ENDS:
                self._last = None
        except Exception as error:  # noqa: BLE001
            # Whatever a damaged file provokes, the rule is the same: the last good answer ends.
            logger.error("the status can't be read: %s", type(error).__name__)
            self._error = Unavailable(
                f"the facility's status can't be read ({type(error).__name__}): fetch it again",
                code="status_unreadable",
            )

    def require(self) -> None:
        """Raise where nothing may be predicted now: what the standing, or its absence, says."""
        if self._standing_of is None:
            return
        last, error = self._last, self._error
        if last is not None:
            last.require(self._clock())
        elif error is not None:
            raise type(error)(error.message, code=error.code)
        else:
            raise Unavailable("the standing was not asked for yet", code="not_ready")

    def told(self) -> dict[str, Any] | None:
        """The last answer for people and machines; None where nobody is asked."""
        if self._standing_of is None:
            return None
        last, error = self._last, self._error
        return {
            "state": None if last is None else last.state,
            "reason": None if last is None else last.reason,
            "signed_at": None if last is None else last.signed_at.isoformat(),
            "use_until": None if last is None else last.use_until.isoformat(),
            "last_check": "ok" if error is None else error.code,
        }

    @property
    def seconds_left(self) -> float | None:
        """Until the status must have been renewed; None where nobody is asked or none answered."""
        if self._last is None:
            return None
        return (self._last.use_until - self._clock()).total_seconds()


class Schedule:
    """Calls `work` every so many seconds in a thread of its own, until closed."""

    def __init__(self, seconds: float, work: Callable[[], None]) -> None:
        self._seconds, self._work = seconds, work
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedule", daemon=True)

    def start(self) -> None:
        """The first call comes after one interval."""
        self._thread.start()

    def close(self) -> None:
        """No call begins after this; one that hangs is left to end by itself."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            self._work()
