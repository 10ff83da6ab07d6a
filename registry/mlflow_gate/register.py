"""Register a model from a path: what `touchstone submit PATH` does before it submits.

    >>> register_path(Path("net.onnx"), "nodule", "http://127.0.0.1:8400", token)
    4

Rules
-----
1. It goes in by the same door as an SME's own MLflow client, with the same token and the same
   refusals, in a handful of requests, and needs no MLflow on this machine.
2. The path is one ONNX file, or a folder in the layout that `mlflow.onnx.save_model` writes.
3. The model is not opened here: whether it may be run is decided by the facility, in its sandbox.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from registry.mlflow_gate.naming import check_model_name
from registry.trust.errors import (
    Conflict,
    Invalid,
    NotFound,
    Refused,
    TouchstoneError,
    Unauthenticated,
    Unavailable,
)

_API = "/api/2.0/mlflow"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"
_MOST_BYTES = 2 << 30
_ERRORS: dict[int, type[TouchstoneError]] = {
    401: Unauthenticated, 403: Refused, 404: NotFound, 409: Conflict, 503: Unavailable,
}  # fmt: skip


def register_path(
    path: Path,
    name: str,
    tracking_uri: str,
    token: str,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Log the model at `path` and register it as the next version of `name`; returns its number.

    `progress` is told (bytes sent, bytes in all). Raises Invalid for a path that holds no model,
    Unavailable where the registry can't be reached, and what the registry refuses as it says it.
    """
    check_model_name(name)
    files = _files(path)
    total = sum(file.stat().st_size for file in files.values())
    sent = 0
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=tracking_uri.rstrip("/"), headers=headers, timeout=120) as http:
            info = _ask(
                http, "POST", "/logged-models", experiment_id="0", name=name, model_type="onnx"
            )["model"]["info"]
            folder = f"{_FILES}/{info['artifact_uri'].removeprefix('mlflow-artifacts:/')}"
            if "MLmodel" not in files:
                _put(http, f"{folder}/MLmodel", _mlmodel(info["model_id"]))
            for relative, file in files.items():
                sent += _put(http, f"{folder}/{relative}", file)
                if progress:
                    progress(sent, total)
            _ask(
                http, "PATCH", f"/logged-models/{info['model_id']}",
                model_id=info["model_id"], status="LOGGED_MODEL_READY",
            )  # fmt: skip
            with suppress(Conflict):  # a further version of a model that is there already
                _ask(http, "POST", "/registered-models/create", name=name)
            version = _ask(
                http, "POST", "/model-versions/create",
                name=name, source=f"models:/{info['model_id']}", model_id=info["model_id"],
            )  # fmt: skip
            return int(version["model_version"]["version"])
    except httpx.TransportError as error:
        raise Unavailable(
            f"the registry at {tracking_uri} can't be reached; is `touchstone up` running, and is "
            "TOUCHSTONE_SERVER right?"
        ) from error


def _files(path: Path) -> dict[str, Path]:
    """What to upload, by its name in the model's folder."""
    if path.is_file():
        found = {"model.onnx": path}
    elif path.is_dir():
        found = {
            file.relative_to(path).as_posix(): file
            for file in sorted(path.rglob("*"))
            if file.is_symlink() or not file.is_dir()
        }
        if "model.onnx" not in found:
            raise Invalid(f"{path} holds no model.onnx; give an ONNX file or an MLflow ONNX folder")
    else:
        raise Invalid(f"there is no file or folder {path}")
    for file in found.values():
        if file.is_symlink() or not file.is_file():
            raise Invalid(f"{file} is not a regular file; copy what it points to")
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise Invalid(f"{file} is larger than 2 GiB, the most that the registry takes")
        if size == 0 and file.suffix == ".onnx":
            raise Invalid(f"{file} is empty; export the model again")
    return found


def _mlmodel(model_id: str) -> bytes:
    """The description that MLflow's own client finds a bare ONNX file by."""
    flavour = {"code": None, "data": "model.onnx", "providers": ["CPUExecutionProvider"]}
    return yaml.safe_dump({"flavors": {"onnx": flavour}, "model_id": model_id}).encode()


def _put(http: httpx.Client, address: str, content: Path | bytes) -> int:
    """Upload one file; returns how many bytes went out."""
    if isinstance(content, bytes):
        _checked(http.put(address, content=content))
        return len(content)
    headers = {"Content-Length": str(content.stat().st_size)}
    _checked(http.put(address, content=_blocks(content), headers=headers))
    return content.stat().st_size


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _ask(http: httpx.Client, method: str, path: str, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = _checked(http.request(method, _API + path, json=fields)).json()
    return answer


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        body = answer.json()
        message, code = str(body["message"]), str(body.get("code") or body.get("error_code"))
    except (ValueError, KeyError, TypeError):
        raise Unavailable(
            f"{answer.url.host}:{answer.url.port} answered {answer.status_code} and is no "
            "Touchstone registry; check TOUCHSTONE_SERVER"
        ) from None
    if code == "RESOURCE_ALREADY_EXISTS":
        raise Conflict(message, code="exists")
    raise _ERRORS.get(answer.status_code, Invalid)(message, code=code.lower())
