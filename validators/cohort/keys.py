"""Keys of a sealed cohort: one for the inputs, one for the reference standard, one for names.

    >>> keys = create_keys(Path("cohort-keys"), "lidc-nodules", "1")
    >>> keys.inputs()                     # all that the process with the model may hold
    InputKey(cohort='lidc-nodules', version='1')

Rules
-----
1. Inputs and reference standard have separate keys of separate types: who runs a model never
   holds the truth, and who scores it never holds the images.
2. Data keys lie in a file only wrapped by a key-encryption key, bound to cohort, version and
   purpose, so one can't be passed off as another. Each is unwrapped only when it is asked for.
3. `KeyEncryption` is the door to a KMS or PKCS#11 (`registry.storage.key_encryption`); `KeyFile`
   (AES-256-GCM, mode 0600) is the default. The file says by what its keys are wrapped; one that
   says nothing is by the key file.
4. `create_keys` for a cohort that has keys gives those keys, so a killed seal can go on.
5. No key is ever in a repr, a message or a manifest; the manifest has fingerprints.
6. Keys that were destroyed are gone: what is left says so, and a seal makes no new ones.
"""

import json
import os
import secrets
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import TypeAdapter, ValidationError

from registry.trust.canonical import canonical
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from validators.contract.schema import Identifier, Version

PURPOSES = ("inputs", "reference", "names")
_LENGTH = 32
_KEY_FILE = "key-encryption.key"
_ID: TypeAdapter[str] = TypeAdapter(Identifier)
_VERSION: TypeAdapter[str] = TypeAdapter(Version)


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
        return InputKey(self.cohort, self.version, self._unwrap("inputs"))

    def reference(self) -> ReferenceKey:
        """Unwrap the key of the reference standard."""
        return ReferenceKey(self.cohort, self.version, self._unwrap("reference"))

    def names(self) -> NamesKey:
        """Unwrap the key that makes pseudonyms and salts."""
        return NamesKey(self.cohort, self.names_of, self._unwrap("names"))

    def __repr__(self) -> str:
        return f"CohortKeys(cohort={self.cohort!r}, version={self.version!r})"

    def _unwrap(self, purpose: str) -> bytes:
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
        if len(self._secret) != _LENGTH:
            raise Invalid(f"{path} is not a key: it must hold exactly {_LENGTH} bytes")

    @classmethod
    def create(cls, path: Path) -> "KeyFile":
        """Make a new key at `path`, or read the one that is there."""
        _write_once(path, secrets.token_bytes(_LENGTH))
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


def create_keys(
    directory: Path,
    cohort: str,
    version: str,
    encryption: KeyEncryption | None = None,
    after: CohortKeys | None = None,
) -> CohortKeys:
    """The data keys of a cohort version, wrapped, in `directory`; made where there are none yet.

    after: the version that this one is made from without some patients; its key for names, and so
    its pseudonyms, go on, so that the next patient is found too.
    Raises Invalid for a name or version that no cohort can have, Unavailable when the directory
    can't be written, Conflict where they were destroyed.
    """
    _check_named(cohort, version)
    path = _wrapped_path(directory, cohort, version)
    if path.exists():
        return _read(directory, cohort, version, encryption)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        encryption = encryption or KeyFile.create(directory / _KEY_FILE)
        made = {purpose: secrets.token_bytes(_LENGTH) for purpose in PURPOSES}
        if after is not None:
            made["names"] = after.names().secret
        names_of = after.names_of if after else version
        _write_once(path, _wrapped(made, cohort, version, encryption, names_of))
    except OSError as error:
        raise Unavailable(f"no key can be kept in {directory}: {error.strerror}") from error
    return _read(directory, cohort, version, encryption)


def _check_named(cohort: str, version: str) -> None:
    """Before anything is written under that name: Invalid for one that no manifest can bear."""
    said = "a cohort's name is small letters, digits and - between them, such as lidc-nodules"
    try:
        _ID.validate_python(cohort)
        said = "a version is letters, digits, . and -, at most 32, such as 1 or 2026.1"
        _VERSION.validate_python(version)
    except ValidationError:
        raise Invalid(f"a cohort can't be called {cohort!a} {version!a}: {said}") from None


def rewrap_keys(
    directory: Path,
    cohort: str,
    version: str,
    encryption: KeyEncryption | None,
    before: KeyEncryption | None = None,
) -> CohortKeys:
    """Wrap a cohort's data keys by `encryption` (None: the key file) in the place of `before`.

    The keys stay what they are, and so does everything that was sealed with them. A process that
    is killed leaves the old file or the new one, whole.
    """
    keys = _read(directory, cohort, version, encryption if before is None else before)
    plain = {purpose: keys._unwrap(purpose) for purpose in PURPOSES}
    encryption = encryption or KeyFile.create(directory / _KEY_FILE)
    path = _wrapped_path(directory, cohort, version)
    try:
        _replace(path, _wrapped(plain, cohort, version, encryption, keys.names_of))
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror}") from error
    return _read(directory, cohort, version, encryption)


def destroy_keys(directory: Path, cohort: str, version: str, date: str) -> None:
    """Overwrite a cohort's wrapped data keys and unlink them; what is left says when.

    Again it does nothing. What an overwritten block leaves on a flash disk, and in backups, is not
    in our hands: whoever keeps backups of this folder destroys them too.
    """
    path = _wrapped_path(directory, cohort, version)
    _write_once(_tombstone(path), canonical({"destroyed": date}))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_bytes(os.fstat(handle).st_size))
        stream.flush()
        os.fsync(handle)
    path.unlink()
    _sync(path.parent)


def _wrapped(
    plain: Mapping[str, bytes],
    cohort: str,
    version: str,
    encryption: KeyEncryption,
    names_of: str,
) -> bytes:
    made = {
        purpose: b64encode(
            encryption.wrap(plain[purpose], context_of(cohort, version, purpose))
        ).decode()
        for purpose in PURPOSES
    }
    if encryption.name != "file":
        made["by"] = encryption.name
    if names_of != version:
        made["names_of"] = names_of
    return canonical(made)


class _Sealed(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def version(self) -> str: ...


def open_keys(
    directory: Path, manifest: _Sealed, encryption: KeyEncryption | None = None
) -> CohortKeys:
    """The keys of a sealed cohort, still wrapped.

    Raises NotFound when this facility has none for it, Conflict where they were destroyed, Refused
    where something else than `encryption` or the key file wrapped them.
    """
    return _read(directory, manifest.id, manifest.version, encryption)


def _read(
    directory: Path, cohort: str, version: str, encryption: KeyEncryption | None
) -> CohortKeys:
    path = _wrapped_path(directory, cohort, version)
    if _tombstone(path).exists():
        when = json.loads(_tombstone(path).read_bytes())["destroyed"]
        raise Conflict(
            f"the keys of cohort {cohort} version {version} were destroyed on {when}",
            code="keys_destroyed",
        )
    try:
        held = json.loads(path.read_bytes())
        wrapped = {purpose: b64decode(held[purpose], validate=True) for purpose in PURPOSES}
        by, names_of = str(held.get("by", "file")), str(held.get("names_of", version))
    except FileNotFoundError as error:
        raise NotFound(
            f"{directory} holds no keys for cohort {cohort} version {version}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{path} is damaged; restore it from its backup") from error
    if by == "file":
        encryption = KeyFile(directory / _KEY_FILE)
    elif encryption is None or encryption.name != by:
        raise Refused(
            f"the keys of cohort {cohort} version {version} are wrapped by {by}: name it in "
            "TOUCHSTONE_KEY_ENCRYPTION"
        )
    return CohortKeys(cohort, version, wrapped, encryption, names_of)


def _wrapped_path(directory: Path, cohort: str, version: str) -> Path:
    if not cohort or not version or {"/", "\\", "\0"} & set(cohort + version) or cohort[0] == ".":
        raise Invalid(f"{cohort!r} {version!r} can't name a cohort: use letters, digits and dashes")
    return directory / cohort / f"{version}.json"


def _tombstone(path: Path) -> Path:
    return path.with_suffix(".destroyed")


def _replace(path: Path, data: bytes) -> None:
    """Other bytes under this name, whole and durably."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    _write_once(new, data)
    new.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
