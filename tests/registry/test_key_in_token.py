"""Cohorts' data keys wrapped by an AES key that never leaves its token: a real one, in software."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from registry.settings import read_settings
from registry.storage.key_encryption import key_encryption
from registry.trust.errors import Invalid, Refused, Unavailable
from tests.registry.soft_token import SoftToken, soft_token
from validators.cohort.key_store import create_keys, destroy_keys, open_keys, rewrap_keys
from validators.cohort.keys import CohortKeys, KeyEncryption

WRAP = "pkcs11:token=kek;object=wrap"


@dataclass(frozen=True)
class Named:
    id: str = "nodules"
    version: str = "1"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftToken]:
    """Two tokens, each with an AES key that is called `wrap`."""
    with soft_token(tmp_path_factory.mktemp("tokens"), "kek", "other") as made:
        for label in ("kek", "other"):
            add_key(made, label, "wrap")
        yield made


def add_key(token: SoftToken, label: str, name: str) -> None:
    import pkcs11

    with token.session(label) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, label=name, store=True)


def by(name: str, environment: Mapping[str, str]) -> KeyEncryption:
    settings = replace(read_settings({"TOUCHSTONE_HOME": "/nowhere"}), key_encryption=name)
    encryption = key_encryption(settings, environment)
    assert encryption is not None
    return encryption


def secrets_of(keys: CohortKeys) -> list[bytes]:
    return [keys.inputs().secret, keys.reference().secret, keys.names().secret]


def test_a_token_wraps_keys_bound_to_cohort_version_and_purpose(
    token: SoftToken, tmp_path: Path
) -> None:
    encryption = by(WRAP, token.environment())
    made = secrets_of(create_keys(tmp_path, "nodules", "1", encryption))
    path = tmp_path / "nodules/1.json"
    whole = path.read_bytes()
    held = json.loads(whole)
    assert held["by"] == WRAP
    assert not any(secret in whole for secret in made)
    assert not (tmp_path / "key-encryption.key").exists()
    assert secrets_of(open_keys(tmp_path, Named(), encryption)) == made
    changed = "A" + held["names"][1:] if held["names"][0] != "A" else "B" + held["names"][1:]
    wrong: list[tuple[dict[str, str], Callable[[CohortKeys], Any]]] = [
        ({"inputs": held["reference"]}, CohortKeys.inputs),
        ({"reference": held["inputs"]}, CohortKeys.reference),
        ({"names": changed}, CohortKeys.names),
        ({"names": held["names"][:8]}, CohortKeys.names),
        ({"names": ""}, CohortKeys.names),
    ]
    for change, opened in wrong:
        path.write_text(json.dumps(held | change))
        with pytest.raises(Refused, match="can't be unwrapped"):
            opened(open_keys(tmp_path, Named(), encryption))
    (tmp_path / "others").mkdir()
    (tmp_path / "others/1.json").write_text(json.dumps(held))
    (tmp_path / "nodules/2.json").write_text(json.dumps(held))
    for elsewhere in (Named("others"), Named(version="2")):
        with pytest.raises(Refused, match="can't be unwrapped"):
            open_keys(tmp_path, elsewhere, encryption).inputs()


def test_a_wrong_pin_opens_nothing(token: SoftToken, tmp_path: Path) -> None:
    create_keys(tmp_path, "nodules", "1", by(WRAP, token.environment()))
    wrong = by(WRAP, token.environment() | {"TOUCHSTONE_PKCS11_PIN": "0000-wrong"})
    with pytest.raises(Refused, match="the token refused the PIN"):
        open_keys(tmp_path, Named(), wrong).inputs()
    with pytest.raises(Refused, match="the token refused the PIN"):
        create_keys(tmp_path, "others", "1", wrong)
    assert not (tmp_path / "others/1.json").exists()
    source = tmp_path / "pin"
    source.write_text(token.environment()["TOUCHSTONE_PKCS11_PIN"] + "\n")
    (module,) = [v for k, v in token.environment().items() if k.endswith("MODULE")]
    from_file = by(f"{WRAP}?pin-source=file:{source}", {"TOUCHSTONE_PKCS11_MODULE": module})
    assert create_keys(tmp_path, "others", "1", from_file).inputs().secret


def test_what_one_token_wrapped_no_other_opens(token: SoftToken, tmp_path: Path) -> None:
    """Neither under its own name, nor when it poses under the first one's."""
    create_keys(tmp_path, "nodules", "1", by(WRAP, token.environment()))
    other = by("pkcs11:token=other;object=wrap", token.environment())
    with pytest.raises(Refused, match="wrapped by pkcs11:token=kek;object=wrap"):
        open_keys(tmp_path, Named(), other)
    path = tmp_path / "nodules/1.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"by": other.name}))
    with pytest.raises(Refused, match="wrapped by another token"):
        open_keys(tmp_path, Named(), other).inputs()


def test_a_key_or_token_that_is_gone_is_said_and_a_second_of_its_name_is_never_guessed(
    token: SoftToken, tmp_path: Path
) -> None:
    name = "pkcs11:token=kek;object=short-lived"
    add_key(token, "kek", "short-lived")
    encryption = by(name, token.environment())
    made = create_keys(tmp_path, "nodules", "1", encryption)
    assert made.inputs()
    add_key(token, "kek", "short-lived")
    with pytest.raises(Invalid, match="2 secret keys in the token fit"):
        made.inputs()
    with token.session("kek") as session:
        for key in list(session.get_objects({_label(): "short-lived"})):
            key.destroy()
    with pytest.raises(Invalid, match="0 secret keys in the token fit"):
        made.inputs()
    with pytest.raises(Invalid, match="0 tokens fit"):
        create_keys(tmp_path, "others", "1", by("pkcs11:token=x;object=wrap", token.environment()))
    nowhere = token.environment() | {"TOUCHSTONE_PKCS11_MODULE": str(tmp_path / "no.so")}
    with pytest.raises(Unavailable, match="the token can't be used"):
        create_keys(tmp_path, "others", "1", by(WRAP, nowhere))


def _label() -> Any:
    from pkcs11 import Attribute

    return Attribute.LABEL


def test_keys_move_from_file_to_token_to_token_and_back_and_stay_the_same(
    token: SoftToken, tmp_path: Path
) -> None:
    first, second = (
        by(f"pkcs11:token={label};object=wrap", token.environment()) for label in ("kek", "other")
    )
    made = secrets_of(create_keys(tmp_path, "nodules", "1"))
    assert secrets_of(rewrap_keys(tmp_path, "nodules", "1", first)) == made
    (tmp_path / "key-encryption.key").unlink()  # nothing needs it any more
    assert secrets_of(rewrap_keys(tmp_path, "nodules", "1", second, before=first)) == made
    with pytest.raises(Refused, match="wrapped by pkcs11:token=other"):
        open_keys(tmp_path, Named(), first)
    assert secrets_of(rewrap_keys(tmp_path, "nodules", "1", None, before=second)) == made
    destroy_keys(tmp_path, "nodules", "1", "2026-11-28")
    create_keys(tmp_path, "others", "1", second)  # the token's own key stays for every other cohort
