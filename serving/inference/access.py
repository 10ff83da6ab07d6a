"""Who may ask: whoever holds the token of the operator's file.

Rules
-----
1. Only liveness and readiness are answered without it.
2. It is compared in constant time, by digest, so that not even its length is told.
"""

import hashlib
import hmac
from pathlib import Path

from registry.trust.errors import Invalid, Unauthenticated

SHORTEST = 32


def read_token(path: Path) -> str:
    """The token in the first line of `path`. Raises Invalid."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} can't be read: give a file with the token") from error
    if len(token) < SHORTEST or len(token.split()) != 1 or not token.isprintable():
        raise Invalid(
            f"{path} must hold one token of at least {SHORTEST} characters, such as "
            "`openssl rand -hex 32` makes"
        )
    return token


class Guard:
    """Compares what a request carries with the token."""

    def __init__(self, token: str) -> None:
        self._digest = _digest(token)

    def check(self, authorization: str | None) -> None:
        """Raise Unauthenticated unless the header is `Bearer <token>`."""
        kind, _, given = (authorization or "").partition(" ")
        same = hmac.compare_digest(_digest(given.strip()), self._digest)
        if kind.lower() != "bearer" or not same:
            raise Unauthenticated("the token is missing or wrong: send Authorization: Bearer …")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
