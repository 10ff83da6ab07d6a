"""Stop a submission before its review: the submitter withdraws, the facility cancels.

    >>> withdraw(facility, caller, id, "a better model is ready")["state"]
    'withdrawn'

Rules
-----
1. Whoever stops it says why; the reason is kept and the submitter reads it.
2. The compute stops: the worker sees the state within a second and kills the model's process.
3. An attempt that was spent stays spent, whoever stopped it: the locked data was looked at. Where
   no shard was decrypted there is none to spend, and the record takes none any more.
4. From the review on nothing is withdrawn: what was computed is decided on.
"""

from typing import Any, Literal

from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.submissions.states import PIPELINE
from registry.submissions.submit import load, view
from registry.trust.errors import Conflict

Stop = Literal["withdraw", "cancel"]
_STATE: dict[Stop, str] = {"withdraw": "withdrawn", "cancel": "technical_failure"}


def withdraw(facility: Facility, caller: Caller, submission: str, reason: str) -> dict[str, Any]:
    """Take one's own submission back; Conflict once it is in review or has ended."""
    row = load(facility, caller, submission)
    require(caller, "submission.withdraw", owner=row["organisation"])
    return _stop(facility, caller, submission, "withdraw", reason)


def cancel(facility: Facility, caller: Caller, submission: str, reason: str) -> dict[str, Any]:
    """End anybody's submission for the facility; Conflict once it is in review or has ended."""
    row = load(facility, caller, submission)
    require(caller, "submission.cancel", owner=row["organisation"])
    return _stop(facility, caller, submission, "cancel", reason)


def _stop(
    facility: Facility, caller: Caller, submission: str, kind: Stop, reason: str
) -> dict[str, Any]:
    with facility.record.transaction(caller) as now:
        state = now.one("submission_lock", id=submission)["state"]
        if state not in PIPELINE:
            raise Conflict(f"the submission is {state}: there is nothing to {kind} any more")
        now.do(
            "act_add",
            submission=submission,
            kind=kind,
            person=caller.person,
            organisation=caller.organisation,
            reason=reason,
            key_id=None,
            envelope=None,
        )
        note(now, caller, f"{kind}-asked", submission, {"reason": reason})
        now.do("submission_stop", id=submission, state=_STATE[kind])
    return view(facility, caller, submission)
