"""A run from sealed shards to checked answers, beside a bare onnxruntime loop in the same rounds.

    python -m bench.run [--rounds 5] [--dir FOLDER] [NAME …]

Some settings go over TCP, to an inference server a core on this same host. BentoML's stock API and
`mlflow models serve` are asked a few batches after them, for their share of the same bare loop.
Then the memory of a run over 100,000 small images beside that over 5,000: the peak of the process
that runs and of its largest sandboxed one, each size in a process of its own.

The run reads objects from a local store, verifies and decrypts them, sends batches to sandboxed
processes (one a core, one thread each, as the pipeline does) and checks what they answer. The bare
loop has all cases in memory in the model's own type, the same batches, and onnxruntime's threads on
all cores. Both take turns; ratios are medians of pairs. The exit status is 1 when one is missed.
"""

import argparse
import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from bench.inference import server
from bench.inference_models import Model
from bench.json_servers import json_servers
from bench.networks import FEATURES, IMAGE, boosted_trees, perceptron, resnet_18, small_cnn, u_net
from registry.storage.local import LocalStore
from registry.trust.canonical import canonical, digest_of
from serving.batches import batch_of
from serving.client import Restarts, answered
from serving.inference.remote import RemoteSandbox
from serving.sandbox import Sandbox
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import manifest_bytes
from validators.cohort.seal import seal
from validators.cohort.stream import stream
from validators.contract.schema import Contract
from validators.cores import cores

_BLOCK_BYTES = 64_000_000
PATCH = (3, 96, 96)
"""As PatchCamelyon's: patches of lymph nodes (Veeling et al. 2018)."""
rates: dict[str, float] = {}
"""Cases a second of the bare loops that were measured."""


@dataclass(frozen=True)
class Setting:
    """A model, how many cases of which kind, and the share of the bare loop that is asked for."""

    model: Callable[[], bytes]
    shape: tuple[int, ...]
    stored: str
    cases: int
    target: float
    output: str = "score"
    over_tcp: bool = False


SETTINGS = {
    "resnet-18, uint8": Setting(resnet_18, IMAGE, "uint8", 200, 0.95),
    "resnet-18, float32": Setting(resnet_18, IMAGE, "float32", 200, 0.93),
    "small CNN, uint8": Setting(small_cnn, IMAGE, "uint8", 1500, 0.88),
    "small CNN, float32": Setting(small_cnn, IMAGE, "float32", 1500, 0.78),
    # As between hosts, but that client and servers share the cores.
    "resnet-18, uint8, TCP": Setting(resnet_18, IMAGE, "uint8", 200, 0.75, over_tcp=True),
    "small CNN, uint8, TCP": Setting(small_cnn, IMAGE, "uint8", 1500, 0.75, over_tcp=True),
    "U-Net, uint8": Setting(u_net, IMAGE, "uint8", 150, 0.88, "labels"),
    "30 features, trees": Setting(boosted_trees, (FEATURES,), "float32", 1_000_000, 0.70),
    # What a case costs beside its model: models so small that little else is left.
    "30 features, layers": Setting(perceptron, (FEATURES,), "float32", 1_000_000, 0.0),
    "tiny CNN, uint8": Setting(partial(small_cnn, width=16), IMAGE, "uint8", 1500, 0.0),
}

SMALL = Setting(partial(small_cnn, PATCH, 8), PATCH, "uint8", 0, 0.0)
MEMORY_TARGET = 1.2
MEMORY_CASES = (5_000, 100_000)


def contract_of(setting: Setting) -> Contract:
    """One input, one score, or a map of labels."""
    tensor: dict[str, Any] = {"name": "x", "dtype": "float32", "shape": list(setting.shape)}
    if setting.stored != "float32":
        tensor["image"] = {"modality": ["picture"], "stored_as": setting.stored}
    score: dict[str, Any] = {"name": setting.output, "dtype": "float32", "shape": [1]}
    body: dict[str, Any] = {"id": "bench", "version": "1", "score": setting.output}
    if setting.output == "labels":
        score |= {"dtype": "uint8", "shape": list(setting.shape[1:])}
        body["reference"] = {"grid_of": "x", "structures": {"organ": 1, "lesion": 2}}
    return Contract.model_validate(body | {"inputs": [tensor], "outputs": [score]})


def staged(folder: Path, values: np.ndarray[Any, Any]) -> Path:
    """A staging folder with one tensor, as an ingest leaves it."""
    folder.mkdir()
    block = max(1, _BLOCK_BYTES // values[0].nbytes)
    for number, start in enumerate(range(0, len(values), block)):
        part = np.ascontiguousarray(values[start : start + block])
        save_file({"x": part}, folder / f"inputs-{number:05d}.safetensors")
    n = np.arange(len(values))
    table = {
        "case": [f"case {i:07d}" for i in n],
        "patient": [f"patient {i:07d}" for i in n // 2],
        "reference": pa.array((n % 3 == 0).astype(np.int8)),
    }
    pq.write_table(pa.table(table), folder / "cases.parquet")
    meta = {
        "title": "Bench", "licence": "CC0-1.0", "citation": "none", "reference_standard": "random",
        "contract_digest": digest_of("bench"), "cases": len(values), "case_flow": {}, "about": {},
        "attributes": [], "tensors": {"x": [values.dtype.name, list(values.shape[1:])]},
        "review": digest_of([]), "block": block,
    }  # fmt: skip
    (folder / "meta.json").write_bytes(canonical(meta))
    return folder


def measure(name: str, setting: Setting, rounds: int, place: Path) -> bool:
    """Print one line; returns whether the target was met."""
    rng = np.random.default_rng(0)
    size = (setting.cases, *setting.shape)
    values = (
        rng.integers(0, 256, size, dtype=np.uint8)
        if setting.stored == "uint8"
        else rng.random(size, dtype=np.float32)
    )
    folder = place / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    store, keys = LocalStore(folder / "objects"), create_keys(folder / "keys", "bench", "1")
    manifest = seal(
        staged(folder / "staged", values), store, cohort_id="bench", version="1", keys=keys
    )
    contract, model = contract_of(setting), setting.model()
    plain = values.astype(np.float32, copy=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batch = batch_of(contract)

    def bare() -> None:
        for start in range(0, len(plain), batch):
            session.run([setting.output], {"x": plain[start : start + batch]})

    with pool_over_tcp(model) if setting.over_tcp else pool_of(model) as pool:

        def run() -> None:
            shards = stream(manifest, store, keys.inputs())
            done = 0
            for of in answered(pool, shards, contract, Restarts(), order_seed="bench"):
                assert not any(of.failures)
                done += len(of.cases)
            assert done == setting.cases

        pairs = [(seconds(bare), seconds(run)) for _ in range(rounds + 1)][1:]
    share = statistics.median(one / ours for one, ours in pairs)
    rate = setting.cases / statistics.median(one for one, _ in pairs)
    met = share >= setting.target
    asked = f"target {setting.target}" if setting.target else "no target"
    rates[name] = rate
    print(
        f"{name:22} bare {rate:10,.0f} cases/s, batches of {batch:4}, {len(manifest.shards):3} "
        f"shards; the run {share:.2f} x ({asked}): {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


_PEAK = """
import json, sys
from pathlib import Path
from bench.run import SMALL, contract_of, peak, pool_of
from registry.storage.local import LocalStore
from serving.client import Restarts, answered
from validators.cohort.key_store import open_keys
from validators.cohort.manifest import parse_manifest
from validators.cohort.stream import stream
folder = Path(sys.argv[1])
manifest = parse_manifest((folder / "manifest").read_bytes())
key = open_keys(folder / "keys", manifest).inputs()
with pool_of(SMALL.model()) as pool:
    shards = stream(manifest, LocalStore(folder / "objects"), key)
    cases = sum(len(of.cases) for of in answered(pool, shards, contract_of(SMALL), Restarts()))
    assert cases == manifest.counts.cases
    print(json.dumps([peak("self"), max(peak(sandbox.pid) for sandbox in pool)]))
"""


def memory(place: Path) -> bool:
    """Print the peaks; returns whether the larger cohort took at most 1.2 x the smaller one's."""
    found = []
    for cases in MEMORY_CASES:
        folder = place / f"memory-{cases}"
        folder.mkdir()
        values = np.random.default_rng(1).integers(0, 256, (cases, *SMALL.shape), dtype=np.uint8)
        keys = create_keys(folder / "keys", "bench", "1")
        manifest = seal(
            staged(folder / "staged", values), LocalStore(folder / "objects"), cohort_id="bench",
            version="1", keys=keys,
        )  # fmt: skip
        (folder / "manifest").write_bytes(manifest_bytes(manifest))
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(folder)], check=True, stdout=subprocess.PIPE
        )
        found.append(json.loads(done.stdout))
    (few, few_inside), (many, many_inside) = found
    worst = max(many / few, many_inside / few_inside)
    met = bool(worst <= MEMORY_TARGET)
    print(
        f"memory: {few:.0f} MiB over 5,000 images and {many:.0f} over 100,000, in the sandbox "
        f"{few_inside:.0f} and {many_inside:.0f}: {worst:.2f} x (target {MEMORY_TARGET}): "
        f"{'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def peak(process: int | str | None) -> float:
    """The most memory that a process ever had, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@contextlib.contextmanager
def pool_of(model: bytes) -> Iterator[list[Sandbox]]:
    """A sandboxed process a core, the model loaded."""
    with contextlib.ExitStack() as open_:
        pool = [open_.enter_context(Sandbox.start()) for _ in range(cores())]
        for sandbox in pool:
            sandbox.load({"model.onnx": model})
        yield pool


@contextlib.contextmanager
def pool_over_tcp(model: bytes) -> Iterator[list[RemoteSandbox]]:
    """An inference server a core, on this host's own address, the model loaded."""
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as open_:
        pool = []
        for number in range(cores()):
            (folder := Path(place) / str(number)).mkdir()
            address, _ = open_.enter_context(server(folder, token, "--port", "0"))
            pool.append(open_.enter_context(RemoteSandbox.start(address, token)))
            pool[-1].load({"model.onnx": model})
        yield pool


def stock_servers() -> None:
    """BentoML's and MLflow's own JSON routes, which answer on all cores too, in this same run."""
    for name in ("small CNN, float32", "30 features, layers"):
        if name not in rates:
            continue
        setting, few = SETTINGS[name], 1000
        values = np.random.default_rng(0).random((few, *setting.shape), np.float32)
        model = Model(name, setting.model(), contract_of(setting), {"x": values}, few)
        for line in json_servers([model], rates, threads=cores()):
            print(line, flush=True)


def seconds(work: Callable[[], None]) -> float:
    """How long it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join((*SETTINGS, "memory")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None)
    given = parser.parse_args()
    met = []
    with tempfile.TemporaryDirectory(dir=given.dir) as place:
        for name, setting in SETTINGS.items():
            if not given.names or name in given.names:
                met.append(measure(name, setting, given.rounds, Path(place)))
        stock_servers()
        if not given.names or "memory" in given.names:
            met.append(memory(Path(place)))
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
