"""Who is asking, organisations and tokens.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api.answers import acted_before, done_before
from registry.facility import Facility
from registry.identity import accounts
from registry.identity.caller import Caller, Kind, Role
from registry.trust.errors import Conflict


class Me(BaseModel):
    """Who the token belongs to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "organisation": "sme-a", "kind": "sme", "role": "innovator", "person": "Eva",
    }]})  # fmt: skip
    organisation: str
    kind: Kind
    role: Role
    person: str


class Organisation(BaseModel):
    """An organisation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "sme-a", "kind": "sme", "name": "SME A",
    }]})  # fmt: skip
    id: str
    kind: Literal["sme", "facility", "hospital"]
    name: str


class Token(BaseModel):
    """A token, with its secret: shown this once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "0b0e7a52-7c0f-4f5e-9c0b-1f0e3f2f9d11", "token": "tst_…", "organisation": "sme-a",
        "role": "innovator", "person": "Eva", "expires_at": "2027-02-22T09:00:00Z",
    }]})  # fmt: skip
    id: str
    token: Annotated[str, Field(description="The secret. It is not kept and not shown again.")]
    organisation: str
    role: Role
    person: str
    expires_at: dt.datetime


_ORGANISATION = {"an SME": {"value": {"id": "sme-c", "kind": "sme", "name": "SME C"}}}
_TOKEN = {
    "an innovator": {
        "value": {"organisation": "sme-a", "role": "innovator", "person": "Eva", "days": 90}
    }
}


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/me`, `/organisations` and `/tokens`."""
    routes = APIRouter(prefix="/api/v1", tags=["accounts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get("/me", summary="Who am I", response_model=Me, operation_id="whoami")
    def me(caller: Who) -> dict[str, str]:
        """The person, role and organisation that the token stands for."""
        return {
            "organisation": caller.organisation,
            "kind": caller.kind,
            "role": caller.role,
            "person": caller.person,
        }

    @routes.post(
        "/organisations", status_code=201, summary="Add an organisation",
        response_model=Organisation, operation_id="add_organisation",
    )  # fmt: skip
    def add_organisation(
        caller: Who, new: Annotated[accounts.NewOrganisation, Body(openapi_examples=_ORGANISATION)]
    ) -> dict[str, str]:
        """For administrators. An SME gets its own MLflow workspace, which nobody else sees."""
        from registry.mlflow_gate.schema import ensure_workspace

        with done_before(Conflict):
            accounts.add_organisation(facility.record, caller, new)
        if new.kind == "sme":
            ensure_workspace(facility.databases.mlflow, new.id)
        return {"id": new.id, "kind": new.kind, "name": new.name}

    @routes.post(
        "/tokens", status_code=201, summary="Issue a token", response_model=Token,
        operation_id="add_token",
    )  # fmt: skip
    def add_token(
        caller: Who,
        new: Annotated[accounts.NewToken, Body(openapi_examples=_TOKEN)],
        response: Response,
    ) -> dict[str, str]:
        """For administrators. The secret is shown this once and never kept.

        Because of that a repetition with the same Idempotency-Key is answered 409
        (`answer_not_kept`): nothing is issued twice, and a lost secret stays lost.
        """
        if acted_before():
            raise Conflict(
                "this request issued a token whose secret was lost with the answer; ask for "
                "another with a new Idempotency-Key",
                code="answer_not_kept",
            )
        token = accounts.add_token(facility.record, caller, new)
        response.headers["Cache-Control"] = "private, no-store"
        return {
            "id": token.id,
            "token": token.secret,
            "organisation": new.organisation,
            "role": new.role,
            "person": new.person,
            "expires_at": token.expires_at.isoformat(),
        }

    return routes
