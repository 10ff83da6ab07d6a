"""Is the server up, and can it do its work: two addresses that need no token.

    >>> app.include_router(router(facility))

Rules
-----
1. `live` asks nothing of anybody: a server that can't reach its database is not to be restarted.
2. `ready` asks the record. It tells no more than yes or no.
"""

from fastapi import APIRouter, Response

from registry.facility import Facility


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

    @routes.get("/health/live")
    def live() -> dict[str, str]:
        return {"status": "live"}

    @routes.get("/health/ready")
    def ready() -> dict[str, str]:
        with facility.record.transaction() as now:
            now.all("organisations")
        return {"status": "ready"}

    return routes
