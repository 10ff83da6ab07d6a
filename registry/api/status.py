"""The status that hospitals fetch, and what people sign of it.

    >>> app.include_router(router(facility, caller_of))

Rules
-----
1. The files are for everybody, without a token: they are the same on any web server or stick, hold
   digests, dates, the reasons of stops and the signers' names, and prove themselves.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api.answers import file_answer
from registry.audit import tiles
from registry.audit.tree import KnownTree
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.status import signing
from registry.status.publish import published

LOG = "log/"
FileName = Annotated[
    str,
    Path(
        max_length=60,
        description="Such as `timestamp.json`, `1.root.json` or `log/checkpoint`.",
        examples=["timestamp.json"],
    ),
]
Submission = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="One that you have certified or resumed, and another not yet.",
        examples=["7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10"],
    ),
]


class Draft(BaseModel):
    """The list of certificates in force that two assessors are asked to sign."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "due": True, "metadata": "{\"signatures\":[],\"signed\":{…}}", "published": None,
        "about": {"sha256:" + "e" * 64: "sme-a/nodule-net 3"},
    }]})  # fmt: skip
    due: Annotated[bool, Field(description="Whether it differs from the one that stands.")]
    metadata: Annotated[str, Field(description="TUF targets metadata, to be signed.")]
    published: Annotated[str | None, Field(description="The one that stands.")]
    about: Annotated[
        dict[str, str], Field(description="Which model each statement is of, for people.")
    ]


class Signed(BaseModel):
    """What became of a signature."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "published": True, "version": 4, "signed_by": ["Ada", "Ben"], "needed": 2,
    }]})  # fmt: skip
    published: bool
    version: int
    signed_by: list[str]
    needed: int


class Rooted(BaseModel):
    """The newest root."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": 2, "added": 1, "stands": False}]}
    )
    version: int
    added: int
    stands: Annotated[
        bool, Field(description="False while it waits for signatures of its assessors.")
    ]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """The routes under /api/v1/status."""
    routes = APIRouter(prefix="/api/v1/status", tags=["status"])
    trees = KnownTree(facility.gate)
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get(
        "/draft", summary="The next list of certificates in force", response_model=Draft,
        operation_id="status_draft",
    )  # fmt: skip
    def draft(caller: Who, submission: Submission = None) -> dict[str, Any]:
        """For assessors: read it, sign it on your own machine, send the signature."""
        return signing.draft(facility, caller, submission)

    @routes.post(
        "/signatures", status_code=201, summary="Sign the next list", response_model=Signed,
        operation_id="sign_status",
    )  # fmt: skip
    def sign(caller: Who, new: signing.Signature) -> dict[str, Any]:
        """For assessors: the second different one publishes the list."""
        return signing.take_signature(facility, caller, new)

    @routes.post(
        "/roots", status_code=201, summary="Publish roots of the status", response_model=Rooted,
        operation_id="publish_status_roots",
    )  # fmt: skip
    def roots(caller: Who, new: signing.Roots) -> dict[str, Any]:
        """All of them from the first on, as they were signed offline."""
        return signing.take_roots(facility, caller, new)

    @routes.get(
        "/files/{file:path}", summary="One file of the status", response_class=Response,
        operation_id="status_file",
    )  # fmt: skip
    def status_file(file: FileName) -> Response:
        """For everybody, the same as on a stick: TUF metadata, and hashes of the log's tree."""
        if file.startswith(LOG):
            data = tiles.published(facility, trees, file.removeprefix(LOG))
            return file_answer(data, "application/octet-stream")
        return file_answer(published(facility, file), "application/json")

    return routes
