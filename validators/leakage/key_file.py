"""The facility's linking key on disk: made once, kept by its owner alone."""

import os
import secrets
import tempfile
from pathlib import Path

from registry.trust.errors import Invalid, Unavailable
from validators.leakage.identifiers import LinkingKey


def open_linking_key(path: Path) -> LinkingKey:
    """The key at `path`, made there (mode 600) if there is none.

    Raises Invalid if what is there is none, Unavailable if it can't be made.

    Two who make it at once get the same one. A new key finds nothing that was linked under an old
    one, so a lost key is no error here, and it is worth a backup.
    """
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        raise Unavailable(f"the linking key {path} can't be made: {error.strerror}") from error
    try:
        return LinkingKey(path.read_bytes())
    except OSError as error:
        raise Invalid(f"the linking key {path} can't be read: {error.strerror}") from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_bytes(32))
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(partial, path)
    except FileExistsError:
        pass  # another was first: theirs is the key
    finally:
        Path(partial).unlink()
