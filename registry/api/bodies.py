"""What may be sent: one JSON document of a few MiB that every reader understands the same way.

    >>> app.add_middleware(Bodies)

Rules
-----
1. A body is read whole before anything is done with it, and never beyond the limit (413).
2. A body that is not declared as JSON is not looked at (415).
3. JSON is I-JSON (RFC 7493): UTF-8, no key twice, no lone surrogate, no NaN, integers within
   ±(2^53 - 1); and no NUL, which PostgreSQL can't keep. What two readers could take for two
   things is refused (422) before the first one reads it.
4. Addresses hold no control characters, whatever they were encoded as.
"""

import json
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.api.problems import problem
from registry.trust.errors import Invalid

LARGEST_BODY = 4 * 1024 * 1024
DEEPEST = 64
_LARGEST_INTEGER = 2**53 - 1


class Bodies:
    """ASGI middleware: hands on a checked body in one piece."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = None
        body = b""
        if _has_controls(scope["path"]) or b"%00" in scope.get("query_string", b""):
            answer = problem(404, "not_found", "there is nothing at this address")
        elif (declared := headers.get("content-length", "0")).isdigit() and (
            len(declared) > 12 or int(declared) > LARGEST_BODY
        ):
            answer = _too_large()
        else:
            read = await _read(receive)
            if read is None:
                answer = _too_large()
            else:
                body = read
                answer = _fault(headers, body)
        if answer is not None:
            await answer(scope, receive, send)
            return
        await self._app(scope, _handing(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _handing(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _too_large() -> Any:
    return problem(
        413, "too_large", f"a request carries at most {LARGEST_BODY // 1024**2} MiB here; models "
        "and images go through the MLflow client",
    )  # fmt: skip


def _fault(headers: Headers, body: bytes) -> Any:
    """The problem with a body, if it has one."""
    if not body:
        return None
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return problem(415, "not_json", "send JSON, with `Content-Type: application/json`")
    try:
        read_json(body)
    except Invalid as error:
        return problem(error.status, "malformed_json", error.message)
    return None


def read_json(body: bytes) -> Any:
    """The value in a body. Raises Invalid unless it is I-JSON without NUL."""
    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once_each
        )
    except UnicodeDecodeError as error:
        raise Invalid(f"the body is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON at character {error.pos}: {error.msg}") from error
    except RecursionError as error:
        raise Invalid("the body is nested too deeply") from error
    except ValueError as error:
        # An integer of thousands of digits; or one of ours, whose text says what it is.
        raise Invalid(str(error).partition(";")[0]) from error
    _walk(value, 0)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the body names a key twice")
    return found


def _walk(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise Invalid("the body is nested too deeply")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key)
            _walk(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, depth + 1)
    elif isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise Invalid("an integer in the body is beyond ±(2^53 - 1)")
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise Invalid("a number in the body is too large")


def _check_text(text: str) -> None:
    if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Invalid("a text in the body has a NUL or half a surrogate pair")


def _has_controls(path: str) -> bool:
    return any(ord(letter) < 32 or ord(letter) == 127 for letter in path)
