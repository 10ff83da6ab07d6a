"""The shell script of the docs agrees with `verify`, on good bundles and on bad ones.

It is another program with other tools: openssl, jq, sha256sum.
"""

import datetime as dt
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from registry.trust.canonical import canonical
from registry.trust.keys import pem_of
from tests.serving import certified, test_attacks
from tests.serving.test_attacks import Files, World

SCRIPT = Path(__file__).parents[2] / "docs" / "verify-bundle.sh"


@pytest.fixture(scope="module")
def signed_over() -> Files:
    return certified.packed(certified.model())


@pytest.fixture
def world(signed_over: Files, tmp_path: Path) -> World:
    if not all(map(shutil.which, ("openssl", "jq", "sha256sum"))):
        pytest.skip("openssl, jq and sha256sum are not all here")
    tef = certified.facility()
    now = {"at": dt.datetime.now(dt.UTC)}
    files = certified.signed(signed_over, tef.log, tef.ada, tef.ben, logged=now)
    return World(tef, signed_over, files, tmp_path)


def run(world: World) -> subprocess.CompletedProcess[str]:
    root = world.place / "root.pem"
    root.write_bytes(pem_of(world.tef.root.certificate if world.root is None else world.root))
    return subprocess.run(
        ["sh", str(SCRIPT), str(world.directory), str(root)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_good_bundle_passes(world: World) -> None:
    done = run(world.copied())
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["ok"] * 4
    assert "Ada (tef) and Ben (tef)" in done.stdout
    assert "in the log touchstone/tef/log of 20 events" in done.stdout


def other_event(world: World) -> World:
    """An event whose text was changed: its leaf is another."""
    log = json.loads(world.files["log.json"])
    log["entries"][0]["event"]["actor"] = "somebody"
    return world.written(world.files | {"log.json": canonical(log)})


def short_path(world: World) -> World:
    log = json.loads(world.files["log.json"])
    log["entries"][0]["path"].pop()
    return world.written(world.files | {"log.json": canonical(log)})


def forged_state(world: World) -> World:
    log = json.loads(world.files["log.json"])
    log["checkpoint"] = log["checkpoint"].replace("\n20\n", "\n21\n")
    return world.written(world.files | {"log.json": canonical(log)})


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (test_attacks.flipped("model/model.onnx"), "a file was changed"),
        (test_attacks.flipped("enrolments.json", 0), None),
        (test_attacks.changed(test_attacks.git), "not exactly those"),
        (test_attacks.changed(test_attacks.symlink), "a link"),
        (test_attacks.changed(lambda at: (at / "x").write_text("x")), "not exactly those"),
        (lambda w: w.signed(w.tef.ada), "fewer than two people"),
        (test_attacks.one_key_under_two_ids, "a signature is of nobody"),
        (test_attacks.server_leaf, "another usage"),
        (test_attacks.other_root, "not issued by this root"),
        (test_attacks.certificate_not_logged, "another certificate"),
        (test_attacks.zip_slip, "not exactly those"),
        (other_event, "does not hold this certificate"),
        (short_path, "does not hold this certificate"),
        (forged_state, "did not sign this state"),
    ],
)
def test_a_bad_one_does_not(world: World, attack: test_attacks.Attack, says: str | None) -> None:
    done = run(attack(replace(world, now=True)))
    if says is None:  # who enrolled the signers is not this script's question
        assert done.returncode == 0
        return
    assert done.returncode == 1, done.stdout
    assert says in done.stderr.splitlines()[-1]
