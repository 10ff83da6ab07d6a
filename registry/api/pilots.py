"""Pilots, as hospitals report them.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.answers import acted_before
from registry.api.paging import After, Cursor, Limit, Page, beyond
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import pilot_keys, pilots
from registry.trust.errors import Conflict
from registry.trust.keys import key_id, parse_certificate
from registry.trust.pilot_report import PilotReport

_REPORT: dict[str, Any] = {
    "schema_id": "touchstone/pilot-report/v1", "certificate": "sha256:" + "c" * 64, "k": 10,
    "first_month": "2026-11", "last_month": "2026-11", "answers": 310, "failed": None,
    "patients": 300, "outcomes": 280, "positives": 90,
    "watched": [{"question": "sensitivity", "patients": 90, "evidence": 20, "alarm": None}],
    "performance": [{"metric": "sensitivity", "estimate": 0.9, "low": 0.82, "high": 0.95}],
    "score": None, "attributes": {"sex": {"F": 160, "M": 140}},
}  # fmt: skip


Submission = Annotated[
    uuid.UUID | None,
    Query(description="Only those of the model of this submission.",
          examples=["7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10"]),
]  # fmt: skip


class SignedPilotReport(BaseModel):
    """A hospital's signed report, and the certificate of the key that signed it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"envelope": {"payload": "…", "payloadType": "…", "signatures": []},
         "certificate": "-----BEGIN CERTIFICATE-----…"}
    ]})  # fmt: skip
    envelope: Annotated[dict[str, Any], Field(description="A DSSE envelope.")]
    certificate: Annotated[str, Field(max_length=4000, description="PEM of the hospital's key.")]


_KEY = "sha256:" + "d" * 64
PilotKey = Annotated[
    str, Path(pattern=r"^sha256:[0-9a-f]{64}$", description="The key's digest.", examples=[_KEY])
]


class NewPilotKey(BaseModel):
    """Another key of a hospital, in place of the one that was lost."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"certificate": "-----BEGIN CERTIFICATE-----…", "reason": "the disk died"}
    ]})  # fmt: skip
    certificate: Annotated[str, Field(max_length=4000, description="PEM of the new key.")]
    reason: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ShownPilotKey(BaseModel):
    """A key that was announced, and how far it has come."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"hospital": "clinic", "key": _KEY, "reason": "the disk died", "announced_by": "Clara",
         "agreed_by": ["Ada"], "needed": 2, "pinned": False}
    ]})  # fmt: skip
    hospital: str
    key: str
    reason: str
    announced_by: str
    agreed_by: list[str]
    needed: int
    pinned: Annotated[bool, Field(description="Whether it took the place of the key before.")]


class ReceivedPilotReport(BaseModel):
    """What was kept."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"certificate": "sha256:" + "c" * 64, "submission": "7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10",
         "last_month": "2026-11", "patients": 300, "alarms": []}
    ]})  # fmt: skip
    certificate: str
    submission: str
    last_month: str
    patients: int
    alarms: list[str]


class ShownPilotReport(BaseModel):
    """One report of one hospital's pilot."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"number": 3, "hospital": "clinic", "submission": "7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10",
         "organisation": "sme-a", "model": "nodule-net", "version": 3, "in_force": True,
         "last_month": "2026-11", "patients": 300, "alarms": [],
         "received_at": "2026-12-02T08:00:00Z", "report": _REPORT}
    ]})  # fmt: skip
    number: int
    hospital: str
    submission: str
    organisation: Annotated[str, Field(description="Whose model it is.")]
    model: str
    version: int
    in_force: Annotated[bool, Field(description="Whether its certificate is in force now.")]
    last_month: str
    patients: int
    alarms: Annotated[list[str], Field(description="Questions that gave an alarm.")]
    received_at: dt.datetime
    report: PilotReport


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/pilots`."""
    routes = APIRouter(prefix="/api/v1/pilots", tags=["pilots"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post(
        "", status_code=201, summary="Report on a pilot", response_model=ReceivedPilotReport,
        operation_id="report_pilot",
    )  # fmt: skip
    def report(caller: Who, signed: SignedPilotReport) -> dict[str, Any]:
        """For hospitals that pulled the model: counts in tens, of whole months, one a month.

        The key of the first report is pinned; later ones must be signed by the same.
        """
        try:
            return pilots.receive(facility, caller, signed.envelope, signed.certificate)
        except Conflict:
            if not acted_before():
                raise
            return pilots.received(facility, caller, signed.envelope)

    @routes.post(
        "/keys", status_code=201, summary="Announce another pilot key",
        response_model=ShownPilotKey, operation_id="announce_pilot_key",
    )  # fmt: skip
    def announce(caller: Who, new: NewPilotKey) -> dict[str, Any]:
        """For hospitals that lost theirs. It counts once two assessors agreed."""
        try:
            return pilot_keys.announce(facility, caller, new.certificate, new.reason)
        except Conflict:
            if not acted_before():
                raise
            key = key_id(parse_certificate(new.certificate.encode()))
            return pilot_keys.announced(facility, caller, key)

    @routes.post(
        "/keys/{key}/agreements", status_code=201, summary="Agree to another pilot key",
        response_model=ShownPilotKey, operation_id="agree_to_pilot_key",
    )  # fmt: skip
    def agree(caller: Who, key: PilotKey) -> dict[str, Any]:
        """For assessors, after asking the hospital by another way. The second pins the key."""
        try:
            return pilot_keys.agree(facility, caller, key)
        except Conflict:
            if not acted_before():
                raise
            return pilot_keys.announced(facility, caller, key)

    @routes.get(
        "", summary="List reports of pilots", response_model=Page[ShownPilotReport],
        operation_id="list_pilots",
    )  # fmt: skip
    def listing(
        caller: Who,
        request: Request,
        response: Response,
        after: After = 0,
        limit: Limit = 50,
        cursor: Cursor = None,
        submission: Submission = None,
    ) -> dict[str, Any]:
        """In the order in which they came; a hospital sees its own, the facility all."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda last, number: pilots.listing(
                facility, caller, after=beyond(after, last), limit=number,
                submission=None if submission is None else str(submission),
            ),
            lambda row: (str(row["number"]),),
        )  # fmt: skip
        return {"items": rows, "next": following}

    return routes
