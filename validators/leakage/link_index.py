"""The links of every cohort version that this facility sealed, encrypted, one file a version.

    >>> index = LinkIndex(home / "links", open_linking_key(home / "linking.key"))
    >>> index.keep("lidc-nodules", "1", links)
    >>> index.versions()
    [('lidc-nodules', '1')]

Rules
-----
1. A file is AES-256-GCM under a key that is derived from the linking key, bound to cohort and
   version, readable by its owner alone. Without the linking key it tells its length.
2. `erase` takes patients out of all versions of a cohort, `destroy` takes a version out. What is
   taken out is overwritten; what a flash disk or a backup holds of it is not in our hands.
3. A process that is killed leaves the old file or the new one, whole.
4. Nothing of it is ever sent anywhere.
"""

import os
import secrets
import tempfile
from collections.abc import Collection
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid, NotFound, Refused, Unavailable
from validators.leakage.identifiers import LinkingKey
from validators.leakage.links import Links, links_bytes, parse_links, tokens_of

_MAGIC = b"touchstone/links/1 "
_ENDING, _PARTIAL = ".links", ".new-"
_PRINT, _NONCE = 16, 12


class LinkIndex:
    """The folder of one facility."""

    def __init__(self, folder: Path, key: LinkingKey) -> None:
        self._folder, self._key = folder, key
        self._cipher = AESGCM(key.token("encryption", "links/1"))

    @property
    def key(self) -> LinkingKey:
        """The facility's linking key."""
        return self._key

    def versions(self) -> list[tuple[str, str]]:
        """Cohort and version of all that is kept."""
        return sorted(
            (path.parent.name, path.name.removesuffix(_ENDING))
            for path in self._folder.glob(f"*/*{_ENDING}")
            if not path.name.startswith(".")
        )

    def keep(self, cohort: str, version: str, links: Links) -> None:
        """Keep what finds a version again, in the place of what was kept of it before.

        Raises Refused for links under another key, Unavailable when it can't be written.
        """
        if links.key != self._key.fingerprint:
            raise Refused("these links are under another linking key", code="linking_keys_differ")
        path, nonce = self._path(cohort, version), secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, links_bytes(links), canonical([cohort, version]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _replace(path, _MAGIC + self._key.fingerprint.encode() + nonce + sealed)
        except OSError as error:
            raise Unavailable(f"{path} can't be written: {error.strerror}") from error

    def read(self, cohort: str, version: str) -> Links:
        """What is kept of a version.

        Raises NotFound where nothing is, Refused where it is under another linking key, Invalid
        where it is damaged.
        """
        path = self._path(cohort, version)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"nothing is kept here to find {cohort} {version} again") from error
        except OSError as error:
            raise Invalid(f"{path} can't be read: {error.strerror}") from error
        start = len(_MAGIC) + _PRINT
        under = data[len(_MAGIC) : start]
        if data.startswith(_MAGIC) and under != self._key.fingerprint.encode():
            raise Refused(
                f"what is kept of {cohort} {version} is under another linking key than this "
                f"machine's; restore that key from its backup, or delete {path}",
                code="linking_keys_differ",
            )
        try:
            nonce, sealed = data[start : start + _NONCE], data[start + _NONCE :]
            plain = self._cipher.decrypt(nonce, sealed, canonical([cohort, version]))
        except (InvalidTag, ValueError) as error:
            raise Invalid(f"{path} is damaged; restore it from its backup, or delete it") from error
        return parse_links(self._key.fingerprint, plain)

    def erase(self, cohort: str, old: str, new: str, patients: Collection[str]) -> bool:
        """Keep a new version without these patients, and take them out of all versions of it.

        Whether anything was kept of the old version. Again it does the same.
        """
        tokens = tokens_of(self._key, patients)
        self._clear(cohort)
        known = (cohort, old) in self.versions()
        if known:
            self.keep(cohort, new, self.read(cohort, old).without(tokens))
        for name, version in self.versions():
            if name == cohort:
                links = self.read(cohort, version)
                if tokens & set(links.patients):
                    self.keep(cohort, version, links.without(tokens))
        return known

    def destroy(self, cohort: str, version: str) -> None:
        """Overwrite and remove what is kept of a version; nothing where nothing is."""
        path = self._path(cohort, version)
        self._clear(cohort)
        _remove(path)

    def _clear(self, cohort: str) -> None:
        """Remove what a process that was killed left half written."""
        for path in (self._folder / cohort).glob(f"{_PARTIAL}*"):
            _remove(path)

    def _path(self, cohort: str, version: str) -> Path:
        if not cohort or not version or cohort[0] == "." or set("/\\\0") & set(cohort + version):
            raise Invalid(f"{cohort!r} {version!r} can't name a cohort")
        return self._folder / cohort / f"{version}{_ENDING}"


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            before = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            Path(name).replace(path)
        else:
            Path(name).replace(path)
            _overwrite(before)
    finally:
        Path(name).unlink(missing_ok=True)
    _sync(path.parent)


def _remove(path: Path) -> None:
    try:
        _overwrite(os.open(path, os.O_WRONLY | os.O_NOFOLLOW))
    except FileNotFoundError:
        return
    path.unlink()
    _sync(path.parent)


def _overwrite(handle: int) -> None:
    """Overwrite an open file, whether it still has a name or not, and close it."""
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_bytes(os.fstat(handle).st_size))
        stream.flush()
        os.fsync(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
