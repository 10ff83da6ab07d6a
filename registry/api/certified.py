"""What a hospital pulls.

    >>> app.include_router(router(facility, caller_of))

Rules
-----
1. A download that broke off is taken up again with `Range: bytes=N-` (RFC 9110): 206, or 416
   behind the end. A range that can't be understood is not one: the whole file comes.
2. The tag of a part is the tag of the whole; `If-Range` with another tag gets the whole.
"""

import datetime as dt
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api.answers import file_answer
from registry.api.problems import problem
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import certified

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


class BundleFile(BaseModel):
    """One file of a bundle."""

    digest: str
    size: int


class Bundle(BaseModel):
    """A certified model and the files of its bundle."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "submission": "7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10", "organisation": "sme-a",
        "model": "nodule-net", "version": 3, "not_after": "2027-11-20T09:00:00Z",
        "files": {"certificate.json": {"digest": "sha256:" + "e" * 64, "size": 8120}},
    }]})  # fmt: skip
    submission: str
    organisation: str
    model: str
    version: int
    not_after: Annotated[dt.datetime, Field(description="When the certificate ends.")]
    files: dict[str, BundleFile]


Name = Annotated[
    str,
    Query(
        pattern=r"^([a-z0-9-]{1,64}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="NAME, or ORGANISATION/NAME where two organisations certified one name.",
        examples=["nodule-net"],
    ),
]
FilePath = Annotated[
    str,
    Query(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,6}$",
        max_length=300,
        description="A path of the bundle's list.",
        examples=["certificate.json"],
    ),
]
_BYTES = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "…"}
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": _BYTES},
    206: {"description": "The part that was asked for.", "content": _BYTES},
}


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/certified` and its files."""
    routes = APIRouter(prefix="/api/v1/certified", tags=["certified models"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get(
        "", summary="List a certified model's bundle", response_model=Bundle,
        operation_id="list_bundle",
    )  # fmt: skip
    def listing(caller: Who, name: Name) -> dict[str, Any]:
        """For hospitals: every file with digest and size, if a certificate is in force.

        Trust the certificate among the files, not this list: `touchstone verify`.
        """
        return certified.listing(facility, caller, name)

    @routes.get(
        "/file", summary="Fetch a file of a bundle", responses=_FILE, response_class=Response,
        operation_id="fetch_bundle_file",
        openapi_extra={"parameters": [{
            "name": "Range", "in": "header", "required": False, "schema": {"type": "string"},
            "description": "`bytes=N-` takes up a download that broke off.",
            "example": "bytes=1048576-",
        }]},
    )  # fmt: skip
    def file(request: Request, caller: Who, name: Name, path: FilePath) -> Response:
        """The bytes of one file, or of a part of it."""
        data = certified.read_file(facility, caller, name, path)
        whole = file_answer(data, "application/octet-stream")
        whole.headers["Accept-Ranges"] = "bytes"
        if_range = request.headers.get("if-range")
        if if_range is not None and if_range != whole.headers["etag"]:
            return whole
        return _part(whole, data, request.headers.get("range"))

    return routes


def _part(whole: Response, data: bytes, asked: str | None) -> Response:
    """What a Range header asks for of `data`, which `whole` answers."""
    match = _RANGE.match(asked or "")
    if match is None or match[1] == match[2] == "":
        return whole
    size = len(data)
    if match[1] == "":
        first, last = max(size - int(match[2]), 0), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
        if match[2] and int(match[2]) < first:
            return whole
    if first >= size or (match[1] == "" and int(match[2]) == 0):
        refusal = problem(
            416, "range_not_satisfiable", f"the file has {size} bytes; that part is behind its end"
        )
        refusal.headers["Content-Range"] = f"bytes */{size}"
        return refusal
    headers = dict(whole.headers)
    del headers["content-length"]
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(data[first : last + 1], 206, headers)
