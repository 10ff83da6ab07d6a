"""What every route of the inference server does around its own work.

Rules
-----
1. The token is checked before anything of the request is looked at.
2. Every answer is counted, and told to the trace, by route, status and code alone.
3. Where a refused body would be too long or too slow to read away, the connection is closed.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from registry.trust.errors import Invalid
from serving.front import Handler
from serving.inference.access import Guard
from serving.inference.json_tensors import object_of
from serving.inference.metrics import Metrics
from serving.inference.places import declared_length, read_body
from serving.inference.traces import Span, Traces
from serving.problems import UnsupportedType, problem, problem_of
from serving.sandbox.failures import ModelFailure

HEADER_LENGTH = "inference-header-content-length"
SMALL = 64 << 10
_CLOSING = (401, 408, 411, 413)
_GONE = 499

Traced = Callable[[Request, Span], Awaitable[Response]]


class Routes:
    """Makes handlers of one server; `route` is the template that metrics and traces show.

    guard None: no token is asked for.
    """

    def __init__(self, guard: Guard | None, metrics: Metrics, traces: Traces) -> None:
        self._guard, self._metrics, self._traces = guard, metrics, traces

    def handler(self, route: str, work: Traced, *, anyone: bool = False) -> Handler:
        """The handler of one route; `anyone` needs no token."""

        async def handle(request: Request) -> Response:
            code = None
            with self._traces.request(route, request.headers) as span:
                try:
                    if self._guard is not None and not anyone:
                        self._guard.check(request.headers.get("authorization"))
                    response = await work(request, span)
                except ClientDisconnect:
                    response, code = Response(status_code=_GONE), "client_left"
                except Exception as error:  # noqa: BLE001
                    response, code = _problem(error), str(getattr(error, "code", "fault"))
                span.set_attribute("http.response.status_code", response.status_code)
                if code is not None:
                    span.set_attribute("touchstone.code", code)
            self._metrics.answered(route, response.status_code, code)
            return response

        return handle


class Tensors(Response):
    """A JSON header and binary tensors, sent one after the other and never joined."""

    def __init__(self, header: bytes, parts: Sequence[memoryview]) -> None:
        super().__init__(header, media_type="application/octet-stream")
        self._parts = [part for part in parts if len(part)]
        self.headers["Content-Length"] = str(len(header) + sum(map(len, parts)))
        self.headers[HEADER_LENGTH] = str(len(header))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(
            {"type": "http.response.body", "body": self.body, "more_body": bool(self._parts)}
        )
        for number, part in enumerate(self._parts, 1):
            more = number < len(self._parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})


async def small_object(request: Request) -> dict[str, Any]:
    """The JSON object of a small body; empty where there is none. Raises Invalid, TooLarge."""
    plain_encoding(request)
    length = declared_length(request.headers.get("content-length", "0"), SMALL)
    body = memoryview(bytearray(length))
    if length:
        await read_body(request.receive, body)
    return object_of(body) if length else {}


def plain_encoding(request: Request) -> None:
    """Raise UnsupportedType where the body is compressed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedType("a compressed body is not taken; send it plain")


def header_length(request: Request, length: int, most: int) -> int | None:
    """The JSON header's length in a body of `length` bytes; None where it is all JSON."""
    value = request.headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 15 or int(value) > length:
        raise Invalid("the header's length is no number, or longer than the body", code="bad_size")
    if int(value) > most:
        raise Invalid(f"the header is longer than {most} bytes", code="bad_size")
    return int(value)


def _problem(error: Exception) -> Response:
    if isinstance(error, ModelFailure):
        more = {"failure": {"code": error.code, "detail": error.detail}}
        return problem(error.status, error.code, error.message, more)
    response = problem_of(error)
    if response.status_code in _CLOSING:
        response.headers["Connection"] = "close"
    return response
