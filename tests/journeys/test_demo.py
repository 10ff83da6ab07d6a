"""The README's journey, as a stranger runs it: `python -m demo`."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[dict[str, Any], str, Path]]:
    """(demo.json, what was printed, the data directory) of one run in an empty home."""
    folder = Path(tempfile.mkdtemp(prefix="touchstone-demo-"))
    folder.chmod(0o711)
    (folder / "home").mkdir()
    environment = {
        key: value for key, value in os.environ.items()
        if not key.startswith(("TOUCHSTONE_", "MLFLOW_"))
    } | {"HOME": str(folder / "home"), "TOUCHSTONE_HOME": str(folder / "data")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "demo"], env=environment, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    try:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        outcome = json.loads((folder / "data" / "demo.json").read_text())
        yield outcome, done.stdout, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_every_step_is_done_and_timed(played: tuple[dict[str, Any], str, Path]) -> None:
    outcome, printed, _ = played
    assert not [step for step in outcome["steps"] if step["outcome"].startswith("failed")]
    assert all(step["seconds"] > 0 for step in outcome["steps"])
    for step in outcome["steps"]:
        assert step["name"] in printed


def test_only_what_passed_is_certified_and_the_model_on_shape_alone_did_not(
    played: tuple[dict[str, Any], str, Path],
) -> None:
    rows = played[0]["submissions"]
    for row in rows:
        passed = row["verdict"] in ("pass", "conditional")
        assert (row["state"] in ("certified", "conditional")) == passed
        missed = [r for r in row["rules"] if r["gating"] and r["outcome"] != "pass"]
        assert bool(missed) == (row["verdict"] != "pass")
    assert [row["verdict"] for row in rows if row["sme"] == "a"][-1] == "pass"
    assert not [row for row in rows if row["sme"] == "b" and row["state"] != "not_certified"]


def test_a_certificate_sets_the_alias_that_nobody_else_can_set(
    played: tuple[dict[str, Any], str, Path],
) -> None:
    certified = [row for row in played[0]["submissions"] if row["state"] == "certified"]
    version = certified[-1]["model"].split()[-1]
    outcomes = [step["outcome"] for step in played[0]["steps"]]
    assert any(f"clinical-pilot names version {version}" in outcome for outcome in outcomes)


def test_the_certificate_carries_a_checkpoint_that_lies_in_the_store(
    played: tuple[dict[str, Any], str, Path],
) -> None:
    data = played[2] / "data"
    envelope = json.loads(next(data.glob("hospital/nodule*/certificate.json")).read_text())
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    stored = sorted(data.glob("facility/objects/log/checkpoints/*.txt"))
    notes = [path.read_text() for path in stored]
    assert predicate["log"]["checkpoint"] in notes
    assert notes[-1] != predicate["log"]["checkpoint"]  # one more came with the certificate


def test_the_hospital_verified_offline_and_got_a_prediction(
    played: tuple[dict[str, Any], str, Path],
) -> None:
    outcomes = {step["name"]: step["outcome"] for step in played[0]["steps"]}
    verified = next(o for name, o in outcomes.items() if "verifies it offline" in name)
    assert "golden vectors" in verified
    served = next(o for name, o in outcomes.items() if "asks for a prediction" in name)
    assert "probability" in served


def test_a_suspension_on_a_stick_is_refused_by_its_exit_status_and_does_not_come_again(
    played: tuple[dict[str, Any], str, Path], tmp_path: Path
) -> None:
    hospital = played[2] / "data" / "hospital"
    bundle = next(hospital.glob("nodule*/certificate.json")).parent

    def verify(state: Path, *more: str | Path) -> int:
        known = ["--root", hospital / "root.pem", "--state", state, "--allow-demo"]
        return subprocess.run(
            [sys.executable, "-m", "registry.cli.main", "verify", bundle, *known, "--skip-golden",
             *more],
            capture_output=True, text=True, check=False,
        ).returncode  # fmt: skip

    shutil.copytree(hospital / "state", tmp_path / "state")
    assert verify(tmp_path / "new") == 60, "no status was fetched"
    assert verify(tmp_path / "new", "--status", hospital / "stick") == 66, "suspended"
    assert verify(tmp_path / "state") == 0, "two assessors lifted it"
    assert verify(tmp_path / "state", "--status", hospital / "stick") == 63, "an older status"
    damaged = tmp_path / "state" / "memory.json"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert verify(tmp_path / "state") == 69


def test_every_cheat_is_refused_with_a_sentence(
    played: tuple[dict[str, Any], str, Path],
) -> None:
    refusals = {row["attempt"]: row["message"] for row in played[0]["refusals"]}
    assert len(refusals) >= 7
    for attempt, message in refusals.items():
        assert len(message) > 15, attempt
        assert "Traceback" not in message
    shard = next(m for a, m in refusals.items() if "one byte" in a)
    assert "inputs/00000" in shard


def test_nothing_runs_on_and_nothing_was_written_outside(
    played: tuple[dict[str, Any], str, Path],
) -> None:
    _, _, folder = played
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            assert str(folder).encode() not in environment, (entry / "cmdline").read_bytes()
    assert not [path for path in (folder / "home").rglob("*") if path.is_file()]
