"""Submissions, their reports, and the decisions on them.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from registry.api import paging
from registry.api.answers import acted_before, file_answer
from registry.api.examples import DECISION, SUBMISSION
from registry.api.paging import Cursor, Limit, Page
from registry.database.requests import current_claim
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.pipeline.queue import enqueue
from registry.submissions import review, submit
from registry.submissions.states import State
from registry.trust.errors import Conflict, TouchstoneError
from registry.trust.numbers import AS_JSON
from validators.declaration import Declaration

Id = Annotated[
    str,
    Path(max_length=100, description="The submission's id.", examples=[SUBMISSION["id"]]),
]

Drift = Annotated[
    bool, Query(description="The page on drift in place of the report. It shows single patients.")
]


class _WrittenAsDeclaration:
    """Describes a JSON object as a declaration, which `submit` reads with better sentences."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(Declaration.__pydantic_core_schema__)


class Use(BaseModel):
    """What a run took."""

    run: Annotated[str, Field(description="`run`, or `run/` and the name of a perturbation.")]
    parts: int
    workers: int
    seconds: Annotated[float, Field(description="Of all parts together, in whoever's hands.")]
    lasted: Annotated[
        float | None,
        Field(
            description="From its start to its end at whoever led it; null while it is under way."
        ),
    ]
    processor_seconds: Annotated[
        float | None, Field(description="Null where an inference server ran the model.")
    ]


class NewSubmission(BaseModel):
    """What `submit` sends."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="A registered model."),
    ]
    version: Annotated[int, Strict(), Field(ge=1, le=2**31 - 1), AS_JSON]
    protocol: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9:-]{0,100}$", description="Id or digest of a locked protocol."
        ),
    ]
    cohort: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Name of a locked cohort.")
    ]
    development: Annotated[
        bool,
        Field(description="Whether this is the protocol's development cohort: it decides nothing."),
    ] = False
    declaration: Annotated[
        Annotated[dict[str, Any], _WrittenAsDeclaration()] | None,
        Field(description="What the protocol asks the model's maker to declare."),
    ] = None


class ModelVersion(BaseModel):
    """A version of a registered model; its digest is known once intake has read it."""

    name: str
    version: int
    digest: str | None


class ProtocolVersion(BaseModel):
    """A locked protocol."""

    id: str
    version: str
    digest: str


class CohortVersion(BaseModel):
    """A locked cohort."""

    id: str
    version: str


class Failure(BaseModel):
    """Why a submission stopped, and whose fault that was found to be."""

    code: str
    message: str | None
    fault: Literal["facility", "model"] | None = None


class Attempts(BaseModel):
    """Runs on the locked cohort."""

    allowed: int
    spent: int


class Alike(BaseModel):
    """A submission of another organisation whose model has much the same weights."""

    submission: str
    organisation: str
    model: Annotated[str, Field(description="Name and version.")]
    share: Annotated[float, Field(ge=0, le=1, description="Of the weights, what is alike.")]
    same_family: Annotated[bool, Field(description="Whether their attempts count together.")]


class Trials(BaseModel):
    """Runs on the development cohort."""

    allowed: int
    spent: int


class Submission(BaseModel):
    """What the caller may know of a submission. From `verdict` on, it is for the facility."""

    model_config = ConfigDict(json_schema_extra={"examples": [SUBMISSION]})
    id: str
    organisation: str
    model: ModelVersion
    protocol: ProtocolVersion
    cohort: CohortVersion
    declaration: Annotated[
        str | None, Field(description="The digest of what its maker declared; null for nothing.")
    ]
    state: State
    meaning: Annotated[str, Field(description="The state in a few plain words.")]
    development: Annotated[
        bool, Field(description="On the development cohort: it decides nothing and ends as tried.")
    ]
    deadline: Annotated[
        dt.datetime | None, Field(description="When the watchdog acts; null in a final state.")
    ]
    overdue: bool
    outcome: Literal["pass", "not_pass"] | None
    failure: Failure | None
    attempts: Attempts
    trials: Annotated[Trials | None, Field(description="Null but on the development cohort.")]
    created_at: dt.datetime
    changed_at: dt.datetime
    verdict: Literal["pass", "conditional", "fail", "insufficient_evidence"] | None = None
    report_digest: str | None = None
    statement_digest: str | None = None
    cohort_root: str | None = None
    certifiable: bool | None = None
    decisions: Annotated[int | None, Field(description="Those that stand.")] = None
    cohort_state: Annotated[
        str, Field(description="locked, retired, or burned: something of it was disclosed.")
    ] = ""
    void_decisions: Annotated[
        int | None,
        Field(description="Those that a revoked key or another report made void."),
    ] = None
    alike: Annotated[
        list[Alike] | None,
        Field(description="Models of other organisations with much the same weights."),
    ] = None
    held_for_review: Annotated[
        str | None,
        Field(description="What an assessor must have looked at, and say so, to certify it."),
    ] = None
    compute: Annotated[
        list[Use] | None, Field(description="What its runs took, over all their parts.")
    ] = None


_NEW = {
    "a version": {
        "value": {
            "model": "nodule-net",
            "version": 3,
            "protocol": "nodule-malignancy",
            "cohort": "lidc-nodules",
        }
    }
}
_SIGNED = {"a certificate": {"value": DECISION}}
_JSON_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The document, to the byte.",
        "content": {"application/json": {"schema": {"type": "object"}, "example": {"…": "…"}}},
    }
}
_PAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of HTML that runs nothing and loads nothing.",
        "content": {"text/html": {"schema": {"type": "string"}, "example": "<!doctype html>…"}},
    }
}

_PDF: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The document, to the byte.",
        "content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _links(submission: str) -> dict[str, Any]:
    """What can be asked next about the submission at this place of the answer."""
    return {
        operation: {"operationId": operation, "parameters": {"submission": submission}}
        for operation in (
            "read_submission", "read_report", "read_report_page", "read_report_pdf",
            "read_statement", "decide",
        )
    }  # fmt: skip


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/submissions` and what lies below each."""
    routes = APIRouter(prefix="/api/v1/submissions", tags=["submissions"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post(
        "", status_code=201, summary="Submit a model version", response_model=Submission,
        response_model_exclude_unset=True, operation_id="submit",
        responses={201: {"links": _links("$response.body#/id")}},
    )  # fmt: skip
    def add(
        caller: Who, new: Annotated[NewSubmission, Body(openapi_examples=_NEW)]
    ) -> dict[str, Any]:
        """For innovators: bind one of your registered versions to a protocol and its cohort.

        An attempt is spent when the first locked case is opened for the model, not before. On the
        protocol's development cohort (`development`) a trial is spent in its place: it ends as
        `tried`, is never reviewed, and its report holds numbers.
        """
        claim = current_claim()
        identity = None if claim is None else claim.identity
        if identity is not None and acted_before():
            submission = str(identity)
        else:
            submission = submit.submit(
                facility,
                caller,
                model=new.model,
                version=new.version,
                protocol=new.protocol,
                cohort_name=new.cohort,
                development=new.development,
                declaration=new.declaration,
                identity=identity,
            )
        row = submit.load(facility, caller, submission)
        enqueue(facility, submission, submit.protocol_of(row).compute)
        return submit.describe(row, caller)

    @routes.get(
        "", summary="List submissions", response_model=Page[Submission],
        response_model_exclude_unset=True, operation_id="list_submissions",
        responses={200: {"links": _links("$response.body#/items/0/id")}},
    )  # fmt: skip
    def listing(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """The latest first: your organisation's, or everybody's for the facility's people."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: submit.page(facility, caller, after, number), submit.place,
        )  # fmt: skip
        return {"items": [submit.describe(row, caller) for row in rows], "next": following}

    @routes.get(
        "/{submission}", summary="Read a submission", response_model=Submission,
        response_model_exclude_unset=True, operation_id="read_submission",
    )  # fmt: skip
    def one(caller: Who, submission: Id) -> dict[str, Any]:
        """How far it has come. To wait for it, ask again with If-None-Match."""
        return submit.view(facility, caller, submission)

    @routes.get(
        "/{submission}/report", summary="Read a report", responses=_JSON_FILE,
        response_class=Response, operation_id="read_report",
    )  # fmt: skip
    def report(caller: Who, submission: Id) -> Response:
        """report.json as far as the caller may read it: complete, rounded, or pass / not pass.

        Of a run on the development cohort, for its submitter: the best value of each metric so far,
        by the Ladder. 409 while there is none.
        """
        return file_answer(review.report_for(facility, caller, submission), "application/json")

    @routes.get(
        "/{submission}/report.html", summary="Read a report as a page", responses=_PAGE,
        response_class=Response, operation_id="read_report_page",
    )  # fmt: skip
    def report_page(caller: Who, submission: Id, drift: Drift = False) -> Response:
        """The complete report, for the facility's people; or its page on single patients.

        That page (Evidently's, of the cohort against the declared development data) must not leave
        the facility. Save it and open the file: here it runs no script.
        """
        read = review.drift_page_for if drift else review.report_page_for
        return file_answer(read(facility, caller, submission), "text/html")

    @routes.get(
        "/{submission}/report.pdf", summary="Read a report as PDF", responses=_PDF,
        response_class=Response, operation_id="read_report_pdf",
    )  # fmt: skip
    def report_pdf(caller: Who, submission: Id) -> Response:
        """The released report of a certificate, as hospitals get it (PDF/A): for the facility's
        people from the review on, for the submitter once the model is certified."""
        return file_answer(review.report_pdf_for(facility, caller, submission), "application/pdf")

    @routes.get(
        "/{submission}/statement", summary="Read what a certificate would say",
        responses=_JSON_FILE | {204: {"description": "Nothing can be certified here."}},
        response_class=Response, operation_id="read_statement",
    )  # fmt: skip
    def statement(caller: Who, submission: Id) -> Response:
        """For assessors: the statement that is signed with a decision to certify."""
        data = review.documents(facility, caller, submission).statement
        return Response(status_code=204) if data is None else file_answer(data, "application/json")

    @routes.post(
        "/{submission}/decisions", status_code=201, summary="Sign a decision",
        response_model=Submission, response_model_exclude_unset=True, operation_id="decide",
    )  # fmt: skip
    def decide(
        caller: Who,
        submission: Id,
        signed: Annotated[review.SignedDecision, Body(openapi_examples=_SIGNED)],
    ) -> dict[str, Any]:
        """For assessors: a decision signed on your own machine. The second that agrees ends it."""
        try:
            return review.decide(facility, caller, submission, signed)
        except Conflict:
            if not acted_before():
                raise
            # This decision is kept; what followed from it may be missing.
            with suppress(TouchstoneError):
                review.issue(facility, caller, submission)
            return submit.view(facility, caller, submission)

    return routes
