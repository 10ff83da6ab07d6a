"""Lists in pages: `?limit=&cursor=`, `{"items": […], "next": …}` and a Link header (RFC 8288).

    >>> page = pages.read(caller, limit, cursor, lambda after, number: lock.cohorts(…))

Rules
-----
1. A cursor names the last row that was seen, not a number of rows: what is added meanwhile moves
   nothing, and no row is shown twice or left out.
2. A cursor is opaque and signed with what the caller's token proves: one that was made up, changed,
   or given by somebody else is refused (422). It shows nothing that a list would not.
3. One row more than asked for is read, so that `next` is there only when something follows.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.database.record import Row
from registry.identity.caller import Caller
from registry.trust.errors import Invalid

LARGEST_PAGE = 200
Limit = Annotated[
    int,
    Query(ge=1, le=LARGEST_PAGE, description="How many items at most.", examples=[50]),
]
Cursor = Annotated[
    str | None,
    Query(
        min_length=24,
        max_length=1000,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="`next` of the page before; leave it out for the first page.",
    ),
]
After = Annotated[
    int,
    Query(ge=0, le=2**53 - 1, description="Only those beyond this number.", examples=[0]),
]
"""Where to begin a list of what is numbered for good, such as the log."""
Item = TypeVar("Item")
Place = tuple[str, ...] | None


class Page(BaseModel, Generic[Item]):
    """Some items of a list, and the cursor of what follows."""

    model_config = ConfigDict(extra="forbid")
    items: list[Item]
    next: Annotated[
        str | None, Field(description="Give it as `cursor` to get the next page; null at the end.")
    ] = None


def read(
    request: Request,
    response: Response,
    caller: Caller,
    limit: int,
    cursor: str | None,
    rows: Callable[[Place, int], Sequence[Row]],
    place: Callable[[Row], tuple[str, ...]],
) -> tuple[Sequence[Row], str | None]:
    """One page of `rows(after, number)` and the cursor of the next, which `response` links to.

    `place` is what a row is sorted by, as text.
    """
    name = request.url.path
    after = None if cursor is None else _opened(caller, name, cursor)
    found = rows(after, limit + 1)
    if len(found) <= limit:
        return found, None
    following = _sealed(caller, name, place(found[limit - 1]))
    query = urlencode(
        [*((k, v) for k, v in request.query_params.multi_items() if k != "cursor"),
         ("cursor", following)]
    )  # fmt: skip
    response.headers["Link"] = f'<{name}?{query}>; rel="next"'
    return found[:limit], following


def beyond(after: int, last: Place) -> int:
    """The number behind which a page of numbered rows begins."""
    return after if last is None else max(after, int(last[0]))


def _seal(caller: Caller, name: str, text: bytes) -> bytes:
    key = b"touchstone cursor" + (caller.proof or caller.token_id.encode())
    return hmac.new(key, name.encode() + b"\x00" + text, hashlib.sha256).digest()[:16]


def _sealed(caller: Caller, name: str, place: tuple[str, ...]) -> str:
    text = json.dumps(place, separators=(",", ":")).encode()
    whole = _seal(caller, name, text) + text
    return _written(whole)


def _written(whole: bytes) -> str:
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


def _opened(caller: Caller, name: str, cursor: str) -> tuple[str, ...]:
    try:
        whole = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError) as error:
        raise _forged() from error
    seal, text = whole[:16], whole[16:]
    if _written(whole) != cursor or not hmac.compare_digest(seal, _seal(caller, name, text)):
        raise _forged()
    place: list[Any] = json.loads(text)
    return tuple(str(part) for part in place)


def _forged() -> Invalid:
    return Invalid(
        "this cursor was not given to you for this list; leave it out to begin again",
        code="cursor_unknown",
    )
