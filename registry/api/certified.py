"""What a hospital pulls.

>>> app.include_router(router(facility, caller_of))
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from registry.api.files import file_answer
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import certified


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/certified` and its files."""
    routes = APIRouter(prefix="/api/v1/certified", tags=["certified models"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get("")
    def listing(caller: Who, name: str) -> dict[str, Any]:
        return certified.listing(facility, caller, name)

    @routes.get("/file")
    def file(request: Request, caller: Who, name: str, path: str) -> Response:
        data = certified.read_file(facility, caller, name, path)
        start = _start_of(request.headers.get("range"))
        response = file_answer(data[start:], "application/octet-stream")
        if start:
            response.status_code = 206
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return response

    return routes


def _start_of(header: str | None) -> int:
    """The first byte that a resumed download asks for (`Range: bytes=N-`)."""
    if header and header.startswith("bytes=") and header.endswith("-"):
        digits = header[6:-1]
        return int(digits) if digits.isdigit() else 0
    return 0
