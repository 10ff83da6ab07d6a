"""Idempotency-Key on every write: the door's half of `registry.database.requests`.

    >>> app.add_middleware(Once, record=record, authenticate=authenticate, is_write=is_write)

After draft-ietf-httpapi-idempotency-key-header. Decision record 0015 says why it is so.

Rules
-----
1. Same key, same request: the first answer again, with `Idempotency-Replayed: true`.
   Same key, another request: 422. Same key while the first is under way: 409 and `Retry-After`.
2. The same request is the same method, address, query and body, to the byte.
3. It holds for every route below, also for those whose authors never thought of it.
4. An answer with `Cache-Control: no-store`, or with anything in it that looks like a token, is not
   kept. Asked again, the server says that it was done, and what to do about a lost answer.
5. The answer is kept before its first byte is sent: a connection cut after that loses nothing.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.api.problems import problem, problem_of
from registry.database.record import Record
from registry.database.requests import (
    HOLD_SECONDS,
    LARGEST_ANSWER,
    Answer,
    Claim,
    claim,
)
from registry.identity.accounts import PREFIX, bearer
from registry.identity.caller import Caller
from registry.trust.errors import Invalid, TouchstoneError

log = logging.getLogger("touchstone.api")
KEY_PATTERN = r'^"?[A-Za-z0-9_-]{16,128}"?$'
_KEY = re.compile(r'"?([A-Za-z0-9_-]{16,128})"?\Z')  # the draft writes it as a quoted string


class Once:
    """ASGI middleware around everything that a caller can write."""

    def __init__(
        self,
        app: ASGIApp,
        record: Record,
        authenticate: Callable[[str], Caller],
        is_write: Callable[[str, str], bool],
    ) -> None:
        self._app = app
        self._record = record
        self._authenticate = authenticate
        self._is_write = is_write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the request out, or answer as it was answered before."""
        if scope["type"] != "http" or not self._is_write(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.getlist("idempotency-key")
        if not given or "authorization" not in headers:
            await self._app(scope, receive, send)  # what needs a token refuses by itself
            return
        try:
            found, body = await self._claim(scope, headers, given, receive)
        except TouchstoneError as error:
            answer = problem_of(error)
            if error.code == "request_in_flight":
                answer.headers["Retry-After"] = "1"
            await answer(scope, receive, send)
            return
        if isinstance(found, Answer):
            await _replay(found)(scope, receive, send)
            return
        collected = _Collected()
        try:
            await self._carry_out(found, scope, _handing(body), collected)
        finally:
            await self._close(found, collected)
        await collected.send_to(send)

    async def _claim(
        self, scope: Scope, headers: Headers, given: list[str], receive: Receive
    ) -> tuple[Claim | Answer, bytes]:
        caller = await run_in_threadpool(self._authenticate, bearer(headers.get("authorization")))
        match = _KEY.match(given[0]) if len(given) == 1 else None
        if match is None:
            raise Invalid(
                "an Idempotency-Key is one value of 16 to 128 letters, digits, '_' and '-', such "
                "as a fresh UUID",
                code="key_malformed",
            )
        body = (await receive()).get("body", b"")
        scope["touchstone.caller"] = caller
        return (
            await run_in_threadpool(
                claim, self._record, caller, match[1], _fingerprint(scope, body)
            ),
            body,
        )

    async def _carry_out(
        self, found: Claim, scope: Scope, receive: Receive, collected: "_Collected"
    ) -> None:
        alive = asyncio.create_task(_say_that_it_lives(found))
        try:
            with found.under_way():
                await self._app(scope, receive, collected.take)
        finally:
            alive.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await alive

    async def _close(self, found: Claim, collected: "_Collected") -> None:
        """Keep the answer or free the key; a database that is away must not lose the answer."""
        try:
            if 200 <= collected.status < 300:
                await run_in_threadpool(found.answered, collected.kept())
            else:
                await run_in_threadpool(found.release)
        except TouchstoneError as error:
            log.warning("the answer to a request could not be kept: %s", error.message)


class _Collected:
    """An answer, held back until it is kept."""

    def __init__(self) -> None:
        self.status = 0
        self._messages: list[Message] = []

    async def take(self, message: Message) -> None:
        """In place of ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self._messages.append(message)

    async def send_to(self, send: Send) -> None:
        for message in self._messages:
            await send(message)

    def kept(self) -> Answer:
        """What of it may be kept."""
        headers = Headers(raw=self._messages[0]["headers"])
        body = b"".join(message.get("body", b"") for message in self._messages[1:])
        secret = "no-store" in headers.get("cache-control", "") or PREFIX.encode() in body
        return Answer(
            self.status,
            headers.get("content-type"),
            None if secret or len(body) > LARGEST_ANSWER else body,
        )


def _handing(body: bytes) -> Receive:
    sent = asyncio.Event()

    async def once() -> Message:
        if sent.is_set():
            await asyncio.Event().wait()  # nobody is told that the client has gone: it is finished
        sent.set()
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _say_that_it_lives(found: Claim) -> None:
    while True:
        await asyncio.sleep(HOLD_SECONDS / 3)
        with contextlib.suppress(TouchstoneError):
            await run_in_threadpool(found.renew)


def _fingerprint(scope: Scope, body: bytes) -> str:
    parts = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body)
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{whole.hexdigest()}"


def _replay(answer: Answer) -> Response:
    if answer.body is None:
        return problem(
            409,
            "answer_not_kept",
            "this request was carried out, and its answer is shown only once; if it was lost, "
            "revoke what it made and ask again with a new Idempotency-Key",
        )
    headers = {"Idempotency-Replayed": "true"}
    if answer.media_type:
        headers["Content-Type"] = answer.media_type
    return Response(answer.body, answer.status, headers)
