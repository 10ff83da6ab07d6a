"""What it costs to seal, verify and stream a cohort, against hashing its files once.

    python -m bench.cohort [--gb 4] [--cases 1000000] [--rounds 3] [--dir FOLDER]

Prints one line for each figure, with its target and whether it was met:

- verify and seal, as shares of what hashlib hashes on all cores (medians over the rounds, each of
  which measures everything in turn). Beside the seal, its bare minimum: the same bytes read, hashed
  twice (as content, as object), encrypted, written and synced by a loop that does nothing else;
- streaming with verification and decryption, to a reader that does nothing;
- a table of many cases, from its staging folder to the stored manifest, in a process of its own:
  seconds, and memory beside a tenth of the cases. Its ingest too.

The disk counts: `--dir /dev/shm` shows the same without one. The exit status is 1 when a target is
missed, unless the bare minimum misses it too and the figure is at least 0.8 of that.
"""

import argparse
import hashlib
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from safetensors.numpy import save_file

from registry.storage.local import LocalStore
from registry.trust.canonical import canonical, digest_of
from validators.cohort.key_store import create_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import Manifest
from validators.cohort.seal import seal
from validators.cohort.stream import stream
from validators.cohort.verify import verify

CORES = len(os.sched_getaffinity(0))
IMAGE = (1, 32, 128, 128)
NUMBERS = 24
_IN_A_BLOCK = 61
_SHARD = 5_000_000
_CONTRACT = {
    "id": "rows", "version": "1", "score": "p",
    "outputs": [{"name": "p", "dtype": "float32", "shape": [1]}],
    "inputs": [
        {"name": "measures", "dtype": "float32", "shape": [NUMBERS]},
        {"name": "age", "dtype": "float32", "shape": [1]},
    ],
}  # fmt: skip

_INGEST = """
import json, sys, time
from pathlib import Path
from validators.cohort.ingest import ingest
from validators.contract.read import parse_contract
folder = Path(sys.argv[1])
started, used = time.perf_counter(), time.process_time()
ingest(folder / "source", folder / "staged", contract=parse_contract(json.loads(sys.argv[2])),
       half="all", keep=("sex", "site"))
"""
_SEAL = """
import json, sys, time
from pathlib import Path
from registry.storage.local import LocalStore
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import manifest_bytes, manifest_path
from validators.cohort.seal import seal
folder = Path(sys.argv[1])
store, keys = LocalStore(folder / "objects"), create_keys(folder / "keys", "rows", "1")
started, used = time.perf_counter(), time.process_time()
manifest = seal(folder / "staged", store, cohort_id="rows", version="1", keys=keys)
store.put(manifest_path("rows", "1"), manifest_bytes(manifest))
"""
_MEASURED = """
seconds, used = time.perf_counter() - started, time.process_time() - used
# Not ru_maxrss, which a child inherits from its parent.
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, used, int(high.split()[1]) / 1024]))
"""


def staged_images(folder: Path, gigabytes: float) -> Path:
    """A staging folder of random images, as an ingest leaves it."""
    folder.mkdir()
    cases = max(8, int(gigabytes * 1e9 / (2 * np.prod(IMAGE))))
    rng = np.random.default_rng(1)
    for number, start in enumerate(range(0, cases, _IN_A_BLOCK)):
        size = (min(_IN_A_BLOCK, cases - start), *IMAGE)
        block = np.frombuffer(rng.bytes(2 * int(np.prod(size))), dtype=np.int16).reshape(size)
        save_file({"image": block}, folder / f"inputs-{number:05d}.safetensors")
    columns = {
        "case": [f"case {n:07d}" for n in range(cases)],
        "patient": [f"patient {n // 2:07d}" for n in range(cases)],
        "reference": pa.array([n % 3 == 0 for n in range(cases)]).cast(pa.int8()),
        "sex": ["female" if n % 2 else "male" for n in range(cases)],
    }
    pq.write_table(pa.table(columns), folder / "cases.parquet")
    meta = {
        "title": "Bench", "licence": "CC0-1.0", "citation": "none", "reference_standard": "random",
        "contract_digest": digest_of("bench"), "cases": cases, "case_flow": {}, "about": {},
        "attributes": ["sex"], "tensors": {"image": ["int16", list(IMAGE)]},
        "review": digest_of([]), "block": _IN_A_BLOCK,
    }  # fmt: skip
    (folder / "meta.json").write_bytes(canonical(meta))
    return folder


def table_source(folder: Path, cases: int) -> None:
    """A table of random numbers with what an ingest asks for."""
    folder.mkdir(parents=True)
    for name in ("title", "licence", "citation", "reference_standard"):
        with (folder / "cohort.yaml").open("a") as text:
            text.write(f"{name}: bench\n")
    rng = np.random.default_rng(cases)
    columns: dict[str, Any] = {
        "case": [f"case-{n:07d}" for n in range(cases)],
        "patient": [f"patient-{n // 2:07d}" for n in range(cases)],
        "reference": np.arange(cases) % 3 // 2,
        "age": rng.integers(20, 95, cases),
        "sex": np.where(rng.random(cases) < 0.5, "female", "male"),
        "site": np.array(["north", "south", "east", "west"])[rng.integers(0, 4, cases)],
    }
    for number in range(NUMBERS):
        columns[f"measures.{number}"] = rng.random(cases).round(4)
    pq.write_table(pa.table(columns), folder / "cases.parquet")


def hash_once(files: Iterable[Path]) -> None:
    """SHA-256 of each file in blocks of 1 MiB, on all cores."""
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for path in files:
        waiting.put(path)

    def work() -> None:
        block = bytearray(1 << 20)
        view = memoryview(block)
        while True:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                return
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as stream:
                while read := stream.readinto(block):
                    digest.update(view[:read])

    on_all_cores(work, CORES)


def bare_seal(staged: Path, folder: Path) -> None:
    """Read, hash, encrypt, hash, write and sync all blocks, in objects of a shard's size."""
    waiting: queue.SimpleQueue[tuple[Path, int]] = queue.SimpleQueue()
    for path in staged.glob("inputs-*"):
        for start in range(0, path.stat().st_size, _SHARD):
            waiting.put((path, start))
    folder.mkdir()

    def work() -> None:
        plain, sealed = bytearray(_SHARD), bytearray(_SHARD + 16)
        while True:
            try:
                path, start = waiting.get_nowait()
            except queue.Empty:
                return
            with path.open("rb", buffering=0) as stream:
                stream.seek(start)
                size = stream.readinto(plain)
            hashlib.sha256(memoryview(plain)[:size]).digest()
            AESGCM(bytes(32)).encrypt_into(bytes(12), plain, None, sealed)
            hashlib.sha256(memoryview(sealed)[:size]).digest()
            with (folder / f"{path.name}-{start}").open("wb", buffering=0) as stream:
                stream.write(memoryview(sealed)[:size])
                os.fsync(stream.fileno())

    on_all_cores(work, 2 * CORES)


def on_all_cores(work: Callable[[], None], threads: int) -> None:
    """Run `work` in that many threads."""
    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def cost(work: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, seconds of processor in all threads) that it took."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def consume(manifest: Manifest, store: LocalStore, keys: CohortKeys) -> None:
    """A reader that does nothing."""
    for _ in stream(manifest, store, keys.inputs()):
        pass


def one_round(place: Path, staged: Path, keys: CohortKeys) -> dict[str, tuple[float, float]]:
    """GB/s of each step over the bytes of the sealed inputs, and GB a second of processor."""
    store = LocalStore(place / "objects")
    sealed: list[Manifest] = []
    taken = {
        "seal": cost(lambda: sealed.append(
            seal(staged, store, cohort_id="images", version="1", keys=keys)))
    }  # fmt: skip
    manifest = sealed[0]
    total = sum(entry.plain_size for entry in manifest.shards)
    files = [place / "objects" / entry.path for entry in manifest.objects]
    before = cost(lambda: hash_once(files))
    taken["verify"] = cost(lambda: verify(manifest, store, None))
    taken["verify, keys"] = cost(lambda: verify(manifest, store, keys))
    taken["stream"] = cost(lambda: consume(manifest, store, keys))
    after = cost(lambda: hash_once(files))
    taken["hash"] = ((before[0] + after[0]) / 2, (before[1] + after[1]) / 2)
    shutil.rmtree(place / "objects")
    taken["bare"] = cost(lambda: bare_seal(staged, place / "bare"))
    shutil.rmtree(place / "bare")
    return {name: (total / 1e9 / wall, total / 1e9 / cpu) for name, (wall, cpu) in taken.items()}


def in_process(program: str, *given: str) -> tuple[float, float, float]:
    """(seconds, seconds of processor, peak MiB) of a program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program + _MEASURED, *given], check=True, stdout=subprocess.PIPE
    )
    taken, used, peak = json.loads(done.stdout)
    return taken, used, peak


class Lines:
    """Prints each figure and remembers whether all were met."""

    met = True

    def add(self, what: str, ok: bool, target: str, excuse: str = "") -> None:
        """One line."""
        self.met = self.met and (ok or bool(excuse))
        print(f"{what} (target {target}): {'met' if ok else f'MISSED{excuse}'}", flush=True)


def images(place: Path, gigabytes: float, rounds: int, lines: Lines) -> None:
    """Seal, verify and stream images."""
    staged = staged_images(place / "staged", gigabytes)
    keys = create_keys(place / "keys", "images", "1")
    found = [one_round(place, staged, keys) for _ in range(rounds)]
    rate = {name: statistics.median(of[name][0] for of in found) for name in found[0]}
    share = {name: statistics.median(of[name][0] / of["hash"][0] for of in found) for name in rate}
    work = {name: statistics.median(of["hash"][1] / of[name][1] for of in found) for name in rate}

    def said(name: str) -> str:
        return (f"{rate[name]:.2f} GB/s, {share[name]:.2f} x hashing "
                f"({work[name]:.1f} x its processor time)")  # fmt: skip

    once = {name: statistics.median(of[name][1] for of in found) for name in ("hash", "stream")}
    print(
        f"hashlib on {CORES} cores: {rate['hash']:.2f} GB/s, {once['hash']:.2f} GB a second of "
        f"processor (a stream: {once['stream']:.2f})"
    )
    lines.add(f"verify without keys: {said('verify')}", share["verify"] >= 0.8, "0.8")
    print(f"verify with keys: {said('verify, keys')}; two hashes a byte, so at most 0.5")
    print(f"the bare minimum of a seal: {said('bare')}")
    near = statistics.median(of["seal"][0] / of["bare"][0] for of in found)
    excused = share["bare"] < 0.8 and near >= 0.8
    lines.add(
        f"seal: {said('seal')}, {near:.2f} x its bare minimum", share["seal"] >= 0.8, "0.8",
        "; so does the bare minimum" if excused else "",
    )  # fmt: skip
    lines.add(f"stream: {said('stream')}", rate["stream"] >= 0.6, "0.6 GB/s")


def rows(place: Path, cases: int, lines: Lines) -> None:
    """Ingest and seal a table, and a tenth of it."""
    peaks = {}
    for count in (cases // 10, cases):
        folder = place / f"rows-{count}"
        table_source(folder / "source", count)
        taken, used, peak = in_process(_INGEST, str(folder), json.dumps(_CONTRACT))
        said = f"{taken:.1f} s ({used:.1f} of processor), peak {peak:.0f} MiB"
        print(f"ingest {count:,} rows: {said}", flush=True)
        taken, used, peaks[count] = in_process(_SEAL, str(folder))
        said = f"{taken:.1f} s ({used:.1f} of processor), peak {peaks[count]:.0f} MiB"
        what = f"seal {count:,} rows: {said}"
        if count == cases:
            lines.add(what, taken <= 60 * count / 1e6, f"{60 * count / 1e6:.0f} s")
        else:
            print(what, flush=True)
        shutil.rmtree(folder)
    grown = (peaks[cases] - peaks[cases // 10]) * 2**20 / (cases - cases // 10)
    lines.add(f"memory of that seal: {grown:.0f} bytes more a case", grown <= 1024, "1,024")


def main() -> None:
    """Make the cohorts, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None)
    given = parser.parse_args()
    lines = Lines()
    with tempfile.TemporaryDirectory(dir=given.dir) as place:
        if given.gb:
            images(Path(place), given.gb, given.rounds, lines)
        if given.cases:
            rows(Path(place), given.cases, lines)
    sys.exit(0 if lines.met else 1)


if __name__ == "__main__":
    main()
