"""The states of a submission and what each means to the person who waits.

Pure: the arrows themselves are enforced in the database (0002_rules.sql).
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
]
ASSESSED: frozenset[str] = frozenset(
    {"assessed", "in_review", "certified", "conditional", "not_certified", "suspended"}
)
CERTIFIED: frozenset[str] = frozenset({"certified", "conditional"})

_HOURS = {"registered": 24, "intake": 24, "queued": 72, "running": 72, "assessed": 24}
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
}


def deadline(state: str, now: dt.datetime) -> dt.datetime | None:
    """When somebody is told that a submission is stuck in `state`; None for final states."""
    hours = _HOURS.get(state)
    return now + dt.timedelta(hours=hours) if hours else None


def meaning(state: str) -> str:
    """The state in a few plain words."""
    return _MEANING[state]


def outcome(state: str, verdict: str | None) -> Literal["pass", "not_pass"] | None:
    """All that a submitter may know of the verdict while attempts are open."""
    if verdict is None or state not in ASSESSED:
        return None
    return "pass" if verdict in ("pass", "conditional") else "not_pass"


def family(organisation: str, protocol_id: str) -> str:
    """What shares the attempts: an organisation's models for one indication."""
    return f"{organisation}/{protocol_id}"
