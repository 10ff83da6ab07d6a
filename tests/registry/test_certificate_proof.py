"""What the facility hands out beside a certificate: the log's proof of it, and the log's tree."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.audit.certificate_proof import witnessed
from registry.audit.checkpoints import make_checkpoint
from registry.audit.tiles import published
from registry.audit.tree import KnownTree
from registry.identity.caller import Caller
from registry.submissions import certified, review
from registry.trust.canonical import sha256_bytes
from registry.trust.certificate import parse_statement
from registry.trust.checkpoint import cosignature_line, parse, verifier_key, witnessed_at
from registry.trust.dsse import payload_of
from registry.trust.errors import NotFound, Refused, Tampered
from registry.trust.log_proof import Proven, check_proof
from registry.trust.merkle import extends
from registry.trust.tiles import TiledTree, read_checkpoint
from serving.bundle.log_copy import bring_log
from tests.registry.house import House


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


def test_what_a_witness_added_is_in_the_next_pull(house: House, clara: Caller, model: str) -> None:
    key, name = Ed25519PrivateKey.generate(), "witness.example/w"
    found = proven(house, pulled(house, clara, model, "log.json"))
    size, now = found.checkpoint.size, dt.datetime.now(dt.UTC).replace(microsecond=0)
    vkey = verifier_key(name, key.public_key(), 4)
    other = cosignature_line(found.note, name, Ed25519PrivateKey.generate(), now)
    with pytest.raises((Refused, Tampered)):
        witnessed(house.facility, size, other, vkey)
    line = cosignature_line(found.note, name, key, now)
    note = witnessed(house.facility, size, line, vkey)
    assert witnessed(house.facility, size, line, vkey) == note, "twice is once"
    again = proven(house, pulled(house, clara, model, "log.json"))
    assert witnessed_at(again.note, name, key.public_key()) == now


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
