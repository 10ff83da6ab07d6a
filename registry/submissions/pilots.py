"""Pilots, as hospitals report them: received, checked, listed beside the model they are of.

    >>> receive(facility, clara, envelope, pem)["alarms"]
    ['sensitivity']
    >>> listing(facility, sam)[0]["model"]
    'nodule-net'

Rules
-----
1. Only a hospital that pulled the certified model reports on it, also after it was stopped.
2. A report is signed by the hospital's own key. The first one that its account uses is pinned; from
   then on no other counts, but for one that two assessors agreed to (`pilot_keys`). The key says
   nothing but "the same hospital as before".
3. What is kept is the envelope. What is shown of it the database reads from the signed payload
   (0024_pilots.sql), and each report is in the log.
4. One report a month, hospital and model, and none of a month that has not ended. Nothing in it is
   of a patient (`registry.trust.pilot_report`).
5. The facility's people see all of them, a hospital its own. The model's makers are told of an
   alarm by a notice that does not name the hospital. Nothing is suspended by a report: people do
   that (`revoke.suspend`), and it flows through the status.
"""

import datetime as dt
from typing import Any

from registry.database.record import Row, Transaction
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.identity.policy import require
from registry.trust.dsse import check_signature, is_exact, payload_of
from registry.trust.errors import Invalid, NotFound, Refused
from registry.trust.keys import key_id, parse_certificate, pem_of
from registry.trust.pilot_report import PILOT_REPORT_TYPE, PilotReport, parse_pilot_report

_FIRST_ZONE = dt.timedelta(hours=14)
"""In the first time zone a month ends so much sooner."""


def receive(
    facility: Facility, caller: Caller, envelope: dict[str, Any], certificate: str
) -> dict[str, Any]:
    """Keep a signed report; `certificate` is the signing key's (PEM).

    Raises Invalid for what is no report, Tampered where the signature does not fit, NotFound where
    this hospital pulled no such model, Refused for another key, Conflict for a second of a month.
    """
    require(caller, "pilot.report")
    if not is_exact(envelope):
        raise Invalid("this is not a DSSE envelope in its one form")
    if len(envelope["signatures"]) != 1:
        raise Invalid("a report has one signature, the hospital's")
    leaf = parse_certificate(certificate.encode())
    report = parse_pilot_report(check_signature(envelope, PILOT_REPORT_TYPE, leaf))
    if report.last_month >= (dt.datetime.now(dt.UTC) + _FIRST_ZONE).strftime("%Y-%m"):
        raise Invalid(f"{report.last_month} has not ended yet: report whole months")
    with facility.record.transaction(caller) as now:
        submission = now.one("pilot_pulled", certificate=report.certificate)["submission"]
        if submission is None:
            raise NotFound("your hospital has pulled no model with this certificate")
        now.do(
            "pilot_report_add",
            organisation=caller.organisation,
            submission=submission,
            key_id=_pinned(now, caller, key_id(leaf), pem_of(leaf).decode()),
            envelope=envelope,
            received_by=caller.person,
        )
    return _received(report, str(submission))


def received(facility: Facility, caller: Caller, envelope: dict[str, Any]) -> dict[str, Any]:
    """The answer to a report that was kept already."""
    require(caller, "pilot.report")
    report = parse_pilot_report(payload_of(envelope))
    with facility.record.transaction(caller) as now:
        submission = now.one("pilot_pulled", certificate=report.certificate)["submission"]
    return _received(report, str(submission))


def _received(report: PilotReport, submission: str) -> dict[str, Any]:
    return {
        "certificate": report.certificate,
        "submission": submission,
        "last_month": report.last_month,
        "patients": report.patients,
        "alarms": list(report.alarms),
    }


def listing(
    facility: Facility,
    caller: Caller,
    *,
    after: int = 0,
    limit: int = 200,
    submission: str | None = None,
) -> list[dict[str, Any]]:
    """Reports that the caller may read, in the order in which they came; all, or of one model."""
    require(caller, "pilot.read")
    with facility.record.transaction(caller) as now:
        rows = now.all("pilot_reports", after=after, limit=limit, submission=submission)
    return [_shown(row) for row in rows]


def _shown(row: Row) -> dict[str, Any]:
    report = parse_pilot_report(payload_of(row["envelope"]))
    return {
        "number": row["number"],
        "hospital": row["organisation"],
        "submission": str(row["submission"]),
        "organisation": row["maker"],
        "model": row["model_name"],
        "version": row["model_version"],
        "in_force": row["in_force"],
        "last_month": row["last_month"],
        "patients": row["patients"],
        "alarms": list(row["alarms"]),
        "received_at": row["received_at"].isoformat(),
        "report": report.model_dump(mode="json"),
    }


def _pinned(now: Transaction, caller: Caller, key: str, pem: str) -> str:
    """The hospital's key, pinned by this first use where there was none."""
    known = now.all("pilot_key", organisation=caller.organisation)
    if not known:
        now.do(
            "pilot_key_pin",
            organisation=caller.organisation,
            key_id=key,
            pem=pem,
            pinned_by=caller.person,
        )
        return key
    if known[0]["key_id"] != key:
        raise Refused(
            f"{caller.organisation} signs its reports with another key: use that one, "
            "or announce this one (`touchstone pilot announce`)",
            code="key_not_pinned",
        )
    return key
