"""The facility's model files on disk, each model in a directory named by its digest.

    <models>/<64 hex digits>/model.onnx     and at most one <name>.data beside it

Rules
-----
1. A request names a digest and nothing else. No other path is ever opened, and no link followed.
2. Every byte is hashed again each time it is read, and what is handed on is what was hashed.
3. What is uploaded lies in a directory of its own until its digest was found right.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from registry.trust.canonical import digest_of, hex_of, is_digest
from registry.trust.errors import Invalid, NotFound, Tampered
from registry.trust.model_files import MAXIMUM_BYTES, check_names, model_digest

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_UPLOADS = ".uploads"


class Store:
    """The directory `models`, which must exist."""

    def __init__(self, models: Path) -> None:
        if not models.is_dir():
            raise Invalid(f"{models} is no directory: give the models' directory with --models")
        self._models = models
        shutil.rmtree(models / _UPLOADS, ignore_errors=True)

    def digests(self) -> list[str]:
        """The digests of the models that lie here."""
        with os.scandir(self._models) as entries:
            return sorted(
                f"sha256:{entry.name}"
                for entry in entries
                if _HEX.match(entry.name) and entry.is_dir(follow_symlinks=False)
            )

    def read(self, digest: str) -> dict[str, bytes]:
        """The files of one model, by name.

        Raises NotFound (model_unknown), Tampered where they are not what the digest names.
        """
        if not is_digest(digest):
            raise NotFound("a model is named by its digest, sha256: and 64 hex digits")
        try:
            directory = os.open(
                self._models / hex_of(digest), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            )
        except OSError as error:
            raise NotFound(
                f"the model {digest} is not here: upload it first", code="model_unknown"
            ) from error
        try:
            files = _read_all(directory)
        finally:
            os.close(directory)
        if model_digest(files) != digest:
            raise Tampered(
                f"the files of the model {digest} were changed: remove its directory and upload "
                "it again",
                code="model_tampered",
            )
        return files

    @contextlib.contextmanager
    def upload(self, digest: str, sizes: dict[str, int]) -> Iterator["Upload"]:
        """Write a model's bytes, in the order of `sizes`; it is there once the digest was right."""
        name = hex_of(digest)
        check_names(sizes)
        if not 0 < sum(sizes.values()) <= MAXIMUM_BYTES:
            raise Invalid("the files are empty, or larger than 2 GB together", code="bad_size")
        place = self._models / _UPLOADS / secrets.token_hex(8)
        place.mkdir(parents=True, mode=0o700)
        try:
            upload = Upload(place, sizes)
            yield upload
            if upload.digest() != digest:
                raise Tampered(
                    f"the bytes that came are not the model {digest}", code="model_tampered"
                )
            with contextlib.suppress(FileExistsError, OSError):  # the same bytes were there
                place.rename(self._models / name)
        finally:
            shutil.rmtree(place, ignore_errors=True)


class Upload:
    """The files of one model while their bytes come."""

    def __init__(self, place: Path, sizes: dict[str, int]) -> None:
        self._place, self._left = place, dict(sizes)
        self._digests = {name: hashlib.sha256() for name in sizes}

    def write(self, block: memoryview) -> None:
        """The next bytes, which may end one file and begin the next."""
        for name, left in self._left.items():
            if not left:
                continue
            part = block[:left]
            with (self._place / name).open("ab") as file:
                file.write(part)
            self._digests[name].update(part)
            self._left[name] -= len(part)
            block = block[len(part) :]
            if not block:
                return
        if block:
            raise Invalid("more bytes came than the files have", code="bad_size")

    def digest(self) -> str:
        """The digest of all that came."""
        if any(self._left.values()):
            raise Invalid("fewer bytes came than the files have", code="bad_size")
        return digest_of({n: f"sha256:{h.hexdigest()}" for n, h in self._digests.items()})


def _read_all(directory: int) -> dict[str, bytes]:
    with os.scandir(directory) as entries:
        names = [entry.name for _, entry in zip(range(8), entries, strict=False)]
    check_names(names)
    left = MAXIMUM_BYTES
    files = {}
    for name in names:
        # Not blocking, lest a pipe keep the server waiting.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError as error:
            raise Tampered(f"{name} can't be opened", code="model_tampered") from error
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > left:
                raise Tampered(
                    f"{name} is no plain file, or larger than 2 GB", code="model_tampered"
                )
            files[name] = file.read(found.st_size)
            left -= found.st_size
    return files
