"""Errors as RFC 9457 problem details: one line that a person can act on, no trace, no values."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from registry.trust.errors import TooMany, TouchstoneError

log = logging.getLogger("touchstone.api")


def problem(status: int, code: str, detail: str, *, retry_after: int | None = None) -> JSONResponse:
    """A problem body. `type` is a name, not an address: nothing is to be fetched."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return JSONResponse(
        {
            "type": f"urn:touchstone:problem:{code}",
            "title": code.replace("_", " "),
            "status": status,
            "detail": detail,
            "code": code,
        },
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    @app.exception_handler(TouchstoneError)
    def touchstone_error(_: Request, error: TouchstoneError) -> JSONResponse:
        wait = error.retry_after if isinstance(error, TooMany) else None
        return problem(error.status, error.code, error.message, retry_after=wait)

    @app.exception_handler(RequestValidationError)
    def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the request body"
        return problem(422, "invalid", f"{place}: {first['msg']}")

    @app.exception_handler(404)
    def not_found(_: Request, __: Exception) -> JSONResponse:
        return problem(404, "not_found", "there is nothing at this address")

    @app.exception_handler(405)
    def wrong_method(_: Request, __: Exception) -> JSONResponse:
        return problem(405, "method_not_allowed", "this address does not take that method")

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> JSONResponse:
        log.error("fault at %s", request.url.path, exc_info=error)
        return problem(500, "fault", "a fault of the registry; its log has the rest")
