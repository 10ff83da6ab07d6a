"""Every hostile model submitted: one worker ends each with its code in time, and runs the next.

The worker is a process of its own, and stays the same one throughout. Its sandboxes have shorter
limits than usual. MLflow's part, which is to hand over the directory of what was registered, is
taken by a folder.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from registry.pipeline.predictions import answers_in, stored_predictions
from registry.settings import Databases
from registry.trust.canonical import canonical, digest_of
from tests.registry.facility_example import Example, described, facility_example
from tests.registry.locked import lock_cohort, no_restriction
from tests.serving import hostile
from tests.serving.test_inspect import REFUSED_FILES
from validators.cohort.ingest import open_staged
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import Manifest, manifest_bytes
from validators.cohort.seal import seal

CASES = 32
LONGEST = 60.0
"""Seconds: seventeen processes of half a second a call, two at a time, on a crowded machine."""
UNDER_WAY = ("registered", "intake", "queued", "running", "assessed")

WORKER = """
import contextlib, json, os, signal, sys, time
from pathlib import Path
from registry.pipeline import steps
from registry.pipeline.carry import carry
from registry.pipeline.turns import next_turn
from registry.trust.errors import Unavailable
from serving.sandbox import process
from serving.sandbox.limits import Limits
from tests.registry.facility_example import opened
words, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
steps.model_directory = lambda *of: contextlib.nullcontext(folder / of[3])
process.Limits = lambda: Limits(wall_seconds=0.5, load_seconds=10, memory_bytes=1 << 30)
begin = process.Sandbox.begin
def crashing(self, *given, **named):
    if b"a segmentation fault" in (self._files or {}).get("model.onnx", b""):
        os.kill(self.pid, signal.SIGSEGV)
    begin(self, *given, **named)
process.Sandbox.begin = crashing
with opened(words) as facility:
    print("ready", flush=True)
    while True:
        with contextlib.suppress(Unavailable), next_turn(facility, "worker") as turn:
            if turn is not None:
                carry(facility, turn)
        time.sleep(0.02)
"""


Write = Callable[[Path], object]
"""Writes what is submitted into a directory."""


def one_file(data: bytes) -> Write:
    return lambda directory: (directory / "model.onnx").write_bytes(data)


def linked(link: Callable[[Path, Path], None]) -> Write:
    """A model whose weights are a file of somebody else's."""

    def write(directory: Path) -> None:
        secret = directory.parent / "secret"
        secret.write_bytes(hostile.external_weights())
        (directory / "model.onnx").write_bytes(hostile.external("weights.data"))
        link(secret, directory / "weights.data")

    return write


LINKED = {
    "weights by symbolic link": (linked(lambda a, b: b.symlink_to(a)), "model_link"),
    "weights by hard link": (linked(os.link), "model_link"),
}
REFUSED = {name: (one_file(data), code) for name, (data, code) in REFUSED_FILES.items()} | LINKED
"""They end at intake, and cost no attempt."""
RUN = {
    name: (one_file(data), code)
    for name, data, code in (
        ("infinite loop", hostile.loop(2**31 - 1), "model_timeout"),
        ("100 GB by the data", hostile.huge_by_data(), "model_out_of_memory"),
        ("crash by signal", hostile.honest(doc_string="a segmentation fault"), "model_crashed"),
        ("answers by the size of the batch", hostile.batch_switch(), "not_repeatable"),
        ("answers by its neighbours", hostile.batch_mates(), "not_repeatable"),
        ("answers by the place in the batch", hostile.place_in_batch(), "not_repeatable"),
        ("five rows of each batch", hostile.short_after(5), "not_repeatable"),
    )
}
"""They end the run; the attempt is spent."""
ANSWERED = {
    name: (one_file(data), code)
    for name, data, code in (
        ("NaN", hostile.not_finite(float("nan")), "output_not_finite"),
        ("infinity", hostile.not_finite(float("inf")), "output_not_finite"),
        ("above 1", hostile.not_finite(1.5), "output_range"),
        ("wrong shape at one case", hostile.drops_rows(), "output_shape"),
        ("raises at one case", hostile.raises(), "model_raised"),
        ("hangs at one case", hostile.slow_when(2.0), "model_timeout"),
    )
}
"""They fail in the one odd case, which is counted by its code; all others are answered."""
EVERY = REFUSED | RUN | ANSWERED
SOME = ("custom domain", "weights by symbolic link", "crash by signal", "NaN",
        "answers by the size of the batch")  # fmt: skip


def staged_for_hostile(folder: Path) -> Path:
    """Cases of the contract of hostile models; the first descriptor of one is 9."""
    folder.mkdir()
    inputs = hostile.cases(CASES)
    inputs["descriptors"] = np.minimum(inputs["descriptors"], 1.9)
    inputs["descriptors"][CASES // 2, 0] = 9
    save_file(inputs, folder / "inputs-00000.safetensors")
    columns = {
        "case": [f"case {n:02d}" for n in range(CASES)],
        "patient": [f"patient {n:02d}" for n in range(CASES)],
        "reference": pa.array([n % 2 for n in range(CASES)], pa.int8()),
    }
    pq.write_table(pa.table(columns), folder / "cases.parquet")
    meta = {
        "title": "Made", "licence": "CC0-1.0", "citation": "none", "reference_standard": "made",
        "contract_digest": hostile.contract().digest, "cases": CASES, "case_flow": {}, "about": {},
        "attributes": [], "review": digest_of([]), "block": CASES,
        "tensors": {name: [array.dtype.name, list(array.shape[1:])]
                    for name, array in inputs.items()},
    }  # fmt: skip
    (folder / "meta.json").write_bytes(canonical(meta))
    return folder


class Facility:
    """A cohort for hostile models, and the one worker."""

    def __init__(self, life: Example, home: Path, manifest: Manifest) -> None:
        self.life, self.folder = life, home / "submitted"
        self.folder.mkdir()
        life.body |= {
            "contract": hostile.contract().model_dump(mode="json"),
            "cohort": {"id": "hostile", "positives": manifest.counts.positives,
                       "negatives": manifest.counts.negatives},
            "failed_cases": {"maximum_rate": 0.5},
        }  # fmt: skip
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, described(life), str(self.folder)],
            stdout=subprocess.PIPE,
        )
        assert self.worker.stdout is not None
        assert self.worker.stdout.readline() == b"ready\n"

    def ended(self, write: Write) -> tuple[str, dict[str, Any]]:
        """Submit what `write` writes; the submission and its row, once the worker is done."""
        life = self.life
        life.fresh_protocol()
        name = f"net-{len(list(self.folder.iterdir()))}"
        (self.folder / name).mkdir()
        write(self.folder / name)
        submission, began = life.submitted(name=name, cohort="hostile"), time.monotonic()
        while (row := life.row(submission))["state"] in UNDER_WAY:
            assert self.worker.poll() is None, "the worker lives"
            assert time.monotonic() - began < LONGEST
            time.sleep(0.05)
        return submission, row

    def runs_an_honest_one(self) -> None:
        submission, row = self.ended(one_file(hostile.honest()))
        assert (row["state"], self.failed(submission)) == ("in_review", [])

    def failed(self, submission: str) -> list[str]:
        """The codes of the cases that failed."""
        life = self.life
        with life.worker.record.transaction() as now:
            output = now.one("step_output", submission=submission, name="run")["output"]
        data = stored_predictions(life.worker, submission, output["predictions"])
        return [code for code in answers_in([data])[2] if code]

    def ends_as_it_should(self, name: str) -> None:
        write, code = EVERY[name]
        submission, row = self.ended(write)
        blamed = self.life.sql(
            "SELECT party FROM touchstone.finding WHERE submission = %s", submission
        )
        if name in ANSWERED:
            assert (row["state"], row["failure_code"], blamed) == ("in_review", None, []), name
            assert self.failed(submission) == [code], name
            return
        assert (row["state"], row["failure_code"]) == ("technical_failure", code), name
        assert blamed == [("model",)], name
        assert self.life.attempt(submission) == ("spent" if name in RUN else None), name


@pytest.fixture(scope="module")
def facility(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    home = tmp_path_factory.mktemp("hostile")
    with facility_example(database, home) as life:
        staged = open_staged(staged_for_hostile(home / "made"))
        keys = create_keys(life.api.settings.cohort_keys, "hostile", "1")
        manifest = seal(staged, life.api.store, cohort_id="hostile", version="1", keys=keys,
                        shard_size=16 * 4 * 68)  # fmt: skip
        path = "cohorts/hostile/1/manifest.json"
        life.api.store.put(path, manifest_bytes(manifest))
        lock_cohort(life.api, life.people, life.keys, path)
        no_restriction(life.api, life.people, "hostile")
        made = Facility(life, home, manifest)
        yield made
        made.worker.kill()
        made.worker.wait()


def test_a_worker_ends_what_is_hostile_and_runs_the_next(facility: Facility) -> None:
    for name in SOME:
        facility.ends_as_it_should(name)
    facility.runs_an_honest_one()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", EVERY)
def test_each_ends_with_its_code_in_time_and_the_next_model_runs(
    facility: Facility, name: str
) -> None:
    facility.ends_as_it_should(name)
    facility.runs_an_honest_one()
