"""What the facility hands out beside a certificate: the log's proof of it, and the log's tree."""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.audit.asking import ask
from registry.audit.checkpoints import make_checkpoint, stored_sizes
from registry.audit.log_key import log_key
from registry.audit.tiles import published
from registry.audit.tree import KnownTree
from registry.database.record import Record
from registry.identity.caller import Caller
from registry.pipeline.steps import log_of
from registry.pipeline.watch import Watch
from registry.pipeline.work import Work
from registry.submissions import certified, places, review
from registry.submissions.fault import AWAY
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import parse_statement
from registry.trust.checkpoint import parse, parse_witness_key, witnessed_at
from registry.trust.dsse import payload_of
from registry.trust.errors import NotFound, Unavailable
from registry.trust.log_proof import Proven, check_proof
from registry.trust.merkle import extends
from registry.trust.tiles import TiledTree, read_checkpoint
from serving.bundle.exits import exit_status
from serving.bundle.log_copy import bring_log
from serving.bundle.logged import read_logged
from serving.bundle.policy import Policy, Witness
from serving.bundle.verify import VerifyResult, verify
from tests.registry.house import House
from tests.registry.strict_witness import StrictWitness


@pytest.fixture(scope="module")
def clara(house: House) -> Caller:
    house.owner.execute("INSERT INTO touchstone.organisation VALUES ('clinic','hospital','C')")
    return house.welcome("Clara", "clinician", "clinic")


@pytest.fixture(scope="module")
def model(house: House) -> str:
    """A model that Ada and Ben certified."""
    submission = house.in_review()
    for person in ("Ada", "Ben"):
        signed = house.signed(person, submission)
        review.decide(house.facility, house.callers[person], submission, signed)
    assert house.row(submission)["state"] == "certified"
    return str(house.row(submission)["model_name"])


def pulled(house: House, caller: Caller, model: str, name: str) -> bytes:
    data = certified.read_file(house.facility, caller, model, name)
    listed = certified.listing(house.facility, caller, model)["files"][name]
    assert listed == {"digest": sha256_bytes(data), "size": len(data)}
    return data


def copied(house: House, folder: Path) -> None:
    """The log's tree, as a hospital fetches it with the status."""
    known = KnownTree(house.facility.gate)

    def read(name: str) -> bytes:
        return published(house.facility, known, name.removeprefix("log/"))

    bring_log(read, folder, house.facility.root, dt.datetime.now(dt.UTC))
    for name in ("tile/0/000.p/257", "tile/0/999", "tile/9/000", "events", "tile/0/../0/000"):
        with pytest.raises(NotFound):
            read(name)


def proven(house: House, data: bytes) -> Proven:
    return check_proof(data, house.facility.root, dt.datetime.now(dt.UTC))


def test_the_log_holds_the_statement_that_was_signed(
    house: House, clara: Caller, model: str
) -> None:
    envelope: Any = json.loads(pulled(house, clara, model, "certificate.json"))
    found = proven(house, pulled(house, clara, model, "log.json"))
    (event,) = found.events
    assert event.kind == "certificate-issued"
    assert json.loads(event.detail)["statement"] == sha256_bytes(payload_of(envelope))
    quoted = parse(parse_statement(payload_of(envelope))[1].log.checkpoint.encode())[0]
    assert quoted.size < event.seq
    assert found.extends(quoted)


def test_it_is_the_same_file_while_the_log_grows(house: House, clara: Caller, model: str) -> None:
    before = pulled(house, clara, model, "log.json")
    house.in_review()
    make_checkpoint(house.facility)
    assert pulled(house, clara, model, "log.json") == before


@pytest.fixture
def witness(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A witness over HTTP that a certificate of this facility needs."""
    key = log_key(house.facility)
    with StrictWitness("witness.example/w", tmp_path) as made:
        made.trust(key.origin, key.key.public_key())
        chosen = tmp_path / "witnesses.txt"
        chosen.write_text(f"needed 1\n{made.verifier_key} {made.url}\n")
        settings = replace(house.facility.settings, witnesses=chosen)
        monkeypatch.setattr(house, "facility", replace(house.facility, settings=settings))
        yield made


def look(house: House) -> None:
    """What the worker does twice a minute."""
    asyncio.run(ask(house.facility, KnownTree(house.facility.gate)))


def test_from_the_facilitys_log_by_its_witness_to_the_hospital(
    house: House, clara: Caller, witness: StrictWitness, tmp_path: Path
) -> None:
    """The line is in what the assessors sign and in the proof; the hospital goes by its time."""
    witness.clock = lambda: time.time() + 120  # a clock that is ahead, to be told from ours
    submission = house.in_review()
    signed_over = parse_statement(house.facility.store.get(places.statement(submission)))[1]
    quoted = signed_over.log.checkpoint.encode()
    public = witness.key.public_key()
    assert witnessed_at(quoted, witness.name, public) > dt.datetime.now(dt.UTC)
    for person in ("Ada", "Ben"):
        signed = house.signed(person, submission)
        review.decide(house.facility, house.callers[person], submission, signed)
    model = str(house.row(submission)["model_name"])
    policy = Policy(
        allow_demo=True,
        witnesses=(Witness(*parse_witness_key(witness.verifier_key)),),
        witnesses_needed=1,
    )
    before = hospitals(house, clara, model, tmp_path / "before", policy)
    assert before.error is not None
    assert (before.error.code, exit_status(before.error.code)) == ("not_witnessed", 43)
    house.in_review()  # the log is signed again, and co-signed, before the worker looks
    make_checkpoint(house.facility)
    look(house)
    after = hospitals(house, clara, model, tmp_path / "after", policy)
    found = proven(house, pulled(house, clara, model, "log.json"))
    sizes = [size for size in stored_sizes(house.facility) if size >= found.events[0].seq]
    assert sizes.index(found.checkpoint.size) == 1, "the first was never seen, the third is later"
    assert witness.saw(found.checkpoint.origin)[0] == sizes[2]
    [step] = [step for step in after.steps if step.name == "signatures"]
    assert step.outcome == "ok"
    logged = read_logged(
        tmp_path / "after", house.row(submission)["statement_digest"], house.root.certificate,
        policy, dt.datetime.now(dt.UTC),
    )  # fmt: skip
    assert logged.at == witnessed_at(found.note, witness.name, public)
    assert logged.at - dt.datetime.now(dt.UTC) > dt.timedelta(seconds=60), "its clock, not ours"
    assert logged.witnesses == (witness.name,)
    other = replace(policy, witnesses=(Witness("w2", Ed25519PrivateKey.generate().public_key()),))
    refused = hospitals(house, clara, model, tmp_path / "other", other)
    assert refused.error is not None
    assert refused.error.code == "not_witnessed"


def test_a_submission_waits_for_the_witness_that_its_certificate_needs(
    house: House, witness: StrictWitness
) -> None:
    """The pipeline's own step: nothing is written down until a witness has seen the last event."""
    worker = Record(str(house.database.worker), size=1)
    facility = replace(house.facility, record=worker)
    submission = house.in_review(until="assessed")
    work = Work(facility, house.row(submission), Watch(worker, submission))
    origin, asked = log_key(facility).origin, len(witness.asked)
    with witness.forgetting(origin):
        for _ in range(3):
            with pytest.raises(Unavailable, match=witness.name) as raised:
                log_of(work)
    assert raised.value.code in AWAY, "the wait is the facility's fault"
    assert len(witness.asked) == asked + 1, "a draft that comes again does not wait again"
    assert work.output_of("log") is None
    look(house)
    log = log_of(work)
    head = parse(log.checkpoint.encode())[0]
    assert witness.saw(origin) == (head.size, head.root)
    with worker.transaction() as now:
        events = now.all("log_events_about", seq=None, subject=submission, organisation=None)
    assert events[-1]["kind"] == "submission-assessed"
    assert events[-1]["seq"] <= head.size
    make_checkpoint(facility)
    assert log_of(work) == log, "the same when the step is run again"
    worker.close()


def hospitals(
    house: House, caller: Caller, model: str, folder: Path, policy: Policy
) -> VerifyResult:
    """What a hospital finds that pulled everything that this facility hands out."""
    folder.mkdir()
    for name in certified.listing(house.facility, caller, model)["files"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(certified.read_file(house.facility, caller, model, name))
    now = dt.datetime.now(dt.UTC)
    return verify(folder, house.root.certificate, now, policy, replay=False)


def test_the_published_tree_proves_that_the_log_only_grew(
    house: House, clara: Caller, model: str, tmp_path: Path
) -> None:
    seen = proven(house, pulled(house, clara, model, "log.json")).checkpoint
    house.in_review()
    make_checkpoint(house.facility)
    copied(house, tmp_path)
    note = read_checkpoint(tmp_path)
    assert note is not None
    newest = parse(note)[0]
    assert seen.size < newest.size
    path = TiledTree(tmp_path, newest.size).consistency_path(seen.size)
    assert extends(seen.size, seen.root, newest.size, newest.root, path)
