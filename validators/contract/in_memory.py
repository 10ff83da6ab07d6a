"""A file whose bytes came in a request: read by the same code as one on disk.

>>> InMemory(b"\x89PNG", "2").open().read(4)
b'\x89PNG'
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal


@dataclass(frozen=True)
class InMemory:
    """Bytes with a name that orders them among others; the name is never the sender's."""

    data: bytes | bytearray | memoryview = field(repr=False)
    name: str

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """A stream of the bytes from their first."""
        assert mode == "rb"
        return io.BytesIO(self.data)

    def __str__(self) -> str:
        return self.name


File = Path | InMemory
