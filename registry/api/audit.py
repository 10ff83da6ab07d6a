"""The log over HTTP: events, checkpoints and proofs, to be computed again by whoever asks."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.audit import reading
from registry.audit.reads import note_verification
from registry.audit.tree import KnownTree
from registry.facility import Facility
from registry.identity.caller import Caller

_MOST = (1 << 53) - 1
After = Annotated[int, Query(ge=0, le=_MOST, description="Those beyond this one.")]
Limit = Annotated[int, Query(ge=1, le=reading.LARGEST_PAGE, description="At most so many.")]
Size = Annotated[int, Query(ge=0, le=_MOST, description="A number of events.")]


Name = Annotated[
    str,
    Path(
        pattern=r"^([0-9]{1,15}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$",
        description="An event's number, or a submission's id.",
        examples=["1"],
    ),
]


class CohortRead(BaseModel):
    """Which locked cohort is about to be read."""

    model_config = ConfigDict(extra="forbid")
    cohort: Annotated[str, Field(min_length=1, max_length=64, examples=["lidc"])]
    version: Annotated[str, Field(min_length=1, max_length=64, examples=["1"])]


def router(facility: Facility, caller_of: Any) -> APIRouter:
    """The routes under /api/v1/audit."""
    routes = APIRouter(prefix="/api/v1/audit", tags=["audit"])
    trees = KnownTree(facility.gate)
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @routes.get("/log", summary="Which log this is: origin, certificate, verifier key")
    def log(caller: Who) -> dict[str, Any]:
        return reading.log_of(facility, caller)

    @routes.get("/events", summary="Events by number; ask again after `next` until it is null")
    def events(caller: Who, after: After = 0, limit: Limit = 1000) -> dict[str, Any]:
        found = reading.events(facility, caller, after, limit)
        return {"events": found, "next": found[-1]["seq"] if len(found) == limit else None}

    @routes.get("/checkpoints", summary="Signed checkpoints, as they lie in the object store")
    def checkpoints(caller: Who, after: After = 0, limit: Limit = 1000) -> dict[str, Any]:
        found = reading.checkpoints(facility, caller, after, limit)
        return {"checkpoints": found, "next": found[-1]["size"] if len(found) == limit else None}

    @routes.get("/checkpoint-index", summary="The database's own list of checkpoints")
    def index(caller: Who, after: After = 0, limit: Limit = 1000) -> dict[str, Any]:
        found = reading.index(facility, caller, after, limit)
        return {"checkpoints": found, "next": found[-1]["size"] if len(found) == limit else None}

    @routes.get("/consistency", summary="Proof that the log of `second` events extends `first`")
    def consistency(caller: Who, first: Size, second: Size) -> dict[str, Any]:
        path = reading.consistency(facility, trees, caller, first, second)
        return {"path": [base64.b64encode(step).decode() for step in path]}

    @routes.get("/proofs/{name}", summary="Proof of an event, or of a submission's events")
    def prove(caller: Who, name: Name) -> Response:
        data = reading.prove(facility, trees, caller, name)
        return Response(data, media_type="application/json")

    @routes.post("/reads", status_code=201, summary="Log that a locked cohort is about to be read")
    def read(caller: Who, about: CohortRead) -> dict[str, str]:
        note_verification(facility, caller, about.cohort, about.version)
        return {"cohort": about.cohort, "version": about.version}

    return routes
