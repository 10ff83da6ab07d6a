"""The attack table: what can be done to a bundle, and how the hospital's own machine answers.

Each is refused with its own code, its own exit status and a sentence. What is done to the status
(roll-back, freeze, the clock) is in test_status.py.
"""

import datetime as dt
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.certificate import new_statement
from registry.trust.dsse import signature_over, unsigned
from registry.trust.errors import TouchstoneError
from registry.trust.keys import Identity, issue
from serving.bundle.download import download
from serving.bundle.exits import exit_status
from serving.bundle.golden_files import Golden
from serving.bundle.pack import subjects, write_bundle
from serving.bundle.policy import Policy, Witness
from serving.bundle.verify import verify
from tests.registry.tiles_written import write_tiles
from tests.serving import certified
from tests.serving.certified import NOW, TAKES, Facility

Files = dict[str, bytes]


@dataclass(frozen=True)
class World:
    """A facility, what it certified, and the bundle as it was pulled."""

    tef: Facility
    signed_over: Files
    files: Files
    place: Path
    policy: Policy = TAKES
    root: x509.Certificate | None = None
    at: dt.datetime = NOW
    replay: bool = False
    directory: Path = field(default_factory=Path)
    now: bool = False
    """Whether its clock is the real one, and not an hour on."""

    @property
    def logged(self) -> dict[str, Any]:
        """When the log took it in."""
        return {"at": dt.datetime.now(dt.UTC)} if self.now else {}

    def copied(self) -> "World":
        """The same with a copy to be tampered with."""
        return replace(self, directory=write_bundle(self.files, self.place / "copy"))

    def written(self, files: Files) -> "World":
        """The same with another bundle."""
        return replace(self, directory=write_bundle(files, self.place / "b"))

    def signed(self, *signers: Identity, **changes: Any) -> "World":
        """The same, signed by others or with other contents."""
        by = signers or (self.tef.ada, self.tef.ben)
        changes = {"logged": self.logged} | changes
        return self.written(certified.signed(self.signed_over, self.tef.log, *by, **changes))

    def stating(self, statement: dict[str, Any]) -> "World":
        """The same around another statement, properly signed and logged."""
        payload = canonical(statement)
        by = (self.tef.ada, self.tef.ben)
        around = certified.around(payload, self.tef.log, *by, **self.logged)
        return self.written(self.signed_over | around)

    @property
    def statement(self) -> dict[str, Any]:
        """The good bundle's statement, to be edited."""
        predicate = certified.predicate(self.signed_over, self.tef.log)
        value: dict[str, Any] = json.loads(new_statement(subjects(self.signed_over), predicate))
        return value


@pytest.fixture(scope="module")
def tef() -> Facility:
    return certified.facility()


@pytest.fixture(scope="module")
def signed_over() -> Files:
    return certified.packed(certified.model())


@pytest.fixture
def world(tef: Facility, signed_over: Files, tmp_path: Path) -> World:
    files = certified.signed(signed_over, tef.log, tef.ada, tef.ben)
    return World(tef, signed_over, files, tmp_path)


def flipped(path: str, at: int | None = None) -> Callable[[World], World]:
    def attack(world: World) -> World:
        world = world.copied()
        data = bytearray((world.directory / path).read_bytes())
        data[len(data) // 2 if at is None else at] ^= 1
        (world.directory / path).write_bytes(data)
        return world

    return attack


def changed(act: Callable[[Path], object]) -> Callable[[World], World]:
    def attack(world: World) -> World:
        world = world.copied()
        act(world.directory)
        return world

    return attack


def git(directory: Path) -> None:
    (directory / ".git").mkdir()
    (directory / ".git/config").write_text("[core]\n\tfsmonitor = evil")


def symlink(directory: Path) -> None:
    shutil.move(directory / "report.json", directory.parent / "elsewhere.json")
    (directory / "report.json").symlink_to(directory.parent / "elsewhere.json")


def certificate_of_another_model(world: World) -> World:
    other = certified.packed(certified.model(sign=-1.0))
    theirs = certified.signed(other, world.tef.log, world.tef.ada, world.tef.ben)
    return world.written(theirs | world.signed_over)


def one_key_under_two_ids(world: World) -> World:
    """The signature a second time, under the digest of something else."""
    ada = world.tef.ada
    payload = canonical(world.statement)
    first = signature_over("application/vnd.in-toto+json", payload, ada)
    second = first | {"keyid": sha256_bytes(b"another name")}
    envelope = {**unsigned("application/vnd.in-toto+json", payload), "signatures": [first, second]}
    files = world.signed_over | certified.around(payload, world.tef.log, ada, **world.logged)
    return world.written(files | {"certificate.json": canonical(envelope)})


def leaf(world: World, name: str, **changes: Any) -> Identity:
    """A leaf of the facility's own root that differs from a signer's in one thing."""
    key = changes.get("key") or ec.generate_private_key(changes.get("curve", ec.SECP256R1()))
    ben = world.tef.ben.certificate
    usage = x509.ExtendedKeyUsage(changes.get("usage", [ExtendedKeyUsageOID.CODE_SIGNING]))
    builder = (
        x509.CertificateBuilder()
        .subject_name(ben.subject)
        .issuer_name(ben.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(changes.get("begin", ben.not_valid_before_utc))
        .not_valid_after(changes.get("end", ben.not_valid_after_utc))
    )
    for extension in ben.extensions:
        value = usage if isinstance(extension.value, x509.ExtendedKeyUsage) else extension.value
        builder = builder.add_extension(value, extension.critical)
    return Identity(key, builder.sign(world.tef.root.key, hashes.SHA256()))


def one_key_in_two_names(world: World) -> World:
    """The authority certified one key twice, for two people."""
    ada = world.tef.ada
    return world.signed(ada, leaf(world, "Ben", key=ada.key))


def leaf_expired_before_the_log(world: World) -> World:
    ben = leaf(world, "Ben", end=NOW - dt.timedelta(minutes=1))
    return world.signed(world.tef.ada, ben)


def server_leaf(world: World) -> World:
    return world.signed(world.tef.ada, leaf(world, "Ben", usage=[ExtendedKeyUsageOID.SERVER_AUTH]))


def two_usages(world: World) -> World:
    both = [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH]
    return world.signed(world.tef.ada, leaf(world, "Ben", usage=both))


def odd_curve(world: World) -> World:
    return world.signed(world.tef.ada, leaf(world, "Ben", curve=ec.SECP521R1()))


def other_root(world: World) -> World:
    stranger = certified.facility()
    return replace(world.copied(), root=stranger.root.certificate)


def demo_root(world: World) -> World:
    demo = certified.facility(demo=True)
    files = certified.signed(world.signed_over, demo.log, demo.ada, demo.ben)
    return replace(world.written(files), root=demo.root.certificate)


def certificate_not_logged(world: World) -> World:
    other = certified.log_json(sha256_bytes(b"another statement"), world.tef.log)
    return world.written(world.files | {"log.json": other})


def fork_seen(world: World) -> World:
    """The log that this hospital saw before went on in another way."""
    theirs, _ = certified.history(size=19, note="another history")
    ours, _ = certified.history(sha256_bytes(canonical(world.statement)))
    tiles = world.place / "log"
    write_tiles(ours, ours.size, tiles, certified.state_of(world.tef.log, ours))
    seen = certified.state_of(world.tef.log, theirs)
    return replace(world.copied(), policy=replace(TAKES, last_checkpoint=seen, tiles=tiles))


def fork_of_the_same_size(world: World) -> World:
    theirs, _ = certified.history(size=20, note="another history")
    seen = certified.state_of(world.tef.log, theirs)
    return replace(world.copied(), policy=replace(TAKES, last_checkpoint=seen))


def fork_of_the_quoted_state(world: World) -> World:
    """The log of the proof is not the one that the assessors saw."""
    theirs, _ = certified.history(size=17, note="x")
    changed, _ = certified.history(sha256_bytes(b"x"), size=18)
    log = certified.checkpointed(world.tef.log) | {
        "checkpoint": certified.state_of(world.tef.log, changed).decode()
    }
    assert theirs.size < changed.size
    return world.signed(log=log)


def unproven(world: World) -> World:
    seen, _ = certified.history(size=12)
    note = certified.state_of(world.tef.log, seen)
    return replace(world.copied(), policy=replace(TAKES, last_checkpoint=note))


def witness_missing(world: World) -> World:
    witness = Witness("witness.example", Ed25519PrivateKey.generate().public_key())
    policy = replace(TAKES, witnesses=(witness,), witnesses_needed=1)
    return replace(world.copied(), policy=policy)


def golden_beyond_tolerance(world: World) -> World:
    golden = Golden.model_validate(json.loads(world.signed_over["golden/expected.json"]))
    run = golden.runs[0]
    moved = run.model_copy(update={"scores": (run.scores[0] + 2e-5, *run.scores[1:])})
    shifted = golden.model_copy(update={"runs": (moved, *golden.runs[1:])})
    data = canonical(shifted.model_dump(mode="json"))
    files = world.signed_over | {"golden/expected.json": data}
    return replace(replace(world, signed_over=files).signed(), replay=True)


def zip_slip(world: World) -> World:
    statement = world.statement
    statement["subject"].append({"name": "../evil", "digest": {"sha256": "00" * 32}})
    return world.stating(statement)


def truncated(world: World) -> World:
    def cut(directory: Path) -> None:
        path = directory / "model/model.onnx"
        path.write_bytes(path.read_bytes()[:-100])

    return changed(cut)(world)


def edited(path: str, **values: Any) -> Callable[[World], World]:
    """The verdict's own numbers, edited, and everything properly signed."""

    def attack(world: World) -> World:
        statement = world.statement
        auc = next(r for r in statement["predicate"]["results"] if r["id"] == "endpoint:auc")
        if path == "interval":
            auc["asked"][0]["interval"] |= values
        elif path == "asked":
            auc["asked"][0] |= values
        else:
            auc |= values
        return world.stating(statement)

    return attack


def better_overall(world: World) -> World:
    """Open by its own rules, and certified as a pass."""
    open_rules = certified.predicate(
        world.signed_over, world.tef.log, overall="conditional", conditions=("x",),
        conditions_due=certified.NOT_AFTER,
    ).model_dump(mode="json")["results"]  # fmt: skip
    statement = world.statement
    statement["predicate"]["results"] = open_rules
    return world.stating(statement)


def rule_left_out(world: World) -> World:
    statement = world.statement
    results = statement["predicate"]["results"]
    statement["predicate"]["results"] = [r for r in results if r["id"] != "failure_rate"]
    return world.stating(statement)


def not_acknowledged(world: World) -> World:
    return replace(world.copied(), policy=Policy())


def use_changed_since(world: World) -> World:
    """Acknowledged, and then the facility narrowed the use."""
    use = certified.predicate(world.signed_over, world.tef.log).use
    changed = {"purpose": "triage of nodules", "population": "adults over 50", "setting": "CT",
               "prevalence": None, "limits": ""}  # fmt: skip
    return replace(world.signed(intended_use=changed), policy=Policy(acknowledged={use: "Clara"}))


Attack = Callable[[World], World]
SUBJECTS = ("contract.json", "protocol.json", "report.json", "model-label.txt", "model/model.onnx",
            "golden/inputs.bin", "golden/expected.json")  # fmt: skip
TABLE: list[tuple[str, Attack, str, int, str]] = [
    *[(f"a bit of {name} is flipped", flipped(name), "file_changed", 20, name)
      for name in SUBJECTS],
    ("a bit of certificate.json is flipped", flipped("certificate.json", 0),
     "certificate_malformed", 14, "certificate.json"),
    ("a bit of signers.pem is flipped", flipped("signers.pem", 0), "certificate_malformed", 14,
     "signers.pem"),
    ("a bit of enrolments.json is flipped", flipped("enrolments.json", 0), "enrolments_malformed",
     19, "enrol"),
    ("a bit of log.json is flipped", flipped("log.json", 0), "log_malformed", 40, "log.json"),
    ("an extra file", changed(lambda at: (at / "model/notes.txt").write_text("x")),
     "file_extra", 21, "notes.txt"),
    ("a file is renamed", changed(lambda at: (at / "report.json").rename(at / "report2.json")),
     "file_extra", 21, "report2.json"),
    ("a file is missing", changed(lambda at: (at / "report.json").unlink()),
     "file_missing", 22, "report.json"),
    ("a symbolic link", changed(symlink), "link", 23, "link"),
    ("a hard link", changed(lambda at: os.link(at / "report.json", at.parent / "r")),
     "link", 23, "hard-linked"),
    (".git is smuggled in", changed(git), "hidden_file", 24, ".git"),
    ("the certificate of another model", certificate_of_another_model, "file_changed", 20,
     "golden/expected.json"),
    ("one signer", lambda w: w.signed(w.tef.ada), "one_signer", 15, "1 assessor"),
    ("one signature twice under two key ids", one_key_under_two_ids, "bad_signature", 13,
     "signers.pem"),
    ("one key in two people's certificates", one_key_in_two_names, "one_signer", 15, "1 assessor"),
    ("both signatures by one person", lambda w: w.signed(
        w.tef.ada, issue(w.tef.root, "Ada", organisation="tef")), "one_signer", 15, "different"),
    ("a leaf that expired before the log's time", leaf_expired_before_the_log, "leaf_expired", 17,
     "Ben"),
    ("a serverAuth leaf of the same root", server_leaf, "wrong_usage", 18, "Ben"),
    ("a leaf for two usages", two_usages, "wrong_usage", 18, "alone"),
    ("a key on another curve", odd_curve, "wrong_key", 18, "P-384"),
    ("another root", other_root, "other_root", 12, "not issued by this root"),
    ("a demo's root", demo_root, "demo_root", 11, "NOT FOR PATIENTS"),
    ("a certificate that was never logged", certificate_not_logged, "not_in_the_log", 40,
     "another event"),
    ("a forked log: another one was seen before", fork_seen, "log_forked", 41, "two faces"),
    ("a forked log of the same size", fork_of_the_same_size, "log_forked", 41, "two faces"),
    ("a forked log: not what the assessors saw", fork_of_the_quoted_state, "log_forked", 41,
     "two faces"),
    ("a log that can't be proven", unproven, "log_unproven", 42, "fetch"),
    ("no witness saw it", witness_missing, "not_witnessed", 43, "0 of the 1"),
    ("a clock before the log's time", lambda w: replace(
        w.copied(), at=NOW - dt.timedelta(minutes=30)), "clock_behind", 44, "set the clock"),
    ("golden vectors beyond tolerance", golden_beyond_tolerance, "golden_mismatch", 50,
     "don't use it here"),
    ("a name that leads elsewhere (zip-slip)", zip_slip, "unsafe_name", 14, "../evil"),
    ("a truncated file", truncated, "file_changed", 20, "model.onnx"),
    ("a pass below its own goal", edited("interval", low=0.7), "verdict_disagrees", 32,
     "0.7 to 0.91 is not at least 0.805"),
    ("a fail certified as a pass", edited("outcome", outcome="fail"), "verdict_disagrees", 32,
     "say fail"),
    ("a conditional certified as a pass", better_overall, "verdict_disagrees", 32,
     "say conditional"),
    ("a goal lowered after the run", edited("asked", least=0.6), "rules_mismatch", 33,
     "endpoint:auc"),
    ("a rule turned into a report", edited("rule", rule="reported"), "rules_mismatch", 33,
     "not judged"),
    ("a rule left out", rule_left_out, "rules_mismatch", 33, "failure_rate"),
    ("another value than the report's", edited("estimate", estimate=0.9), "report_mismatch", 31,
     "endpoints"),
    ("an intended use that nobody acknowledged", not_acknowledged, "not_acknowledged", 34,
     "triage of nodules; adults; CT"),
    ("an intended use that changed since", use_changed_since, "not_acknowledged", 34, "over 50"),
    ("an expired certificate", lambda w: replace(w.copied(), at=certified.NOT_AFTER),
     "certificate_expired", 30, "newer one"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "code", "status", "says"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_attack(world: World, attack: Attack, code: str, status: int, says: str) -> None:
    done = attack(world)
    root = done.root or world.tef.root.certificate
    result = verify(done.directory, root, done.at, done.policy, replay=done.replay)
    assert [step.ok for step in result.steps] == [True] * (len(result.steps) - 1) + [False]
    last = result.steps[-1]
    assert (last.code, exit_status(str(last.code))) == (code, status), last.sentence
    assert says in last.sentence
    assert "\n" not in last.sentence
    assert result.certificate is None
    assert result.files == {}


def test_a_download_that_ends_early_leaves_nothing_that_verifies(world: World) -> None:
    listed = {path: {"digest": sha256_bytes(data), "size": len(data)}
              for path, data in world.files.items()}  # fmt: skip
    with pytest.raises(TouchstoneError) as raised:
        download(listed, lambda path, at: [world.files[path][at:-1]], world.place / "b")
    assert raised.value.code == "interrupted"
    assert not (world.place / "b").exists()
    partial = world.place / ".b.partial"
    assert not verify(partial, world.tef.root.certificate, NOW, TAKES, replay=False).ok


def test_leaves_need_not_be_valid_today_but_when_it_was_logged(world: World) -> None:
    ben = leaf(world, "Ben", end=NOW + dt.timedelta(days=2), curve=ec.SECP384R1())
    certified.enrol(world.tef, world.tef.ada, ben)
    done = world.signed(world.tef.ada, ben)
    later = NOW + dt.timedelta(days=30)
    result = verify(done.directory, world.tef.root.certificate, later, TAKES, replay=False)
    result.raise_if_failed()
    assert f"valid when it was logged on {NOW:%Y-%m-%d}" in result.steps[2].sentence


def test_a_witness_says_when(world: World) -> None:
    """The log's own word for the time is not enough where the hospital asks for a witness."""
    key = Ed25519PrivateKey.generate()
    witness = Witness("witness.example", key.public_key())
    policy = replace(TAKES, witnesses=(witness,), witnesses_needed=1)
    seen = NOW + dt.timedelta(days=3)
    ben = leaf(world, "Ben", end=NOW + dt.timedelta(days=2))
    certified.enrol(world.tef, world.tef.ada, ben)
    logged = {"witnesses": [("witness.example", key, seen)]}
    done = world.signed(world.tef.ada, ben, logged=logged)
    at = NOW + dt.timedelta(days=4)
    root = world.tef.root.certificate
    assert verify(done.directory, root, at, TAKES, replay=False).ok
    result = verify(done.directory, root, at, policy, replay=False)
    assert result.steps[-1].code == "leaf_expired"
    good = replace(world, place=world.place / "good").signed(logged=logged)
    result = verify(good.directory, root, at, policy, replay=False)
    result.raise_if_failed()
    assert "seen by witness.example" in result.steps[-2].sentence


def test_a_log_that_only_grew_is_proven_by_its_tiles(world: World) -> None:
    """From what was seen long ago to what is published now, over 70,000 events."""
    statement = sha256_bytes(canonical(world.statement))
    tree, _ = certified.history(statement)
    before = certified.state_of(world.tef.log, certified.history(size=9)[0])
    for number in range(70_000 - tree.size):
        tree.append(number.to_bytes(32, "big"))
    tiles = world.place / "log"
    write_tiles(tree, tree.size, tiles, certified.state_of(world.tef.log, tree))
    done = world.copied()
    policy = replace(TAKES, last_checkpoint=before, tiles=tiles)
    result = verify(done.directory, world.tef.root.certificate, NOW, policy, replay=False)
    result.raise_if_failed()
    assert result.checkpoint == (tiles / "checkpoint").read_bytes()
    (tiles / "tile/1/001.p/17").unlink()
    result = verify(done.directory, world.tef.root.certificate, NOW, policy, replay=False)
    assert result.steps[-1].code == "log_unproven"
