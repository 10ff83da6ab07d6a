"""People and tokens: who is linked, what they hold, and what is taken back.

    >>> app.include_router(router(facility, caller_of, oidc))

Rules
-----
1. No answer here ever holds a token's secret or its hash.
"""

import datetime as dt
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import paging
from registry.api.paging import Cursor, Limit, Page
from registry.facility import Facility
from registry.identity import people
from registry.identity.caller import Caller, Role
from registry.identity.oidc_settings import OidcSettings
from registry.trust.errors import NotFound

_ID = "0b0e7a52-7c0f-4f5e-9c0b-1f0e3f2f9d11"
_ADA: Any = {"id": _ID, "name": "Ada", "organisation": "tef", "role": "assessor"}
_NEW = {
    "an assessor, by subject": {"value": {
        "name": "Ada", "organisation": "tef", "role": "assessor",
        "subject": "8f2c0a@lifescience-ri.eu",
    }},
    "a clinician, by address": {"value": {
        "name": "Nora", "organisation": "clinic", "role": "clinician",
        "email": "nora@clinic.example",
    }},
}  # fmt: skip
PersonId = Annotated[uuid.UUID, Path(description="The person's id.", examples=[_ID])]
TokenId = Annotated[uuid.UUID, Path(description="The token's id.", examples=[_ID])]
Where = Annotated[str, Path(pattern=people.SLUG, description="The organisation.", examples=["tef"])]
What = Annotated[Role, Path(description="The role.", examples=["assessor"])]


class KnownToken(BaseModel):
    """A token, without its secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": _ID, "organisation": "sme-a", "role": "innovator", "person": "Eva",
        "created_at": "2026-11-24T09:00:00Z", "expires_at": "2026-11-24T17:00:00Z",
        "revoked_at": None, "last_used_at": "2026-11-24T09:05:00Z",
    }]})  # fmt: skip
    id: uuid.UUID
    organisation: str
    role: Role
    person: str
    created_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None
    last_used_at: Annotated[dt.datetime | None, Field(description="To the minute.")]


class Revoked(BaseModel):
    """What opens nothing from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revoked": _ID}]})
    revoked: uuid.UUID


class Grant(BaseModel):
    """A role that the record grants, or granted."""

    organisation: str
    role: Role
    granted_by: str
    withdrawn_by: str | None


class Person(BaseModel):
    """Somebody who is linked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": _ID, "name": "Ada", "issuer": "https://login.example.org",
        "subject": "8f2c0a@lifescience-ri.eu", "email": None,
        "added_at": "2026-11-24T09:00:00Z", "added_by": "administrator",
        "roles": [{"organisation": "tef", "role": "assessor", "granted_by": "administrator",
                   "withdrawn_by": None}],
    }]})  # fmt: skip
    id: uuid.UUID
    name: str
    issuer: str
    subject: Annotated[str | None, Field(description="None until a first login by address.")]
    email: str | None
    added_at: dt.datetime
    added_by: str
    roles: list[Grant]


class Granted(BaseModel):
    """A role that was granted, or withdrawn."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ADA]})
    id: uuid.UUID
    name: str | None = None
    organisation: str
    role: Role


def router(facility: Facility, caller_of: Any, oidc: OidcSettings | None) -> APIRouter:
    """The routes of people and of tokens already issued."""
    router = APIRouter(prefix="/api/v1", tags=["people"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @router.get(
        "/tokens", summary="List tokens", response_model=Page[KnownToken],
        operation_id="list_tokens",
    )  # fmt: skip
    def list_tokens(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """The newest first: one's own; everybody's for an administrator or auditor.

        Never a secret.
        """
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: people.list_tokens(facility.record, caller, after, number),
            people.token_place,
        )  # fmt: skip
        return {"items": rows, "next": following}

    @router.delete(
        "/tokens/{token}", summary="Revoke a token", response_model=Revoked,
        operation_id="revoke_token",
    )  # fmt: skip
    def revoke_token(caller: Who, token: TokenId) -> dict[str, Any]:
        """One's own; anybody's as an administrator. In effect at once, also during an upload."""
        people.revoke_token(facility.record, caller, str(token))
        return {"revoked": token}

    @router.get(
        "/people", summary="List people", response_model=Page[Person], operation_id="list_people"
    )
    def list_people(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """By name: who is linked to the identity provider, and what they hold and held."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: people.list_people(facility.record, caller, after, number),
            people.person_place,
        )  # fmt: skip
        return {"items": rows, "next": following}

    @router.post(
        "/people", summary="Link a person", status_code=201, response_model=Granted,
        operation_id="add_person",
    )  # fmt: skip
    def add_person(
        caller: Who, new: Annotated[people.NewPerson, Body(openapi_examples=_NEW)]
    ) -> dict[str, Any]:
        """Link a person of the identity provider, or grant one more role to one who is linked."""
        if oidc is None:
            raise NotFound(
                "this registry has no identity provider to link people of; issue a token instead",
                code="no_identity_provider",
            )
        person = people.add_person(facility.record, caller, oidc.issuer, new)
        return {"id": person, "name": new.name, "organisation": new.organisation, "role": new.role}

    @router.delete(
        "/people/{person}/roles/{organisation}/{role}", summary="Withdraw a role",
        response_model=Granted, operation_id="withdraw_role",
    )  # fmt: skip
    def withdraw(caller: Who, person: PersonId, organisation: Where, role: What) -> dict[str, Any]:
        """The person's logins in it end in the same moment; no claim brings it back."""
        people.withdraw(facility.record, caller, str(person), organisation, role)
        return {"id": person, "organisation": organisation, "role": role}

    return router
