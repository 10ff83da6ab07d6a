"""What the gate costs: the stock MLflow client through it and on a bare `mlflow server`.

    .venv/bin/python -m bench.gate [--pairs 5] [--seconds 2]

Both servers run at once on one PostgreSQL and one disk (see `bench.gate_stage`); the same client
takes turns between them, each going first as often as the other. Printed are medians, and medians
of the ratios of the pairs, which is what other work on the machine disturbs least.

Targets: log_model + register of 200 MB in at most 1.15 x the bare server's time; alias look-ups
at 0.9 x its rate or better; at most 400 MiB resident.
"""

import argparse
import contextlib
import hashlib
import logging
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.gate_stage import Server, stage

MODEL_BYTES = 200_000_000
TARGETS = {"upload": 1.15, "aliases": 0.9, "resident": 400.0}


def network(seed: int) -> Any:
    """An ONNX model with one weight of 200 MB."""
    from onnx import TensorProto, helper, numpy_helper

    drawn = np.random.default_rng(seed).random((MODEL_BYTES // 4 // 1000, 1000), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(drawn)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
        [numpy_helper.from_array(drawn, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def use(server: Server) -> None:
    """Point this process's MLflow client at the server."""
    import mlflow

    os.environ["MLFLOW_TRACKING_TOKEN"] = server.token or "none"
    mlflow.set_tracking_uri(server.url)
    mlflow.set_registry_uri(server.url)


def upload(server: Server, seed: int) -> float:
    """Seconds to log and register a new 200 MB model; its bytes must lie where it should."""
    import mlflow.onnx

    use(server)
    model = network(seed)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        began = time.monotonic()
        info = mlflow.onnx.log_model(
            model, name="large", registered_model_name="large", save_as_external_data=False,
            pip_requirements=["onnx"],
        )  # fmt: skip
        seconds = time.monotonic() - began
        mlflow.end_run()
    [stored] = server.artifacts.rglob(f"{info.model_id}/artifacts/model.onnx")
    with stored.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if digest != hashlib.sha256(model.SerializeToString()).digest():
        raise SystemExit(f"{server.name} stored other bytes than were sent")
    stored.unlink()  # 200 MB a round
    return seconds


def asker(server: Server, orders: Connection) -> None:
    """A client process: on each order, look the alias up for so many seconds; answers how often."""
    from mlflow import MlflowClient

    use(server)
    client = MlflowClient()
    while (seconds := orders.recv()) is not None:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            version = client.get_model_version_by_alias("large", "dev-best")
            if version.version != "1":
                raise SystemExit(f"{server.name} answered version {version.version}")
            count += 1
        orders.send(count)


@contextmanager
def askers(server: Server, number: int) -> Iterator[Callable[[float], float]]:
    """So many client processes; the function returned gives look-ups a second."""
    context = multiprocessing.get_context("fork")  # MLflow is imported once, before
    ends: list[Connection] = []
    for _ in range(number):
        mine, theirs = context.Pipe()
        context.Process(target=asker, args=(server, theirs), daemon=True).start()
        ends.append(mine)

    def rate(seconds: float) -> float:
        for end in ends:
            end.send(seconds)
        return sum(int(end.recv()) for end in ends) / seconds

    rate(0.3)  # connections are made, caches filled
    yield rate
    for end in ends:
        end.send(None)


def pairs(
    number: int, gate: Callable[[int], float], bare: Callable[[int], float]
) -> tuple[float, float, float]:
    """(median of the gate, of the bare server, of their ratios) over interleaved pairs."""
    measured: list[tuple[float, float]] = []
    for index in range(number):
        if index % 2:
            second = bare(index)
            measured.append((gate(index), second))
        else:
            first = gate(index)
            measured.append((first, bare(index)))
    return (
        statistics.median(one for one, _ in measured),
        statistics.median(two for _, two in measured),
        statistics.median(one / two for one, two in measured),
    )


def line(name: str, found: tuple[float, float, float], unit: str, verdict: str = "") -> None:
    """One row of the table."""
    gate, bare, ratio = found
    print(f"{name:38}{gate:9.2f}{bare:9.2f} {unit:6}{ratio:7.2f}  {verdict}", flush=True)


def judged(good: bool, target: str) -> str:
    """Whether a number holds, in words."""
    return f"{target} {'holds' if good else 'DOES NOT HOLD'}"


def main() -> None:
    """Print the table; exit status 1 where a target is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2.0)
    asked = arguments.parse_args()
    import mlflow.onnx  # noqa: F401  once, before clients are forked

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped, it stops its servers

    with stage() as (gate, bare):
        print(f"{'':38}{'gate':>9}{'bare':>9} {'':6}{'ratio':>7}")
        line("idle, resident", _resident(gate, bare), "MiB")
        missed = [not _aliases(gate, bare, asked.pairs, asked.seconds, n) for n in (1, 4)]
        found = pairs(asked.pairs, lambda n: upload(gate, n + 1), lambda n: upload(bare, n + 1))
        good = found[2] <= TARGETS["upload"]
        line("log_model + register, 200 MB", found, "s", judged(good, "<= 1.15"))
        resident = _resident(gate, bare)
        small = resident[0] <= TARGETS["resident"]
        line("afterwards, resident", resident, "MiB", judged(small, "<= 400 MiB"))
        line("start until ready", pairs(3, lambda _: gate.start(), lambda _: bare.start()), "s")
    raise SystemExit(any([*missed, not good, not small]))


def _aliases(gate: Server, bare: Server, number: int, seconds: float, clients: int) -> bool:
    from mlflow import MlflowClient

    for server in (gate, bare):
        use(server)
        if clients == 1:
            upload(server, 0)
            MlflowClient().set_registered_model_alias("large", "dev-best", "1")
    with askers(gate, clients) as ours, askers(bare, clients) as theirs:
        found = pairs(2 * number, lambda _: ours(seconds), lambda _: theirs(seconds))
    good = found[2] >= TARGETS["aliases"]
    line(f"alias look-ups, {clients} client(s)", found, "/s", judged(good, ">= 0.9"))
    return good


def _resident(gate: Server, bare: Server) -> tuple[float, float, float]:
    """The one process that answers (each bare server has a second that only watches it)."""
    ours, theirs = gate.resident()[0], bare.resident()[0]
    return ours, theirs, ours / theirs


if __name__ == "__main__":
    main()
