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
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from registry.trust.canonical import canonical
from registry.trust.checkpoint import Line, key_id
from registry.trust.dsse import add_signature
from registry.trust.keys import Identity, pem_of
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


def run(world: World, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    root = world.place / "root.pem"
    root.write_bytes(pem_of(world.tef.root.certificate if world.root is None else world.root))
    return subprocess.run(
        [shell, str(SCRIPT), str(world.directory), str(root)],
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


def one_person_of_two_names(world: World) -> World:
    """One signature, by a certificate that the root gave two names, and one that is nobody's."""
    tef = world.tef
    named = [(NameOID.ORGANIZATION_NAME, "tef"), (NameOID.COMMON_NAME, "Ada"),
             (NameOID.COMMON_NAME, "Ben")]  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in named]))
        .issuer_name(tef.root.certificate.subject)
        .public_key(tef.ada.key.public_key())
        .serial_number(7)
        .not_valid_before(tef.ada.certificate.not_valid_before_utc)
        .not_valid_after(tef.ada.certificate.not_valid_after_utc)
    )
    for extension in tef.ada.certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    both = Identity(tef.ada.key, builder.sign(tef.root.key, hashes.SHA256()))
    envelope = json.loads(world.files["certificate.json"])
    envelope = add_signature(envelope | {"signatures": []}, both)
    envelope["signatures"].append({"keyid": "sha256:" + 64 * "0", "sig": "AAAA"})
    return world.written(
        world.files
        | {"certificate.json": canonical(envelope), "signers.pem": pem_of(both.certificate)}
    )


def test_one_person_of_two_names_is_one(world: World) -> None:
    done = run(one_person_of_two_names(replace(world, now=True)))
    assert done.returncode == 1, done.stdout
    assert "one person of one organisation" in done.stderr


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_size_of_a_log_is_a_number_and_no_command(world: World, shell: str) -> None:
    """Where sh is bash, an index in what it counts with is expanded, and so carried out."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    key, origin, done_by = world.tef.log.key, world.tef.log.origin, world.place / "done"
    log = json.loads(world.files["log.json"])
    root = log["checkpoint"].split("\n")[2]
    text = f"{origin}\nPATH[$(touch {done_by})0]\n{root}\n"
    line = Line(origin, key_id(origin, key.public_key()), key.sign(text.encode()))
    log["checkpoint"] = f"{text}\n{line.text().decode()}"
    told = run(world.written(world.files | {"log.json": canonical(log)}), shell)
    assert told.returncode == 1
    assert "size is no number" in told.stderr
    assert not done_by.exists()
