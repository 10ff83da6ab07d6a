"""What wraps a cohort's data keys: a file, a KMS, a token; and how one takes another's place."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from registry.settings import Settings, read_settings
from registry.storage.key_encryption import key_encryption
from registry.trust.errors import Conflict, Invalid, Refused, Unavailable
from tests.registry.kms_server import KmsServer, kms_server
from validators.cohort.key_store import create_keys, destroy_keys, open_keys, rewrap_keys


@dataclass(frozen=True)
class Named:
    id: str = "nodules"
    version: str = "1"


@pytest.fixture
def kms() -> Iterator[KmsServer]:
    with kms_server() as server:
        server.keys = {"cohorts": os.urandom(32), "others": os.urandom(32)}
        yield server


def settings(folder: Path, name: str | None) -> Settings:
    return replace(read_settings({"TOUCHSTONE_HOME": str(folder)}), key_encryption=name)


def test_a_kms_wraps_keys_bound_to_cohort_version_and_purpose(
    kms: KmsServer, tmp_path: Path
) -> None:
    environment = kms.environment(tmp_path)
    encryption = key_encryption(settings(tmp_path, "kms:cohorts"), environment)
    made = create_keys(tmp_path, "nodules", "1", encryption)
    again = open_keys(tmp_path, Named(), encryption)
    assert made.inputs().secret == again.inputs().secret
    assert again.inputs().secret != again.reference().secret
    assert not (tmp_path / "key-encryption.key").exists()
    asked = [context for verb, context in kms.asked if verb == "Decrypt"]
    assert {"cohort": "nodules", "version": "1", "purpose": "inputs"} in asked
    held = json.loads((tmp_path / "nodules/1.json").read_bytes())
    for change in ({"inputs": held["reference"]}, {"reference": held["inputs"]}):
        (tmp_path / "nodules/1.json").write_text(json.dumps(held | change))
        keys = open_keys(tmp_path, Named(), encryption)
        with pytest.raises(Refused, match="another key, or for another cohort"):
            keys.inputs() if "inputs" in change else keys.reference()
    (tmp_path / "others").mkdir()
    (tmp_path / "others/1.json").write_text(json.dumps(held))
    with pytest.raises(Refused):
        open_keys(tmp_path, Named("others"), encryption).inputs()


def test_keys_of_a_kms_open_with_no_other(kms: KmsServer, tmp_path: Path) -> None:
    environment = kms.environment(tmp_path)
    create_keys(tmp_path, "nodules", "1",
                key_encryption(settings(tmp_path, "kms:cohorts"), environment))  # fmt: skip
    other = key_encryption(settings(tmp_path, "kms:others"), environment)
    for wrong in (None, other):
        with pytest.raises(Refused, match="wrapped by kms:cohorts"):
            open_keys(tmp_path, Named(), wrong)
    gone = key_encryption(settings(tmp_path, "kms:cohorts"), environment)
    kms.keys.pop("cohorts")
    with pytest.raises(Unavailable, match="refuses to decrypt with kms:cohorts"):
        open_keys(tmp_path, Named(), gone).inputs()


@pytest.mark.parametrize("environment", [{}, {"TOUCHSTONE_KMS_CREDENTIALS": "/nowhere"}])
def test_a_kms_without_a_credential_is_said_plainly(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match="TOUCHSTONE_KMS_CREDENTIALS"):
        key_encryption(settings(tmp_path, "kms:cohorts"), environment)


def test_a_kms_in_the_clear_elsewhere_is_refused(kms: KmsServer, tmp_path: Path) -> None:
    environment = kms.environment(tmp_path) | {"TOUCHSTONE_KMS_ENDPOINT": "http://kms.example"}
    with pytest.raises(Invalid, match=r"TOUCHSTONE_KMS_ENDPOINT .* in the clear"):
        key_encryption(settings(tmp_path, "kms:cohorts"), environment)


@pytest.mark.parametrize("name", ["kms:", "vault:x", "file", "pkcs11:token=a"])
def test_a_name_that_can_not_be_meant_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        key_encryption(settings(tmp_path, name), {})


def test_keys_are_wrapped_anew_there_and_back_and_stay_the_same_keys(
    kms: KmsServer, tmp_path: Path
) -> None:
    """Files of earlier versions say nothing of what wrapped them: it was the key file."""
    encryption = key_encryption(settings(tmp_path, "kms:cohorts"), kms.environment(tmp_path))
    before = create_keys(tmp_path, "nodules", "1")
    assert "by" not in json.loads((tmp_path / "nodules/1.json").read_bytes())
    secret = (before.inputs().secret, before.reference().secret, before.names().secret)
    open_keys(tmp_path, Named(), encryption)  # opens before it is wrapped anew
    moved = rewrap_keys(tmp_path, "nodules", "1", encryption)
    assert (moved.inputs().secret, moved.reference().secret, moved.names().secret) == secret
    (tmp_path / "key-encryption.key").rename(tmp_path / "away")
    assert open_keys(tmp_path, Named(), encryption).inputs().secret == secret[0]
    (tmp_path / "away").rename(tmp_path / "key-encryption.key")
    back = rewrap_keys(tmp_path, "nodules", "1", None, before=encryption)
    assert back.inputs().secret == secret[0]
    assert (tmp_path / "nodules/1.json").stat().st_mode & 0o077 == 0


def test_destroyed_keys_are_gone_and_are_not_made_again(tmp_path: Path) -> None:
    keys = create_keys(tmp_path, "nodules", "1")
    held = (tmp_path / "nodules/1.json").read_bytes()
    handle = os.open(tmp_path / "nodules/1.json", os.O_RDONLY)
    for _ in range(2):  # again it does nothing
        destroy_keys(tmp_path, "nodules", "1", "2026-11-28")
    left = os.pread(handle, 10_000, 0)
    os.close(handle)
    assert len(left) == len(held)
    assert left != held
    assert held[:20] not in left
    for attempt in (lambda: create_keys(tmp_path, "nodules", "1"),
                    lambda: open_keys(tmp_path, Named())):  # fmt: skip
        with pytest.raises(Conflict, match="destroyed on 2026-11-28"):
            attempt()
    assert keys.inputs()  # who held the wrapped key in memory still does; the disk does not
