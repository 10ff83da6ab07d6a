"""Locked protocols.

>>> app.include_router(router(facility, caller_of))
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends

from registry.facility import Facility
from registry.identity.caller import Caller
from registry.submissions import lock, submit


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """`/protocols`."""
    routes = APIRouter(prefix="/api/v1", tags=["protocols"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.post("/protocols", status_code=201)
    def lock_protocol(caller: Who, body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        protocol = lock.lock_protocol(facility, caller, body)
        return {"id": protocol.id, "version": protocol.version, "digest": protocol.digest}

    @routes.get("/protocols")
    def protocols(caller: Who) -> list[dict[str, Any]]:
        return lock.protocols(facility, caller)

    @routes.get("/protocols/{name}")
    def protocol(caller: Who, name: str) -> dict[str, Any]:
        row = lock.protocol_row(facility, caller, name)
        return submit.protocol_of(row).model_dump(mode="json") | {"digest": row["digest"]}

    return routes
