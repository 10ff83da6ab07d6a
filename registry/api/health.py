"""Is the server up, and can it do its work: two addresses that need no token.

    >>> app.include_router(router(facility))

Rules
-----
1. `live` asks nothing of anybody: a server that can't reach its database is not to be restarted.
2. `ready` asks the record. It tells no more than yes or no.
"""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from registry.facility import Facility


class Live(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "live"}]})
    status: Literal["live"]


class Ready(BaseModel):
    """The record answers too."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready"}]})
    status: Literal["ready"]


def router(facility: Facility) -> APIRouter:
    """The welcome at the root, and the two health addresses."""
    routes = APIRouter(tags=["health"])

    @routes.get("/", include_in_schema=False)
    def welcome() -> Response:
        return Response(
            "Touchstone. The API is at /api/v1 (see /api/v1/openapi.json); "
            "this address is also the MLflow tracking URI.\n",
            media_type="text/plain",
        )

    @routes.get(
        "/health/live", summary="Does the server run", response_model=Live, operation_id="live"
    )
    def live() -> dict[str, str]:
        """Asks nothing of anybody."""
        return {"status": "live"}

    @routes.get(
        "/health/ready", summary="Can the server work", response_model=Ready, operation_id="ready"
    )
    def ready() -> dict[str, str]:
        """Asks the record; 503 while it is away."""
        with facility.record.transaction() as now:
            now.one("is_migrated")
        return {"status": "ready"}

    return routes
