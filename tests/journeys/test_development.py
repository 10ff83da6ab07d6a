"""A model on the development half, as the people of `touchstone up` go there."""

from pathlib import Path

import pytest
import yaml

from demo.journey import HERE, sign_lock
from demo.stage import CommandFailed
from demo.story import COHORT, Story
from tests.registry.facility_example import honest


def test_an_innovator_iterates_on_the_development_half(story: Story, tmp_path: Path) -> None:
    run, eva, sam = story.stage.touchstone, story.people["Eva"], story.people["Sam"]
    staged = story.home / "development"
    run(sam, "cohort", "seal", staged, "--id", "lidc-open")
    for steward in ("Sam", "Uma"):
        sign_lock(story, steward, "lidc-open")
    run(sam, "cohort", "conditions", "lidc-open", "--none")
    run(story.people["Uma"], "cohort", "conditions", "lidc-open", "--confirm")
    protocol = yaml.safe_load((HERE / "protocol.yaml").read_text()) | {
        "id": "with-development", "development_cohort": {"id": "lidc-open", "version": "1"},
    }  # fmt: skip
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    run(sam, "protocol", "lock", tmp_path / "protocol.yaml")
    (tmp_path / "a.onnx").write_bytes(honest(0.1))
    (tmp_path / "b.onnx").write_bytes(honest(0.05))
    ask = ("--protocol", "with-development", "--cohort")
    with pytest.raises(CommandFailed, match="that is its development cohort"):
        run(eva, "submit", tmp_path / "a.onnx", *ask, "lidc-open")
    with pytest.raises(CommandFailed, match="has no development cohort"):
        run(eva, "submit", tmp_path / "a.onnx", "--protocol", story.protocol["id"],
            "--cohort", "lidc-open", "--development")  # fmt: skip
    with pytest.raises(CommandFailed, match="is lidc-open, not"):
        run(eva, "submit", tmp_path / "a.onnx", *ask, COHORT, "--development")
    told = []
    for name in ("a", "b"):
        shown = run(eva, "submit", tmp_path / f"{name}.onnx", *ask, "lidc-open", "--name",
                    f"open-{name}", "--development", "--wait")  # fmt: skip
        assert (shown["state"], shown["outcome"]) == ("tried", None), shown["failure"]
        assert shown["attempts"] == {"allowed": 0, "spent": 0}
        told.append(run(eva, "report", shown["id"]))
        with pytest.raises(CommandFailed, match="there is no submission"):
            run(story.people["Finn"], "report", shown["id"])
    assert shown["trials"] == {"allowed": 100, "spent": 2}
    for first, second in zip(told[0]["endpoints"], told[1]["endpoints"], strict=True):
        assert (first["metric"], first["step"]) == (second["metric"], second["step"])
        if first["direction"] == "higher":
            assert second["value"] >= first["value"]
    assert all(row["value"] is not None for row in told[0]["endpoints"] if row["step"])
    key = story.keys / "ada.key"
    with pytest.raises(CommandFailed, match="can't be turned into `certify` by anyone"):
        run(story.people["Ada"], "decide", shown["id"], "--certify", "--reason", "it looks good",
            "--key", key)  # fmt: skip
    with pytest.raises(CommandFailed, match="a decision needs a submission in review"):
        run(story.people["Ada"], "decide", shown["id"], "--reject", "--reason", "it looks bad",
            "--key", key)  # fmt: skip
    assert run(eva, "status", shown["id"])["state"] == "tried"
