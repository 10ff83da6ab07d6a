"""Where the host has bubblewrap, the locked process sees no data, no network and nobody else."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from serving.sandbox import Limits, ModelFailure, Sandbox, wrapping
from tests.serving import hostile
from tests.serving.probe import ask, attempts, probed

OWN = Path(sys.prefix) / "bubblewrap/usr/bin"
PATH = f"{OWN}:{os.environ['PATH']}"


@pytest.fixture(autouse=True)
def present(monkeypatch):
    """Bubblewrap of the host, or the one that the installation unpacked."""
    if shutil.which(wrapping.PROGRAM, path=PATH) is None:
        pytest.skip("no bubblewrap on this machine: install it (apt install bubblewrap)")
    monkeypatch.setenv("PATH", PATH)
    if wrapping.bubblewrap() is None:
        pytest.skip("this machine or container lets nobody make namespaces, so not bubblewrap")


def listed(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_what_the_process_sees_is_code_and_libraries(tmp_path):
    (tmp_path / "locked").write_text("a cohort")
    with Sandbox.start() as sandbox:
        assert sandbox.level["bubblewrap"] is True
        assert sandbox.level["seccomp"] is True
        place = Path(f"/proc/{sandbox.pid}")
        inside = place / "root"
        assert not (inside / str(tmp_path).lstrip("/")).exists()
        assert not listed(inside) & {"home", "opt", "srv", "var", "mnt", "media"}
        assert {name for name in listed(inside / "proc") if name.isdigit()} == {"1", "2"}
        for space in ("net", "pid", "ipc", "uts", "mnt"):
            assert (place / "ns" / space).readlink() != Path(f"/proc/self/ns/{space}").readlink()
        assert set(place.joinpath("environ").read_bytes().split(b"\0")) - {b""} == {
            b"OPENBLAS_NUM_THREADS=1", b"OMP_NUM_THREADS=1", b"ORT_DISABLE_TELEMETRY=1", b"PWD=/",
        }  # fmt: skip
        answer = sandbox.load({"model.onnx": hostile.honest()})
        assert answer.providers == ("CPUExecutionProvider",)
        assert len(sandbox.run(hostile.cases(5))["score"]) == 5


def test_it_is_recorded_where_it_was_not_used(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with Sandbox.start() as sandbox:
        assert sandbox.level["bubblewrap"] is False


def test_one_that_does_not_work_is_not_used(tmp_path, monkeypatch):
    """A host may forbid what it needs: then the process runs with the walls of its own."""
    refuses = tmp_path / wrapping.PROGRAM
    refuses.write_text("#!/bin/sh\necho no namespaces here >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with Sandbox.start() as sandbox:
        assert sandbox.level["bubblewrap"] is False
        assert sandbox.level["seccomp"] is True


@pytest.mark.parametrize("landlock_abi", [0, 99])
def test_nothing_that_a_taken_over_process_tries_works_in_there(landlock_abi):
    with probed(landlock_abi=landlock_abi) as sandbox:
        assert sandbox.level["bubblewrap"] is True
        found = ask(sandbox, {"operation": "try", "parent": os.getpid(), "port": 9})
    assert set(found) == set(attempts(1, 1))
    assert {name for name, outcome in found.items() if outcome == "done"} == set()


def test_the_same_scores_and_the_same_failures_as_without(monkeypatch):
    scores = []
    for path in (PATH, "/nonexistent"):
        monkeypatch.setenv("PATH", path)
        with Sandbox.start(Limits(wall_seconds=0.5)) as sandbox:
            sandbox.load({"model.onnx": hostile.honest()})
            scores.append(sandbox.run(hostile.cases(7))["score"].tobytes())
        with Sandbox.start(Limits(wall_seconds=0.5)) as sandbox:
            sandbox.load({"model.onnx": hostile.loop(2**31 - 1)})
            with pytest.raises(ModelFailure) as hangs:
                sandbox.run(hostile.cases(1))
            assert (hangs.value.code, sandbox.pid) == ("model_timeout", None)
    assert scores[0] == scores[1]


def test_closing_leaves_nobody():
    with Sandbox.start() as sandbox:
        inner, outer = sandbox.pid, sandbox._alive().process.pid
        assert inner != outer
    for gone in (inner, outer):
        assert not Path(f"/proc/{gone}").exists()
