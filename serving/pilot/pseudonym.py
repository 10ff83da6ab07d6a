"""Keyed hashes in the place of a hospital's own ids, so that no id of a case is ever on disk.

    >>> pseudonyms = open_pseudonyms(state)
    >>> pseudonyms.of_case("ACC-2026-00017")
    '5f0c…'                                      # 64 hex digits

Rules
-----
1. HMAC-SHA256 (RFC 2104) under 32 random bytes that lie in the state directory as `pseudonym.key`,
   readable by its owner alone. It is made once, never sent and never overwritten.
2. An id is trimmed and in Unicode's composed form, so that a table and a request name a case alike.
   The same text as a case and as a patient gives two different pseudonyms.
3. Whoever deletes the key has cut what is on disk off from the hospital's ids for good.
"""

import hashlib
import hmac
import os
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from registry.trust.errors import Invalid, Unavailable

KEY_FILE = "pseudonym.key"
_BYTES, _LONGEST = 32, 256


@dataclass(frozen=True)
class Pseudonyms:
    """Makes pseudonyms under one key."""

    key: bytes = field(repr=False)

    def of_case(self, case: str) -> str:
        """The pseudonym of a case's id."""
        return self._of("case", case)

    def of_patient(self, patient: str) -> str:
        """The pseudonym of a patient's id."""
        return self._of("patient", patient)

    def _of(self, kind: str, name: str) -> str:
        plain = unicodedata.normalize("NFC", name.strip())
        if not plain or len(plain) > _LONGEST:
            raise Invalid(f"the id of a {kind} is empty or longer than {_LONGEST} characters")
        return hmac.new(self.key, f"{kind}\0{plain}".encode(), hashlib.sha256).hexdigest()


def open_pseudonyms(state: Path) -> Pseudonyms:
    """The pseudonyms of this state directory; the key is made where there is none yet."""
    path = state / KEY_FILE
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"{path} can't be made or read ({error.strerror})") from error
    if len(key) != _BYTES:
        raise Invalid(f"{path} is no key of {_BYTES} bytes: bring it back from your copy")
    return Pseudonyms(key)


def _make(path: Path) -> None:
    """Write a fresh key whole, or leave the one that another process just made."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(secrets.token_bytes(_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()
