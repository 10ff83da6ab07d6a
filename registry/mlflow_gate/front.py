"""The outermost layer: who is asking, in whose name, for what exactly.

    >>> front = Front(authenticate=…, admit=…, inner={"json": wsgi, "upload": …, …}, hospital=…)

Rules
-----
1. No token, no answer. The token alone says whose workspace it is.
2. Only routes of `routes` pass, by their one spelling, and with the headers named here;
   `X-MLFLOW-WORKSPACE` is written by us, whatever the request said.
3. A header that decides something stands once; `body` says what may follow the headers.
4. Who may pull certified models never comes to MLflow: `clinical_pilot` answers, and gets of the
   request no more than method, path and query.
5. Whatever goes wrong is answered in MLflow's words with a sentence to act on.
"""

import functools
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import anyio.to_thread

from registry.identity.caller import Caller, current_caller
from registry.identity.policy import reach, require
from registry.mlflow_gate.body import (
    MOST_FILE,
    MOST_JSON,
    MOST_SEARCH,
    Body,
    Message,
    Receive,
    check_json,
    once,
    too_large,
)
from registry.mlflow_gate.refusal import body_of
from registry.mlflow_gate.routes import Kind, Route, match, plain_path
from registry.trust.errors import (
    Invalid,
    TooMany,
    TouchstoneError,
    Unauthenticated,
    Unavailable,
)

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Authenticate = Callable[[str], Caller]

_QUERY = re.compile(rb"[\x21-\x7e]{0,16000}\Z")
_PASSED_ON = (b"content-type", b"accept", b"user-agent")
_ONCE = (*_PASSED_ON, b"authorization", b"content-length", b"content-encoding", b"host",
         b"transfer-encoding")  # fmt: skip
_log = logging.getLogger(__name__)


class Front:
    """An ASGI application that lets through what the rules allow.

    `authenticate` turns a token into a caller (Unauthenticated otherwise); `admit` is told each
    caller before the request goes on (it sees to the workspace); `inner` answers by kind of
    route; `hospital` answers who may pull certified models.
    """

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        admit: Callable[[Caller], None],
        inner: Mapping[Kind, App],
        hospital: App,
    ) -> None:
        self._authenticate = authenticate
        self._admit = admit
        self._inner = inner
        self._hospital = hospital

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            secret = _token(scope)
            caller = await anyio.to_thread.run_sync(self._known, secret)
            if _pulls(caller):
                app, inward, body = self._hospital, _read_only(scope), receive
            else:
                app, inward, body = await self._for_mlflow(scope, receive, caller, secret)
            token = current_caller.set(caller)
            try:
                await app(inward, body, watched)
            finally:
                current_caller.reset(token)
        except TouchstoneError as error:
            if not started:
                await _answer(send, error)
            else:
                _log.error("the answer to %s broke off: %s", scope.get("path"), error.message)
        except Exception as error:
            _log.exception("MLflow failed at %s", scope.get("path"))
            if started:
                raise
            await _answer(send, Unavailable("the registry failed at this; try again"))
            raise error from None

    async def _for_mlflow(
        self, scope: Scope, receive: Receive, caller: Caller, secret: str
    ) -> tuple[App, Scope, Receive]:
        route = match(scope["method"], _path(scope))
        headers = _headers(scope)

        async def still_known() -> None:
            await anyio.to_thread.run_sync(self._known, secret)

        arriving = Body(receive, most=_most(route, headers), still_known=still_known)
        inward, body = await _cleaned(scope, receive, arriving, route, caller, headers)
        return self._inner[route.kind], inward, body

    def _known(self, token: str) -> Caller:
        caller = self._authenticate(token)
        if _pulls(caller):
            return caller
        require(caller, "mlflow.use", owner=caller.organisation)
        self._admit(caller)
        return caller


def _pulls(caller: Caller) -> bool:
    return reach(caller, "certified.pull") is not None


def _token(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if len(given) == 1 and len(given[0]) < 4096:
        header: bytes = given[0]
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    raise Unauthenticated(
        "the registry asks for a token; set MLFLOW_TRACKING_TOKEN to the one you were given"
    )


def _path(scope: Scope) -> str:
    if scope.get("http_version") not in ("1.0", "1.1"):
        raise Invalid("speak HTTP/1.1")  # the server's parser takes 0.9 and 2.0 at their word
    raw = scope.get("raw_path") or scope["path"].encode("utf-8")
    path = plain_path(raw.split(b"?", 1)[0])
    if scope["path"] != path or scope.get("root_path"):
        raise Invalid("this path is spelled in two ways at once")
    return path


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers; those that decide something, given twice, are refused."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower in headers and lower in _ONCE:
            raise Invalid(f"the header {lower.decode('latin-1')} stands twice in this request")
        headers[lower] = value
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise Invalid("this request states the length of its body in two ways")
    return headers


def _most(route: Route, headers: Mapping[bytes, bytes]) -> int:
    """How many bytes of body the route takes; raises TooLarge where more are announced."""
    most = {"json": MOST_JSON, "upload": MOST_FILE}.get(route.kind, 0)
    if route.path.endswith("/search"):
        most = MOST_SEARCH
    if route.method == "GET":
        most = 0
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or (most and int(length) > most):
        raise too_large(most)
    return most


async def _cleaned(
    scope: Scope,
    receive: Receive,
    arriving: Body,
    route: Route,
    caller: Caller,
    sent: Mapping[bytes, bytes],
) -> tuple[Scope, Receive]:
    """The request as MLflow sees it: our headers, a checked body, and nothing else."""
    query = _query(scope)
    headers = [(name, sent[name]) for name in _PASSED_ON if name in sent]
    headers += [(b"host", b"localhost"), (b"x-mlflow-workspace", caller.organisation.encode())]
    if sent.get(b"content-encoding", b"identity") != b"identity":
        raise Invalid("send the body as it is, without content-encoding")
    inward = {
        **scope,
        "headers": headers,
        "query_string": query,
        "state": {},
        "touchstone.length": int(sent.get(b"content-length", b"0")),
        "extensions": {},
    }
    if route.kind == "upload":
        return inward, arriving
    body = b"" if route.method == "GET" else await arriving.whole()
    if body or route.method not in ("GET", "DELETE"):
        check_json(body)
        headers.append((b"content-length", str(len(body)).encode()))
    return inward, once(body, receive)


def _read_only(scope: Scope) -> Scope:
    """The request as `clinical_pilot` sees it."""
    path, headers = _path(scope), _headers(scope)
    if b"x-mlflow-workspace" in headers:
        raise Invalid("a hospital has no workspace here; unset MLFLOW_WORKSPACE")
    return {
        "type": "http", "method": scope["method"], "path": path, "query_string": _query(scope),
    }  # fmt: skip


def _query(scope: Scope) -> bytes:
    query: bytes = scope.get("query_string", b"")
    if not _QUERY.match(query):
        raise Invalid("the query of this address is too long or not plain ASCII")
    return query


@functools.cache
def _challenge(status: int) -> list[tuple[bytes, bytes]]:
    return [(b"www-authenticate", b'Bearer realm="touchstone"')] if status == 401 else []


async def _answer(send: Send, error: TouchstoneError) -> None:
    body = body_of(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        *_challenge(error.status),
    ]
    if isinstance(error, TooMany):
        headers.append((b"retry-after", str(error.retry_after).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    """Start and stop without MLflow's own (which looks for Docker)."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
