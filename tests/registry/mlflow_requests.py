"""A well-formed request for every route that the gate lets through, filled with a tenant's things.

Filled from MLflow's own message definitions, so that a route or a field that is new needs a value
here before the tests pass: a request that is refused for its form proves nothing.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from registry.mlflow_gate.routes import ROUTES, Route
from tests.registry.mlflow_server import Gate

FILES = "/api/2.0/mlflow-artifacts/artifacts"
# Fields by which a thing is named; each is also swapped alone.
NAMING = ("experiment_id", "experiment_ids", "experiment_name", "run_id", "source_run_id",
          "model_id", "name", "source", "path", "filter", "file")  # fmt: skip
_LEFT_OUT = {
    "artifact_location", "page_token", "view_type", "run_view_type", "deployment_job_id",
    "run_link", "user_id", "stages", "run_uuid", "order_by", "dataset_name", "dataset_digest",
    "end_time", "start_time", "model_type", "schema", "profile", "source_type", "digest",
}  # fmt: skip
_NEW_NAME = {"_create_experiment", "_create_registered_model", "_create_logged_model"}


@dataclass(frozen=True)
class Tenant:
    """What an organisation has, each thing with `mark` in everything that can be read of it."""

    organisation: str
    mark: str
    experiment: str
    run: str
    model_id: str
    folder: str
    model: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """What another organisation must not see."""
        return (self.mark, self.run, self.model_id)


def tenant(gate: Gate, organisation: str) -> Tenant:
    """A tenant with one of everything."""
    mark = f"mark-{uuid.uuid4().hex[:12]}"
    tags = [{"key": "note", "value": mark}]

    def ask(path: str, method: str = "POST", **fields: Any) -> Any:
        answer = gate.mlflow(method, path, organisation, **fields)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()

    experiment = ask("experiments/create", name=f"e-{mark}", tags=tags)["experiment_id"]
    run = ask("runs/create", experiment_id=experiment, run_name=f"r-{mark}", tags=tags)
    run_id = run["run"]["info"]["run_id"]
    ask("runs/log-parameter", run_id=run_id, key="p", value=mark)
    ask("runs/log-metric", run_id=run_id, key="auc", value=0.7319731, timestamp=1)
    logged = ask(
        "logged-models", experiment_id=experiment, name="net", source_run_id=run_id, tags=tags,
        params=[{"key": "p", "value": mark}],
    )["model"]["info"]  # fmt: skip
    folder = logged["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert gate.put(f"{folder}/model.onnx", mark.encode(), organisation).status_code == 200
    name = f"model-of-{organisation}-{mark[-4:]}"
    ask("registered-models/create", name=name, tags=tags, description=mark)
    ask(
        "model-versions/create", name=name, source=f"models:/{logged['model_id']}", tags=tags,
        description=mark, model_id=logged["model_id"],
    )  # fmt: skip
    ask("registered-models/alias", name=name, alias="dev-mark", version="1")
    return Tenant(organisation, mark, experiment, run_id, logged["model_id"], folder, name)


def named(of: Tenant, route: Route) -> dict[str, Any]:
    """The fields of `NAMING` that lead to a tenant's things."""
    new = route.endpoint in _NEW_NAME
    return {
        "experiment_id": of.experiment,
        "experiment_ids": [of.experiment],
        "experiment_name": f"e-{of.mark}",
        "run_id": of.run,
        "source_run_id": of.run,
        "model_id": of.model_id,
        "name": f"new-{uuid.uuid4().hex[:8]}" if new else of.model,
        "source": f"models:/{of.model_id}",
        "path": of.folder if route.path == FILES else "sub",
        "filter": _filter(of, route),
        "file": f"{of.folder}/{'model.onnx' if route.method == 'GET' else 'new.onnx'}",
    }


def _filter(of: Tenant, route: Route) -> str:
    room = route.path.split("/")[-2]
    return {
        "experiments": f"name = 'e-{of.mark}'",
        "runs": f"attributes.run_name = 'r-{of.mark}'",
        "logged-models": "name = 'net'",
        "registered-models": f"name = '{of.model}'",
        "model-versions": f"name = '{of.model}'",
    }.get(room, "")


def plain(asking: str) -> dict[str, Any]:
    """The other fields: what the asker writes."""
    return {
        "key": "note", "value": f"by-{asking}", "run_name": f"by-{asking}", "status": "FINISHED",
        "timestamp": 5, "step": 0, "metric_key": "auc", "max_results": 100, "alias": "dev-mark",
        "version": "1", "description": f"by-{asking}",
        "model_json": json.dumps({"model_uuid": "x", "artifact_path": "a", "flavors": {},
                                  "utc_time_created": "now", "run_id": "0"}),
    }  # fmt: skip


def requests_for(
    asking: str, mine: Tenant, theirs: Tenant, route: Route
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what is swapped, path, fields): first all names of `theirs`, then each one alone."""
    own, other = named(mine, route), named(theirs, route)
    used = {field for field in NAMING if field in _names(route)}
    swaps = [("all", other)] + [(f, own | {f: other[f]}) for f in sorted(used)]
    for swapped, names in swaps:
        values = plain(asking) | names
        fields = _filled(route, values)
        path = route.path.replace("{model}", values["model_id"]).replace("{file}", values["file"])
        if "{model}" in route.path and swapped == "model_id":
            # The path and the body name different models.
            yield "body alone", route.path.replace("{model}", own["model_id"]), fields
        yield swapped, path, fields


def _message(route: Route) -> Any:
    from mlflow.server import handlers

    found = {handler.__name__: message for message, handler in handlers.HANDLERS.items()}
    return found[route.endpoint].DESCRIPTOR if route.endpoint in found else None


def _names(route: Route) -> set[str]:
    """Every field of the route's message, nested ones too, and of its path."""
    names = {"model_id"} if "{model}" in route.path else set()
    names |= {"file"} if "{file}" in route.path else set()

    def gather(message: Any) -> None:
        for field in message.fields:
            names.add(field.name)
            if field.message_type:
                gather(field.message_type)

    if _message(route):
        gather(_message(route))
    return names


def _filled(route: Route, values: dict[str, Any]) -> dict[str, Any]:
    message = _message(route)
    if message is None or route.kind in ("upload", "download"):
        return {}
    return _fields(message, values | _more(route))


def _more(route: Route) -> dict[str, Any]:
    """Where a name means something else than elsewhere."""
    if route.endpoint == "_finalize_logged_model":
        return {"status": "LOGGED_MODEL_READY"}
    if route.endpoint in ("_log_param", "_log_logged_model_params"):
        return {"key": f"k{uuid.uuid4().hex[:8]}"}
    return {}


def _fields(message: Any, values: dict[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for field in message.fields:
        if field.name in _LEFT_OUT or (field.name == "datasets"):
            continue
        if field.message_type:
            inner = _fields(field.message_type, values | {"key": f"k{uuid.uuid4().hex[:8]}"})
            if message.name == "LogBatch" and field.name == "metrics":
                inner["value"] = 0.5
            filled[field.name] = [inner] if field.is_repeated else inner
        else:
            number = message.name in ("LogMetric", "Metric") and field.name == "value"
            filled[field.name] = 0.5 if number else values[field.name]
    return filled


def every_route() -> list[Route]:
    """The routes, those that take something away last."""
    return sorted(ROUTES, key=lambda r: (r.method == "DELETE", r.path.endswith("/delete")))
