"""Data use conditions, and the agreements that let a protocol use a cohort.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.answers import acted_before
from registry.api.exposure import CohortName, CohortVersion
from registry.api.paging import Cursor, Limit, Page
from registry.database.requests import current_claim
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import use
from registry.trust.errors import Refused

AgreementId = Annotated[
    str,
    Path(pattern=r"^[0-9a-fA-F-]{36}$", description="Id of an agreement.",
         examples=["0b7b1f7e-2c1f-4b34-9c43-0c8f0a4d6c11"]),
]  # fmt: skip
_EXAMPLE: Any = {
    "id": "0b7b1f7e-2c1f-4b34-9c43-0c8f0a4d6c11", "organisation": "tef", "cohort_id": "breast",
    "cohort_version": "1", "protocol_id": "breast-triage", "purpose": "validation of triage models",
    "reference": "negotiation-4711", "valid_from": "2026-12-01", "valid_until": "2028-11-30",
    "state": "under_review", "asked_by": "Sam", "created_at": "2026-11-24T12:00:00Z",
    "changed_at": "2026-11-24T12:00:00Z", "usable": False,
}  # fmt: skip


class Code(BaseModel):
    """One term of the Data Use Ontology."""

    code: str
    label: str


class Conditions(BaseModel):
    """What a cohort version may be used for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "cohort": "breast", "version": "1", "declared": True, "grandfathered": False,
        "settled": True,
        "codes": [{"code": "DUO:0000007", "label": "disease specific research"}],
        "words": "breast cancer (MONDO:0007254)", "until": "2030-12-31", "declared_by": "Sam",
        "declared_at": "2026-11-24T12:00:00Z",
    }]})  # fmt: skip
    cohort: str
    version: str
    declared: bool
    grandfathered: Annotated[
        bool, Field(description="Locked before there were statements, and not declared since.")
    ]
    settled: Annotated[
        bool, Field(description="False where one steward alone has said that there are none.")
    ]
    codes: list[Code]
    words: str
    until: dt.date | None
    declared_by: str
    declared_at: dt.datetime | None


class Agreement(BaseModel):
    """What was negotiated for one protocol on one cohort version."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    id: str
    organisation: str
    cohort_id: str
    cohort_version: str
    protocol_id: str
    purpose: str
    reference: str
    valid_from: dt.date
    valid_until: dt.date
    state: use.State
    asked_by: str
    created_at: dt.datetime
    changed_at: dt.datetime
    usable: Annotated[bool, Field(description="Whether the protocol may use the cohort today.")]


class OneAgreement(Agreement):
    """An agreement, and the states that can follow."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_EXAMPLE | {"next": ["approved", "declined"]}]}
    )
    next: list[str]


class Move(BaseModel):
    """The state to move to."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"state": "approved"}]}
    )
    state: use.State


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/cohorts/{cohort}/conditions`, `/cohorts/{cohort}/agreements` and `/agreements`."""
    routes = APIRouter(prefix="/api/v1", tags=["use of cohorts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post(
        "/cohorts/{cohort}/conditions", status_code=201, summary="Declare data use conditions",
        response_model=Conditions, operation_id="declare_conditions",
    )  # fmt: skip
    def declare(
        caller: Who, cohort: CohortName, said: use.Statement, version: CohortVersion = None
    ) -> dict[str, Any]:
        """For stewards. The latest statement counts, and ends agreements under an earlier one.

        Exactly one permission of the Data Use Ontology and any modifiers; `DUO:0000004` (no
        restriction) stands alone and needs no agreement; it counts once another steward has
        posted the same statement (`settled`).
        """
        if acted_before():
            return use.conditions(facility, caller, cohort, version)
        return use.declare(facility, caller, cohort, said, version)

    @routes.get(
        "/cohorts/{cohort}/conditions", summary="Read data use conditions",
        response_model=Conditions, operation_id="read_conditions",
    )  # fmt: skip
    def conditions(
        caller: Who, cohort: CohortName, version: CohortVersion = None
    ) -> dict[str, Any]:
        """What is declared now. `declared` is false where nobody has said anything."""
        return use.conditions(facility, caller, cohort, version)

    @routes.post(
        "/cohorts/{cohort}/agreements", status_code=201, summary="Ask for the use of a cohort",
        response_model=OneAgreement, operation_id="ask_agreement",
    )  # fmt: skip
    def ask(caller: Who, cohort: CohortName, new: use.NewAgreement) -> dict[str, Any]:
        """For stewards: begin an agreement for one protocol. It begins under review."""
        claim = current_claim()
        identity = None if claim is None else claim.identity
        if identity is not None and acted_before():
            return use.agreement(facility, caller, str(identity))
        return use.ask(facility, caller, cohort, new, identity)

    @routes.get(
        "/cohorts/{cohort}/agreements", summary="List agreements", response_model=Page[Agreement],
        operation_id="list_agreements",
    )  # fmt: skip
    def listing(
        caller: Who,
        cohort: CohortName,
        request: Request,
        response: Response,
        version: CohortVersion = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """The oldest first, for the facility's people."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: use.agreements(facility, caller, cohort, version, after, number),
            use.place,
        )  # fmt: skip
        return {"items": [use.shown(row) for row in rows], "next": following}

    @routes.get(
        "/agreements/{agreement}", summary="Read an agreement", response_model=OneAgreement,
        operation_id="read_agreement",
    )  # fmt: skip
    def one(caller: Who, agreement: AgreementId) -> dict[str, Any]:
        """Where it stands, and what can follow."""
        return use.agreement(facility, caller, agreement)

    @routes.post(
        "/agreements/{agreement}/move", summary="Move an agreement", response_model=OneAgreement,
        operation_id="move_agreement",
    )  # fmt: skip
    def move(caller: Who, agreement: AgreementId, to: Move) -> dict[str, Any]:
        """For stewards: along one arrow of the Negotiator's. In `resource_made_available`, and
        between its days, the protocol may use the cohort; another steward than the one who
        asked moves it there (`four_eyes`)."""
        try:
            return use.move(facility, caller, agreement, to.state)
        except Refused:
            if not acted_before():
                raise
            return use.agreement(facility, caller, agreement)

    return routes
