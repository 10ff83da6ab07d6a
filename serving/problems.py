"""What went wrong with a request, as RFC 9457 asks: application/problem+json.

Rules
-----
1. `code` is stable; `detail` is the one-line message of a TouchstoneError and holds no value of
   any request.
2. A fault of ours is answered with no detail, and logged by its type and place alone: the message
   of a stray exception may hold an input.
"""

import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from registry.trust.errors import TouchstoneError

logger = logging.getLogger(__name__)


class Busy(TouchstoneError):
    """As many requests as may wait are waiting already."""

    status = 429
    default_code = "busy"


class TooLarge(TouchstoneError):
    """The request is larger than this model can need."""

    status = 413
    default_code = "too_large"


class UnsupportedType(TouchstoneError):
    """The request's body is of another kind than JSON."""

    status = 415
    default_code = "unsupported_type"


class TooSlow(TouchstoneError):
    """The request's body did not come in time."""

    status = 408
    default_code = "too_slow"


def problem(
    status: int, code: str, detail: str, more: Mapping[str, Any] | None = None
) -> JSONResponse:
    """The response. `error` repeats the detail for clients of the Open Inference Protocol."""
    body = {
        "type": f"urn:touchstone:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "error": detail,
        **(more or {}),
    }
    headers = {"Cache-Control": "no-store"}
    if status in (429, 503):
        headers["Retry-After"] = "1"
    return JSONResponse(
        body, status_code=status, headers=headers, media_type="application/problem+json"
    )


def problem_of(error: Exception) -> JSONResponse:
    """The response for what was raised; anything but a TouchstoneError is a fault of ours."""
    if isinstance(error, TouchstoneError):
        return problem(error.status, error.code, error.message)
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
    return problem(500, "fault", "a fault of the server; its log names the place")
