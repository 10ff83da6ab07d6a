"""What the inference server costs: throughput by transport, as a share of bare onnxruntime.

    .venv/bin/python -m bench.inference

Every way takes its turn in each round, on one thread of the model, with the same graph
optimisation; printed are medians over rounds of the share of that round's bare loop. `predict` is
what a run calls: it orders, pads, casts, checks and records as well. All is on one machine, so
that over TCP client and server share its cores; between hosts each has its own. Scores are
compared to the byte with those of this process. Processor time shows what each part needs of its
own host, whatever else this machine does. BentoML's and MLflow's own JSON routes are asked
a few batches only, and their rate is scaled from them.
"""

import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.inference_models import Model, models
from bench.json_servers import json_servers
from serving.client import predict
from serving.inference.remote import RemoteSandbox
from serving.listening import SILENCE
from serving.sandbox import Sandbox

ROUNDS = 5
WAYS = ("in process", "shared memory", "unix socket", "tcp")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shard:
    """All cases at once."""

    index: int
    cases: tuple[str, ...]
    inputs: dict[str, Array]


@contextmanager
def server(directory: Path, token: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """A running inference server: its address and process id, by which it is stopped."""
    (directory / "models").mkdir(exist_ok=True)
    (directory / "token").write_text(token)
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.inference.server", "--models", str(directory / "models"),
         "--token", str(directory / "token"), *arguments],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("inference on "):
                yield line.split()[-1], process.pid
                return
        raise SystemExit("the inference server did not start")
    finally:
        process.terminate()
        process.wait(30)


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def bare(model: Model) -> Any:
    """onnxruntime as the sandbox sets it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])


def measure(model: Model, tcp: str, unix: str, token: str) -> dict[str, float]:
    """Cases a second of the bare loop, and each way's share of it."""
    session = bare(model)
    shard = Shard(0, tuple(map(str, range(model.cases))), model.inputs)

    def loop() -> None:
        for start in range(0, model.cases, model.batch):
            session.run(None, {n: a[start : start + model.batch] for n, a in model.inputs.items()})

    with ExitStack() as stack:
        sandboxes: dict[str, Sandbox | RemoteSandbox] = {
            "in process": stack.enter_context(Sandbox.start()),
            "shared memory": (shared := stack.enter_context(RemoteSandbox.start(unix, token))),
            "unix socket": stack.enter_context(
                RemoteSandbox.start(unix, token, shared_memory=False)
            ),
            "tcp": stack.enter_context(RemoteSandbox.start(tcp, token)),
        }
        for sandbox in sandboxes.values():
            sandbox.load({"model.onnx": model.data})
        scores: set[bytes] = set()

        def run(name: str) -> None:
            found = predict(sandboxes[name], [shard], model.contract, batch_size=model.batch)
            scores.add(found.scores.tobytes())

        for name in WAYS:  # once unmeasured: buffers and regions are made
            run(name)
        rounds = []
        for _ in range(ROUNDS):
            base = seconds(loop)
            row = {name: base / seconds(partial(run, name)) for name in WAYS}
            rounds.append({"bare": model.cases / base, **row})
        assert len(scores) == 1, "the scores differ between the ways"
        assert shared.transport == "shared memory"
    return {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}


def cost(model: Model, address: str, pid: int, token: str) -> str:
    """Processor time of one batch over TCP, by whose it is, beside that of the bare loop."""
    session, shard = bare(model), Shard(0, tuple(map(str, range(model.cases))), model.inputs)
    batches = -(-model.cases // model.batch)
    started = time.process_time()
    for start in range(0, model.cases, model.batch):
        session.run(None, {n: a[start : start + model.batch] for n, a in model.inputs.items()})
    alone = time.process_time() - started
    with RemoteSandbox.start(address, token) as remote:
        remote.load({"model.onnx": model.data})
        predict(remote, [shard], model.contract, batch_size=model.batch)
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        child = max(int(one) for task in tasks for one in task.read_text().split())
        before = _processor(pid), _processor(child), time.process_time()
        predict(remote, [shard], model.contract, batch_size=model.batch)
        after = _processor(pid), _processor(child), time.process_time()
    front, inside, client = ((b - a) / batches * 1e3 for a, b in zip(before, after, strict=True))
    return (
        f"bare {alone / batches * 1e3:.2f}, model {inside:.2f}, server {front:.2f}, "
        f"client {client:.2f}"
    )


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print every number."""
    os.environ.update(SILENCE)
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        tcp, pid = stack.enter_context(server(directory, token, "--port", "0"))
        unix, _ = stack.enter_context(server(directory, token, "--socket", str(directory / "s")))
        print(f"{'':34}{'bare/s':>9}" + "".join(f"{way:>15}" for way in WAYS))
        rates = {}
        for model in models():
            found = measure(model, tcp, unix, token)
            rates[model.name] = found["bare"]
            shares = "".join(f"{found[way]:15.2f}" for way in WAYS)
            print(
                f"{model.name + f', batch {model.batch}':34}{found['bare']:9.0f}{shares}",
                flush=True,
            )
        print("scores are the same to the byte in all four ways")
        print("processor time of one batch over TCP, in milliseconds")
        for model in models():
            print(f"{model.name}, batch {model.batch}: {cost(model, tcp, pid, token)}", flush=True)
    if "--no-json" not in sys.argv:
        for line in json_servers(models(), rates):
            print(line, flush=True)


if __name__ == "__main__":
    main()
