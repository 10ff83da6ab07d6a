"""Canonical JSON (RFC 8785) and the digests that name things.

    >>> digest_of({"b": 1, "a": 2})
    'sha256:d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772'

Rules
-----
1. Whatever is named by a digest and is not a file is named by the SHA-256 of its canonical JSON.
2. A digest is written `sha256:` and 64 lower-case hex digits, everywhere.
3. NaN and infinity have no canonical form: they are refused, never written as null.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import IO, Any, cast

import rfc8785

from registry.trust.errors import Invalid

DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_BLOCK = 1 << 20


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of `value` (dict, list, tuple, str, int, float, bool, None).

    Raises Invalid for NaN, infinity, integers beyond 2^53 and types that JSON lacks.
    """
    try:
        return bytes(rfc8785.dumps(value))
    except rfc8785.CanonicalizationError as error:
        raise Invalid(f"this value has no canonical JSON form: {error}") from error


def parse_canonical(data: bytes) -> Any:
    """The value of canonical JSON bytes; raises Invalid unless they are canonical to the byte."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid("this is not JSON") from error
    compared = _Compared(data)
    try:
        rfc8785.dump(value, cast("IO[bytes]", compared))
    except (rfc8785.CanonicalizationError, _DifferentError, UnicodeError, RecursionError):
        compared.at = -1
    if compared.at != len(data):
        raise Invalid("this JSON is not in canonical form (RFC 8785), so its digest means nothing")
    return value


class _DifferentError(Exception):
    """What was written is not what was expected."""


class _Compared:
    """Takes what is written for what is expected there, and keeps none of it: a manifest of a
    million cases is 75 MB."""

    def __init__(self, expected: bytes) -> None:
        self.at = 0
        self._expected = expected

    def write(self, piece: bytes) -> None:
        if not self._expected.startswith(piece, self.at):
            raise _DifferentError
        self.at += len(piece)


def digest_of(value: Any) -> str:
    """The digest of a value's canonical JSON."""
    return sha256_bytes(canonical(value))


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """The digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The digest of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is a digest in this house's form."""
    return DIGEST.match(text) is not None


def hex_of(digest: str) -> str:
    """The bare hex digits, for file names and for in-toto's digest sets."""
    if not is_digest(digest):
        raise Invalid(f"{digest!r} is not a digest (sha256: and 64 hex digits)")
    return digest.removeprefix("sha256:")
