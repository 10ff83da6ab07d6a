"""The HTTP door: /api/v1 for what Touchstone does, MLflow's own API for everything else it lets by.

    >>> app = create_app(facility)          # an ASGI application

Rules
-----
1. No rule of its own: each route authenticates, calls one function and answers what it returns.
2. A path that is not ours goes to the MLflow gate, which denies by default.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from registry.api import audit, login, people
from registry.api.problems import install
from registry.facility import Facility
from registry.identity import accounts
from registry.identity.caller import Caller
from registry.identity.oidc_settings import OidcSettings
from registry.identity.rate import Limits, Throttle
from registry.pipeline.queue import enqueue
from registry.submissions import certified, lock, review, submit
from registry.trust.canonical import hex_of, sha256_bytes

ASGI = Any


class NewSubmission(BaseModel):
    """What `submit` sends."""

    model_config = ConfigDict(extra="forbid")
    model: str
    version: Annotated[int, Field(ge=1)]
    protocol: str
    cohort: str


class SealedCohort(BaseModel):
    """Where the manifest of a sealed cohort lies in the store."""

    model_config = ConfigDict(extra="forbid")
    manifest_path: Annotated[str, Field(pattern=r"^cohorts/[a-z0-9./-]+/manifest\.json$")]


def create_app(
    facility: Facility, *, oidc: OidcSettings | None = None, limits: Limits | None = None
) -> ASGI:
    """The whole application: our routes, and MLflow behind its gate."""
    from registry.mlflow_gate.app import create_app as create_gate
    from registry.mlflow_gate.schema import ensure_workspace

    app = FastAPI(
        title="Touchstone", version="1", docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        description="The proving ground between a cancer-imaging AI model and a patient.",
    )  # fmt: skip
    install(app)

    throttle = Throttle(limits or Limits())

    def authenticate(secret: str) -> Caller:
        return throttle.authenticate(
            secret, lambda given: accounts.authenticate(facility.record, given)
        )

    def caller_of(authorization: Annotated[str | None, Header()] = None) -> Caller:
        return authenticate(accounts.bearer(authorization))

    app.include_router(_health(facility))
    app.include_router(_accounts(facility, caller_of, ensure_workspace))
    app.include_router(login.router(facility, caller_of, throttle, oidc))
    app.include_router(people.router(facility, caller_of, oidc))
    app.include_router(_locked(facility, caller_of))
    app.include_router(_submissions(facility, caller_of))
    app.include_router(_certified(facility, caller_of))
    app.include_router(audit.router(facility, caller_of))
    gate = create_gate(
        mlflow_url=facility.databases.mlflow,
        artifacts=facility.artifacts,
        authenticate=authenticate,
    )
    return _split(app, gate, throttle)


def _split(ours: ASGI, gate: ASGI, throttle: Throttle) -> ASGI:
    """Ours under /api/v1 and /health; the rest is the gate's. Either knows who asks from where."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        mine = path == "/" or path.startswith(("/api/v1/", "/health/"))
        with throttle.from_address(scope):
            await (ours if scope["type"] == "lifespan" or mine else gate)(scope, receive, send)

    return application


def _health(facility: Facility) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/", include_in_schema=False)
    def welcome() -> Response:
        return Response(
            "Touchstone. The API is at /api/v1 (see /api/v1/openapi.json); "
            "this address is also the MLflow tracking URI.\n",
            media_type="text/plain",
        )

    @router.get("/health/live")
    def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/health/ready")
    def ready() -> dict[str, str]:
        with facility.record.transaction() as now:
            now.all("organisations")
        return {"status": "ready"}

    return router


def _accounts(facility: Facility, caller_of: Any, ensure_workspace: Any) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["accounts"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @router.get("/me")
    def me(caller: Who) -> dict[str, str]:
        return {
            "organisation": caller.organisation,
            "kind": caller.kind,
            "role": caller.role,
            "person": caller.person,
        }

    @router.post("/organisations", status_code=201)
    def add_organisation(caller: Who, new: accounts.NewOrganisation) -> dict[str, str]:
        accounts.add_organisation(facility.record, caller, new)
        if new.kind == "sme":
            ensure_workspace(facility.databases.mlflow, new.id)
        return {"id": new.id, "kind": new.kind, "name": new.name}

    @router.post("/tokens", status_code=201)
    def add_token(caller: Who, new: accounts.NewToken) -> dict[str, str]:
        token = accounts.add_token(facility.record, caller, new, facility.root)
        return {
            "id": token.id,
            "token": token.secret,
            "organisation": new.organisation,
            "role": new.role,
            "person": new.person,
            "expires_at": token.expires_at.isoformat(),
        }

    return router


def _locked(facility: Facility, caller_of: Any) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["cohorts and protocols"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @router.post("/cohorts", status_code=201)
    def lock_cohort(caller: Who, sealed: SealedCohort) -> dict[str, Any]:
        return lock.lock_cohort(facility, caller, sealed.manifest_path)

    @router.get("/cohorts")
    def cohorts(caller: Who) -> list[dict[str, Any]]:
        return [_public_cohort(row, caller) for row in lock.cohorts(facility, caller)]

    @router.post("/protocols", status_code=201)
    def lock_protocol(caller: Who, body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        protocol = lock.lock_protocol(facility, caller, body)
        return {"id": protocol.id, "version": protocol.version, "digest": protocol.digest}

    @router.get("/protocols")
    def protocols(caller: Who) -> list[dict[str, Any]]:
        return lock.protocols(facility, caller)

    @router.get("/protocols/{name}")
    def protocol(caller: Who, name: str) -> dict[str, Any]:
        row = lock.protocol_row(facility, caller, name)
        return submit.protocol_of(row).model_dump(mode="json") | {"digest": row["digest"]}

    return router


def _public_cohort(row: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """Counts and names; the root and the paths are the facility's own."""
    hidden = set() if caller.kind == "facility" else {"root", "manifest_path", "manifest_digest",
                                                      "locked_by"}  # fmt: skip
    return {key: value for key, value in row.items() if key not in hidden}


def _submissions(facility: Facility, caller_of: Any) -> APIRouter:
    router = APIRouter(prefix="/api/v1/submissions", tags=["submissions"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @router.post("", status_code=201)
    def add(caller: Who, new: NewSubmission) -> dict[str, Any]:
        submission = submit.submit(
            facility,
            caller,
            model=new.model,
            version=new.version,
            protocol=new.protocol,
            cohort_name=new.cohort,
        )
        enqueue(facility, submission)
        return submit.view(facility, caller, submission)

    @router.get("")
    def listing(caller: Who) -> list[dict[str, Any]]:
        return submit.views(facility, caller)

    @router.get("/{submission}")
    def one(caller: Who, submission: str) -> dict[str, Any]:
        return submit.view(facility, caller, submission)

    @router.get("/{submission}/report")
    def report(caller: Who, submission: str) -> Response:
        return _file(review.report_for(facility, caller, submission), "application/json")

    @router.get("/{submission}/report.html")
    def report_page(caller: Who, submission: str) -> Response:
        return _file(review.report_page_for(facility, caller, submission), "text/html")

    @router.get("/{submission}/statement")
    def statement(caller: Who, submission: str) -> Response:
        data = review.documents(facility, caller, submission).statement
        return Response(status_code=204) if data is None else _file(data, "application/json")

    @router.post("/{submission}/decisions", status_code=201)
    def decide(caller: Who, submission: str, signed: review.SignedDecision) -> dict[str, Any]:
        return review.decide(facility, caller, submission, signed)

    return router


def _certified(facility: Facility, caller_of: Any) -> APIRouter:
    router = APIRouter(prefix="/api/v1/certified", tags=["certified models"])
    Who = Annotated[Caller, Depends(caller_of)]  # noqa: N806

    @router.get("")
    def listing(caller: Who, name: str) -> dict[str, Any]:
        return certified.listing(facility, caller, name)

    @router.get("/file")
    def file(request: Request, caller: Who, name: str, path: str) -> Response:
        data = certified.read_file(facility, caller, name, path)
        start = _start_of(request.headers.get("range"))
        response = _file(data[start:], "application/octet-stream")
        if start:
            response.status_code = 206
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return response

    return router


def _start_of(header: str | None) -> int:
    """The first byte that a resumed download asks for (`Range: bytes=N-`)."""
    if header and header.startswith("bytes=") and header.endswith("-"):
        digits = header[6:-1]
        return int(digits) if digits.isdigit() else 0
    return 0


def _file(data: bytes, media_type: str) -> Response:
    headers = {
        "ETag": f'"{hex_of(sha256_bytes(data))}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    if media_type == "text/html":
        headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        )
    return Response(data, media_type=media_type, headers=headers)
