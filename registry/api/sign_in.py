"""Signing in with an enrolled key: `/api/v1/login/key`. For assessors and stewards.

>>> app.include_router(router(facility, caller_of, throttle))
"""

import datetime as dt
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from registry.api.login import UNSEEN, GivenToken, given_token
from registry.facility import Facility
from registry.identity import sign_in
from registry.identity.caller import Caller
from registry.identity.rate import Throttle

_KEY = "sha256:" + "5d41402abc4b2a76" * 4
_NEW: Any = {"Ada": {"value": {"person": "Ada", "organisation": "tef", "key": _KEY}}}
_SIGNED: Any = {"as `touchstone login --key` signs it": {"value": {"envelope": {
    "payload": "eyJwZXJzb24iOiJBZGEifQ==",
    "payloadType": "application/vnd.touchstone.sign-in.v1+json",
    "signatures": [{"keyid": _KEY, "sig": "MEUCIQ=="}],
}}}}  # fmt: skip
_CONFIRMATION: Any = {"one's own": {"value": {"subject": "8f2c0a@lifescience-ri.eu"}}}


class Challenge(BaseModel):
    """What is to be signed, by when, and the address that the statement must name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "nonce": "9Jt0…", "server": "https://touchstone.example.org",
        "expires_at": "2026-11-24T09:05:00Z",
    }]})  # fmt: skip
    nonce: Annotated[str, Field(description="Good once, for five minutes.")]
    server: Annotated[str, Field(description="The registry's own address.")]
    expires_at: dt.datetime


class Confirmed(BaseModel):
    """The person to whom the login was linked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "person": "0b0e7a52-7c0f-4f5e-9c0b-1f0e3f2f9d11", "subject": "8f2c0a@lifescience-ri.eu",
    }]})  # fmt: skip
    person: uuid.UUID
    subject: str


def router(facility: Facility, caller_of: Any, throttle: Throttle) -> APIRouter:
    """The routes of signing in with a key."""
    routes = APIRouter(prefix="/api/v1/login", tags=["login"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806
    own = facility.settings.own_address

    @routes.post(
        "/key", status_code=201, summary="Begin to sign in with a key", response_model=Challenge,
        operation_id="begin_sign_in",
    )  # fmt: skip
    def begin(new: Annotated[sign_in.NewSignIn, Body(openapi_examples=_NEW)]) -> Any:
        """Gives a challenge to sign, good once and for five minutes.

        It is given to whoever asks, and says nothing of whether such a key is enrolled.
        """
        throttle.login()
        return sign_in.begin(facility.login, own, new)

    @routes.post(
        "/key/token", summary="Sign in with a key", response_model=GivenToken,
        operation_id="end_sign_in",
    )  # fmt: skip
    def finish(signed: Annotated[sign_in.Signed, Body(openapi_examples=_SIGNED)]) -> JSONResponse:
        """Takes the challenge, signed with an enrolled key; gives a token for twelve hours."""
        throttle.login()
        given = sign_in.finish(facility.login, facility.root, own, signed)
        return JSONResponse(given_token(given), headers=UNSEEN)

    @routes.post(
        "/confirmation", summary="Confirm a login as one's own", response_model=Confirmed,
        operation_id="confirm_login",
    )  # fmt: skip
    def confirm(
        caller: Who, new: Annotated[sign_in.NewConfirmation, Body(openapi_examples=_CONFIRMATION)]
    ) -> dict[str, str]:
        """For assessors and stewards, signed in with their key: this login is mine.

        Until then a login at the identity provider gives them no token, whatever is linked.
        """
        return {"person": sign_in.confirm(facility.record, caller, new), "subject": new.subject}

    return routes
