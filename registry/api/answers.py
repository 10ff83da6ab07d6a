"""How answers are made: files of the store, and writes that were carried out once already.

    >>> return file_answer(data, "application/json")
    >>> with done_before(Conflict):
    ...     accounts.add_organisation(record, caller, new)

Rules
-----
1. A file carries the digest of its bytes as ETag, and no cache keeps it.
2. A page of HTML may run nothing and load nothing.
3. A request that acted, and lost its answer with its server, is carried out again. What it then
   finds in its way is its own earlier work: that is success, not a conflict.
"""

from contextlib import suppress

from fastapi import Response

from registry.database.requests import current_claim
from registry.trust.canonical import hex_of, sha256_bytes


def file_answer(data: bytes, media_type: str) -> Response:
    """`data`, whole."""
    headers = {
        "ETag": f'"{hex_of(sha256_bytes(data))}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    if media_type == "text/html":
        headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        )
    return Response(data, media_type=media_type, headers=headers)


def acted_before() -> bool:
    """Whether this very request has acted already, and its answer was lost."""
    claim = current_claim()
    return claim is not None and claim.again


class done_before(suppress):  # noqa: N801 - reads as a statement
    """Let an error of these kinds pass if this very request has acted already."""

    def __init__(self, *errors: type[BaseException]) -> None:
        super().__init__(*(errors if acted_before() else ()))
