"""Staged cohorts held against each other, with real nodules; and the command that does it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from registry.trust.errors import Invalid
from tests.validators.cohort_example import contract, few_scans
from validators.cohort.ingest import Staged, ingest, open_staged
from validators.leakage.identifiers import LinkingKey
from validators.leakage.key_file import open_linking_key
from validators.leakage.staged import read_side, search

KEY = LinkingKey(b"k" * 32)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("halves")
    source = few_scans(folder / "few.sqlite")
    for half in ("locked", "development", "all"):
        ingest(source, folder / half, contract=contract(), half=half)
    return {half: folder / half for half in ("locked", "development", "all")}


def counts(found: object, name: str) -> dict[str, int]:
    return {of.search: of.counts for of in found.evidence.findings}[name]  # type: ignore[attr-defined]


def test_two_halves_share_no_patient_and_the_whole_shares_them_all(halves: dict[str, Path]) -> None:
    locked, development = open_staged(halves["locked"]), open_staged(halves["development"])
    apart = search(locked, development, KEY)
    assert counts(apart, "patients")["shared"] == 0
    assert counts(apart, "exact_pixels")["across"] == 0
    whole = search(locked, open_staged(halves["all"]), KEY)
    patients = set(locked.table()["patient"].to_pylist())
    assert counts(whole, "patients")["shared"] == len(patients)
    assert counts(whole, "exact_pixels")["across"] == locked.cases
    assert whole.evidence.outcome == "held_for_review"
    assert all(pair.case == pair.other for pair in whole.pairs if pair.search == "exact_pixels")


def test_an_image_that_came_in_again_with_noise_is_found_as_a_look_alike(
    halves: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(halves["development"], tmp_path / "copy")
    block = tmp_path / "copy/inputs-00000.safetensors"
    arrays = load_file(block)
    original = load_file(halves["locked"] / "inputs-00000.safetensors")["image"][0]
    noise = np.random.default_rng(1).normal(0, 0.01, original.shape)
    arrays["image"][0] = np.clip(original + noise, 0, 1)
    save_file(arrays, block)
    found = search(open_staged(halves["locked"]), open_staged(tmp_path / "copy"), KEY)
    ours = open_staged(halves["locked"]).table()["case"].to_pylist()[0]
    theirs = open_staged(tmp_path / "copy").table()["case"].to_pylist()[0]
    assert counts(found, "exact_pixels")["across"] == 0
    assert (ours, theirs) in {(p.case, p.other) for p in found.pairs if p.search == "near_pictures"}


def test_a_list_of_identifiers_is_compared_however_they_are_written(
    halves: dict[str, Path], tmp_path: Path
) -> None:
    locked = open_staged(halves["locked"])
    patients = sorted(set(locked.table()["patient"].to_pylist()))
    listed = tmp_path / "theirs.txt"
    listed.write_text("\n".join([patients[0].lower().replace("-", " "), "", "someone-else"]))
    found = search(locked, read_side(listed), KEY)
    assert counts(found, "patients") == {"cohort": len(patients), "other": 2, "shared": 1}
    assert found.pairs == ()


def test_no_repr_and_no_message_holds_an_identifier(
    halves: dict[str, Path], tmp_path: Path
) -> None:
    locked = open_staged(halves["locked"])
    found = search(locked, open_staged(halves["all"]), KEY)
    patient = locked.table()["patient"].to_pylist()[0]
    assert patient not in repr(found) + found.evidence.model_dump_json()
    (tmp_path / "broken").mkdir()
    with pytest.raises(Exception, match="no staged cases"):
        read_side(tmp_path / "broken")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(Invalid, match="names no patient"):
        read_side(tmp_path / "empty.txt")


def test_a_damaged_block_is_named(halves: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(halves["locked"], tmp_path / "copy")
    (tmp_path / "copy/inputs-00000.safetensors").write_bytes(b"rubbish")
    with pytest.raises(Invalid, match=r"inputs-00000.safetensors is missing or damaged"):
        search(Staged(tmp_path / "copy"), open_staged(halves["locked"]), KEY)


def test_the_linking_key_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "home/linking.key"
    first = open_linking_key(path)
    assert open_linking_key(path).fingerprint == first.fingerprint
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(Invalid, match="has 32 bytes"):
        open_linking_key(path)


def test_the_command_writes_counts_and_pairs_that_only_the_owner_reads(
    halves: dict[str, Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [
        *(sys.executable, "-m", "registry.cli.main", "cohort", "leakage", str(halves["locked"])),
        *("--against", str(halves["all"]), "--out", str(tmp_path / "out"), "--json"),
    ]
    environment = {**os.environ, "TOUCHSTONE_HOME": str(home)}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "not the facility's data directory" in refused.stdout + refused.stderr
    (home / "root.pem").write_text("only its presence is asked for here")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "held_for_review"
    for name in ("leakage.json", "pairs.csv"):
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600
