"""The HTTP door: /api/v1 for what Touchstone does, MLflow's own API for everything else it lets by.

    >>> app = create_app(facility)          # an ASGI application

Rules
-----
1. No rule of its own: each route authenticates, calls one function and answers what it returns.
2. A path that is not ours goes to the MLflow gate, which denies by default.
3. This file only assembles. Routes lie in one file a noun, each with a
   `router(facility, caller_of)`.
"""

from typing import Annotated, Any

from fastapi import FastAPI, Header

from registry.api import accounts, audit, certified, cohorts, health, protocols, submissions
from registry.api.problems import install
from registry.facility import Facility
from registry.identity.accounts import authenticate, bearer
from registry.identity.caller import Caller

ASGI = Any


def create_api(facility: Facility) -> FastAPI:
    """Our own routes, without MLflow."""
    app = FastAPI(
        title="Touchstone", version="1", docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        description="The proving ground between a cancer-imaging AI model and a patient.",
    )  # fmt: skip
    install(app)

    def caller_of(authorization: Annotated[str | None, Header()] = None) -> Caller:
        return authenticate(facility.record, bearer(authorization))

    app.include_router(health.router(facility))
    app.include_router(accounts.router(facility, caller_of))
    app.include_router(cohorts.router(facility, caller_of))
    app.include_router(protocols.router(facility, caller_of))
    app.include_router(submissions.router(facility, caller_of))
    app.include_router(certified.router(facility, caller_of))
    app.include_router(audit.router(facility, caller_of))
    return app


def create_app(facility: Facility) -> ASGI:
    """The whole application: our routes, and MLflow behind its gate."""
    from registry.mlflow_gate.app import create_app as create_gate

    gate = create_gate(
        mlflow_url=facility.databases.mlflow,
        artifacts=facility.artifacts,
        authenticate=lambda secret: authenticate(facility.record, secret),
    )
    return _split(create_api(facility), gate)


def _split(ours: ASGI, gate: ASGI) -> ASGI:
    """Ours under /api/v1 and /health; the rest is the gate's."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        mine = path == "/" or path.startswith(("/api/v1/", "/health/"))
        await (ours if scope["type"] == "lifespan" or mine else gate)(scope, receive, send)

    return application
