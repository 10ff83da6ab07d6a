"""One-way memory: inputs that the trusted side writes once and the locked process only reads.

Rules
-----
1. The trusted side never reads it: answers come back through the socket alone.
2. The kernel holds its size and forbids the process a writable mapping (memfd seals).
3. Tensors lie at multiples of 64 bytes in the order of their rows; what does not fit travels
   through the socket.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

SIZE: Final = 64 << 20
SHARED_FD: Final = 4
_ALIGNMENT: Final = 64
_F_ADD_SEALS: Final = 1033
_SEAL, _SHRINK, _GROW, _FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10


def offsets(sizes: Sequence[int]) -> Iterator[int]:
    """Where tensors of these sizes in bytes begin; the last value is where they end."""
    position = 0
    for size in sizes:
        yield position
        position += -(-size // _ALIGNMENT) * _ALIGNMENT
    yield position


class Region:
    """The trusted side's writable view, and the descriptor that the process is born with."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("inputs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, SIZE)
        self._memory = mmap.mmap(self.descriptor, SIZE)
        self.view = memoryview(self._memory)
        for seal in (_SHRINK | _GROW, _FUTURE_WRITE, _SEAL):
            try:
                fcntl.fcntl(self.descriptor, _F_ADD_SEALS, seal)
            except OSError:
                # gVisor lacks some seals. The trusted side still never reads the memory, and the
                # process, without ftruncate, can't shrink it.
                continue

    def close_descriptor(self) -> None:
        """Close this side's descriptor once the process has its own."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """Give the memory back."""
        self.close_descriptor()
        self.view.release()
        self._memory.close()


def map_read_only(descriptor: int) -> Any:
    """The process's view; the descriptor is closed with the others."""
    return mmap.mmap(descriptor, SIZE, prot=mmap.PROT_READ)
