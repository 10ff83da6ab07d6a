# mypy: disallow-untyped-calls=False
"""MLflow's web layer as we run it: its Flask application and its two file transfers, no more.

    >>> inner = install(mlflow_url=…, artifacts=open_artifacts(settings))       # once in a process

Rules
-----
1. Of MLflow's FastAPI application only the upload and download of artifacts are taken. Gateway,
   assistant, jobs, traces, MCP and the web page are not even loaded.
2. MLflow's Flask application asks us before anything else, by the name of its endpoint, so that
   every address that leads to one is judged alike.
3. The stores are ours (`GuardedRegistryStore`, `GuardedTrackingStore`), for MLflow's handlers and
   for whatever in this process makes an MLflow client.
4. What the operator's shell says to an MLflow client (MLFLOW_…) is not for the server: it is
   removed first. The database's address is put into no environment variable.
"""

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from registry.mlflow_gate.artifacts import SCHEME, Artifacts, Place
from registry.mlflow_gate.body import Receive
from registry.mlflow_gate.front import App, Scope, Send
from registry.mlflow_gate.refusal import body_of, without_database_talk
from registry.mlflow_gate.routes import ENDPOINTS, Kind, artifact_path
from registry.mlflow_gate.schema import in_mlflow_schema
from registry.trust.errors import Conflict, NotFound, TouchstoneError

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_WORKSPACES": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",  # the front has done more by then
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "4",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "4",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
}
# A search of runs would import MLflow's own accounts, and with them gateway, jobs and assistant.
_NEVER_LOADED = ("mlflow.server.auth", "mlflow.server.fastapi_app")
STATEMENT_SECONDS = 20
_THREADS = 8
_STALE_SECONDS = 24 * 3600
_installed: tuple[str, str] | None = None


def preload() -> None:
    """Import what `install` will need, under the environment that it will set."""
    _set_environment()
    _import_mlflow_constants()
    from mlflow.server import app, handlers  # noqa: F401

    from registry.mlflow_gate import registry_store, tracking_store  # noqa: F401


def install(*, mlflow_url: str, artifacts: Artifacts) -> Mapping[Kind, App]:
    """Set this process's MLflow up and return what answers each kind of route.

    Raises Conflict where this process serves another database or directory already: MLflow keeps
    its stores in globals.
    """
    global _installed
    if _installed not in (None, (mlflow_url, artifacts.address)):
        raise Conflict("this process serves another MLflow already; start a second process")
    artifacts.discard_stale(time.time() - _STALE_SECONDS)
    _set_environment()
    os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = artifacts.address
    _import_mlflow_constants()
    if _installed is None:
        _install_stores(in_mlflow_schema(mlflow_url, most_seconds=STATEMENT_SECONDS), artifacts)
        _installed = (mlflow_url, artifacts.address)
    from mlflow.server import app as flask_app

    return {
        "json": _wsgi(flask_app),
        "upload": _files(),
        "download": _files(),
        "info": _server_info(),
    }


def _set_environment() -> None:
    """Rule 4, and what must never be loaded."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW_"))]:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT)
    for module in _NEVER_LOADED:
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]


def _import_mlflow_constants() -> None:
    """MLflow's names for what we set above; a rename in an upgrade must not go unnoticed."""
    from mlflow.server import constants

    if (
        constants.SERVE_ARTIFACTS_ENV_VAR != "_MLFLOW_SERVER_SERVE_ARTIFACTS"
        or constants.ARTIFACTS_DESTINATION_ENV_VAR != "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
    ):
        raise RuntimeError("MLflow renamed the environment variables of its server")


def _install_stores(url: str, artifacts: Artifacts) -> None:
    from mlflow.server import app as flask_app
    from mlflow.server import handlers
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
    from mlflow.tracking._model_registry import utils as registry_utils
    from mlflow.tracking._tracking_service import utils as tracking_utils

    from registry.mlflow_gate.registry_store import GuardedRegistryStore
    from registry.mlflow_gate.tracking_store import GuardedTrackingStore
    from registry.mlflow_gate.write_once import WriteOnceArtifactRepository

    tracking = GuardedTrackingStore(url)
    registry = GuardedRegistryStore(url, tracking, artifacts)
    globals_of_mlflow: Any = handlers
    globals_of_mlflow._tracking_store = tracking
    globals_of_mlflow._model_registry_store = registry
    # No store but these two in this process, whoever asks for one and with which address.
    _only_store(handlers._tracking_store_registry, tracking)
    _only_store(tracking_utils._tracking_store_registry, tracking)
    _only_store(handlers._model_registry_store_registry, registry)
    _only_store(registry_utils._get_store_registry(), registry)
    tracking_utils.set_tracking_uri("touchstone://registry")
    registry_utils.set_registry_uri("touchstone://registry")
    repositories = _artifact_repository_registry._registry
    repositories.clear()
    repositories[SCHEME] = partial(WriteOnceArtifactRepository, artifacts=artifacts)
    flask_app.before_request_funcs.setdefault(None, []).insert(0, _ask_us_first)


def _only_store(stores: Any, store: Any) -> None:
    stores._registry.clear()
    stores.register("touchstone", lambda **_: store)


def _ask_us_first() -> Any:
    """Flask's first hook: the endpoint must be on the list and the caller known."""
    from flask import Response, request
    from mlflow.utils.workspace_context import set_server_request_workspace

    from registry.identity.caller import current_caller
    from registry.mlflow_gate.guarded import caller_in_own_workspace

    try:
        if (request.method, request.endpoint) not in ENDPOINTS:
            raise NotFound(f"{request.method} {request.path} is not offered here")
        caller = current_caller.get()
        set_server_request_workspace(caller.organisation if caller else None)
        caller_in_own_workspace()
    except TouchstoneError as error:
        return Response(body_of(error), error.status, mimetype="application/json")
    return None


def _wsgi(application: Callable[..., Any]) -> App:
    """Run a WSGI application for requests whose body is known, in a few threads of its own."""
    limiter: list[anyio.CapacityLimiter] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if not limiter:
            limiter.append(anyio.CapacityLimiter(_THREADS))
        body = (await receive())["body"]
        status, headers, content = await anyio.to_thread.run_sync(
            _call, application, _environment(scope, body), limiter=limiter[0]
        )
        if status >= 400:
            content = without_database_talk(content)
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return answer


def _environment(scope: Scope, body: bytes) -> dict[str, Any]:
    environment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"],
        "QUERY_STRING": scope["query_string"].decode("ascii"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = name.decode("ascii").upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            environment[key] = value.decode("latin-1")
        elif key != "CONTENT_LENGTH":
            environment[f"HTTP_{key}"] = value.decode("latin-1")
    return environment


def _call(
    application: Callable[..., Any], environment: dict[str, Any]
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    answered: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], failed: Any = None) -> None:
        if failed:
            logging.getLogger(__name__).error("MLflow failed", exc_info=failed)
        answered.append((status, headers))

    chunks = application(environment, start_response)
    try:
        content = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()
    status, headers = answered[-1]
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return int(status[:3]), encoded, content


def _files() -> App:
    """MLflow's own upload and download, inside the caller's workspace."""
    from mlflow.exceptions import MlflowException
    from mlflow.server.artifact_router import download_artifact, upload_artifact
    from mlflow.utils.workspace_context import ServerWorkspaceContext
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    from registry.mlflow_gate.guarded import caller_in_own_workspace

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = artifact_path(scope["path"])
        organisation = _organisation(scope)
        with ServerWorkspaceContext(organisation):
            caller_in_own_workspace()
            if Place.parse(path).workspace != organisation:
                raise NotFound(f"there is no artifact {path[-120:]}")
            try:
                if scope["method"] == "PUT":
                    response: Response = await upload_artifact(path, Request(scope, receive))
                else:
                    response = await download_artifact(path)
            except HTTPException as error:
                raise NotFound(str(error.detail)) from error
            except MlflowException as error:
                response = Response(
                    without_database_talk(error.serialize_as_json().encode()),
                    error.get_http_status_code(),
                    media_type="application/json",
                )
            await response(scope, receive, send)

    return answer


def _organisation(scope: Scope) -> str:
    """The workspace that the front wrote into the request."""
    return str(dict(scope["headers"])[b"x-mlflow-workspace"].decode("ascii"))


def _server_info() -> App:
    from mlflow.server.handlers import build_server_info_payload
    from starlette.responses import JSONResponse

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        payload = await anyio.to_thread.run_sync(build_server_info_payload)
        await JSONResponse(payload)(scope, receive, send)

    return answer
