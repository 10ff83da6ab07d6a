"""The folder of a facility's wrapped data keys: made, opened, wrapped anew, destroyed.

    >>> keys = create_keys(Path("cohort-keys"), "lidc-nodules", "1")
    >>> open_keys(Path("cohort-keys"), manifest).inputs()
    InputKey(cohort='lidc-nodules', version='1')

Rules
-----
1. `create_keys` for a cohort that has keys gives those keys, so a killed seal can go on.
2. The file says by what its keys are wrapped; one that says nothing is by the key file.
3. Keys that were destroyed are gone: what is left says so, and a seal makes no new ones.
"""

import json
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from registry.trust.canonical import canonical
from registry.trust.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from validators.cohort.keys import (
    KEY_LENGTH,
    PURPOSES,
    CohortKeys,
    KeyEncryption,
    KeyFile,
    context_of,
)
from validators.cohort.secret_files import replace_file, sync_folder, write_once
from validators.contract.schema import Identifier, Version

_KEY_FILE = "key-encryption.key"
_ID: TypeAdapter[str] = TypeAdapter(Identifier)
_VERSION: TypeAdapter[str] = TypeAdapter(Version)


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
        made = {purpose: secrets.token_bytes(KEY_LENGTH) for purpose in PURPOSES}
        if after is not None:
            made["names"] = after.names().secret
        names_of = after.names_of if after else version
        write_once(path, _wrapped(made, cohort, version, encryption, names_of))
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
    plain = {purpose: keys.unwrapped(purpose) for purpose in PURPOSES}
    encryption = encryption or KeyFile.create(directory / _KEY_FILE)
    path = _wrapped_path(directory, cohort, version)
    try:
        replace_file(path, _wrapped(plain, cohort, version, encryption, keys.names_of))
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror}") from error
    return _read(directory, cohort, version, encryption)


def destroy_keys(directory: Path, cohort: str, version: str, date: str) -> None:
    """Overwrite a cohort's wrapped data keys and unlink them; what is left says when.

    Again it does nothing. What an overwritten block leaves on a flash disk, and in backups, is not
    in our hands: whoever keeps backups of this folder destroys them too.
    """
    path = _wrapped_path(directory, cohort, version)
    write_once(_tombstone(path), canonical({"destroyed": date}))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_bytes(os.fstat(handle).st_size))
        stream.flush()
        os.fsync(handle)
    path.unlink()
    sync_folder(path.parent)


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
