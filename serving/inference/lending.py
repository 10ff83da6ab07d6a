"""Shared memory that a client lends to a server on its own host: one file, a few slots.

Rules
-----
1. The file loses its name once the server has it: nothing is left behind, whoever dies.
2. Its memory is taken at once, so that a full /dev/shm is an error here and not a signal later.
"""

import contextlib
import fcntl
import json
import mmap
import os
import secrets
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.inference.regions import DIRECTORY
from serving.inference.rows import Place
from serving.sandbox.shared import Rows, offsets, sizes_of

SLOTS: Final = 4


class Lent:
    """`SLOTS` slots of `slot` bytes. Raises OSError where there is no room."""

    def __init__(self, prefix: str, slot: int) -> None:
        self.slot = slot
        self.name = prefix + secrets.token_hex(16)
        self._path = DIRECTORY / self.name
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(self._descriptor, 0, self.size)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            self._memory = mmap.mmap(self._descriptor, self.size)
        except BaseException:
            self.unname()
            os.close(self._descriptor)
            raise

    @property
    def size(self) -> int:
        """Bytes of the whole region."""
        return max(self.slot, 1) * SLOTS

    def registration(self) -> bytes:
        """What the protocol's register asks for."""
        return json.dumps({"key": f"/{self.name}", "offset": 0, "byte_size": self.size}).encode()

    def unname(self) -> None:
        """Take the name away; whoever has it open keeps it."""
        self._path.unlink(missing_ok=True)

    def put(self, inputs: Mapping[str, NDArray[Any]], number: int) -> dict[str, Place]:
        """Copy `inputs` into slot `number`: where each of them lies."""
        base = number * self.slot
        places = {}
        starts = offsets([array.nbytes for array in inputs.values()])
        for (name, array), start in zip(inputs.items(), starts, strict=False):
            if array.nbytes:
                flat = np.frombuffer(
                    self._memory, array.dtype.newbyteorder("<"), array.size, base + start
                )
                flat.reshape(array.shape)[...] = array
            places[name] = Place(self.name, base + start, array.nbytes)
        return places

    def close(self) -> None:
        """Give it back."""
        self.unname()
        with contextlib.suppress(BufferError):  # a view of it is alive somewhere
            self._memory.close()
        os.close(self._descriptor)


def needed(inputs: Mapping[str, NDArray[Any]], rows: Rows | None = None) -> int:
    """Bytes that `inputs`, or these rows of them, take in a slot."""
    *_, end = offsets(sizes_of(list(inputs.values()), rows))
    return end
