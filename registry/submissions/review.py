"""Two people's act on a verdict.

    >>> review = documents(facility, caller, id)      # what the assessor reads and signs over
    >>> decide(facility, caller, id, SignedDecision(envelope=…, statement_signature=…))

Rules
-----
1. The server checks signatures; it can't make one.
2. The signer is the caller, an assessor whose key two others enrolled, not of the submitter's
   organisation, and not the one who locked the cohort or the protocol.
3. A decision stands on the report and statement that stand, by a key that stands: else it is void.
   It stays in the record and counts no more; its signer may decide anew (0011_decide_again.sql).
4. Two assessors who agree finish a review. A fail can't be certified by anyone: the database
   refuses it too (0002_rules.sql, rules 4 and 5; 0007_duties.sql).
5. The same signed decision sent again is kept once, and finishes a review that broke off.
6. Where the report holds the model for review (signs of leakage), who certifies it writes down in
   the signed reason what was looked at (0014_declaration.sql).
7. A rejection needs no report in the store, only its digest on record: where the store lost the
   report, two who reject end the review, and nothing else does.
"""

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from pydantic import BaseModel, ConfigDict

from registry.audit.checkpoints import checkpoint_now
from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.accounts import note
from registry.identity.caller import Caller
from registry.identity.enrolment import assessor_key, register_of
from registry.identity.policy import reach, require
from registry.submissions import places
from registry.submissions.lock import other_versions
from registry.submissions.states import ASSESSED, CERTIFIED
from registry.submissions.submit import load, may_see_numbers, protocol_of, view
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.certificate import (
    STATEMENT_TYPE,
    check_in_force,
    check_verdict,
    parse_statement,
    verified,
)
from registry.trust.decision import DECISION_TYPE, Decision, parse_decision
from registry.trust.dsse import payload_of, unsigned, verified_signers
from registry.trust.enrolment import check_assessors, needed_for
from registry.trust.errors import Conflict, NotFound, Refused, Tampered
from registry.trust.keys import parse_certificate
from serving.bundle.layout import REPORT_PDF
from validators.evidence import Report
from validators.leakage.evidence import LeakageEvidence, held_reasons
from validators.report.disclosure import release

_STATE_OF = {"certify": "certified", "conditional": "conditional", "reject": "not_certified"}
LEAST_REASON = 20
"""Characters in which an assessor says what was looked at in a model that is held for review."""
_HAD_A_CERTIFICATE = CERTIFIED | {"suspended", "revoked", "expired"}
_NEEDS = {"certify": "pass", "conditional": "conditional"}


class SignedDecision(BaseModel):
    """What an assessor sends: the signed decision and, for a certificate, the second signature."""

    model_config = ConfigDict(extra="forbid")
    envelope: dict[str, Any]
    statement_signature: dict[str, str] | None = None


@dataclass(frozen=True)
class Documents:
    """What an assessor reads before signing. `statement` is None where nothing can be certified."""

    report: bytes
    statement: bytes | None


def full_report(facility: Facility, row: Row) -> bytes:
    """The complete report.json of a row, its digest re-checked."""
    if row["report_digest"] is None:
        raise Conflict(f"there is no report yet: the submission is {row['state']}")
    data = facility.store.get(places.report(str(row["id"])))
    if sha256_bytes(data) != row["report_digest"]:
        raise Tampered("the stored report is not the one that was assessed; nothing can be decided")
    return data


def report_for(facility: Facility, caller: Caller, submission: str) -> bytes:
    """report.json as far as the caller may read it: complete, rounded, or pass / not pass.

    Of a run on the development cohort its submitter reads what the ladder told.
    """
    row = load(facility, caller, submission)
    if row["development"] and not reach(caller, "report.read_full"):
        return _told(facility, caller, row)
    data = full_report(facility, row)
    if reach(caller, "report.read_full"):
        with facility.record.transaction(caller) as now:
            note(now, caller, "report-read", submission, {"digest": row["report_digest"]})
        return data
    require(caller, "report.read_released", owner=row["organisation"])
    if row["state"] not in ASSESSED:
        raise Conflict(f"there is no report for you: the submission is {row['state']}")
    report = Report.model_validate(json.loads(data))
    disclosure = protocol_of(row).disclosure
    if may_see_numbers(row):
        others = other_versions(facility, caller, row)
        return canonical(release(report, "certified", disclosure, others))
    return canonical(release(report, "innovator_open", disclosure))


def _told(facility: Facility, caller: Caller, row: Row) -> bytes:
    """What the ladder told of a run on the development cohort; the database knows whose it is."""
    require(caller, "report.read_released", owner=row["organisation"])
    with facility.record.transaction(caller) as now:
        step = now.maybe("step_output", submission=row["id"], name="ladder")
    if step is None:
        raise Conflict(f"there is no report for you: the submission is {row['state']}")
    return canonical(step["output"]["released"])


def report_page_for(facility: Facility, caller: Caller, submission: str) -> bytes:
    """report.html, for those who may read the complete report."""
    require(caller, "report.read_full")
    row = load(facility, caller, submission)
    full_report(facility, row)
    with facility.record.transaction(caller) as now:
        note(now, caller, "report-read", submission, {"digest": row["report_digest"]})
    return facility.store.get(places.report_page(submission))


def report_pdf_for(facility: Facility, caller: Caller, submission: str) -> bytes:
    """report.pdf of the bundle, the very bytes that were signed over: for those who may read the
    complete report as soon as it is there, for the submitter once the model is certified."""
    row = load(facility, caller, submission)
    if not reach(caller, "report.read_full"):
        require(caller, "report.read_released", owner=row["organisation"])
        if row["state"] not in _HAD_A_CERTIFICATE or not may_see_numbers(row):
            raise Conflict(
                f"there is no report.pdf for you: it is a certificate's, and the submission is "
                f"{row['state']}"
            )
    place = places.bundle(submission) + REPORT_PDF
    if not facility.store.exists(place):
        raise NotFound(
            "there is no report.pdf: it is made where a verdict can be certified, before the review"
        )
    return facility.store.get(place)


def drift_page_for(facility: Facility, caller: Caller, submission: str) -> bytes:
    """Evidently's page of the cohort against the declared development data.

    It shows single patients' values: for those who may read the complete report, and logged.
    """
    require(caller, "report.read_full")
    row = load(facility, caller, submission)
    place = places.drift_page(submission)
    if row["report_digest"] is None or not facility.store.exists(place):
        raise NotFound(
            "there is no drift page: the protocol asks for none, the submission is not assessed "
            "yet, or the worker that assessed it has no Evidently (touchstone-tef[drift])"
        )
    with facility.record.transaction(caller) as now:
        note(now, caller, "drift-page-read", submission, {})
    return facility.store.get(place)


def documents(facility: Facility, caller: Caller, submission: str) -> Documents:
    """Report and statement of a submission in review."""
    require(caller, "submission.decide")
    row = load(facility, caller, submission)
    report = full_report(facility, row)
    if row["statement_digest"] is None:
        return Documents(report, None)
    return Documents(report, _statement(facility, row))


def decide(
    facility: Facility, caller: Caller, submission: str, signed: SignedDecision
) -> dict[str, Any]:
    """Keep one assessor's decision; the second agreeing one finishes the review."""
    require(caller, "submission.decide")
    row = load(facility, caller, submission)
    with facility.record.transaction(caller) as now:
        decision, key = _checked(facility, now, caller, row, signed)
        if not _is_kept(now, caller, submission, signed):
            now.do(
                "decision_add",
                submission=submission,
                key_id=key,
                person=caller.person,
                outcome=decision.outcome,
                reason=decision.reason,
                report_digest=decision.report,
                envelope=signed.envelope,
                statement_signature=signed.statement_signature,
            )
            note(now, caller, "decision-signed", submission,
                 {"outcome": decision.outcome, "report": decision.report})  # fmt: skip
        agreeing = [
            given
            for given in now.all("decisions", submission=submission)
            if given["outcome"] == decision.outcome and not given["void"]
        ]
        finished = len({given["person"] for given in agreeing}) >= 2
        state = now.one("submission_by_id", id=submission)["state"]
        if finished and decision.outcome == "reject" and state == "in_review":
            now.do("submission_move", id=submission, state="not_certified", deadline=None)
    if finished and decision.outcome != "reject":
        issue(facility, caller, submission)
    return view(facility, caller, submission)


def _checked(
    facility: Facility, now: Transaction, caller: Caller, row: Row, signed: SignedDecision
) -> tuple[Decision, str]:
    """The decision and the key that signed it, after every check that Python can make."""
    key, leaf = assessor_key(now, caller, signed.envelope, str(row["id"]))
    moment = dt.datetime.now(dt.UTC)
    verified_signers(signed.envelope, DECISION_TYPE, [leaf], facility.root, moment)
    decision = parse_decision(payload_of(signed.envelope))
    if (decision.submission, decision.person, decision.organisation) != (
        str(row["id"]), caller.person, caller.organisation,
    ):  # fmt: skip
        raise Refused("the decision names another submission, person or organisation")
    if decision.report != row["report_digest"]:
        raise Refused(
            "the decision is on another report than the one that stands; read it again",
            code="report_changed",
        )
    if decision.outcome == "reject":
        return decision, key
    _check_held(full_report(facility, row), decision)
    if row["verdict"] != _NEEDS[decision.outcome] or not row["certifiable"]:
        raise Refused(
            f"the verdict is {row['verdict']}: it can't be turned into "
            f"`{decision.outcome}` by anyone",
            code="verdict_stands",
        )
    if signed.statement_signature is None or decision.statement != row["statement_digest"]:
        raise Refused("the certificate's statement was not signed, or is another one")
    statement = _statement(facility, row)
    _check_statement(row, statement)
    verified_signers(
        {**unsigned(STATEMENT_TYPE, statement), "signatures": [signed.statement_signature]},
        STATEMENT_TYPE,
        [leaf],
        facility.root,
        moment,
    )
    return decision, key


def _is_kept(now: Transaction, caller: Caller, submission: str, signed: SignedDecision) -> bool:
    """Whether this very decision is on record already; another one of the same person is not it."""
    return any(
        (given["person"], given["organisation"]) == (caller.person, caller.organisation)
        and given["envelope"] == signed.envelope
        and given["statement_signature"] == signed.statement_signature
        for given in now.all("decisions", submission=submission)
    )


def issue(facility: Facility, caller: Caller, submission: str) -> None:
    """Write the certificate from two agreeing decisions and open the gate, in one transaction.

    Everything is checked again, from the bytes in the store to the enrolment of those who signed:
    what changed since a decision was given voids it.
    """
    with facility.record.transaction(caller) as now:
        row = now.one("submission_by_id", id=submission)
        if row["state"] != "in_review":
            return
        outcome = "certify" if row["verdict"] == "pass" else "conditional"
        given = [
            decision
            for decision in now.all("decisions", submission=submission)
            if decision["outcome"] == outcome and not decision["void"]
        ]
        known = register_of(now)
    report = full_report(facility, row)
    statement = _statement(facility, row)
    moment = dt.datetime.now(dt.UTC)
    leaves = [parse_certificate(decision["pem"].encode()) for decision in given]
    for decision, leaf in zip(given, leaves, strict=True):
        _check_held(report, _recheck(facility, row, decision, leaf, moment))
    known = needed_for(known, [decision["key_id"] for decision in given])
    check_assessors(known, leaves, facility.root)
    envelope = {
        **unsigned(STATEMENT_TYPE, statement),
        "signatures": [decision["statement_signature"] for decision in given],
    }
    checked = verified(envelope, leaves, facility.root, moment)
    check_in_force(checked.predicate, moment)
    _check_statement(row, statement)
    with facility.gate.transaction(caller) as now:
        if now.one("submission_hold", id=submission)["state"] != "in_review":
            return  # another's decision finished it in the meantime
        now.do(
            "certificate_add",
            submission=submission,
            organisation=row["organisation"],
            model_name=row["model_name"],
            model_version=row["model_version"],
            envelope=envelope,
            signers="".join(decision["pem"] for decision in given),
            enrolments=known.as_bytes().decode(),
            not_after=checked.predicate.not_after,
        )
        now.do("certified_move", id=submission, state=_STATE_OF[outcome])
        now.do(
            "pilot_set",
            organisation=row["organisation"],
            model_name=row["model_name"],
            version=row["model_version"],
        )
    checkpoint_now(facility)


def _statement(facility: Facility, row: Row) -> bytes:
    statement = facility.store.get(places.statement(str(row["id"])))
    if sha256_bytes(statement) != row["statement_digest"]:
        raise Tampered("the stored statement is not the one that was prepared")
    return statement


def _recheck(
    facility: Facility, row: Row, given: Row, leaf: x509.Certificate, moment: dt.datetime
) -> Decision:
    """The decision that was signed; Tampered unless it says what its row says of this report."""
    verified_signers(given["envelope"], DECISION_TYPE, [leaf], facility.root, moment)
    decision = parse_decision(payload_of(given["envelope"]))
    if (decision.submission, decision.report, decision.statement, decision.outcome) != (
        str(row["id"]), row["report_digest"], row["statement_digest"], given["outcome"],
    ):  # fmt: skip
        raise Tampered(
            f"the decision of {given['person']} is not the one that was signed; revoke the key, "
            "which makes it void, and let another be given",
            code="decision_void",
        )
    return decision


def _check_held(report: bytes, decision: Decision) -> None:
    """Raise Refused where the report holds the model and the reason says nothing of it."""
    leakage = json.loads(report).get("leakage")
    held = held_reasons(LeakageEvidence.model_validate(leakage)) if leakage else ()
    if held and len(" ".join(decision.reason.split())) < LEAST_REASON:
        raise Refused(
            f"the report holds this model for review ({held[0]}): a decision to certify it says in "
            f"its reason, in {LEAST_REASON} characters or more, what was looked at",
            code="held_for_review",
        )


def _check_statement(row: Row, statement: bytes) -> None:
    """Raise Tampered unless the statement is about this report, and its verdict follows from it."""
    _, predicate = parse_statement(statement)
    if predicate.full_report != row["report_digest"]:
        raise Tampered(
            "the statement names another report than the one that stands; nothing can be certified "
            "here, and two who reject end the review",
            code="statement_changed",
        )
    if (predicate.submission, predicate.overall) != (str(row["id"]), row["verdict"]):
        raise Tampered("the statement names another submission or verdict")
    check_verdict(predicate)
