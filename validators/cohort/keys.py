"""Keys of a sealed cohort: one for the inputs, one for the reference standard, one for names.

    >>> keys = create_keys(Path("cohort-keys"), "lidc-nodules", "1")
    >>> keys.inputs()                     # all that the process with the model may hold
    InputKey(cohort='lidc-nodules', version='1')

Rules
-----
1. Inputs and reference standard have separate keys of separate types: who runs a model never
   holds the truth, and who scores it never holds the images.
2. Data keys lie in a file only wrapped by a key-encryption key (AES-256-GCM, with cohort,
   version and purpose as associated data, so one can't be passed off as another). Each is
   unwrapped only when it is asked for.
3. `KeyEncryption` is the door to a KMS or PKCS#11; `KeyFile` (mode 0600) is the default.
4. `create_keys` for a cohort that has keys gives those keys, so a killed seal can go on.
5. No key is ever in a repr, a message or a manifest; the manifest has fingerprints.
"""

import json
import os
import secrets
import tempfile
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid, NotFound, Refused, Unavailable

PURPOSES = ("inputs", "reference", "names")
_LENGTH = 32


@dataclass(frozen=True)
class _DataKey:
    cohort: str
    version: str
    secret: bytes = field(repr=False)

    def derive(self, *context: str) -> bytes:
        """32 bytes for one use (HKDF-SHA-256, RFC 5869), told apart by `context`."""
        info = canonical([type(self).__name__, self.cohort, self.version, *context])
        return HKDF(algorithm=SHA256(), length=_LENGTH, salt=None, info=info).derive(self.secret)

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


class KeyEncryption(Protocol):
    """Something that wraps data keys: a file here, a KMS or an HSM elsewhere."""

    def wrap(self, secret: bytes, context: bytes) -> bytes: ...
    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises Refused when the wrapping key or the context is another one."""
        ...


class CohortKeys:
    """The wrapped data keys of one cohort version."""

    def __init__(
        self, cohort: str, version: str, wrapped: dict[str, bytes], encryption: KeyEncryption
    ) -> None:
        self.cohort, self.version = cohort, version
        self._wrapped, self._encryption = wrapped, encryption

    def inputs(self) -> InputKey:
        """Unwrap the key of the inputs."""
        return InputKey(self.cohort, self.version, self._unwrap("inputs"))

    def reference(self) -> ReferenceKey:
        """Unwrap the key of the reference standard."""
        return ReferenceKey(self.cohort, self.version, self._unwrap("reference"))

    def names(self) -> NamesKey:
        """Unwrap the key that makes pseudonyms and salts."""
        return NamesKey(self.cohort, self.version, self._unwrap("names"))

    def __repr__(self) -> str:
        return f"CohortKeys(cohort={self.cohort!r}, version={self.version!r})"

    def _unwrap(self, purpose: str) -> bytes:
        context = canonical([self.cohort, self.version, purpose])
        return self._encryption.unwrap(self._wrapped[purpose], context)


class KeyFile:
    """A key-encryption key in a file that only its owner may read."""

    def __init__(self, path: Path) -> None:
        try:
            self._secret = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"there is no key-encryption key at {path}") from error
        if path.stat().st_mode & 0o077:
            raise Refused(f"others may read {path}; run `chmod 600 {path}`")
        if len(self._secret) != _LENGTH:
            raise Invalid(f"{path} is not a key: it must hold exactly {_LENGTH} bytes")

    @classmethod
    def create(cls, path: Path) -> "KeyFile":
        """Make a new key at `path`, or read the one that is there."""
        _write_once(path, secrets.token_bytes(_LENGTH))
        return cls(path)

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(self._secret).encrypt(nonce, secret, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return AESGCM(self._secret).decrypt(wrapped[:12], wrapped[12:], context)
        except (InvalidTag, ValueError) as error:
            raise Refused(
                "a cohort's data key can't be unwrapped: the key file was changed or belongs to "
                "another facility; restore it from its backup"
            ) from error


def create_keys(directory: Path, cohort: str, version: str) -> CohortKeys:
    """The data keys of a cohort version, wrapped, in `directory`; made where there are none yet.

    Raises Unavailable when the directory can't be written.
    """
    path = _wrapped_path(directory, cohort, version)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        encryption = KeyFile.create(directory / "key-encryption.key")
        made = {}
        for purpose in PURPOSES:
            context = canonical([cohort, version, purpose])
            wrapped = encryption.wrap(secrets.token_bytes(_LENGTH), context)
            made[purpose] = b64encode(wrapped).decode()
        _write_once(path, canonical(made))
    except OSError as error:
        raise Unavailable(f"no key can be kept in {directory}: {error.strerror}") from error
    return _read(directory, cohort, version)


class _Sealed(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def version(self) -> str: ...


def open_keys(directory: Path, manifest: _Sealed) -> CohortKeys:
    """The keys of a sealed cohort, still wrapped; NotFound when this facility has none for it."""
    return _read(directory, manifest.id, manifest.version)


def _read(directory: Path, cohort: str, version: str) -> CohortKeys:
    path = _wrapped_path(directory, cohort, version)
    try:
        held = json.loads(path.read_bytes())
        wrapped = {purpose: b64decode(held[purpose], validate=True) for purpose in PURPOSES}
    except FileNotFoundError as error:
        raise NotFound(
            f"{directory} holds no keys for cohort {cohort} version {version}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path} is damaged; restore it from its backup") from error
    return CohortKeys(cohort, version, wrapped, KeyFile(directory / "key-encryption.key"))


def _wrapped_path(directory: Path, cohort: str, version: str) -> Path:
    if not cohort or not version or {"/", "\\", "\0"} & set(cohort + version) or cohort[0] == ".":
        raise Invalid(f"{cohort!r} {version!r} can't name a cohort: use letters, digits and dashes")
    return directory / cohort / f"{version}.json"


def _write_once(path: Path, data: bytes) -> None:
    """Write whole and durably, mode 0600; whoever comes second changes nothing."""
    if path.exists():
        return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()
