"""Locked protocols.

>>> app.include_router(router(facility, caller_of))
"""

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from registry.api import paging
from registry.api.examples import PROTOCOL
from registry.api.paging import Cursor, Limit, Page
from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import lock, submit
from validators.protocol.schema import Protocol


class LockedProtocol(BaseModel):
    """What was locked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "nodule-malignancy", "version": "1", "digest": "sha256:" + "b" * 64,
    }]})  # fmt: skip
    id: str
    version: str
    digest: str


class ProtocolRow(LockedProtocol):
    """A locked protocol, without its text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "id": "nodule-malignancy", "version": "1", "digest": "sha256:" + "b" * 64, "attempts": 3,
        "locked_by": "Stella", "locked_at": "2026-11-20T09:00:00Z",
    }]})  # fmt: skip
    attempts: Annotated[int, Field(description="Runs on the cohort that each SME has.")]
    locked_by: str
    locked_at: dt.datetime


class _WrittenAsProtocol:
    """Describes a JSON object as a protocol, which `lock_protocol` reads with better sentences."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(Protocol.__pydantic_core_schema__)


class WholeProtocol(LockedProtocol):
    """A locked protocol: its fields as they were locked, and its digest."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [PROTOCOL | {"digest": "sha256:" + "b" * 64}]},
    )


Written = Annotated[
    dict[str, Any],
    _WrittenAsProtocol(),
    Body(openapi_examples={"a protocol": {"value": PROTOCOL}}),
]
Name = Annotated[
    str,
    Path(
        pattern=r"^[a-z0-9][a-z0-9:-]{0,100}$",
        description="Id (its latest version) or digest.",
        examples=["nodule-malignancy"],
    ),
]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/protocols`."""
    routes = APIRouter(prefix="/api/v1", tags=["protocols"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post(
        "/protocols", status_code=201, summary="Lock a protocol", response_model=LockedProtocol,
        operation_id="lock_protocol",
    )  # fmt: skip
    def lock_protocol(caller: Who, body: Written) -> dict[str, Any]:
        """For stewards. It is never changed afterwards; locking the same text again does nothing.

        Beyond its schema a protocol has rules that tie fields to each other, such as a goal for
        each gating endpoint: a fault is answered 422 with its place.
        """
        protocol = lock.lock_protocol(facility, caller, body)
        return {"id": protocol.id, "version": protocol.version, "digest": protocol.digest}

    @routes.get(
        "/protocols", summary="List locked protocols", response_model=Page[ProtocolRow],
        responses={200: {"links": {"read_protocol": {
            "operationId": "read_protocol",
            "parameters": {"name": "$response.body#/items/0/id"},
        }}}},
        operation_id="list_protocols",
    )  # fmt: skip
    def protocols(
        caller: Who,
        request: Request,
        response: Response,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """By name, then by age, without their texts."""
        rows, following = paging.read(
            request, response, caller, limit, cursor,
            lambda after, number: lock.protocols(facility, caller, after, number), lock.place,
        )  # fmt: skip
        return {"items": rows, "next": following}

    @routes.get(
        "/protocols/{name}", summary="Read a protocol", response_model=WholeProtocol,
        operation_id="read_protocol",
    )  # fmt: skip
    def protocol(caller: Who, name: Name) -> dict[str, Any]:
        """The whole text, as it was locked, and its digest."""
        row = lock.protocol_row(facility, caller, name)
        return submit.protocol_of(row).model_dump(mode="json") | {"digest": row["digest"]}

    return routes
