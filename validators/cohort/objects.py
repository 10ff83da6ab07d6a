"""Where sealed objects lie: anything with `get` and a write-once `put`.

The registry's stores (a local directory, S3) fit as they are.
"""

from typing import Protocol


class ObjectReader(Protocol):
    """Reads objects by path, from several threads."""

    def get(self, path: str) -> bytes:
        """The object's bytes; raises NotFound when there is none."""
        ...


class ObjectWriter(Protocol):
    """Writes objects, each path once. The same bytes again are no error, other bytes are.

    `put` is called from several threads, each with a path of its own.
    """

    def put(self, path: str, data: bytes | bytearray) -> None: ...
