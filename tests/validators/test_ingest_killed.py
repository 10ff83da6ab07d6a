"""An ingest that is killed goes on and gives the same bytes; a file that crashes costs one case."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from registry.trust.errors import Conflict, Invalid
from tests.validators.cohort_example import contract as lidc_contract
from tests.validators.cohort_example import few_scans
from tests.validators.ingest_made import CT, bytes_of, hospital, made_contract, sign
from validators.cohort import folder_files
from validators.cohort.ingest import ingest
from validators.cohort.pieces import CRASHED, read_pieces
from validators.cohort.source import Case, Inputs
from validators.leakage.identifiers import LinkingKey
from validators.leakage.link_index import LinkIndex
from validators.leakage.links import Links, tokens_of
from validators.leakage.seen import Known

MARK = "TOUCHSTONE_TEST_INGEST"
CODE = """
import sys
from pathlib import Path
from validators.cohort.ingest import ingest
from validators.contract.read import read_contract
source, reference, contract, out = map(Path, sys.argv[1:])
if __name__ == "__main__":
    asked = {"contract": read_contract(contract), "half": "all", "reference": reference}
    ingest(source, out, workers=2, **asked)
"""
KILLED_AT_A_CHANGE = """
import os, shutil, signal, sys
from pathlib import Path
from validators.cohort.ingest import ingest
from validators.contract.read import read_contract
source, contract, out, left = *map(Path, sys.argv[1:4]), int(sys.argv[4])
def change(event, given):
    global left
    writing = event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax")
    locking = event == "open" and given[1] is None and str(given[0]).endswith("out.lock")
    if not (writing or locking or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")):
        return
    if not str(given[0]).startswith((str(out), str(out.with_name(".out")))):
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(change)
ingest(source, out, contract=read_contract(contract), half="all")
"""


def test_killed_again_and_again_it_ends_with_the_same_bytes_and_leaves_no_process(tmp_path: Path):
    source, reference = hospital(tmp_path, 40)
    (source / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    whole = ingest(source, tmp_path / "whole", contract=made_contract(CT), half="all",
                   reference=reference)  # fmt: skip
    script, contract = tmp_path / "run.py", tmp_path / "contract.json"
    script.write_text(CODE)
    contract.write_text(made_contract(CT).model_dump_json())
    out = tmp_path / "out"
    environment = os.environ | {MARK: str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(source), str(reference), str(contract), str(out)]
    kills, reached = 0, set()
    while True:
        process = subprocess.Popen(command, env=environment)
        wait_for_more(process, out, kills)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        reached.add(len(list(tmp_path.glob("out.partial/pieces/*.json"))))
        assert ended(str(tmp_path)), "a reading process outlived the one that started it"
        assert not out.exists()
    assert process.returncode == 0
    assert kills >= 3
    assert len(reached) >= 3, "the kills hit one place alone"
    assert bytes_of(out) == bytes_of(whole.path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == ["out"]


def test_killed_before_any_change_on_the_disk_it_ends_with_the_same_bytes(tmp_path: Path):
    source = few_scans(tmp_path / "few")
    script, contract = tmp_path / "run.py", tmp_path / "contract.json"
    script.write_text(KILLED_AT_A_CHANGE)
    contract.write_text(lidc_contract().model_dump_json())
    whole = ingest(source, tmp_path / "whole", contract=lidc_contract(), half="all")
    out, environment = tmp_path / "out", os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ingest(source, out, contract=lidc_contract(), half="all")  # so that there is one to replace
    kills = 0
    for left in range(1, 100, 3):
        ran = subprocess.run(
            [sys.executable, str(script), str(source), str(contract), str(out), str(left)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        kills += 1
        ingest(source, out, contract=lidc_contract(), half="all")
        assert bytes_of(out) == bytes_of(whole.path)
        assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out"]
    assert kills >= 8


class Ended(BaseException):
    """Where a test ends an ingest."""


ENDS: dict[str, Any] = {"below": "", "left": 0}


def end_before_a_change(event: str, given: tuple[Any, ...]) -> None:
    """Ends the ingest below ENDS["below"] before its ENDS["left"]th change on the disk."""
    if not ENDS["left"] or not given or not str(given[0]).startswith(ENDS["below"]):
        return
    writing = event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax")
    if writing or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        ENDS["left"] -= 1
        if not ENDS["left"]:
            raise Ended


def test_what_was_signed_off_outlives_an_end_before_any_change(tmp_path: Path):
    source, reference = hospital(tmp_path, 2)
    for path in (source / "Geheim_1").iterdir():
        image = pydicom.dcmread(path)
        image.BodyPartExamined = "HEAD"
        image.save_as(path)
    index = LinkIndex(tmp_path / "links", LinkingKey(b"k" * 32))
    index.keep("open", "1", Links(index.key.fingerprint, tuple(tokens_of(index.key, ["P100"])),
                                  (b"",), (None,)))  # fmt: skip
    asked: dict[str, Any] = {"contract": made_contract(CT), "half": "all", "workers": 1,
                             "reference": reference, "known": Known(index)}  # fmt: skip
    out = tmp_path / "out"
    sign(ingest(source, out, **asked))
    whole = bytes_of(ingest(source, out, **asked).path)
    assert {"review.csv", "seen_before.csv"} <= set(whole)
    sys.addaudithook(end_before_a_change)
    ends = 0
    for left in range(1, 100, 2):
        ENDS.update(below=str(out), left=left)
        try:
            ingest(source, out, **asked)
        except Ended:
            ends += 1
        else:
            break
        assert bytes_of(ingest(source, out, **asked).path) == whole
        assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out"]
    ENDS["left"] = 0
    assert ends >= 12


HELD = """
import sys, time
from pathlib import Path
from validators.cohort.folder_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_of_two_ingests_into_one_folder_the_second_is_refused_until_the_first_has_ended(
    tmp_path: Path,
):
    source, reference = hospital(tmp_path, 1)
    out = tmp_path / "deep" / "out"
    asked: dict[str, Any] = {"contract": made_contract(CT), "half": "all", "reference": reference}
    holder = subprocess.Popen(
        [sys.executable, "-c", HELD, str(out)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Conflict, match="another ingest writes") as refused:
        ingest(source, out, **asked)
    assert "\n" not in str(refused.value)
    holder.kill()
    holder.wait()
    assert (tmp_path / "deep/.out.lock").exists(), "a lock that was left over"
    assert ingest(source, out, **asked).cases == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_headers_read_in_processes_are_those_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, _ = hospital(tmp_path, 5)
    (source / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    (source / "note.txt").write_text("no image")
    here = folder_files.read_folder(source)
    monkeypatch.setattr(folder_files, "MANY", 2)
    monkeypatch.setattr(folder_files, "cores", lambda: 2)
    there = folder_files.read_folder(source)
    assert list(there.volumes) == list(here.volumes)
    assert [v.planes for v in there.volumes.values()] == [v.planes for v in here.volumes.values()]
    assert (there.left_out, there.notes) == (here.left_out, here.notes)
    monkeypatch.setattr(folder_files, "reading_processes", broken)
    assert list(folder_files.read_folder(source).volumes) == list(here.volumes)


@contextlib.contextmanager
def broken(count: int) -> Iterator[Any]:
    """Processes that end after a few headers."""

    class Pool:
        def map(self, of: Any, paths: Any, chunksize: int) -> Iterator[Any]:
            yield from map(of, paths[:3])
            raise BrokenProcessPool

    yield Pool()


def wait_for_more(process: subprocess.Popen[bytes], out: Path, kills: int) -> None:
    """Until a few more pieces are there than before, or the blocks are being written."""
    pieces = out.with_name("out.partial") / "pieces"
    target = kills * 12
    while process.poll() is None and len(list(pieces.glob("*.json"))) <= target:
        time.sleep(0.002)
    time.sleep(0.004 * (kills % 3))


def ended(mark: str) -> bool:
    """Whether every process that carries the mark ends within ten seconds."""
    wanted = f"{MARK}={mark}".encode()
    for _ in range(200):
        alive = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                alive += wanted in path.read_bytes()
            except OSError:
                continue
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_another_contract_or_source_begins_anew(tmp_path: Path):
    source, reference = hospital(tmp_path, 3)
    partial = tmp_path / "out.partial"
    (partial / "pieces").mkdir(parents=True)
    (partial / "plan").write_text("another")
    for number in range(3):
        (partial / f"pieces/{number:07d}.json").write_text(
            json.dumps({"notes": {}, "refused": {str(number): "x"}, "review": {}})
        )
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=reference)  # fmt: skip
    assert staged.cases == 3


@dataclass(frozen=True)
class Crashing:
    """Five cases; the third ends its process as a decoder does that goes astray."""

    title = licence = citation = reference_standard = state = ""
    decodes = True
    case_flow: Mapping[str, int] = None  # type: ignore[assignment]
    about: Mapping[str, str | int | float] = None  # type: ignore[assignment]
    notes: Mapping[str, int] = None  # type: ignore[assignment]
    left_out = ()

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(Case(f"c{n}", "p", 0, {}) for n in range(5))

    def read(self, position: int) -> Inputs:
        if position == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if position == 3:
            raise Invalid("no good")
        if position == 4:
            np.ones(1 << 45)
        return Inputs({"x": np.full((1,), position, dtype=np.float32)})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_case_that_ends_its_process_is_left_out_and_the_rest_goes_on(
    tmp_path: Path, workers: int
):
    contract = made_contract({"name": "x", "dtype": "float32", "shape": [1]})
    told: list[tuple[int, int]] = []
    pieces = read_pieces(Crashing(), contract, tmp_path / "pieces",
                         lambda done, total: told.append((done, total)), workers)  # fmt: skip
    outcome = pieces.outcome()
    assert outcome.kept == (0, 1)
    assert outcome.refused == {2: CRASHED, 3: "no good", 4: CRASHED}
    assert pieces.rows(outcome.kept)["x"][:, 0].tolist() == [0, 1]
    assert told[-1] == (5, 5)
    assert not list((tmp_path / "pieces").glob("*.began"))
