"""The HTTP door: /api/v1 for what Touchstone does, MLflow's own API for everything else it lets by.

    >>> app = create_app(facility)          # an ASGI application
    >>> api = create_api(facility)          # our own routes alone, without MLflow

Rules
-----
1. No rule of its own: each route authenticates, calls one function and answers what it returns.
2. A path that is not ours goes to the MLflow gate, which denies by default.
3. This file only assembles. Routes lie in one file a noun, each with a
   `router(facility, caller_of)`.
4. Around every route, in this order from outside: faults, conditional reads, checked bodies,
   idempotency.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.api import (
    accounts,
    audit,
    catalogue,
    certified,
    cohorts,
    exposure,
    health,
    keys,
    life,
    login,
    people,
    pilots,
    protocols,
    sign_in,
    status,
    submissions,
    use,
)
from registry.api.bodies import Bodies
from registry.api.conditional import Conditional
from registry.api.describe import ABOUT, Addresses, describe, operation_name
from registry.api.once import Once
from registry.api.problems import Faults, install, only_known_queries
from registry.facility import Facility
from registry.identity.accounts import authenticate as authenticate_token
from registry.identity.accounts import bearer
from registry.identity.caller import Caller
from registry.identity.oidc_settings import OidcSettings
from registry.identity.rate import Limits, Throttle
from registry.submissions.quota import take_storage

Authenticate = Callable[[str], Caller]
_BEARER = HTTPBearer(
    auto_error=False, bearerFormat="tst_…", description="A token that your facility gave you."
)


def create_api(
    facility: Facility, *, oidc: OidcSettings | None = None, throttle: Throttle | None = None
) -> FastAPI:
    """Our own routes, without MLflow."""
    throttle = throttle or Throttle(Limits())
    authenticate = _authenticate(facility, throttle)
    app = FastAPI(
        title="Touchstone", version="1", docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json", description=ABOUT, redirect_slashes=False,
        dependencies=[Depends(only_known_queries)], generate_unique_id_function=operation_name,
    )  # fmt: skip
    addresses = Addresses(app)
    install(app, addresses.methods)
    app.add_middleware(
        Once, record=facility.record, authenticate=authenticate, is_write=addresses.is_write
    )
    app.add_middleware(Bodies)
    app.add_middleware(Conditional)
    app.add_middleware(Faults)

    def caller_of(request: Request, _: Annotated[Any, Security(_BEARER)]) -> Caller:
        before: Caller | None = request.scope.get("touchstone.caller")  # by Once, on this request
        return before or authenticate(bearer(request.headers.get("authorization")))

    app.include_router(health.router(facility))
    app.include_router(accounts.router(facility, caller_of))
    app.include_router(login.router(facility, caller_of, throttle, oidc))
    app.include_router(sign_in.router(facility, caller_of, throttle))
    app.include_router(people.router(facility, caller_of, oidc))
    app.include_router(keys.router(facility, caller_of))
    app.include_router(cohorts.router(facility, caller_of))
    app.include_router(protocols.router(facility, caller_of))
    app.include_router(exposure.router(facility, caller_of))
    app.include_router(use.router(facility, caller_of))
    app.include_router(catalogue.router(facility, caller_of))
    app.include_router(submissions.router(facility, caller_of))
    app.include_router(certified.router(facility, caller_of))
    app.include_router(life.router(facility, caller_of))
    app.include_router(pilots.router(facility, caller_of))
    app.include_router(status.router(facility, caller_of))
    app.include_router(audit.router(facility, caller_of))
    describe(app)
    return app


def _authenticate(facility: Facility, throttle: Throttle) -> Authenticate:
    """Turns a token's secret into its caller, not too often."""
    look_up = partial(authenticate_token, facility.record)
    return lambda secret: throttle.authenticate(secret, look_up)


def create_app(
    facility: Facility, *, oidc: OidcSettings | None = None, limits: Limits | None = None
) -> ASGIApp:
    """The whole application: our routes, and MLflow behind its gate."""
    from registry.mlflow_gate.app import create_app as create_gate
    from registry.mlflow_gate.clinical_pilot import ClinicalPilot

    throttle = Throttle(limits or Limits())
    gate = create_gate(
        mlflow_url=facility.databases.mlflow,
        artifacts=facility.artifacts,
        authenticate=_authenticate(facility, throttle),
        hospital=ClinicalPilot(facility),
        take=partial(take_storage, facility.record),
    )
    return _split(create_api(facility, oidc=oidc, throttle=throttle), gate, throttle)


def _split(ours: ASGIApp, gate: ASGIApp, throttle: Throttle) -> ASGIApp:
    """Ours under /api/v1 and /health; the rest is the gate's. Either knows who asks from where."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        mine = path == "/" or path.startswith(("/api/v1/", "/health/"))
        with throttle.from_address(scope):
            await (ours if scope["type"] == "lifespan" or mine else gate)(scope, receive, send)

    return application
