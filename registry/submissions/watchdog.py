"""What happens when a submission's time is up: decided here, done by the worker's sweep.

    >>> due("in_review", deadline=yesterday, not_after=None, now=now)
    Notice(kind='review-late', …)

Rules
-----
1. Nothing is stuck silently: each state that is not final has an action for its deadline.
2. People's work is never decided by a clock: a late review and a long suspension are told, and
   stay as they are.
3. What a machine should have done long ago ends as a technical failure; whose fault it was is
   decided by `fault.whose`, like every other failure.
4. A certificate ends at its `not_after`, also while it is suspended.
5. Pure: the clock is an argument.
"""

import datetime as dt
from dataclasses import dataclass

from registry.submissions.states import CERTIFIED, PIPELINE, overdue

ASSESSORS_LATE = "the review is late: two assessors have not agreed by the deadline"
SUSPENDED_LONG = "the certificate is still suspended at the deadline: resume or revoke it"


@dataclass(frozen=True)
class Fail:
    """End it as a technical failure."""

    code: str
    message: str


@dataclass(frozen=True)
class Expire:
    """End the certificate and take the alias away."""


@dataclass(frozen=True)
class Notice:
    """Tell those concerned, once for each deadline."""

    kind: str
    message: str


Action = Fail | Expire | Notice | None


def due(
    state: str,
    *,
    deadline: dt.datetime | None,
    not_after: dt.datetime | None,
    now: dt.datetime,
) -> Action:
    """What is to be done at `now` with a submission in `state`; None when nothing is.

    deadline: of the state; not_after: end of its certificate, if it has one.
    """
    certificate = state in CERTIFIED or state == "suspended"
    if certificate and overdue(not_after, now):
        return Expire()
    if not overdue(deadline, now):
        return None
    if state in PIPELINE:
        return Fail("deadline_passed", f"it was still {state} when its time was up")
    if state == "in_review":
        return Notice("review-late", ASSESSORS_LATE)
    if state == "suspended":
        return Notice("suspension-long", SUSPENDED_LONG)
    return None
