"""Keys of a sealed cohort: one for the inputs, one for the reference standard, one for names.

    >>> keys.inputs()                     # all that the process with the model may hold
    InputKey(cohort='lidc-nodules', version='1')

Rules
-----
1. Inputs and reference standard have separate keys of separate types: who runs a model never
   holds the truth, and who scores it never holds the images.
2. Data keys are kept only wrapped by a key-encryption key, bound to cohort, version and purpose, so
   one can't be passed off as another. Each is unwrapped only when it is asked for.
3. `KeyEncryption` is the door to a KMS or PKCS#11 (`registry.storage.key_encryption`); `KeyFile`
   (AES-256-GCM, mode 0600) is the default.
4. No key is ever in a repr, a message or a manifest; the manifest has fingerprints.
5. Where they are kept: `validators.cohort.key_store`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid, NotFound, Refused
from validators.cohort.secret_files import write_once

PURPOSES = ("inputs", "reference", "names")
KEY_LENGTH = 32


@dataclass(frozen=True)
class _DataKey:
    cohort: str
    version: str
    secret: bytes = field(repr=False)

    def derive(self, *context: str) -> bytes:
        """32 bytes for one use (HKDF-SHA-256, RFC 5869), told apart by `context`."""
        info = canonical([type(self).__name__, self.cohort, self.version, *context])
        return HKDF(algorithm=SHA256(), length=KEY_LENGTH, salt=None, info=info).derive(self.secret)

    @property
    def fingerprint(self) -> str:
        """Tells keys apart and gives nothing away."""
        return self.derive("fingerprint").hex()[:16]


class InputKey(_DataKey):
    """Opens the inputs and nothing else."""


class ReferenceKey(_DataKey):
    """Opens the reference standard and the attributes, and nothing else."""


class NamesKey(_DataKey):
    """Makes pseudonyms and salts. Needed for sealing alone."""


Context = Mapping[str, str]
"""What a wrapped key is bound to: cohort, version and purpose."""


class KeyEncryption(Protocol):
    """Something that wraps data keys: a file here, a KMS or an HSM elsewhere."""

    @property
    def name(self) -> str:
        """What it is called in the settings; kept beside what it wrapped."""
        ...

    def wrap(self, secret: bytes, context: Context) -> bytes: ...
    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """Raises Refused when the wrapping key or the context is another one."""
        ...


class CohortKeys:
    """The wrapped data keys of one cohort version."""

    def __init__(
        self,
        cohort: str,
        version: str,
        wrapped: dict[str, bytes],
        encryption: KeyEncryption,
        names_of: str | None = None,
    ) -> None:
        self.cohort, self.version = cohort, version
        self.names_of = names_of or version
        """The version whose pseudonyms these are: an erasure carries them over."""
        self._wrapped, self._encryption = wrapped, encryption

    def inputs(self) -> InputKey:
        """Unwrap the key of the inputs."""
        return InputKey(self.cohort, self.version, self.unwrapped("inputs"))

    def reference(self) -> ReferenceKey:
        """Unwrap the key of the reference standard."""
        return ReferenceKey(self.cohort, self.version, self.unwrapped("reference"))

    def names(self) -> NamesKey:
        """Unwrap the key that makes pseudonyms and salts."""
        return NamesKey(self.cohort, self.names_of, self.unwrapped("names"))

    def __repr__(self) -> str:
        return f"CohortKeys(cohort={self.cohort!r}, version={self.version!r})"

    def unwrapped(self, purpose: str) -> bytes:
        """The secret of one purpose, to be wrapped anew."""
        return self._encryption.unwrap(
            self._wrapped[purpose], context_of(self.cohort, self.version, purpose)
        )


class KeyFile:
    """A key-encryption key in a file that only its owner may read."""

    name = "file"

    def __init__(self, path: Path) -> None:
        try:
            self._secret = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"there is no key-encryption key at {path}") from error
        if path.stat().st_mode & 0o077:
            raise Refused(f"others may read {path}; run `chmod 600 {path}`")
        if len(self._secret) != KEY_LENGTH:
            raise Invalid(f"{path} is not a key: it must hold exactly {KEY_LENGTH} bytes")

    @classmethod
    def create(cls, path: Path) -> "KeyFile":
        """Make a new key at `path`, or read the one that is there."""
        write_once(path, secrets.token_bytes(KEY_LENGTH))
        return cls(path)

    def wrap(self, secret: bytes, context: Context) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(self._secret).encrypt(nonce, secret, bound(context))

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        try:
            return AESGCM(self._secret).decrypt(wrapped[:12], wrapped[12:], bound(context))
        except (InvalidTag, ValueError) as error:
            raise Refused(
                "a cohort's data key can't be unwrapped: the key file was changed or belongs to "
                "another facility; restore it from its backup"
            ) from error


def context_of(cohort: str, version: str, purpose: str) -> Context:
    """What the key for `purpose` is bound to."""
    return {"cohort": cohort, "version": version, "purpose": purpose}


def bound(context: Context) -> bytes:
    """The context as associated data."""
    return canonical([context["cohort"], context["version"], context["purpose"]])
