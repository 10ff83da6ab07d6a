"""Patients that two lists have in common, found without either list showing a name.

    >>> key = LinkingKey(secrets.token_bytes(32))
    >>> overlap(linked(key, cohort_ids), linked(key, development_ids))
    Overlap(first=812, second=5204, shared=3)

Rules
-----
1. An identifier is normalised (NFKC, case-folded, letters and digits alone) and replaced by its
   HMAC-SHA-256 under the facility's linking key. So `LIDC-IDRI-0012` and `lidc idri 0012 ` are one
   patient; leading zeros count, for in some hospitals they tell patients apart.
2. Without the key the tokens can't be tried out, however few identifiers a hospital has. So the
   key never leaves the facility, tokens neither: only counts do.
3. Lists linked under different keys are refused. They would share nobody, which says nothing.
4. No message and no repr holds an identifier, a token or the key.
"""

import hmac
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from registry.trust.errors import Invalid, Refused

_KEY_BYTES = 32
_NEITHER = re.compile("[^0-9a-z]+")


class LinkingKey:
    """32 secret bytes of the facility."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _KEY_BYTES:
            raise Invalid(f"a linking key has {_KEY_BYTES} bytes, this one has {len(secret)}")
        self._secret = bytes(secret)

    def __repr__(self) -> str:
        return "LinkingKey(…)"

    def __reduce__(self) -> str:
        raise TypeError("a linking key is not written anywhere")

    def token(self, kind: str, text: str) -> bytes:
        """The 32 bytes that stand for `text`."""
        return hmac.digest(self._secret, f"{kind}\0{text}".encode(), "sha256")

    @property
    def fingerprint(self) -> str:
        """Tells keys apart and gives nothing of them away."""
        return self.token("fingerprint", "").hex()[:16]


@dataclass(frozen=True)
class Linked:
    """The tokens of one list, each patient once."""

    key: str
    tokens: frozenset[bytes] = field(repr=False)


@dataclass(frozen=True)
class Overlap:
    """Patients of two lists, and those that both have."""

    first: int
    second: int
    shared: int


def linked(key: LinkingKey, identifiers: Iterable[str]) -> Linked:
    """The tokens of a list of patients' identifiers.

    Raises Invalid, with their number, where some have no letter or digit.
    """
    normal = [normalised(identifier) for identifier in checked(identifiers)]
    return Linked(key.fingerprint, frozenset(key.token("patient", text) for text in normal))


def checked(identifiers: Iterable[str]) -> list[str]:
    """The identifiers. Raises Invalid, with their number, where some have no letter or digit."""
    given = list(identifiers)
    empty = sum(not normalised(identifier) for identifier in given)
    if empty:
        raise Invalid(
            f"{empty} of {len(given)} patient identifiers have no letter or digit; leave out the "
            "cases without a patient or give them one"
        )
    return given


def overlap(first: Linked, second: Linked) -> Overlap:
    """How many patients two lists share. Raises Refused for lists under different keys."""
    if first.key != second.key:
        raise Refused(
            "the two lists were linked under different keys, so nothing can be found in common; "
            "link both under one",
            code="linking_keys_differ",
        )
    shared = len(first.tokens & second.tokens)
    return Overlap(len(first.tokens), len(second.tokens), shared)


def normalised(identifier: str) -> str:
    """Letters and digits alone, in one case and one form."""
    if identifier.isascii():  # the same, and ten times as fast
        return _NEITHER.sub("", identifier.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", identifier).casefold())
    return "".join(character for character in folded if character.isalnum())
