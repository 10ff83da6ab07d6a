"""Keys of assessors and stewards: `/api/v1/keys`. The server is given certificates only.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from registry.api import paging
from registry.api.paging import Cursor, Limit, Page
from registry.facility import Facility
from registry.identity import enrolment
from registry.identity.caller import Caller

_DIGEST = "sha256:" + "5d41402abc4b2a76" * 4
_KEY: Any = {
    "key": _DIGEST, "person": "Ada", "organisation": "tef", "role": "assessor",
    "enrolled_at": "2027-02-22T09:00:00Z", "revoked_at": None,
}  # fmt: skip
_ENVELOPE: Any = {
    "payload": "eyJwZXJzb24iOiJBZGEifQ==",
    "payloadType": "application/vnd.touchstone.enrolment.v1+json",
    "signatures": [{"keyid": _DIGEST, "sig": "MEUCIQ=="}],
}
_PEM = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n"
_FOUNDING: Any = {
    "as `key found` writes it": {"value": {"envelope": _ENVELOPE, "certificates": [_PEM, _PEM]}}
}
_ENROLMENT: Any = {
    "as two others approved it": {"value": {"envelope": _ENVELOPE, "certificate": _PEM}}
}
_REVOCATION: Any = {"a lost card": {"value": {"reason": "the card was lost"}}}
KeyId = Annotated[
    str, Path(pattern=r"^sha256:[0-9a-f]{64}$", description="The key's digest.", examples=[_DIGEST])
]


class Key(BaseModel):
    """A key that was enrolled, by whose certificate, and whether it was revoked."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEY]})
    key: str
    person: str
    organisation: str
    role: str | None
    enrolled_at: dt.datetime
    revoked_at: dt.datetime | None


class Keys(BaseModel):
    """The keys that a founding statement enrolled."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"keys": [_KEY]}]})
    keys: list[Key]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/keys`."""
    routes = APIRouter(prefix="/api/v1/keys", tags=["keys"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get("", summary="List keys", response_model=Page[Key], operation_id="list_keys")
    def listing(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """Every key that was ever enrolled, and whether it was revoked. By person, then by age."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: enrolment.keys(facility.record, caller, after, number),
            enrolment.place,
        )  # fmt: skip
        return {"items": rows, "next": following}

    @routes.post(
        "/founding", status_code=201, summary="Load the founding statement",
        response_model=Keys, operation_id="load_founding",
    )  # fmt: skip
    def found(
        caller: Who, new: Annotated[enrolment.NewFounding, Body(openapi_examples=_FOUNDING)]
    ) -> dict[str, Any]:
        """Enrol the first people, by the statement that the offline root signed; once."""
        rows = enrolment.load_founding(facility.record, facility.root, caller, new)
        return {"keys": rows}

    @routes.post(
        "", status_code=201, summary="Enrol a key", response_model=Key, operation_id="enrol_key"
    )
    def enrol(
        caller: Who, new: Annotated[enrolment.NewEnrolment, Body(openapi_examples=_ENROLMENT)]
    ) -> dict[str, Any]:
        """Enrol one key that two others, who are enrolled, approved by their signatures."""
        return enrolment.enrol(facility.record, facility.root, caller, new)

    @routes.post(
        "/{key}/revocation", status_code=201, summary="Revoke a key", response_model=Key,
        operation_id="revoke_key",
    )  # fmt: skip
    def revoke(
        caller: Who,
        key: KeyId,
        new: Annotated[enrolment.NewRevocation, Body(openapi_examples=_REVOCATION)],
    ) -> dict[str, Any]:
        """Take a key away: it signs no new decision and approves nobody."""
        return enrolment.revoke(facility.record, caller, key, new)

    return routes
