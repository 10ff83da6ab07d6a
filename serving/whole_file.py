"""A file that is there whole, or as it was before, wherever the process is killed.

>>> put_whole(Path("state/memory.json"), data)
"""

import os
import secrets
from pathlib import Path


def put_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Put `data` at `path` in one move, written through to the disk; the folder is there already.

    mode: of a new file, before the umask. Raises OSError, and leaves nothing beside `path` then.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    settle_entries(path.parent)


def settle_entries(folder: Path) -> None:
    """Bring the folder's own entries to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
