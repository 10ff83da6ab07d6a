"""A cohort from the command line: two sign, a patient is erased, keys are destroyed."""

from pathlib import Path

import pytest

from demo.journey import HERE
from demo.stage import CommandFailed
from demo.story import Story
from tests.validators.cohort_example import few_scans
from validators.cohort.ingest import open_staged


def test_a_cohort_lives_from_its_seal_to_the_end_of_its_keys(story: Story, tmp_path: Path) -> None:
    run, sam, uma = story.stage.touchstone, story.people["Sam"], story.people["Uma"]
    source, staged = few_scans(tmp_path / "few.sqlite"), tmp_path / "staged"
    run(sam, "cohort", "ingest", source, "--contract", HERE / "contract.yaml", "--half", "all",
        "--out", staged)  # fmt: skip
    sealed = run(sam, "cohort", "seal", staged, "--id", "few", "--until", "2099-12-31")
    assert sealed["state"] == "sealed"
    uses = {of["cohort"]: of["use"] for of in sealed["seen_before"]["versions"]}
    assert uses["lidc-nodules"] == "gating", "the demo's own"
    again = run(sam, "cohort", "ingest", source, "--contract", HERE / "contract.yaml", "--half",
                "development", "--out", tmp_path / "again")  # fmt: skip
    versions = {of["cohort"]: of for of in again["quality"]["seen_before"]["versions"]}
    seen = versions["few"]
    assert (seen["version"], seen["use"]) == ("1", "none")
    assert versions.get("lidc-nodules", {"patients": 0})["patients"] == 0, "it has the other half"
    assert seen["patients"] == again["meta"]["patients"]
    assert seen["same_pixels"] == again["meta"]["cases"]
    assert run(sam, "cohort", "verify", "few")["locked_by"] == []
    with pytest.raises(CommandFailed, match="not enrolled for you as a steward"):
        run(sam, "cohort", "sign", "few", "--key", story.keys / "uma.key")
    assert run(sam, "cohort", "sign", "few", "--key", story.keys / "sam.key")["state"] == "sealed"
    again = run(sam, "cohort", "sign", "few", "--key", story.keys / "sam.key")
    assert (again["state"], again["signed_by"]) == ("sealed", ["Sam"])
    locked = run(uma, "cohort", "sign", "few", "--key", story.keys / "uma.key")
    assert (locked["state"], locked["signed_by"]) == ("locked", ["Sam", "Uma"])
    assert run(sam, "cohort", "verify", "few")["locked_by"] == ["Sam", "Uma"]

    patients = sorted(set(open_staged(staged).table()["patient"].to_pylist()))
    listed = tmp_path / "patients.txt"
    listed.write_text("nobody\n")
    erase = ["cohort", "erase", "few", "--version", "1", "--patients", listed, "--new-version", "2"]
    with pytest.raises(CommandFailed, match="1 of 1 patients are not in few 1"):
        run(sam, *erase)
    listed.write_text(f"{patients[0]}\n")
    erased = run(sam, *erase)
    assert (erased["erased"], erased["old_state"]) == (1, "retired")
    shared = run(sam, "cohort", "leakage", "few/1", "--against", "few/2", "--out", tmp_path / "l")
    left = len(patients) - 1
    assert shared["findings"][0]["counts"] == {"cohort": left, "other": left, "shared": left}
    named = run(sam, "cohort", "leakage", "few/1", "--against", listed, "--out", tmp_path / "m")
    assert named["findings"][0]["counts"]["shared"] == 0, "who was erased can't be found any more"
    for person, key in ((sam, "sam"), (uma, "uma")):
        run(person, "cohort", "sign", "few", "--version", "2", "--key", story.keys / f"{key}.key")
    shown = run(sam, "cohort", "verify", "few", "--version", "2")
    assert (shown["state"], shown["root"]) == ("locked", erased["root"])

    with pytest.raises(CommandFailed, match="is locked: there is nothing to destroy-keys"):
        run(sam, "cohort", "destroy-keys", "few", "2", "--reason", "too early")
    gone = run(sam, "cohort", "destroy-keys", "few", "1", "--reason", "a patient was erased")
    shown = run(sam, "cohort", "verify", "few", "--version", "1")
    assert shown["keys_destroyed"] == gone["keys_destroyed"]
    assert [path.name for path in (story.home / "facility/links/few").iterdir()] == ["2.links"]
    assert shown["verified"]
    with pytest.raises(CommandFailed, match="destroyed on"):
        run(sam, *erase[:-1], "3")

    added = story.home / "facility/objects/cohorts/few/2/inputs/00099"
    added.write_bytes(b"x")
    with pytest.raises(CommandFailed, match="inputs/00099 was added"):
        run(sam, "cohort", "verify", "few", "--version", "2")
    added.unlink()
    record = story.home / "facility/objects/cohorts/few/2/lock.json"
    kept = record.read_bytes()
    record.unlink()
    record.write_bytes(b"{}")
    with pytest.raises(CommandFailed, match=r"lock\.json is not the lock"):
        run(sam, "cohort", "verify", "few", "--version", "2")
    record.write_bytes(kept)
    assert run(sam, "cohort", "burn", "few", "--version", "2", "--reason", "shown by mistake")[
        "state"
    ] == "burned"  # fmt: skip
