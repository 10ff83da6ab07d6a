# mypy: disallow-untyped-calls=False
"""Our errors in the shape that MLflow's client shows to a person.

    >>> raise in_mlflow_words(Refused("the alias 'x' is not allowed; …"))
    mlflow.exceptions.MlflowException: …     # the client prints: PERMISSION_DENIED: the alias …

Rules
-----
1. The body is MLflow's (`error_code`, `message`) and RFC 9457's (`title`, `status`, `detail`),
   with our stable `code`, in one JSON object.
2. No SQL, no traceback, no address of a database ever reaches a client.
"""

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from registry.trust.errors import TouchstoneError

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    413: "REQUEST_LIMIT_EXCEEDED",
    422: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}


class TooLarge(TouchstoneError):
    """The request's body is larger than the registry takes."""

    status = 413
    default_code = "too_large"


def body_of(error: TouchstoneError) -> bytes:
    """The response body that both MLflow's client and any HTTP client can read."""
    return json.dumps(
        {
            "error_code": _CODES.get(error.status, "INTERNAL_ERROR"),
            "message": error.message,
            "type": "about:blank",
            "title": HTTPStatus(error.status).phrase,
            "status": error.status,
            "detail": error.message,
            "code": error.code,
        }
    ).encode()


def in_mlflow_words(error: TouchstoneError) -> "MlflowException":
    """The exception that MLflow's handlers turn into a response with our sentence."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    name = _CODES.get(error.status, "INTERNAL_ERROR")
    return MlflowException(error.message, error_code=ErrorCode.Value(name))


def without_database_talk(body: bytes) -> bytes:
    """An error body as it may leave the house: SQL and driver messages are cut off."""
    if b"psycopg" not in body and b"sqlalchemy" not in body and b"[SQL:" not in body:
        return body
    try:
        value = json.loads(body)
        message = str(value["message"])
    except (ValueError, KeyError, TypeError):
        value, message = {"error_code": "INTERNAL_ERROR"}, ""
    start = min(
        (at for word in ("(psycopg", "(sqlalchemy", "[SQL:") if (at := message.find(word)) >= 0),
        default=0,
    )
    kept = message[:start].removesuffix("Error: ").rstrip(" :.")
    value["message"] = f"{kept or 'the registry could not do this'}; nothing was changed"
    return json.dumps(value).encode()
