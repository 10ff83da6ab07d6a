"""The ASGI application that SMEs and hospitals reach with the stock MLflow client.

    >>> app = create_app(mlflow_url="postgresql+psycopg://touchstone_mlflow:…@/touchstone?host=…",
    ...                  artifacts=open_artifacts(settings), authenticate=authenticate,
    ...                  hospital=ClinicalPilot(facility))

Rules
-----
1. It answers the paths for which `routes.belongs_to_mlflow` holds, at the server's root.
2. One a process: MLflow keeps its stores in globals.
3. An organisation's workspace is made when its first caller comes.
"""

import threading

from registry.identity.caller import Caller
from registry.mlflow_gate.artifacts import Artifacts
from registry.mlflow_gate.front import App, Authenticate, Front
from registry.mlflow_gate.room import Room, Take
from registry.mlflow_gate.schema import ensure_workspace


def create_app(
    *,
    mlflow_url: str,
    artifacts: Artifacts,
    authenticate: Authenticate,
    hospital: App,
    take: Take | None = None,
) -> App:
    """MLflow behind the gate. Takes seconds: it imports MLflow.

    `mlflow_url` is PostgreSQL's address as the role `touchstone_mlflow`, in a database that
    `schema.prepare_schema` has prepared; `artifacts` what only this application
    writes; `authenticate` turns a token into a caller or raises Unauthenticated; `hospital` answers
    who may pull certified models (see `clinical_pilot`); `take` takes room for an upload from the
    caller's quota (see `room`).
    """
    from registry.mlflow_gate.server import install

    inner = dict(install(mlflow_url=mlflow_url, artifacts=artifacts))
    if take is not None:
        inner["upload"] = Room(inner["upload"], take)
    return Front(
        authenticate=authenticate,
        admit=_Workspaces(mlflow_url).admit,
        inner=inner,
        hospital=hospital,
    )


class _Workspaces:
    """Sees to it, once a process, that a caller's organisation has its workspace."""

    def __init__(self, mlflow_url: str) -> None:
        self._url = mlflow_url
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def admit(self, caller: Caller) -> None:
        if caller.organisation in self._known:
            return
        with self._lock:
            ensure_workspace(self._url, caller.organisation)
            self._known.add(caller.organisation)
