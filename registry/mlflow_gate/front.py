"""The outermost layer: who is asking, in whose name, for what exactly.

    >>> front = Front(authenticate=…, admit=…, inner={"json": wsgi, "upload": …, …})

Rules
-----
1. No token, no answer. The token alone says whose workspace it is.
2. Only routes of `routes` pass, by their one spelling, and with the headers named here;
   `X-MLFLOW-WORKSPACE` is written by us, whatever the request said.
3. A body has a limit: 4 MiB for a question, 2 GiB for a file; a sender that stalls is cut off.
4. Whatever goes wrong is answered in MLflow's words with a sentence to act on.
"""

import asyncio
import functools
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import anyio.to_thread

from registry.identity.caller import Caller, current_caller
from registry.identity.policy import require
from registry.mlflow_gate.refusal import TooLarge, body_of
from registry.mlflow_gate.routes import Kind, Route, match, plain_path
from registry.trust.errors import (
    Conflict,
    Invalid,
    TooMany,
    TouchstoneError,
    Unauthenticated,
    Unavailable,
)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Authenticate = Callable[[str], Caller]

MOST_JSON = 4 << 20
MOST_FILE = 2 << 30
_STALL_SECONDS = 60.0
_MOST_DEPTH = 30
_QUERY = re.compile(rb"[\x21-\x7e]{0,16000}\Z")
_PASSED_ON = (b"content-type", b"accept", b"user-agent")
_log = logging.getLogger(__name__)


class Front:
    """An ASGI application that lets through what the rules allow.

    `authenticate` turns a token into a caller (Unauthenticated otherwise); `admit` is told each
    caller before the request goes on (it sees to the workspace); `inner` answers by kind of route.
    """

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        admit: Callable[[Caller], None],
        inner: Mapping[Kind, App],
    ) -> None:
        self._authenticate = authenticate
        self._admit = admit
        self._inner = inner

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
            caller = await anyio.to_thread.run_sync(self._known, _token(scope))
            route = match(scope["method"], _path(scope))
            inward, body = await _cleaned(scope, receive, route, caller)
            token = current_caller.set(caller)
            try:
                await self._inner[route.kind](inward, body, watched)
            finally:
                current_caller.reset(token)
        except TouchstoneError as error:
            if not started:
                await _answer(send, error)
        except Exception as error:
            _log.exception("MLflow failed at %s", scope.get("path"))
            if started:
                raise
            await _answer(send, Unavailable("the registry failed at this; try again"))
            raise error from None

    def _known(self, token: str) -> Caller:
        caller = self._authenticate(token)
        require(caller, "mlflow.use", owner=caller.organisation)
        self._admit(caller)
        return caller


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
    raw = scope.get("raw_path") or scope["path"].encode("utf-8")
    path = plain_path(raw.split(b"?", 1)[0])
    if scope["path"] != path or scope.get("root_path"):
        raise Invalid("this path is spelled in two ways at once")
    return path


async def _cleaned(
    scope: Scope, receive: Receive, route: Route, caller: Caller
) -> tuple[Scope, Receive]:
    """The request as MLflow sees it: our headers, a checked body, and nothing else."""
    query = scope.get("query_string", b"")
    if not _QUERY.match(query):
        raise Invalid("the query of this address is too long or not plain ASCII")
    sent = {name.lower(): value for name, value in scope["headers"]}
    headers = [(name, sent[name]) for name in _PASSED_ON if name in sent]
    headers += [(b"host", b"localhost"), (b"x-mlflow-workspace", caller.organisation.encode())]
    if sent.get(b"content-encoding", b"identity") != b"identity":
        raise Invalid("send the body as it is, without content-encoding")
    most = {"json": MOST_JSON, "upload": MOST_FILE}.get(route.kind, 0)
    if route.method == "GET":
        most = 0
    length = sent.get(b"content-length", b"0")
    if not length.isdigit() or (most and int(length) > most):
        raise TooLarge(f"this is larger than the {most >> 20} MiB that the registry takes at once")
    inward = {
        **scope,
        "headers": headers,
        "query_string": query,
        "state": {},
        "extensions": {},
    }
    limited = _limited(receive, most)
    if route.kind == "upload":
        return inward, limited
    body = await _whole(limited) if most else b""
    if (most and route.method != "DELETE") or body:
        _check_json(body)
        headers.append((b"content-length", str(len(body)).encode()))
    return inward, _once(body, receive)


def _limited(receive: Receive, most: int) -> Receive:
    got = 0

    async def limited() -> Message:
        nonlocal got
        try:
            message = await asyncio.wait_for(receive(), _STALL_SECONDS)
        except TimeoutError:
            raise Invalid(f"nothing arrived for {_STALL_SECONDS:.0f} s; send it again") from None
        if message["type"] == "http.disconnect":
            raise Conflict("the sender went away before all had arrived; nothing was stored")
        got += len(message.get("body", b""))
        if got > most:
            raise TooLarge(
                f"this is larger than the {most >> 20} MiB that the registry takes at once"
            )
        return message

    return limited


async def _whole(receive: Receive) -> bytes:
    chunks = bytearray()
    more = True
    while more:
        message = await receive()
        chunks += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(chunks)


def _once(body: bytes, receive: Receive) -> Receive:
    """The body, once; after it only the sender's going away is news."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def once() -> Message:
        return waiting.pop() if waiting else await receive()

    return once


def _check_json(body: bytes) -> None:
    """One JSON object, each name once, not nested deeply: no two readers can differ about it."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_no_twins)
        if isinstance(value, dict) and _depth(value) <= _MOST_DEPTH:
            return
    except (ValueError, RecursionError):
        pass
    raise Invalid(
        "the body must be one JSON object in UTF-8, each name in it once, without NUL characters"
    )


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _depth(value: Any) -> int:
    """How deeply `value` is nested; ValueError for text that no database stores."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("NUL")
        value.encode("utf-8")  # a lone surrogate has no UTF-8
        return 0
    if isinstance(value, dict):
        return 1 + max((max(_depth(key), _depth(below)) for key, below in value.items()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


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
