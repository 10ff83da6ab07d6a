"""The same models behind BentoML's and MLflow's own JSON routes, for bench.inference and bench.run.

A few batches are asked, and the rate is scaled from them: at a CNN's inputs one batch of JSON is
tens of megabytes.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx

from bench.inference_models import Model

CASES = 4
BATCHES = 3
SERVICE = """
import bentoml, numpy, onnxruntime

@bentoml.service(traffic={"timeout": 600})
class Stock:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession("model.onnx", options)

    @bentoml.api
    def predict(self, x: numpy.ndarray) -> numpy.ndarray:
        return self.session.run(None, {"x": x.astype("DTYPE")})[0]
"""


def json_servers(models: list[Model], rates: dict[str, float], threads: int = 1) -> Iterator[str]:
    """A line for each server and model: its share of the bare loop's `rates`.

    threads: that one call of the model takes.
    """
    for name, start, path in (
        ("BentoML @bentoml.api", bentoml_server, "/predict"),
        ("mlflow models serve", mlflow_server, "/invocations"),
    ):
        for model in models:
            batch = CASES if "CNN" in model.name else model.batch
            inputs = model.inputs["x"][:batch]
            with (
                tempfile.TemporaryDirectory() as directory,
                start(model, Path(directory), threads) as url,
            ):
                rate = batch / _seconds(url + path, inputs, wrapped=path == "/invocations")
            share = rate / rates[model.name]
            yield f"{name}, {model.name}, batch {batch}, JSON: {share:.3f} of bare (scaled)"


@contextmanager
def bentoml_server(model: Model, directory: Path, threads: int) -> Iterator[str]:
    """BentoML's stock way: an API of one array."""
    (directory / "model.onnx").write_bytes(model.data)
    dtype = model.contract.inputs[0].dtype
    (directory / "stock.py").write_text(
        SERVICE.replace("DTYPE", dtype).replace("THREADS", str(threads))
    )
    port = _free_port()
    command = ["-m", "bentoml", "serve", "stock:Stock", "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, directory, f"http://127.0.0.1:{port}", "/readyz") as url:
        yield url


@contextmanager
def mlflow_server(model: Model, directory: Path, threads: int) -> Iterator[str]:
    """MLflow's scoring server on a model with a signature."""
    import mlflow
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    tensor = model.contract.inputs[0]
    inputs = Schema([TensorSpec(np.dtype(tensor.dtype), (-1, *tensor.shape), "x")])
    mlflow.onnx.save_model(
        onnx.load_from_string(model.data),
        directory / "model",
        signature=ModelSignature(inputs),
        onnx_session_options={"intra_op_num_threads": threads},
        pip_requirements=[],
        save_as_external_data=False,
    )
    port = _free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", str(directory / "model"), "-p", str(port),
               "--env-manager", "local", "-w", "1"]  # fmt: skip
    with _running(command, directory, f"http://127.0.0.1:{port}", "/ping") as url:
        yield url


@contextmanager
def _running(command: list[str], directory: Path, url: str, ready: str) -> Iterator[str]:
    """A server in a session of its own, which is ended with all its children."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=directory,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                if httpx.get(url + ready, trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command[:3])} ended")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _seconds(url: str, inputs: np.ndarray[Any, Any], *, wrapped: bool) -> float:
    """Median seconds of one batch, from an array here to scores here."""
    times = []
    with httpx.Client(timeout=600, trust_env=False) as client:
        for _ in range(BATCHES + 1):
            started = time.perf_counter()
            body: dict[str, Any] = {"x": inputs.tolist()}
            text = json.dumps({"inputs": body} if wrapped else body)
            answer = client.post(url, content=text, headers={"Content-Type": "application/json"})
            if answer.status_code != 200:
                raise SystemExit(f"{url} answered {answer.status_code}: {answer.text[:300]}")
            answer.json()
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
