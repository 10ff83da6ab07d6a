"""The file that names witnesses, and what is taken of what a witness says."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.audit.witness_protocol import cosignature_in, size_in
from registry.audit.witnesses import MOST, Witness, parse_witnesses
from registry.trust.checkpoint import Checkpoint, parse_witness_key, sign, verifier_key
from registry.trust.errors import Invalid, Refused, Tampered
from tests.registry.strict_witness import StrictWitness

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
HEAD = Checkpoint("tef.example/log", 5, bytes(range(32)))
NOTE, TEXT = sign(HEAD, Ed25519PrivateKey.generate()), HEAD.text()


# -- the file --------------------------------------------------------------------------------------


def vkey(name: str, kind: int = 4) -> str:
    return verifier_key(name, Ed25519PrivateKey.generate().public_key(), kind)


def test_the_file_names_witnesses_addresses_and_how_many_are_needed() -> None:
    one, two = vkey("w1"), vkey("w2")
    found = parse_witnesses(f"# ours\nneeded 1\n\n{one}  https://w.example/api/\n{two}\n")
    assert [(w.name, w.verifier_key, w.url) for w in found.all] == [
        ("w1", one, "https://w.example/api"), ("w2", two, None)
    ]  # fmt: skip
    assert found.needed == 1
    assert parse_witnesses("").needed == 0


ONE = vkey("w1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("w1", "line 1: this is not a witness's key"), ("\n" + vkey("w", 1), "line 2: "),
        (f"{ONE} http://w.example", "https"), (f"{ONE} https://u:p@w.example", "web address"),
        (f"{ONE} https://w.example?a=b", "query"), (f"{ONE} https://w.example more", "no more"),
        (f"{ONE}\n{ONE}", "twice"), (f"{ONE}\n{vkey('w1')}", "twice"),
        (f"{ONE}\nneeded 2", "2 witnesses are needed and 1"), ("needed", "a number"),
        (f"{ONE}\nneeded 1\nneeded 1", "line 3: `needed` stands once"), ("needed -1", "a number"),
        ("\n".join(vkey(f"w{n}") for n in range(MOST + 1)), "at most 16"),
    ],
    ids=["no key", "another kind", "http", "password", "query", "a third word", "twice",
         "name twice", "more than named", "no number", "needed twice", "below none", "too many"],
)  # fmt: skip
def test_a_mistake_in_the_file_is_named(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        parse_witnesses(text)


def test_the_same_key_under_two_names_is_one_witness() -> None:
    key = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(Invalid, match="twice"):
        parse_witnesses("\n".join(verifier_key(name, key, 4) for name in ("a", "b")))


# -- an answer -------------------------------------------------------------------------------------


def answers() -> dict[str, tuple[Callable[[StrictWitness, bytes], bytes], str]]:
    """What a witness may give back for a checkpoint's text, and what is said of it."""
    now = int(NOW.timestamp())
    other = b"elsewhere.example/log\n5\n" + b"A" * 43 + b"=\n"

    def impostor(witness: StrictWitness, text: bytes) -> bytes:
        return StrictWitness(witness.name, Path()).line(text)

    def forged(witness: StrictWitness, text: bytes) -> bytes:
        line = witness.line(text)
        return line[:-6] + bytes([line[-6] ^ 1]) + line[-5:]

    return {
        "nothing": (lambda w, t: b"", "no line of"),
        "words": (lambda w, t: b"<html>busy</html>\n", "not made of signature lines"),
        "no end": (lambda w, t: w.line(t)[:-1], "not made of signature lines"),
        "too much": (lambda w, t: w.line(t) * 400, "longer than"),
        "another checkpoint": (lambda w, t: w.line(other), "does not fit this checkpoint"),
        "another key": (impostor, "no line of"),
        "forged": (forged, "does not fit this checkpoint|not made of signature lines"),
        "the future": (lambda w, t: w.line(t, now + 3600), "which is in the future"),
        "no time": (lambda w, t: w.line(t, 2**63 - 1), "a time that can't be one"),
        "before it was made": (lambda w, t: w.line(t, now - 3600), "was not made yet"),
    }


@pytest.mark.parametrize("what", answers())
def test_an_answer_that_is_no_cosignature_of_this_checkpoint_is_not_taken(
    tmp_path: Path, what: str
) -> None:
    make, says = answers()[what]
    strict = StrictWitness("witness.example", tmp_path)
    chosen = Witness(*parse_witness_key(strict.verifier_key), strict.verifier_key, None)
    line, seen_at = cosignature_in(behind_a_stranger(strict, TEXT), NOTE, chosen, NOW, NOW)
    assert (line, seen_at) == (strict.line(TEXT, int(NOW.timestamp())), NOW)
    with pytest.raises((Invalid, Refused, Tampered), match=says):
        cosignature_in(make(strict, TEXT), NOTE, chosen, NOW, NOW)


def behind_a_stranger(strict: StrictWitness, text: bytes) -> bytes:
    """Its line behind one of somebody else, which is passed over."""
    stranger = StrictWitness("stranger.example", Path())
    return stranger.line(text) + strict.line(text, int(NOW.timestamp()))


@pytest.mark.parametrize(
    ("kind", "body", "size"),
    [("text/x.tlog.size", b"20\n", 20), ("text/x.tlog.size; charset=utf-8", b"0\n", 0),
     ("text/plain", b"20\n", None), ("text/x.tlog.size", b"20", None),
     ("text/x.tlog.size", b"020\n", None), ("text/x.tlog.size", b"9" * 30 + b"\n", None)],
)  # fmt: skip
def test_a_size_is_read_only_in_its_own_form(kind: str, body: bytes, size: int | None) -> None:
    assert size_in(kind, body) == size
