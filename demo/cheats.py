"""Every way to cheat that the journey tries, with the client that a cheat would use.

Each must be refused, with a line that says why; the journey stops if one gets through.
"""

import shutil
from pathlib import Path

from demo.hospital import flip_one_bit
from demo.stage import CommandFailed, Person
from demo.story import COHORT, MODELS, Story


def try_all(story: Story) -> None:
    """The SME's ways, then one byte of the cohort."""
    stage, eva, finn = story.stage, story.people["Eva"], story.people["Finn"]
    stage.console.print("Now everybody cheats:")
    version = str(story.submissions["b"]["model"]["version"])
    stage.refused(
        "SME B sets the alias clinical-pilot itself",
        lambda: _mlflow(story, finn, "alias", MODELS["b"], version),
    )
    stage.refused(
        "SME B overwrites the registered file",
        lambda: _mlflow(story, finn, "overwrite", MODELS["b"], version),
    )
    stage.refused(
        "SME B reads SME A's model",
        lambda: _mlflow(story, finn, "read", MODELS["a"], "1"),
    )
    stage.refused(
        "SME A looks at SME B's submission",
        lambda: stage.touchstone(eva, "status", story.submissions["b"]["id"]),
    )
    if story.submissions["a"]["outcome"] == "pass":
        stage.refused(
            "SME A goes on after its pass, for a second one",
            lambda: _submit(story, eva, f"models:/{MODELS['a']}/1"),
        )
    change_one_byte(story)
    if story.submissions["a"]["outcome"] == "pass":
        stage.refused(
            "SME B submits SME A's weights as a model of its own",
            lambda: _submit(story, finn, story.home / "model-a.onnx", "--name", MODELS["b"]),
        )


def _submit(story: Story, who: Person, *what: str | Path) -> None:
    """Submit and wait; CommandFailed with what the submitter reads where it ends in a failure."""
    shown = story.stage.touchstone(
        who, "submit", *what, "--protocol", story.protocol["id"], "--cohort", COHORT, "--wait",
    )  # fmt: skip
    if shown["failure"]:
        raise CommandFailed(shown["failure"]["message"])


def _mlflow(story: Story, who: Person, act: str, name: str, version: str) -> None:
    story.stage.python(who, "demo.cheat", act, name, version)


def change_one_byte(story: Story) -> None:
    """One byte of one locked shard; then a run on it. The shard is put back afterwards."""
    stage, finn = story.stage, story.people["Finn"]
    folder = story.home / "facility" / "objects" / "cohorts" / COHORT / "1"
    shard = sorted(folder.glob("inputs/*"))[0]
    kept = story.home / "shard-as-it-was"
    shutil.copy2(shard, kept)
    flip_one_bit(shard)

    def run_on_it() -> None:
        shown = stage.touchstone(
            finn, "submit", story.home / "model-b.onnx", "--name", MODELS["b"],
            "--protocol", story.protocol["id"], "--cohort", COHORT, "--wait",
        )  # fmt: skip
        if shown["failure"]:
            seen = stage.touchstone(story.people["Ada"], "status", shown["id"])
            raise CommandFailed(seen["failure"]["message"])

    try:
        stage.refused("a run on a cohort of which one byte was changed", run_on_it)
    finally:
        shard.unlink()
        shutil.move(kept, shard)
    with stage.step("The byte is put back, and the cohort verified") as say:
        stage.touchstone(story.people["Sam"], "cohort", "verify", COHORT)
        say("every object and every case is what was locked")
