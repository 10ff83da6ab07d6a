"""The log as a stranger checks it: tree, checkpoint, key and proof, without any server."""

import base64
import datetime as dt
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from registry.trust import checkpoint as cp
from registry.trust import keys, log_key, merkle
from registry.trust.canonical import canonical
from registry.trust.errors import Invalid, Refused, Tampered, TouchstoneError
from registry.trust.event import BEFORE_THE_FIRST, Event, parse_event
from registry.trust.log_proof import check_proof, proof_bytes
from tests.serving import certified

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
NOW = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
ROOT = keys.new_root("tef", demo=True)
LOG = certified.log_of(ROOT)

# The eight leaves that certificate-transparency's reference tests use, with their published hashes.
LEAVES = [
    b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43",
    bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70)),
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def tree_of(leaves: list[bytes]) -> merkle.Tree:
    return merkle.Tree(merkle.leaf_hash(leaf) for leaf in leaves)


def test_the_tree_has_the_published_roots_and_consistency_proofs() -> None:
    tree = tree_of(LEAVES)
    assert tree.root(0) == merkle.EMPTY_ROOT
    for size, expected in enumerate(ROOTS, start=1):
        assert tree.root(size).hex() == merkle.root(LEAVES[:size]).hex() == expected
    for (first, second), path in CONSISTENCY.items():
        assert [step.hex() for step in tree.consistency_path(first, second)] == path


@given(
    st.lists(st.binary(max_size=8), min_size=1, max_size=70), st.data()
)  # fmt: skip
def test_every_tree_proves_that_it_begins_with_every_smaller_one(
    leaves: list[bytes], data: st.DataObject
) -> None:
    tree = tree_of(leaves)
    second = data.draw(st.integers(0, len(leaves)))
    first = data.draw(st.integers(0, second))
    path = tree.consistency_path(first, second)
    roots = tree.root(first), tree.root(second)
    assert roots == (merkle.root(leaves[:first]), merkle.root(leaves[:second]))
    assert merkle.extends(first, roots[0], second, roots[1], path)
    if second:
        index = data.draw(st.integers(0, second - 1))
        audit = tree.inclusion_path(index, second)
        assert audit == merkle.inclusion_path(index, leaves[:second])
        assert merkle.includes(leaves[index], index, second, audit, roots[1])


@given(
    st.lists(st.binary(max_size=8), min_size=2, max_size=70, unique=True),
    st.data(),
    st.sampled_from(["flip", "drop", "add", "swap", "short", "old", "new", "sizes"]),
)
def test_a_consistency_proof_that_was_touched_proves_nothing(
    leaves: list[bytes], data: st.DataObject, how: str
) -> None:
    tree = tree_of(leaves)
    second = data.draw(st.integers(2, len(leaves)))
    first = data.draw(st.integers(1, second - 1))
    path, old, new = tree.consistency_path(first, second), tree.root(first), tree.root(second)
    at = data.draw(st.integers(0, len(path) - 1))
    other = hashlib.sha256(b"other").digest()
    if how == "flip":
        path[at] = bytes([path[at][0] ^ 1]) + path[at][1:]
    elif how == "drop":
        del path[at]
    elif how == "add":
        path.insert(at, other)
    elif how == "swap":
        path = [*path[1:], path[0]] if len(path) > 1 and path[0] != path[-1] else [other]
    elif how == "short":
        path[at] = path[at][:31]
    elif how == "old":
        old = other
    elif how == "new":
        new = other
    else:
        first, second = second, first
    assert not merkle.extends(first, old, second, new, path)


def test_a_fork_can_not_be_proved_consistent() -> None:
    ours, forked = tree_of(LEAVES), tree_of([*LEAVES[:3], b"another", *LEAVES[4:]])
    for first in range(4, 8):
        path = forked.consistency_path(first, 8)
        assert not merkle.extends(first, ours.root(first), 8, forked.root(8), path)
    assert merkle.extends(3, ours.root(3), 8, forked.root(8), forked.consistency_path(3, 8))


def test_an_inclusion_path_of_hashes_that_are_none_proves_nothing() -> None:
    tree = tree_of(LEAVES)
    path = tree.inclusion_path(3)
    assert merkle.includes(LEAVES[3], 3, 8, path, tree.root())
    for touched in ([*path, path[0]], path[:-1], [path[0][:-1], *path[1:]], []):
        assert not merkle.includes(LEAVES[3], 3, 8, touched, tree.root())


# -- checkpoints -----------------------------------------------------------------------------------

# The example of C2SP's tlog-cosignature, whose log key is published as a vkey in its tests.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b"
    "2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()


def note(size: int = 8, **changes: object) -> bytes:
    values = {"origin": LOG.origin, "size": size, "root": tree_of(LEAVES).root()} | changes
    return cp.sign(cp.Checkpoint(**values), LOG.key)  # type: ignore[arg-type]


def test_the_example_of_the_specification_parses_and_is_written_again_to_the_byte() -> None:
    checkpoint, lines = cp.parse(C2SP_CHECKPOINT)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert [line.name for line in lines] == [
        "example.com/behind-the-sofa", "witness.example.com/w1"
    ]  # fmt: skip
    written = checkpoint.text() + b"\n" + b"".join(line.text() for line in lines)
    assert written == C2SP_CHECKPOINT
    assert int.from_bytes(lines[1].signature[:8], "big") == 1679315147  # the time that it states


def test_keys_and_signature_lines_are_those_of_other_implementations() -> None:
    """A key and a note that the Go library's documentation and its ports publish."""
    name, identifier, encoded = [
        "example.com/foo",
        "530d903a",
        "AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ]
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])
    assert cp.key_id(name, public).hex() == identifier
    assert cp.verifier_key(name, public) == f"{name}+{identifier}+{encoded}"
    signature = base64.b64decode(
        "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    )
    assert signature[:4].hex() == identifier
    public.verify(signature[4:], b"This is an example message.\n")


def test_a_note_is_signed_the_same_whenever_it_is_asked_and_verifies() -> None:
    assert note() == note()
    assert cp.verified(note(), LOG.origin, LOG.key.public_key()).size == 8
    text = note().decode().splitlines()
    assert text[:2] == [LOG.origin, "8"]
    assert text[3] == ""
    assert text[4].startswith(f"— {LOG.origin} ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda n: n.replace(b"\n8\n", b"\n08\n"),
        lambda n: n.replace(b"\n8\n", b"\n-8\n"),
        lambda n: n.replace(b"\n8\n", b"\n8 \n"),
        lambda n: n.replace(b"\n8\n", b"\n\xd9\xa8\n"),
        lambda n: n.replace(b"\n8\n", b"\n" + b"9" * 19 + b"\n"),
        lambda n: n.replace(b"=\n\n", b"\n\n"),
        lambda n: n.replace(b"\n\n", b"\n"),
        lambda n: n.replace(b"\n\n", b"\n\n\n"),
        lambda n: n.partition(b"\xe2\x80\x94")[0],
        lambda n: n[:-1],
        lambda n: n + b"\n",
        lambda n: n.replace(b"\xe2\x80\x94", b"-"),
        lambda n: n.replace(b"\n", b"\r\n"),
        lambda n: n.replace(b"touchstone/", b"touchstone+"),
        lambda n: b" " + n,
        lambda n: b"\xff" + n,
        lambda n: n[:-3] + b"_\n",
        lambda n: n + b"\xe2\x80\x94 w AAAA\n",
        lambda n: n * 100,
        lambda n: n + b"\xe2\x80\x94 w AAAAAAAAAAA=\n" * 70,
        lambda n: n + b"\xe2\x80\x94 w " + b"A" * 70_000 + b"\n",
        lambda n: b"",
    ],
)
def test_a_malformed_note_is_refused(damage) -> None:  # type: ignore[no-untyped-def]
    assert damage(note()) != note()
    with pytest.raises(Invalid):
        cp.verified(damage(note()), LOG.origin, LOG.key.public_key())


@given(st.integers(0, len(note()) - 1), st.integers(1, 255))
def test_no_byte_of_a_note_can_be_changed(at: int, by: int) -> None:
    touched = bytearray(note())
    touched[at] ^= by
    with pytest.raises(TouchstoneError):
        cp.verified(bytes(touched), LOG.origin, LOG.key.public_key())


def test_a_checkpoint_of_another_log_or_another_key_is_refused() -> None:
    other = certified.log_of(ROOT, "touchstone/tef/other")
    theirs = cp.sign(cp.Checkpoint(other.origin, 8, tree_of(LEAVES).root()), other.key)
    with pytest.raises(Refused, match="of the log"):
        cp.verified(theirs, LOG.origin, LOG.key.public_key())
    pretending = cp.sign(cp.Checkpoint(LOG.origin, 8, tree_of(LEAVES).root()), other.key)
    with pytest.raises(Refused, match="not signed by the log's key"):
        cp.verified(pretending, LOG.origin, LOG.key.public_key())


def test_extension_lines_of_others_are_kept_and_signed_over() -> None:
    extended = note(extensions=("one", "two words"))
    assert cp.verified(extended, LOG.origin, LOG.key.public_key()).extensions == (
        "one", "two words"
    )  # fmt: skip
    with pytest.raises(Tampered):
        cp.verified(extended.replace(b"\none", b"\ntwo"), LOG.origin, LOG.key.public_key())


def test_a_witness_adds_its_line_later_and_anybody_checks_it() -> None:
    witness, name = Ed25519PrivateKey.generate(), "witness.example/w1"
    at = dt.datetime(2026, 11, 24, 9, 30, tzinfo=dt.UTC)
    line = cp.cosignature_line(note(), name, witness, at)
    both = cp.with_line(note(), line)
    assert both == note() + line
    assert cp.with_line(both, line) == both
    assert cp.verified(both, LOG.origin, LOG.key.public_key()).size == 8
    assert cp.witnessed_at(both, name, witness.public_key()) == at
    # As the specification has it, computed here by hand.
    signature = base64.b64decode(line.decode().split(" ")[2])
    assert signature[:4] == hashlib.sha256(
        name.encode() + b"\n\x04" + witness.public_key().public_bytes_raw()
    ).digest()[:4]  # fmt: skip
    signed = (
        b"cosignature/v1\ntime %d\n" % int(at.timestamp()) + note().partition(b"\n\n")[0] + b"\n"
    )
    witness.public_key().verify(signature[12:], signed)


def test_a_cosignature_on_another_checkpoint_or_none_is_refused() -> None:
    witness, name = Ed25519PrivateKey.generate(), "witness.example/w1"
    line = cp.cosignature_line(note(7), name, witness, NOW)
    with pytest.raises(Tampered, match="cosignature"):
        cp.witnessed_at(cp.with_line(note(8), line), name, witness.public_key())
    with pytest.raises(Refused, match="has not co-signed"):
        cp.witnessed_at(note(8), name, witness.public_key())
    with pytest.raises(Refused, match="has not co-signed"):
        cp.witnessed_at(cp.with_line(note(7), line), "witness.example/w2", witness.public_key())


def test_a_witnesss_key_is_read_as_it_is_published() -> None:
    public = Ed25519PrivateKey.generate().public_key()
    name, found = cp.parse_witness_key(cp.verifier_key("witness.example/w1", public, 4))
    assert (name, found) == ("witness.example/w1", public)
    for wrong in (cp.verifier_key("w", public, 1), "w", "w+00000000+", "w+zz+AAAA"):
        with pytest.raises(Invalid):
            cp.parse_witness_key(wrong)


# -- the log's key ---------------------------------------------------------------------------------


def test_the_logs_key_can_sign_nothing_but_checkpoints() -> None:
    with pytest.raises(Refused, match="code signing"):
        keys.check_leaf(LOG.certificate, ROOT.certificate, NOW)


def test_a_persons_key_or_the_root_can_not_sign_checkpoints() -> None:
    ada = keys.issue(ROOT, "Ada", organisation="tef")
    for certificate in (ada.certificate, ROOT.certificate):
        with pytest.raises(Refused, match=r"not a log's|lacks an extension"):
            log_key.check_log_certificate(certificate, ROOT.certificate, NOW)


def test_a_log_under_another_root_is_refused() -> None:
    other = keys.new_root("tef", demo=True)
    with pytest.raises(Refused, match="not issued by this root"):
        log_key.verified_checkpoint(note(), LOG.certificate, other.certificate, NOW)
    with pytest.raises(Refused, match="not valid"):
        log_key.check_log_certificate(
            LOG.certificate, ROOT.certificate, NOW + dt.timedelta(days=9999)
        )


def test_an_elliptic_curve_key_is_not_certified_as_a_logs() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    ada = keys.issue(ROOT, "Ada", organisation="tef")
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    with pytest.raises(Refused, match="request"):
        log_key.certify(asked.sign(ada.key, hashes.SHA256()), ROOT)


# -- proofs ----------------------------------------------------------------------------------------


def events(count: int) -> list[Event]:
    made, previous = [], BEFORE_THE_FIRST
    for seq in range(1, count + 1):
        at = f"2026-11-24T10:00:00.{seq:06d}Z"
        event = Event(seq, at, "Ada", "tef", "report-read", f"s-{seq}", '{"digest":"…"}', previous)
        previous = event.hash()
        made.append(event)
    return made


def proof(*wanted: int, size: int = 11) -> dict[str, object]:
    made = events(size)
    tree = tree_of([event.leaf() for event in made])
    signed = cp.sign(cp.Checkpoint(LOG.origin, size, tree.root()), LOG.key)
    entries = [(made[seq - 1], tree.inclusion_path(seq - 1)) for seq in wanted]
    value: dict[str, object] = json.loads(proof_bytes(entries, signed, LOG.certificate))
    return value


def test_a_proof_is_checked_with_the_root_alone() -> None:
    proven = check_proof(canonical(proof(3, 7)), ROOT.certificate, NOW)
    assert [event.seq for event in proven.events] == [3, 7]
    assert (proven.checkpoint.size, proven.checkpoint.origin) == (11, LOG.origin)


@pytest.mark.parametrize(
    ("field", "value"),
    [("actor", "Eve"), ("at", "2026-11-24T10:00:01.000003Z"), ("seq", 4), ("detail", "{}"),
     ("subject", "s-4"), ("previous", "11" * 32), ("organisation", "sme-a"), ("kind", "x")],
)  # fmt: skip
def test_a_proof_of_an_event_that_was_touched_is_refused(field: str, value: object) -> None:
    forged = proof(3)
    forged["entries"][0]["event"][field] = value  # type: ignore[index]
    with pytest.raises(Tampered, match="not in the log"):
        check_proof(canonical(forged), ROOT.certificate, NOW)


def test_a_forged_proof_is_refused() -> None:
    other = certified.log_of(ROOT, "touchstone/tef/other")
    good = proof(3)
    theirs = cp.sign(cp.Checkpoint(other.origin, 11, b"x" * 32), other.key).decode()
    unsigned = str(good["checkpoint"]).partition("—")[0]
    for changes, error in (
        ({"checkpoint": theirs}, Refused),  # of another log
        ({"checkpoint": unsigned}, Invalid),
        ({"checkpoint": str(good["checkpoint"]).replace("\n11\n", "\n12\n")}, Tampered),
        ({"certificate": keys.pem_of(other.certificate).decode()}, Refused),
        ({"entries": []}, Invalid),
        ({"entries": [{**good["entries"][0], "path": []}]}, Tampered),  # type: ignore[index]
        ({"entries": [{**good["entries"][0], "path": "abc"}]}, TouchstoneError),  # type: ignore[index]
        ({"type": "other"}, Invalid),
        ({"more": 1}, Invalid),
    ):
        with pytest.raises(error):
            check_proof(canonical({**good, **changes}), ROOT.certificate, NOW)
    with pytest.raises(Refused, match="not issued by this root"):
        check_proof(canonical(good), keys.new_root("tef", demo=True).certificate, NOW)
    for data in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, canonical(good) + b" "):
        with pytest.raises(Invalid):
            check_proof(data, ROOT.certificate, NOW)


GOOD = canonical(proof(3, 7))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_of_a_proof_can_be_changed(at: int, by: int) -> None:
    touched = bytearray(GOOD)
    touched[at] ^= by
    try:
        proven = check_proof(bytes(touched), ROOT.certificate, NOW)
    except TouchstoneError:
        return
    # What is left is text around the PEM, which says nothing.
    assert proven == check_proof(GOOD, ROOT.certificate, NOW)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_certificate_of_a_log_makes_the_check_stumble(data: st.DataObject) -> None:
    der = bytearray(LOG.certificate.public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    assume(bytes(der) != LOG.certificate.public_bytes(serialization.Encoding.DER))
    pem = base64.encodebytes(bytes(der)).decode()
    forged = {
        **json.loads(GOOD),
        "certificate": f"-----BEGIN CERTIFICATE-----\n{pem}-----END CERTIFICATE-----\n",
    }
    try:
        check_proof(canonical(forged), ROOT.certificate, NOW)
    except TouchstoneError:
        return
    # A signature that ends in a zero bit can be written with one bit less: the same signature, of
    # the same content.
    passed = keys.parse_certificate(str(forged["certificate"]).encode())
    assert passed.tbs_certificate_bytes == LOG.certificate.tbs_certificate_bytes


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "checkpoint", "certificate", "entries", "event", "path"]),
                inner,
            )
        ),
    )
)
def test_a_proof_of_any_other_shape_is_refused(value: object) -> None:
    whole = json.loads(GOOD)
    shapes = [value, {**whole, "entries": value}, {**whole, "entries": [value]},
              {**whole, "checkpoint": value}, {**whole, "certificate": value},
              {**whole, "entries": [{**whole["entries"][0], "path": value}]},
              {**whole, "entries": [{**whole["entries"][0], "event": value}]}]  # fmt: skip
    for shape in shapes:
        with pytest.raises(TouchstoneError):
            check_proof(canonical(shape), ROOT.certificate, NOW)


@given(TEXT, st.integers(1, 2**53 - 1))
def test_a_leaf_is_the_canonical_json_of_the_event(text: str, seq: int) -> None:
    event = Event(seq, "2026-11-24T10:00:00.000001Z", text, text, "k", text, text, "ab" * 32)
    assert event.leaf() == canonical(event.as_json())
    assert parse_event(json.loads(event.leaf())) == event


@pytest.mark.parametrize(
    "changes",
    [{"seq": 0}, {"seq": True}, {"seq": "1"}, {"seq": 2**53}, {"actor": "a\x1fb"}, {"actor": None},
     {"at": "2026-11-24T10:00:00Z"}, {"previous": "AB" * 32}, {"more": 1}, {"subject": "\ud800"}],
)  # fmt: skip
def test_an_event_that_is_none_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        parse_event(events(1)[0].as_json() | changes)
