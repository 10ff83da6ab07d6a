"""The states of a submission and what each means to the person who waits.

    >>> deadline("in_review", now)              # two weeks on; None for a final state
    >>> overdue(row["deadline"], now)

Rules
-----
1. Every state that is not final has a deadline. What happens at it is in `watchdog`.
2. Pure: the arrows, and who may take each, are enforced in the database (0002, 0008, 0013).
3. `tried` is the end of a run on the development cohort, and of no other: it has no outcome.
"""

import datetime as dt
from typing import Literal

State = Literal[
    "registered",
    "intake",
    "queued",
    "running",
    "assessed",
    "in_review",
    "certified",
    "conditional",
    "not_certified",
    "withdrawn",
    "technical_failure",
    "suspended",
    "revoked",
    "expired",
    "tried",
]
ASSESSED: frozenset[str] = frozenset(
    {
        "in_review",
        "certified",
        "conditional",
        "not_certified",
        "suspended",
        "revoked",
        "expired",
    }
)
"""Where a submitter knows the outcome. Not yet in `assessed`: who knew could still withdraw."""
CERTIFIED: frozenset[str] = frozenset({"certified", "conditional"})
PIPELINE: frozenset[str] = frozenset({"registered", "intake", "queued", "running", "assessed"})
"""Where a worker carries a submission on, and where it may still be withdrawn."""

_HOURS = {
    "registered": 24,
    "intake": 24,
    "queued": 72,
    "running": 72,
    "assessed": 24,
    "in_review": 14 * 24,
    "suspended": 30 * 24,
}
_MEANING = {
    "registered": "received; intake is next",
    "intake": "the file is being checked",
    "queued": "accepted; waiting for an inference server",
    "running": "running on the locked cohort",
    "assessed": "the evidence is computed; review is next",
    "in_review": "two assessors are reviewing",
    "certified": "certified for clinical pilot",
    "conditional": "certified with conditions",
    "not_certified": "not certified",
    "withdrawn": "withdrawn",
    "technical_failure": "stopped; see the failure",
    "suspended": "the certificate is suspended",
    "revoked": "the certificate was revoked",
    "expired": "the certificate has expired",
    "tried": "run on the development cohort; it decides nothing",
}
_IN_DEVELOPMENT = {
    "running": "running on the development cohort",
    "assessed": "the evidence is computed; what you may read is next",
}


def deadline(state: str, now: dt.datetime) -> dt.datetime | None:
    """When the watchdog acts on a submission still in `state`; None for final states."""
    hours = _HOURS.get(state)
    return now + dt.timedelta(hours=hours) if hours else None


def overdue(until: dt.datetime | None, now: dt.datetime) -> bool:
    """Whether the deadline of a submission has passed."""
    return until is not None and until <= now


def meaning(state: str, *, development: bool = False) -> str:
    """The state in a few plain words; `development`: of a run on the development cohort."""
    return _IN_DEVELOPMENT.get(state, _MEANING[state]) if development else _MEANING[state]


def outcome(state: str, verdict: str | None) -> Literal["pass", "not_pass"] | None:
    """All that a submitter may know of the verdict while attempts are open."""
    if verdict is None or state not in ASSESSED:
        return None
    return "pass" if verdict in ("pass", "conditional") else "not_pass"


def family(organisation: str, protocol_id: str) -> str:
    """What shares the attempts: an organisation's models for one indication."""
    return f"{organisation}/{protocol_id}"
