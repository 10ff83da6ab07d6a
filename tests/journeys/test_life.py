"""Stopping from the command line, against everything that `touchstone up` runs."""

import time
from pathlib import Path

import pytest
import yaml

from demo.journey import HERE
from demo.stage import CommandFailed
from demo.story import COHORT, Story
from tests.registry.facility_example import endless


def sandboxes() -> set[int]:
    """The processes that hold a model on this machine."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if b"serving.sandbox.child" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
            except OSError:
                continue
    return found


def waited(true: object, seconds: float) -> float:
    """How long it took to come true."""
    assert callable(true)
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not come true"
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_model_that_never_ends_is_withdrawn_and_its_process_is_gone(
    story: Story, tmp_path: Path
) -> None:
    run, eva = story.stage.touchstone, story.people["Eva"]
    protocol = yaml.safe_load((HERE / "protocol.yaml").read_text()) | {"id": "never-ends"}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    run(story.people["Sam"], "protocol", "lock", tmp_path / "protocol.yaml")
    (tmp_path / "endless.onnx").write_bytes(endless())
    before = sandboxes()
    submission = run(
        eva, "submit", tmp_path / "endless.onnx", "--protocol", "never-ends", "--cohort", COHORT
    )["id"]
    with pytest.raises(CommandFailed, match=r"may not do submission\.withdraw"):
        run(story.people["Sam"], "withdraw", submission, "--reason", "not mine")
    waited(lambda: run(eva, "status", submission)["attempts"]["spent"] == 1, 90)
    assert sandboxes() - before
    assert run(eva, "quota")["waiting"]["used"] >= 1
    shown = run(eva, "withdraw", submission, "--reason", "a better model is ready")
    assert shown["state"] == "withdrawn"
    assert waited(lambda: not sandboxes() - before, 10) < 3
    assert run(eva, "status", submission)["attempts"]["spent"] == 1
    with pytest.raises(CommandFailed, match="is withdrawn: there is nothing"):
        run(story.people["Sam"], "cancel", submission, "--reason", "too late")


def test_an_administrator_sets_a_quota_and_the_next_submission_is_told(
    story: Story, tmp_path: Path
) -> None:
    run, finn = story.stage.touchstone, story.people["Finn"]
    admin = story.stage.person("admin", **story.facility)
    assert run(admin, "org", "quota", "sme-b", "--waiting", "0")["waiting"]["allowed"] == 0
    try:
        (tmp_path / "endless.onnx").write_bytes(endless())
        with pytest.raises(CommandFailed, match="all that its quota allows"):
            run(finn, "submit", tmp_path / "endless.onnx", "--protocol", story.protocol["id"],
                "--cohort", COHORT)  # fmt: skip
    finally:
        run(admin, "org", "quota", "sme-b", "--waiting", "20")
    assert "notices" in run(finn, "notices")
