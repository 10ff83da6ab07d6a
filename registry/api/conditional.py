"""Reads that poll: an ETag on every answer, and 304 where nothing has changed.

    >>> app.add_middleware(Conditional)

Rules
-----
1. The tag is the SHA-256 of the bytes: equal tags are equal answers, whoever asks.
2. Nothing is kept by a shared cache: `private, no-cache` for what a client may hold and ask about
   again, `private, no-store` for files of the store.
3. The answer is computed and authorised anew each time; 304 saves the way, not the check.
"""

import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_KEPT_ON_304 = ("etag", "cache-control", "link", "vary", "x-content-type-options")


class Conditional:
    """ASGI middleware around every GET that answers 200 in one piece."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the tag; answer 304 to whoever has these bytes already."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        asked = ",".join(Headers(scope=scope).getlist("if-none-match"))
        start: Message | None = None
        parts: list[bytes] = []

        async def hold(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is None or start["status"] != 200:
                if start is not None and not parts:
                    parts.append(b"")
                    await send(start)
                await send(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await _send_whole(send, start, b"".join(parts), asked)

        await self._app(scope, receive, hold)


async def _send_whole(send: Send, start: Message, body: bytes, asked: str) -> None:
    headers = MutableHeaders(raw=list(start["headers"]))
    headers.setdefault("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
    headers.setdefault("Cache-Control", "private, no-cache")
    if matches(asked, headers["etag"]):
        kept = [(key, value) for key, value in headers.raw if key.decode() in _KEPT_ON_304]
        await send({"type": "http.response.start", "status": 304, "headers": kept})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({**start, "headers": headers.raw})
    await send({"type": "http.response.body", "body": body})


def matches(asked: str, tag: str) -> bool:
    """Whether an If-None-Match names `tag` (RFC 9110, weak comparison). Nonsense matches nothing.

    >>> matches('W/"a", "b"', '"b"')
    True
    """
    if asked.strip() == "*":
        return True
    found = _TAG.findall(asked)
    return tag in found
