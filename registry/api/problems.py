"""Errors as RFC 9457 problem details: one line that a person can act on, no trace, no values.

    >>> install(app, addresses.methods)

Rules
-----
1. Every error is one, also those that the framework makes: an address that is not there, a method
   that is not taken, a body that can't be read, a query that nobody asked for.
2. `type` is a name, not an address: nothing is to be fetched. `code` is stable, `detail` is not.
3. What was sent is not sent back.
"""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.trust.errors import Invalid, TooMany, TouchstoneError

log = logging.getLogger("touchstone.api")
MEDIA_TYPE = "application/problem+json"
_SENTENCES = {
    400: ("malformed", "the request can't be read"),
    401: ("unauthenticated", "no token: send `Authorization: Bearer …`"),
    403: ("refused", "this is not for you"),
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not take that method"),
    413: ("too_large", "the request is too large"),
    415: ("not_json", "send JSON, with `Content-Type: application/json`"),
    429: ("too_many_requests", "too many requests; wait a moment"),
}


class Problem(BaseModel):
    """Problem details of RFC 9457."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:touchstone:problem:not_found",
                    "title": "not found",
                    "status": 404,
                    "detail": "there is no submission '…' that you may see",
                    "code": "not_found",
                }
            ]
        },
    )
    type: Annotated[str, Field(pattern=r"^urn:touchstone:problem:[a-z0-9_]+$")]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="One line: what was wrong, and what to do.")]
    code: Annotated[str, Field(description="Stable; programs match on it.")]


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The answer for one problem."""
    more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(
        {
            "type": f"urn:touchstone:problem:{code}",
            "title": code.replace("_", " "),
            "status": status,
            "detail": detail,
            "code": code,
        },
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store"} | more | (headers or {}),
    )


def problem_of(error: TouchstoneError) -> JSONResponse:
    """The answer for an error of ours; one that knows how long to wait says so."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else None
    return problem(error.status, error.code, error.message, headers)


def install(app: FastAPI, methods: Callable[[str], list[str]] | None = None) -> None:
    """Answer every error of the application as a problem.

    `methods` names those that an address takes.
    """

    @app.exception_handler(TouchstoneError)
    def touchstone_error(_: Request, error: TouchstoneError) -> JSONResponse:
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"][1:]) or "the request body"
        return problem(422, "invalid", f"{place}: {first['msg'][:300]}")

    @app.exception_handler(HTTPException)
    def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        code, sentence = _SENTENCES.get(error.status_code, ("error", "this can't be done"))
        headers = dict(error.headers or {})
        if (
            error.status_code == 405 and methods
        ):  # the framework knows one route's methods, not the address's
            headers["Allow"] = ", ".join(methods(request.url.path))
        return problem(error.status_code, code, sentence, headers)


class Faults:
    """ASGI middleware around everything: an unforeseen error is a 500, and logged without its text.

    Left to the framework it would be raised again, and the server would log the text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whatever happens."""
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log.error("fault at %s: %s", scope["path"], _where(error))
            if started:
                raise RuntimeError("an answer broke off; see the line before") from None
            answer = problem(500, "fault", "a fault of the registry; its log has the rest")
            await answer(scope, receive, send)


def _where(error: Exception) -> str:
    """The kind of an unforeseen error and its place. Its text could hold a patient's value."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__} at {' > '.join(places)}"


def only_known_queries(request: Request) -> None:
    """Refuse a query parameter that the route does not have, or has twice.

    A route that others send people to (RFC 6749: unknown parameters are ignored) says so with
    `openapi_extra={"x-open-query": True}`.
    """
    route = request.scope.get("route")
    dependant = getattr(route, "dependant", None)
    if dependant is None or (getattr(route, "openapi_extra", None) or {}).get("x-open-query"):
        return
    known = {field.alias for field in dependant.query_params}
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)) or not set(names) <= known:
        able = ", ".join(sorted(known)) or "none"
        raise Invalid(f"this address takes each of these parameters once, and no other: {able}",
                      code="unknown_parameter")  # fmt: skip
