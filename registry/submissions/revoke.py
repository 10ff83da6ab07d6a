"""Stop a certified model, bring it back, or end it for good.

    >>> suspend(facility, sam, id, "readings drift at two hospitals")["state"]     # at once, alone
    'suspended'
    >>> resume(facility, ada, id, envelope)["state"]                # one of two, signed
    'suspended'
    >>> resume(facility, ben, id, envelope)["state"]
    'certified'

Rules
-----
1. Stopping is easy: one assessor or steward suspends, at once, with a reason.
2. Starting again is hard: two different assessors, each signing with an enrolled key on their own
   side. Who suspended may be one of them, never both.
3. Revoking is final and takes two assessors. The first voice suspends, so that nobody uses the
   model while the second is asked.
4. State, certificate and the alias `clinical-pilot` change in one transaction of the gate's role;
   the database refuses any part of it alone (0008_life.sql, rules 7 to 9).
5. A model that comes back does not push a newer one from the alias.
6. What hospitals fetch says at once that it was stopped; that it came back it says when two
   assessors have signed that too (`registry.status`).
"""

import datetime as dt
from typing import Any, Literal

from cryptography import x509

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.enrolment import assessor_key
from registry.identity.policy import require
from registry.status.publish import publish_now
from registry.submissions.states import CERTIFIED, deadline
from registry.submissions.submit import load, view
from registry.trust.dsse import payload_of, verified_signers
from registry.trust.errors import Conflict, Refused
from registry.trust.keys import parse_certificate
from registry.trust.resumption import RESUMPTION_TYPE, Resumption, parse_resumption

NEEDED = 2
"""Different assessors who bring a certificate back, or end it."""

_STOPPED_FROM = {
    "suspend": CERTIFIED,
    "revoke": CERTIFIED | {"suspended"},
    "resume": frozenset({"suspended"}),
}
Act = Literal["suspend", "resume", "revoke"]


def suspend(facility: Facility, caller: Caller, submission: str, reason: str) -> dict[str, Any]:
    """Take the model out of clinical pilot now."""
    require(caller, "certificate.suspend")
    load(facility, caller, submission)
    with facility.gate.transaction(caller) as now:
        row = _locked(now, submission, "suspend")
        _say(now, caller, submission, "suspend", reason)
        _stop(now, submission, row, "suspended")
    publish_now(facility)
    return view(facility, caller, submission)


def revoke(facility: Facility, caller: Caller, submission: str, reason: str) -> dict[str, Any]:
    """Ask for the end of the certificate: suspended at once, ended when a second one agrees."""
    require(caller, "certificate.revoke")
    load(facility, caller, submission)
    with facility.gate.transaction(caller) as now:
        row = _locked(now, submission, "revoke")
        _say(now, caller, submission, "revoke", reason)
        if row["state"] in CERTIFIED:
            _stop(now, submission, row, "suspended")
        elif _voices(now, submission, row, "revoke") >= NEEDED:
            _stop(now, submission, row, "revoked")
    publish_now(facility)
    return view(facility, caller, submission)


def resume(
    facility: Facility, caller: Caller, submission: str, envelope: dict[str, Any]
) -> dict[str, Any]:
    """Keep one assessor's signed word; the second brings the certificate back."""
    require(caller, "certificate.resume")
    load(facility, caller, submission)
    with facility.record.transaction(caller) as now:
        key, leaf = assessor_key(now, caller, envelope, submission)
    said = _signed(facility, envelope, leaf, submission, caller.person, caller.organisation)
    with facility.gate.transaction(caller) as now:
        row = _locked(now, submission, "resume")
        if said.suspended_at != row["changed_at"]:
            raise Refused("the signature answers another suspension; read the status and sign anew")
        _say(now, caller, submission, "resume", said.reason, key, envelope)
        for one in _said(now, submission, row, "resume"):  # once more, from the record
            leaf = parse_certificate(one["pem"].encode())
            _signed(facility, one["envelope"], leaf, submission, one["person"],
                    one["organisation"])  # fmt: skip
        if _voices(now, submission, row, "resume") >= NEEDED:
            state = "certified" if row["verdict"] == "pass" else "conditional"
            now.do("certified_stop", id=submission, state=state, deadline=None)
            now.do("certificate_in_force_again", submission=submission)
            now.do("pilot_restore", **_pilot(row))
    return view(facility, caller, submission)


def expire(facility: Facility, submission: str) -> bool:
    """End a certificate whose last day has passed; False where somebody was quicker."""
    with facility.gate.transaction() as now:
        row = now.one("submission_lock", id=submission)
        if row["state"] not in CERTIFIED | {"suspended"}:
            return False
        _stop(now, submission, row, "expired")
        return True


def _locked(now: Transaction, submission: str, act: Act) -> Row:
    """The row, which nobody changes until we are done; Conflict where the act means nothing."""
    row = now.one("submission_lock", id=submission)
    if row["state"] not in _STOPPED_FROM[act]:
        raise Conflict(f"the submission is {row['state']}: there is nothing to {act}")
    return row


def _stop(now: Transaction, submission: str, row: Row, state: str) -> None:
    now.do("pilot_remove", **_pilot(row))
    now.do("certificate_out_of_force", submission=submission)
    until = deadline(state, dt.datetime.now(dt.UTC))
    now.do("certified_stop", id=submission, state=state, deadline=until)


def _pilot(row: Row) -> dict[str, Any]:
    return {
        "organisation": row["organisation"],
        "model_name": row["model_name"],
        "version": row["model_version"],
    }


def _say(
    now: Transaction,
    caller: Caller,
    submission: str,
    act: Act,
    reason: str,
    key: str | None = None,
    envelope: dict[str, Any] | None = None,
) -> None:
    now.do(
        "act_add",
        submission=submission,
        kind=act,
        person=caller.person,
        organisation=caller.organisation,
        reason=reason,
        key_id=key,
        envelope=envelope,
    )
    note(now, caller, f"{act}-said", submission, {"reason": reason})


def _said(now: Transaction, submission: str, row: Row, act: Act) -> list[Row]:
    """Who said this since the certificate was suspended."""
    since = now.all("acts_since", submission=submission, since=row["changed_at"])
    return [one for one in since if one["kind"] == act]


def _voices(now: Transaction, submission: str, row: Row, act: Act) -> int:
    """How many different people said this since the certificate was suspended."""
    said = _said(now, submission, row, act)
    return len({(one["organisation"], one["person"]) for one in said})


def _signed(
    facility: Facility,
    envelope: dict[str, Any],
    leaf: x509.Certificate,
    submission: str,
    person: str,
    organisation: str,
) -> Resumption:
    """What was signed, once the signature holds and it is about this submission, by this person."""
    moment = dt.datetime.now(dt.UTC)
    verified_signers(envelope, RESUMPTION_TYPE, [leaf], facility.root, moment)
    said = parse_resumption(payload_of(envelope))
    if (said.submission, said.person, said.organisation) != (submission, person, organisation):
        raise Refused("the signature is for another submission or by another person")
    return said
