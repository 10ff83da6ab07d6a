"""Logging in at the identity provider, in a browser or from the command line.

    >>> app.include_router(router(facility, caller_of, throttle, oidc))

Rules
-----
1. The browser that began a login ends it: a cookie that only this path sees binds them.
2. Nowhere is there an address to return to: a login ends on our own page.
3. The token stands on that page once, and no cache keeps it.
"""

from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Cookie, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from registry.api.people import Revoked
from registry.facility import Facility
from registry.identity.caller import Caller, Role
from registry.identity.login import FLOW_SECONDS, LoggedIn, Logins, StartedDevice, logins_of
from registry.identity.oidc import Provider, Waiting
from registry.identity.oidc_settings import CALLBACK, OidcSettings
from registry.identity.people import SLUG, revoke_token
from registry.identity.rate import Throttle

COOKIE = "touchstone-login"
_PATH = "/api/v1/login"
UNSEEN = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Touchstone: logged in</title>
<style>body{{font:16px/1.5 system-ui;max-width:42rem;margin:3rem auto;padding:0 1rem}}
code{{display:block;padding:1rem;background:#eee;color:#111;overflow-wrap:anywhere}}</style>
<h1>You are logged in</h1>
<p>{person}: {role} of {organisation}, until {until} UTC.</p>
<p>Your token, shown this once. Set <b>TOUCHSTONE_TOKEN</b> (and, for MLflow,
<b>MLFLOW_TRACKING_TOKEN</b>) to it:</p>
<code>{secret}</code>
<p>On a command line, <b>touchstone login</b> does this by itself.</p>
</html>
"""

Organisation = Annotated[
    str | None,
    Query(pattern=SLUG, description="Where to act, for who holds several roles."),
]
As = Annotated[Role | None, Query(description="As what to act, for who holds several roles.")]
_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {
        "description": "The provider, or we, refuse this login.",
        "content": {"application/problem+json": {}},
    },
    403: {
        "description": "This person has no such role here.",
        "content": {"application/problem+json": {}},
    },
}


class NewDeviceLogin(BaseModel):
    """As whom to log in; needed only where somebody holds several roles."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})
    organisation: Annotated[str | None, Field(pattern=SLUG)] = None
    role: Role | None = None


class DeviceLogin(BaseModel):
    """What a person needs, and the handle by which to ask whether they have answered."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "user_code": "BDRM-QXPT", "verification_uri": "https://login.example.org/device",
        "verification_uri_complete": None, "interval": 5, "expires_in": 600,
        "handle": "9Jt0…",
    }]})  # fmt: skip
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    interval: Annotated[int, Field(description="Seconds between two questions.")]
    expires_in: int
    handle: str


class Handle(BaseModel):
    """The handle that the beginning of a device login gave."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"handle": "9Jt0…"}]})
    handle: Annotated[str, Field(min_length=1, max_length=200)]


class GivenToken(BaseModel):
    """A token for some hours, shown this once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "0b0e7a52-7c0f-4f5e-9c0b-1f0e3f2f9d11", "token": "tst_…", "organisation": "sme-a",
        "role": "innovator", "person": "Eva", "expires_at": "2026-11-24T17:00:00Z",
    }]})  # fmt: skip
    id: str
    token: str
    organisation: str
    role: Role
    person: str
    expires_at: str


class Unanswered(BaseModel):
    """The person has not answered yet."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"waiting": True, "slower": False}]})
    waiting: bool
    slower: Annotated[bool, Field(description="Wait five seconds more each time from now on.")]


def router(
    facility: Facility, caller_of: Any, throttle: Throttle, oidc: OidcSettings | None
) -> APIRouter:
    """The routes of logging in and out."""
    router = APIRouter(prefix="/api/v1", tags=["login"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806
    logins = Logins(facility.login, Provider(oidc)) if oidc else None
    secure = oidc is not None and oidc.public_url.startswith("https://")

    @router.get(
        "/login", summary="Log in with a browser", status_code=303, operation_id="begin_login",
        response_class=RedirectResponse,
    )  # fmt: skip
    def begin(organisation: Organisation = None, role: As = None) -> Response:
        """Sends the browser to the identity provider. It comes back to our own page, always."""
        throttle.login()
        started = logins_of(logins).begin(organisation, role)
        response = RedirectResponse(started.address, status_code=303, headers=UNSEEN)
        response.set_cookie(
            COOKIE,
            started.cookie,
            max_age=FLOW_SECONDS,
            path=_PATH,
            secure=secure,
            httponly=True,
            samesite="lax",
        )
        return response

    @router.get(
        CALLBACK.removeprefix("/api/v1"), summary="End a login in a browser",
        operation_id="end_login", response_model=GivenToken, responses=_REFUSED,
        openapi_extra={"x-open-query": True},  # RFC 6749, 4.1.2: what is unknown is ignored
    )  # fmt: skip
    def finish(
        request: Request,
        state: Annotated[str | None, Query(max_length=4096, description="Ours.")] = None,
        code: Annotated[str | None, Query(max_length=4096, description="The provider's.")] = None,
        iss: Annotated[str | None, Query(max_length=4096, description="RFC 9207.")] = None,
        error: Annotated[str | None, Query(max_length=4096, description="If it said no.")] = None,
        cookie: Annotated[
            str | None,
            Cookie(alias=COOKIE, max_length=200, description="Of the browser that began."),
        ] = None,
    ) -> Response:
        """Where the identity provider sends the browser: a page with the token, shown once.

        As JSON for who accepts that alone.
        """
        throttle.login()
        given = logins_of(logins).finish(cookie, state=state, code=code, issuer=iss, error=error)
        response: Response
        if "application/json" in request.headers.get("accept", ""):
            response = JSONResponse(given_token(given), headers=UNSEEN)
        else:
            response = _page(given)
        response.delete_cookie(COOKIE, path=_PATH, secure=secure, httponly=True, samesite="lax")
        return response

    @router.post(
        "/login/device", summary="Begin a login from a command line", status_code=201,
        operation_id="begin_device_login", response_model=DeviceLogin, responses=_REFUSED,
    )  # fmt: skip
    def begin_device(wanted: NewDeviceLogin) -> StartedDevice:
        """Gives an address and a code for a person to enter there, and a handle to ask by."""
        throttle.login()
        return logins_of(logins).begin_device(wanted.organisation, wanted.role)

    @router.post(
        "/login/device/token", summary="End a login from a command line",
        operation_id="end_device_login", response_model=GivenToken,
        responses={202: {"model": Unanswered, "description": "Not answered yet."}, **_REFUSED},
    )  # fmt: skip
    def poll(device: Handle) -> Response:
        """Asks whether the person has answered; gives the token once they have."""
        throttle.poll()
        answer = logins_of(logins).poll(device.handle)
        if isinstance(answer, Waiting):
            return JSONResponse({"waiting": True, "slower": answer.slower}, status_code=202)
        return JSONResponse(given_token(answer), headers=UNSEEN)

    @router.post("/logout", summary="Log out", response_model=Revoked, operation_id="logout")
    def logout(caller: Who) -> dict[str, str]:
        """Revokes the token that is shown, at once."""
        revoke_token(facility.record, caller, caller.token_id)
        return {"revoked": caller.token_id}

    return router


def given_token(given: LoggedIn) -> dict[str, str]:
    return {
        "id": given.id,
        "token": given.secret,
        "organisation": given.organisation,
        "role": given.role,
        "person": given.person,
        "expires_at": given.expires_at.isoformat(),
    }


def _page(given: LoggedIn) -> HTMLResponse:
    page = _PAGE.format(
        person=escape(given.person),
        role=escape(given.role),
        organisation=escape(given.organisation),
        until=f"{given.expires_at:%Y-%m-%d %H:%M}",
        secret=escape(given.secret),
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
    return HTMLResponse(page, headers={**UNSEEN, "Content-Security-Policy": policy})
