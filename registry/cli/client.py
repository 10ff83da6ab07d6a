"""The registry's API, as the command line calls it: over HTTP, or in this very process.

    >>> client = Client(read_settings())
    >>> client.post("/submissions", {"model": "nodule-net", …})

Rules
-----
1. One code path: where the database is named and no server is, the same requests go to the same
   application in this process, with the same token and the same checks.
2. Every write carries a key of its own (Idempotency-Key). When the connection is lost it is sent
   again with the same key, so that nothing is done twice.
3. A wait asks with the tag of the last answer, and is told "nothing new" in a few bytes.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from registry.cli.credentials import find_token
from registry.settings import Settings
from registry.trust.errors import (
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Tampered,
    TooMany,
    TouchstoneError,
    Unauthenticated,
    Unavailable,
)

_BY_STATUS: dict[int, type[TouchstoneError]] = {
    401: Unauthenticated,
    403: Refused,
    404: NotFound,
    409: Conflict,
    422: Invalid,
    429: TooMany,
    503: Unavailable,
}
_PAUSES = (0.2, 0.5, 1.0)  # seconds before each further try on a lost connection
_PATIENCE = 600.0  # seconds for a request that another connection of ours still carries out
_POLL_SECONDS = 0.3
_LONGEST_PAUSE = 30.0
_LARGEST = 256 << 20
_ENCODINGS = ("identity", "gzip")  # of the others a few bytes may unpack to gigabytes


class Client:
    """Calls to one registry with one token. An error of the server is the same error here."""

    def __init__(
        self, settings: Settings, token: str | None = None, *, anonymous: bool = False
    ) -> None:
        self.token = "" if anonymous else token or find_token(settings) or ""
        if not self.token and not anonymous:
            raise Unauthenticated(
                "no token: run `touchstone login`, set TOUCHSTONE_TOKEN to the one your facility "
                "gave you, or name a file that holds it with --token-file"
            )
        self._server = settings.server
        self._http = httpx.Client(
            base_url=f"{settings.server}/api/v1",
            headers={"Accept-Encoding": "gzip"}
            | ({} if anonymous else {"Authorization": f"Bearer {self.token}"}),
            timeout=120,
            trust_env=False,
            transport=_in_process(settings) if settings.is_local else None,
        )

    def get(self, path: str, /, **query: str) -> Any:
        """The JSON at `path`."""
        return _json(self._checked("GET", path, params=query))

    def items(self, path: str, /, **query: str) -> Iterator[dict[str, Any]]:
        """Every item of the list at `path`, page after page as they are asked for.

        Raises Tampered where what comes is not a list, or one that never ends.
        """
        query = {"limit": "200"} | query
        while True:
            page = self.get(path, **query)
            rows = page.get("items") if isinstance(page, dict) else None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise Tampered(f"the server's answer at {path} is not what was asked for")
            yield from rows
            following = page.get("next")
            if following is None:
                return
            if not rows or following == query.get("cursor"):
                raise Tampered(f"the server's answer at {path} never ends")
            query["cursor"] = str(following)

    def get_bytes(self, path: str, /, **query: str) -> bytes:
        """The bytes at `path`; empty for 204."""
        return self._checked("GET", path, params=query).content

    def watch(self, path: str) -> Iterator[Any]:
        """The JSON at `path`, again each time that it has changed. It never ends by itself."""
        headers: dict[str, str] = {}
        while True:
            answer = self._checked("GET", path, headers=headers)
            if answer.status_code != 304:
                headers = {"If-None-Match": answer.headers["etag"]}
                yield _json(answer)
            time.sleep(_POLL_SECONDS)

    def post(self, path: str, body: Any) -> Any:
        """Send JSON, get JSON. What is lost on the way is sent again and done once."""
        return self._written("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        """Put JSON in the place of what is there, get JSON."""
        return self._written("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        """Take back what is at `path`, get JSON."""
        return self._written("DELETE", path)

    def _written(self, method: str, path: str, /, **more: Any) -> Any:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return _json(self._checked(method, path, headers=headers, **more))

    def stream(self, path: str, start: int, /, **query: str) -> Iterator[bytes]:
        """The bytes at `path` from `start` on, in chunks."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with (
            self._reachable(),
            self._http.stream("GET", path, params=query, headers=headers) as answer,
        ):
            if answer.is_error:
                raise _error(_whole(answer))
            _check_encoding(answer)
            yield from answer.iter_bytes()

    def _checked(self, method: str, path: str, /, **more: Any) -> httpx.Response:
        with self._reachable():
            answer = self._sent(method, path, **more)
        if answer.is_error:
            raise _error(answer)
        return answer

    def _sent(self, method: str, path: str, /, **more: Any) -> httpx.Response:
        """The answer, however often it takes to get one."""
        started = time.monotonic()
        pauses = iter(_PAUSES)
        while True:
            try:
                with self._http.stream(method, path, **more) as coming:
                    answer = _whole(coming)
            except httpx.UnsupportedProtocol:
                raise
            except httpx.TransportError:
                pause = next(pauses, None)
                if pause is None:
                    raise
                time.sleep(pause)
                continue
            if not _is_under_way(answer) or time.monotonic() - started > _PATIENCE:
                return answer
            time.sleep(_pause(answer))

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"no answer from {self._server} ({type(error).__name__}); is it running "
                "(`touchstone up`), and is TOUCHSTONE_SERVER right?"
            ) from error


def _in_process(settings: Settings) -> httpx.BaseTransport:
    from registry.cli.in_process import InProcess

    return InProcess(settings)


def _whole(answer: httpx.Response) -> httpx.Response:
    """The answer with its body, which no server may make endless."""
    _check_encoding(answer)
    body = bytearray()
    for block in answer.iter_bytes():
        body += block
        if len(body) > _LARGEST:
            raise Tampered(f"the server's answer at {answer.url.path} never ends")
    headers = [(k, v) for k, v in answer.headers.multi_items() if k != "content-encoding"]
    return httpx.Response(
        answer.status_code, headers=headers, content=bytes(body), request=answer.request
    )


def _check_encoding(answer: httpx.Response) -> None:
    if answer.headers.get("content-encoding", "identity").lower() not in _ENCODINGS:
        raise Tampered(f"the server's answer at {answer.url.path} is packed in an unasked way")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise Tampered(
            f"the server's answer at {answer.url.path} is not JSON: is TOUCHSTONE_SERVER right?"
        ) from error


def _pause(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait, within reason."""
    try:
        asked = float(answer.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0
    return asked if 0 <= asked <= _LONGEST_PAUSE else _LONGEST_PAUSE


def _is_under_way(answer: httpx.Response) -> bool:
    return answer.status_code == 409 and _problem(answer)[1] == "request_in_flight"


def _problem(answer: httpx.Response) -> tuple[str, str]:
    try:
        body = answer.json()
        return str(body["detail"]), str(body["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"the server answered {answer.status_code}", "error"


def _error(answer: httpx.Response) -> TouchstoneError:
    """The problem in an answer as the error that the server raised."""
    detail, code = _problem(answer)
    return _BY_STATUS.get(answer.status_code, TouchstoneError)(detail, code=code)
