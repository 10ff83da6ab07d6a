"""Whatever is done to a file of a bundle, `verify` says what it is: no traceback and no hang."""

import base64
import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.cli.hospital import Asked
from registry.trust.canonical import canonical
from registry.trust.checkpoint import verifier_key
from registry.trust.dsse import add_signature
from registry.trust.enrolment import Register, parse_register, person_of, request
from registry.trust.errors import Invalid, Refused, TouchstoneError
from registry.trust.keys import issue, load_certificate, pem_of
from serving.bundle.acknowledged import FILE
from serving.bundle.exits import exit_status
from serving.bundle.pack import write_bundle
from serving.bundle.policy import witnesses_of
from serving.bundle.verify import verify
from serving.sandbox import Limits, Sandbox
from tests.serving import certified
from tests.serving.certified import NOW, TAKES, Facility

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def tef() -> Facility:
    return certified.facility()


@pytest.fixture(scope="module")
def files(tef: Facility) -> Files:
    """Signed by Ada of the founding statement, and by Cleo, whom Ada and Ben enrolled."""
    cleo = issue(tef.root, "Cleo", organisation="tef")
    asked = request(person_of(cleo.certificate, "assessor", NOW))
    first = parse_register(certified.around(b"", tef.log, tef.ada, tef.ben)["enrolments.json"])
    register = Register(
        first.founding,
        (add_signature(add_signature(asked, tef.ada), tef.ben),),
        (*first.certificates, cleo.certificate),
    )
    made = certified.packed(certified.model(), golden=certified.NO_GOLDEN)
    signed = certified.signed(made, tef.log, tef.ada, cleo)
    return signed | {"enrolments.json": register.as_bytes()}


@pytest.fixture
def bundle(files: Files, tmp_path: Path) -> Path:
    return write_bundle(files, tmp_path / "nodule-3")


def code_of(directory: Path, tef: Facility) -> str | None:
    """What `verify` says without the replay; each code but one has an exit status of its own."""
    result = verify(directory, tef.root.certificate, NOW, TAKES, replay=False)
    if result.error is not None:
        assert exit_status(result.error.code) != 1, result.error.code
    return None if result.error is None else result.error.code


ODD: tuple[Any, ...] = (
    None, True, -1, 2**53, 1.5, "", "\ud800", "x" * 5000, [], {}, [[]], 10**30,
    "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z",
)  # fmt: skip


def changed_value(value: Any, by: random.Random) -> Any:
    """One part of a JSON value replaced, doubled or taken away; also of JSON within base64."""
    box: dict[str, Any] = {"": copy.deepcopy(value)}
    above: Any = box
    key: Any = ""
    at = box[""]
    while isinstance(at, dict | list) and at and by.random() < 0.85:
        above, key = at, by.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at = above[key]
    within = _json_in(at)
    if within is not None and by.random() < 0.7:
        above[key] = base64.b64encode(_written(changed_value(within, by))).decode()
    elif isinstance(at, list) and at and by.random() < 0.5:
        at.append(copy.deepcopy(by.choice(at)))
    elif isinstance(above, dict) and len(above) > 1 and by.random() < 0.3:
        del above[key]
    elif isinstance(at, str) and at and by.random() < 0.5:
        place = by.randrange(len(at))
        above[key] = at[:place] + by.choice(["", "é", "\n", "A", "="]) + at[place + 1 :]
    else:
        above[key] = by.choice(ODD)
    return box[""]


def _json_in(text: Any) -> Any:
    try:
        found = json.loads(base64.b64decode(text, validate=True))
    except (ValueError, TypeError):
        return None
    return found if isinstance(found, dict | list) else None


def _written(value: Any) -> bytes:
    try:
        return canonical(value)
    except (Invalid, UnicodeError):
        return json.dumps(value).encode()


def changed_bytes(data: bytes, by: random.Random) -> bytes:
    """A bit flipped, a part cut out or put in, or something else altogether."""
    place = by.randrange(len(data))
    return by.choice(
        [
            data[:place] + bytes([data[place] ^ 1 << by.randrange(8)]) + data[place + 1 :],
            data[:place],
            data[:place] + data[place + by.randrange(1, 50) :],
            data[:place] + by.randbytes(4) + data[place:],
            data + b"\n",
            b"[" * 90_000,
            b'{"a":' * 90_000,
            b"\xef\xbb\xbf" + data,
            b"1" * 5000,
            b"NaN",
            b"",
        ]
    )


@pytest.mark.parametrize("seed", range(6))
def test_what_is_changed_is_refused_by_a_code_with_an_exit_status(
    bundle: Path, files: Files, tef: Facility, seed: int
) -> None:
    """The order in which two signatures stand means nothing, so it is not among the changes."""
    by = random.Random(seed)  # noqa: S311 - the same each time
    names = ["certificate.json", "signers.pem", "enrolments.json", "enrolments.json", "log.json"]
    for name in [*names * 8, *sorted(files)]:
        data = files[name]
        if name.endswith(".json") and by.random() < 0.8:
            new = _written(changed_value(json.loads(data), by))
        else:
            new = changed_bytes(data, by)
        (bundle / name).write_bytes(new)
        assert (code_of(bundle, tef) is None) == (new == data), (seed, name)
        (bundle / name).write_bytes(data)
    assert code_of(bundle, tef) is None


def payload(register: dict[str, Any], new: bytes) -> None:
    register["enrolments"][0]["payload"] = base64.b64encode(new).decode()


def without_time_zone(register: dict[str, Any]) -> None:
    person = json.loads(base64.b64decode(register["enrolments"][0]["payload"]))
    payload(register, canonical(person | {"date": "2026-01-01T00:00:00"}))


def nested(register: dict[str, Any]) -> None:
    payload(register, b"[" * 100_000)


def certificate_twice(register: dict[str, Any]) -> None:
    register["certificates"].append(register["certificates"][0])
    register["certificates"].sort()


def signature_twice(register: dict[str, Any]) -> None:
    register["founding"]["signatures"] *= 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without_time_zone, "invalid"),
        (nested, "invalid"),
        (certificate_twice, "enrolments_malformed"),
        (signature_twice, "enrolments_malformed"),
    ],
)
def test_enrolments_that_were_made_to_trip_the_program(
    bundle: Path, tef: Facility, change: Callable[[dict[str, Any]], None], code: str
) -> None:
    path = bundle / "enrolments.json"
    register = json.loads(path.read_bytes())
    change(register)
    path.write_bytes(canonical(register))
    assert code_of(bundle, tef) == code


@pytest.mark.parametrize("name", ["model/model.onnx", "report.json"])
def test_a_file_with_a_hole_of_a_terabyte_is_not_read(
    bundle: Path, tef: Facility, name: str
) -> None:
    os.truncate(bundle / name, 1 << 40)
    assert code_of(bundle, tef) == "file_changed"
    os.truncate(bundle / name, (256 << 20) + 1)
    if name == "report.json":
        assert code_of(bundle, tef) == "file_changed"


def test_a_name_in_a_certificate_paints_nothing_on_a_terminal(bundle: Path, tef: Facility) -> None:
    other = certified.facility()
    painter = issue(other.root, "\x1b[1A\x1b[2Kok  signatures\u202e", organisation="tef")
    (bundle / "signers.pem").write_bytes(b"".join(map(pem_of, (painter.certificate,) * 1)))
    envelope = json.loads((bundle / "certificate.json").read_bytes())
    envelope["signatures"] = []
    envelope = add_signature(envelope, painter)
    (bundle / "certificate.json").write_bytes(canonical(envelope))
    result = verify(bundle, tef.root.certificate, NOW, TAKES, replay=False)
    assert result.error is not None
    assert result.error.code == "other_root"
    assert result.error.message.isprintable()
    assert "?[1A?[2Kok signatures?" in result.error.message


def test_a_model_that_does_not_run_here_has_an_exit_status_of_its_own(
    tef: Facility, tmp_path: Path
) -> None:
    made = certified.packed(certified.model(), golden=certified.NO_GOLDEN)
    bundle = write_bundle(certified.signed(made, tef.log, tef.ada, tef.ben), tmp_path / "b")
    result = verify(
        bundle, tef.root.certificate, NOW, TAKES,
        sandbox_factory=lambda: Sandbox.start(Limits(load_seconds=0.001)),
    )  # fmt: skip
    assert result.error is not None
    assert (result.error.code, exit_status(result.error.code)) == ("golden_failed", 51)
    assert "time limit" in result.error.message
    assert exit_status("golden_no_tolerance") == 51


def test_two_keys_of_one_witness_are_one_witness() -> None:
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(2)]
    same = tuple(verifier_key("witness.example", key, 4) for key in keys)
    other = verifier_key("other.example", keys[1], 4)
    assert len(witnesses_of((same[0], other), 2)[0]) == 2
    for wrong in (same, (same[0], "nothing")):
        with pytest.raises(Invalid) as caught:
            witnesses_of(wrong, 2)
        assert exit_status(caught.value.code) == 1, "a mistake in how it was asked"


def test_a_damaged_list_of_acknowledged_uses_is_the_hospital_s_and_not_the_bundle_s(
    tef: Facility, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text("[")
    with pytest.raises(TouchstoneError) as caught:
        Asked(state=tmp_path).policy(tef.root.certificate)
    assert exit_status(caught.value.code) == 69


def test_a_folder_in_the_place_of_a_file_is_told_in_a_line(tef: Facility, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't be read as a certificate"):
        load_certificate(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "state" / FILE).mkdir(parents=True)
    for state in (tmp_path / "file", tmp_path / "state"):
        with pytest.raises(TouchstoneError) as caught:
            Asked(state=state).policy(tef.root.certificate)
        assert exit_status(caught.value.code) == 69
    with pytest.raises(Invalid) as mistake:
        Asked(state=tmp_path, acknowledge="a").policy(tef.root.certificate)
    assert exit_status(mistake.value.code) == 1


def test_a_message_is_one_line_that_shows_itself() -> None:
    assert str(Refused("a\r\n b\x07\x9b\u200b é 中")) == "a b??? é 中"
