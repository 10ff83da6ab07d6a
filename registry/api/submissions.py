"""Submissions, their reports, and the decisions on them.

>>> app.include_router(router(facility, caller_of))
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api.files import file_answer
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.pipeline.queue import enqueue
from registry.submissions import review, submit


class NewSubmission(BaseModel):
    """What `submit` sends."""

    model_config = ConfigDict(extra="forbid")
    model: str
    version: Annotated[int, Field(ge=1)]
    protocol: str
    cohort: str


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/submissions` and what lies below each."""
    routes = APIRouter(prefix="/api/v1/submissions", tags=["submissions"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post("", status_code=201)
    def add(caller: Who, new: NewSubmission) -> dict[str, Any]:
        submission = submit.submit(
            facility,
            caller,
            model=new.model,
            version=new.version,
            protocol=new.protocol,
            cohort_name=new.cohort,
        )
        enqueue(facility, submission)
        return submit.view(facility, caller, submission)

    @routes.get("")
    def listing(caller: Who) -> list[dict[str, Any]]:
        return submit.views(facility, caller)

    @routes.get("/{submission}")
    def one(caller: Who, submission: str) -> dict[str, Any]:
        return submit.view(facility, caller, submission)

    @routes.get("/{submission}/report")
    def report(caller: Who, submission: str) -> Response:
        return file_answer(review.report_for(facility, caller, submission), "application/json")

    @routes.get("/{submission}/report.html")
    def report_page(caller: Who, submission: str) -> Response:
        return file_answer(review.report_page_for(facility, caller, submission), "text/html")

    @routes.get("/{submission}/statement")
    def statement(caller: Who, submission: str) -> Response:
        data = review.documents(facility, caller, submission).statement
        return Response(status_code=204) if data is None else file_answer(data, "application/json")

    @routes.post("/{submission}/decisions", status_code=201)
    def decide(caller: Who, submission: str, signed: review.SignedDecision) -> dict[str, Any]:
        return review.decide(facility, caller, submission, signed)

    return routes
