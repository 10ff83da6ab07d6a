"""The registry's API, as the command line calls it."""

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


class Client:
    """Calls to one registry with one token. An error of the server is the same error here."""

    def __init__(
        self, settings: Settings, token: str | None = None, *, anonymous: bool = False
    ) -> None:
        secret = None if anonymous else token or find_token(settings)
        if secret is None and not anonymous:
            raise Unauthenticated(
                "no token: run `touchstone login`, or set TOUCHSTONE_TOKEN to the one your "
                "facility gave you"
            )
        self._server = settings.server
        self._http = httpx.Client(
            base_url=f"{settings.server}/api/v1",
            headers={} if anonymous else {"Authorization": f"Bearer {secret}"},
            timeout=120,
            trust_env=False,
        )

    def get(self, path: str, /, **query: str) -> Any:
        """The JSON at `path`."""
        return self._checked("GET", path, params=query).json()

    def get_bytes(self, path: str, /, **query: str) -> bytes:
        """The bytes at `path`; empty for 204."""
        return self._checked("GET", path, params=query).content

    def post(self, path: str, body: Any) -> Any:
        """Send JSON, get JSON."""
        return self._checked("POST", path, json=body).json()

    def delete(self, path: str, /) -> Any:
        """Take back what is at `path`."""
        return self._checked("DELETE", path).json()

    def stream(self, path: str, start: int, /, **query: str) -> Iterator[bytes]:
        """The bytes at `path` from `start` on, in chunks."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with (
            self._reachable(),
            self._http.stream("GET", path, params=query, headers=headers) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise _error(answer)
            yield from answer.iter_bytes()

    def _checked(self, method: str, path: str, /, **more: Any) -> httpx.Response:
        with self._reachable():
            answer = self._http.request(method, path, **more)
        if answer.is_error:
            raise _error(answer)
        return answer

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"no answer from {self._server} ({type(error).__name__}); is it running "
                "(`touchstone up`), and is TOUCHSTONE_SERVER right?"
            ) from error


def _error(answer: httpx.Response) -> TouchstoneError:
    """The problem in an answer as the error that the server raised."""
    try:
        body = answer.json()
        detail, code = str(body["detail"]), str(body["code"])
    except (ValueError, KeyError, TypeError):
        detail, code = f"the server answered {answer.status_code}", "error"
    return _BY_STATUS.get(answer.status_code, TouchstoneError)(detail, code=code)
