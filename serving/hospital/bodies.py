"""A request's body: of one kind, of bounded size, read in bounded time."""

import asyncio

from starlette.requests import Request

from serving.inference.answers import plain_encoding
from serving.problems import TooLarge, TooSlow, UnsupportedType

BODY_SECONDS = 60.0
IMAGES_SECONDS = 300.0
JSON = "application/json"
OCTETS = "application/octet-stream"
FORM, RELATED = "multipart/form-data", "multipart/related"


def kind_of(request: Request, *taken: str) -> str:
    """The body's media type, one of `taken`. Raises UnsupportedType, also where compressed."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in taken:
        listed = " or ".join(filter(None, taken))
        raise UnsupportedType(f"the body must be {listed}; nothing else is decoded")
    plain_encoding(request)
    return kind


async def read_body(request: Request, limit: int, seconds: float = BODY_SECONDS) -> bytearray:
    """The body, of at most `limit` bytes, within `seconds`. Raises TooLarge, TooSlow."""
    message = f"the body is larger than the {limit} bytes that are taken here"
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise TooLarge(message)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for block in request.stream():
                if len(body) + len(block) > limit:
                    raise TooLarge(message)
                body += block
    except TimeoutError as error:
        raise TooSlow("the body did not come in time; send it again") from error
    return body
