"""Stopping, resuming and ending; notices; quotas.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.answers import acted_before
from registry.api.paging import After, Cursor, Limit, Page, beyond
from registry.api.submissions import Id, Submission
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import notices, quota, revoke, submit, withdraw
from registry.trust.errors import Conflict, Refused

Organisation = Annotated[
    str,
    Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$", description="Short name.",
         examples=["sme-a"]),
]  # fmt: skip


class Because(BaseModel):
    """Why something is stopped."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "a better model is ready"}]}
    )
    reason: Annotated[
        str,
        Field(min_length=3, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$",
              description="In one line; it is kept and shown."),
    ]  # fmt: skip


class SignedResumption(BaseModel):
    """An assessor's signed word that a certificate may come back."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"envelope": {"payload": "…", "payloadType": "…", "signatures": []}}]
        },
    )
    envelope: Annotated[dict[str, Any], Field(description="A DSSE envelope.")]


class ShownNotice(BaseModel):
    """What somebody concerned is told."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "number": 7,
                    "organisation": "clinic",
                    "submission": "7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10",
                    "kind": "suspended",
                    "message": "nodule-net version 3 is suspended: stop using it …",
                    "at": "2026-11-24T12:00:00Z",
                }
            ]
        }
    )
    number: int
    organisation: str
    submission: str
    kind: str
    message: str
    at: dt.datetime


class Share(BaseModel):
    """What is allowed, and what is used of it."""

    allowed: int
    used: float


class ShownQuota(BaseModel):
    """What an organisation may use, and uses."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "organisation": "sme-a",
                    "storage_bytes": {"allowed": 53687091200, "used": 0},
                    "waiting": {"allowed": 20, "used": 1},
                    "compute_seconds": {"allowed": 360000, "used": 12.5},
                }
            ]
        }
    )
    organisation: str
    storage_bytes: Share
    waiting: Share
    compute_seconds: Share


_STOPPED: dict[str, tuple[str, str, Callable[..., dict[str, Any]]]] = {
    "withdraw": (
        "Withdraw a submission",
        "For innovators: take your submission back before its review; its compute stops.",
        withdraw.withdraw,
    ),
    "cancel": (
        "Cancel a submission",
        "For stewards: stop a submission before its review; its compute stops.",
        withdraw.cancel,
    ),
    "suspend": (
        "Suspend a certificate",
        "For assessors and stewards: take a certified model out of clinical pilot, at once.",
        revoke.suspend,
    ),
    "revoke": (
        "Revoke a certificate",
        "For assessors: one of two voices that end a certificate; the first suspends it.",
        revoke.revoke,
    ),
}


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """What is done to a submission, and what those concerned are told."""
    routes = APIRouter(prefix="/api/v1", tags=["life of a submission"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    def once(act: Callable[..., dict[str, Any]], caller: Caller, submission: str, what: Any) -> Any:
        """The act; where this very request acted already, what it led to."""
        try:
            return act(facility, caller, submission, what)
        except (Conflict, Refused):
            if not acted_before():
                raise
            return submit.view(facility, caller, submission)

    def stopping(act: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
        def stop(caller: Who, submission: Id, because: Because) -> Any:
            return once(act, caller, submission, because.reason)

        return stop

    for name, (summary, description, act) in _STOPPED.items():
        routes.post(
            f"/submissions/{{submission}}/{name}", summary=summary, description=description,
            response_model=Submission, response_model_exclude_unset=True, operation_id=name,
        )(stopping(act))  # fmt: skip

    @routes.post(
        "/submissions/{submission}/resume", summary="Resume a certificate",
        response_model=Submission, response_model_exclude_unset=True, operation_id="resume",
    )  # fmt: skip
    def resume(caller: Who, submission: Id, signed: SignedResumption) -> Any:
        """For assessors: one of two signed words that bring a suspended certificate back."""
        return once(revoke.resume, caller, submission, signed.envelope)

    @routes.get(
        "/notices", summary="Read notices", response_model=Page[ShownNotice],
        operation_id="list_notices",
    )  # fmt: skip
    def read_notices(
        caller: Who,
        request: Request,
        response: Response,
        after: After = 0,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """What your organisation is told, oldest first: failures, late reviews, suspensions.

        To wait for the next one, give the number of the last as `after`.
        """
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda last, number: notices.listing(
                facility, caller, after=beyond(after, last), limit=number
            ),
            lambda row: (str(row["number"]),),
        )  # fmt: skip
        return {"items": rows, "next": following}

    @routes.get(
        "/organisations/{organisation}/quota", summary="Read a quota", response_model=ShownQuota,
        operation_id="read_quota",
    )  # fmt: skip
    def read_quota(caller: Who, organisation: Organisation) -> dict[str, Any]:
        """What an organisation may use, and uses."""
        return quota.shown(facility, caller, organisation)

    @routes.put(
        "/organisations/{organisation}/quota", summary="Set a quota", response_model=ShownQuota,
        operation_id="set_quota",
    )  # fmt: skip
    def set_quota(
        caller: Who,
        organisation: Organisation,
        new: Annotated[quota.NewQuota, Body(examples=[{"waiting": 40}])],
    ) -> dict[str, Any]:
        """For administrators: change what an organisation may use."""
        return quota.change(facility, caller, organisation, new)

    return routes
