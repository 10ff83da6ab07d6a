"""The whole list of what MLflow offers here to an innovator; what is not on it does not exist.

    >>> match("POST", "/api/2.0/mlflow/runs/create").endpoint
    '_create_run'
    >>> print(table())

Rules
-----
1. A path has one spelling: plain ASCII, no percent sign, no `//`, `.` or `..`, no trailing slash.
2. `/api/…` only; the browser's twin `/ajax-api/…` is not offered.
3. `endpoint` is the name under which MLflow's web layer knows the same thing: both must agree.
"""

import re
from dataclasses import dataclass
from typing import Literal

from registry.trust.errors import NotFound, Refused

Kind = Literal["json", "upload", "download", "info"]

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
SERVER_INFO = "/api/3.0/mlflow/server-info"
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_+=@,()-][A-Za-z0-9_.+=@,()-]*){1,40}\Z")
_MODEL = "m-[0-9a-f]{32}"


@dataclass(frozen=True)
class Route:
    """One thing that may be asked, and who answers it."""

    method: str
    path: str
    endpoint: str
    kind: Kind = "json"

    def matches(self, method: str, path: str) -> bool:
        """Whether a request means this route."""
        pattern = re.escape(self.path).replace(r"\{model\}", _MODEL).replace(r"\{file\}", ".+")
        return method == self.method and re.fullmatch(pattern, path, re.ASCII) is not None


def _routes(lines: str) -> tuple[Route, ...]:
    split = (line.split() for line in lines.strip().splitlines())
    return tuple(Route(method, f"{API}/{path}", endpoint) for method, path, endpoint in split)


ROUTES: tuple[Route, ...] = (
    *_routes(
        """
        POST   experiments/create                  _create_experiment
        GET    experiments/get                     _get_experiment
        GET    experiments/get-by-name             _get_experiment_by_name
        POST   experiments/search                  _search_experiments
        GET    experiments/search                  _search_experiments
        POST   experiments/set-experiment-tag      _set_experiment_tag
        POST   runs/create                         _create_run
        POST   runs/update                         _update_run
        GET    runs/get                            _get_run
        POST   runs/search                         _search_runs
        POST   runs/log-metric                     _log_metric
        POST   runs/log-parameter                  _log_param
        POST   runs/log-batch                      _log_batch
        POST   runs/log-inputs                     _log_inputs
        POST   runs/log-model                      _log_model
        POST   runs/outputs                        _log_outputs
        POST   runs/set-tag                        _set_tag
        POST   runs/delete-tag                     _delete_tag
        GET    metrics/get-history                 _get_metric_history
        GET    artifacts/list                      _list_artifacts
        POST   logged-models                       _create_logged_model
        POST   logged-models/search                _search_logged_models
        GET    logged-models/{model}               _get_logged_model
        PATCH  logged-models/{model}               _finalize_logged_model
        POST   logged-models/{model}/params        _log_logged_model_params
        PATCH  logged-models/{model}/tags          _set_logged_model_tags
        POST   registered-models/create            _create_registered_model
        GET    registered-models/get               _get_registered_model
        GET    registered-models/search            _search_registered_models
        PATCH  registered-models/update            _update_registered_model
        POST   registered-models/set-tag           _set_registered_model_tag
        DELETE registered-models/delete-tag        _delete_registered_model_tag
        POST   registered-models/alias             _set_registered_model_alias
        GET    registered-models/alias             _get_model_version_by_alias
        DELETE registered-models/alias             _delete_registered_model_alias
        POST   registered-models/get-latest-versions  _get_latest_versions
        GET    registered-models/get-latest-versions  _get_latest_versions
        POST   model-versions/create               _create_model_version
        GET    model-versions/get                  _get_model_version
        GET    model-versions/search               _search_model_versions
        GET    model-versions/get-download-uri     _get_model_version_download_uri
        PATCH  model-versions/update               _update_model_version
        DELETE model-versions/delete               _delete_model_version
        POST   model-versions/set-tag              _set_model_version_tag
        DELETE model-versions/delete-tag           _delete_model_version_tag
        """
    ),
    Route("GET", FILES, "_list_artifacts_mlflow_artifacts"),
    Route("GET", f"{FILES}/{{file}}", "_download_artifact", "download"),
    Route("PUT", f"{FILES}/{{file}}", "_upload_artifact", "upload"),
    Route("GET", SERVER_INFO, "_get_server_info", "info"),
)
# Asked for often enough to deserve their own sentence; the stores say the same.
REFUSED: dict[tuple[str, str], str] = {
    ("POST", f"{API}/registered-models/rename"): (
        "a registered model keeps its name; register the model again under the new name"
    ),
    ("DELETE", f"{API}/registered-models/delete"): (
        "a registered model stays on record; versions that were not submitted can be deleted"
    ),
    ("POST", f"{API}/model-versions/transition-stage"): (
        "stages are not used here: no label stands for an approval; submit the version with "
        "`touchstone submit`"
    ),
}
ENDPOINTS = frozenset((route.method, route.endpoint) for route in ROUTES if route.kind == "json")


def belongs_to_mlflow(path: str) -> bool:
    """Whether a path of the server is MLflow's to answer (and be it with a refusal)."""
    return path.startswith(("/api/2.0/", "/api/3.0/", "/ajax-api/"))


def match(method: str, path: str) -> Route:
    """The route that a request means; raises NotFound or Refused for everything else."""
    for route in ROUTES:
        if route.matches(method, path):
            return route
    if (method, path) in REFUSED:
        raise Refused(REFUSED[method, path], code="not_offered")
    raise NotFound(
        f"{method} {path[:120]} is not offered here; Touchstone takes runs, models, versions and "
        "their files from the MLflow client",
        code="not_offered",
    )


def plain_path(raw: bytes) -> str:
    """The path of a request in its one spelling; raises Refused for any other."""
    if not _PLAIN.match(raw) or len(raw) > 2000:
        raise Refused(
            "this path is not allowed: use letters, digits and _ . + = @ , ( ) - only, without "
            "percent signs, empty parts, leading dots or a slash at the end",
            code="path_not_allowed",
        )
    return raw.decode("ascii")


def artifact_path(path: str) -> str:
    """What follows the artifacts' prefix."""
    return path.removeprefix(f"{FILES}/")


def table() -> str:
    """The whole list as text, for the test that prints it."""
    ordered = sorted(ROUTES, key=lambda route: (route.path, route.method))
    return "\n".join(f"{r.method:7}{r.path:62}{r.endpoint}" for r in ordered)
