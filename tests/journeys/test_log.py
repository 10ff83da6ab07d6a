"""The log of a facility at work: what was read is in it, and anybody can compute it again."""

import json
import os
from pathlib import Path

import pytest

from demo.stage import Person
from demo.story import COHORT, Story
from tests.journeys.test_bad_input import linear


@pytest.fixture(scope="module")
def auditor(story: Story) -> Person:
    admin = story.stage.person("admin", **story.facility)
    made = story.stage.touchstone(
        admin, "token", "add", "--org", "tef", "--role", "auditor",
        "--person", "Ann",
    )  # fmt: skip
    return story.stage.person("Ann", made["token"], **story.facility)


@pytest.fixture(scope="module")
def submission(story: Story, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One of SME B's, carried as far as it goes without people."""
    path = linear(tmp_path_factory.mktemp("model"), "logged", 0.4)  # a family of its own
    shown = story.stage.touchstone(
        story.people["Finn"], "submit", path, "--protocol", story.protocol["id"],
        "--cohort", COHORT, "--wait",
    )  # fmt: skip
    return str(shown["id"])


def kinds(story: Story, who: Person, about: str) -> list[str]:
    page = story.stage.touchstone(who, "audit", "list")
    return [event["kind"] for event in page["events"] if event["subject"] == about]


def test_what_the_pipeline_read_is_in_the_log_before_what_came_of_it(
    story: Story, auditor: Person, submission: str
) -> None:
    locked = story.stage.touchstone(auditor, "protocol", "show", story.protocol["id"])
    perturbed = len(locked["robustness"])  # each of another perturbation
    found = kinds(story, auditor, submission)
    assert found[: found.index("submission-assessed") + 1] == [
        "submission-registered", "submission-intake", "submission-queued", "submission-running",
        "key-released", "cohort-read", "attempt-spent", "cohort-read",
        "key-released", *["cohort-read"] * perturbed,
        "predictions-read", "reference-read", *["predictions-read"] * perturbed, "key-released",
        "submission-assessed",
    ]  # fmt: skip
    assert kinds(story, story.people["Finn"], submission) == kinds(story, auditor, submission)
    assert kinds(story, story.people["Eva"], submission) == []


def test_who_verifies_a_cohort_is_in_the_log(story: Story, auditor: Person) -> None:
    before = len(kinds(story, auditor, f"{COHORT}/1"))
    story.stage.touchstone(story.people["Sam"], "cohort", "verify", COHORT)
    assert kinds(story, auditor, f"{COHORT}/1")[before:] == ["cohort-read"]


def test_the_log_holds_and_a_submitter_takes_a_proof_of_it_home(
    story: Story, auditor: Person, submission: str, tmp_path: Path
) -> None:
    outcome = story.stage.touchstone(auditor, "audit", "verify")
    assert outcome["ok"]
    assert outcome["checkpoints"] >= 1
    proof = tmp_path / "proof.json"
    story.stage.touchstone(story.people["Finn"], "audit", "prove", submission, "--out", proof)
    root = Path(story.facility["TOUCHSTONE_HOME"]) / "root.pem"
    offline = story.stage.person("stranger", TOUCHSTONE_HOME=str(tmp_path / "none"))
    shown = story.stage.touchstone(offline, "audit", "check", proof, "--root", root)
    assert shown["size"] >= len(shown["events"]) >= 10
    assert shown["origin"] == outcome["origin"]
    assert os.fspath(root) not in json.dumps(shown)
