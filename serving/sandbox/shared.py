"""One-way memory: inputs that the trusted side writes once and the locked process only reads.

Rules
-----
1. The trusted side never reads it: answers come back through the socket alone.
2. The kernel holds its size and forbids the process a writable mapping (memfd seals).
3. Two slots, so that one call's inputs can be written while another one's are read. Tensors
   lie at multiples of 64 bytes in the order of their rows; what does not fit into a slot
   travels through the socket, laid out alike.
"""

import fcntl
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.sandbox.framing import Buffer

Rows = NDArray[np.intp]
SLOTS: Final = 2
SLOT: Final = 32 << 20
SIZE: Final = SLOTS * SLOT
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


def sizes_of(arrays: Sequence[NDArray[Any]], rows: Rows | None) -> list[int]:
    """The bytes that each array takes, or that these rows of it do."""
    if rows is None:
        return [array.nbytes for array in arrays]
    return [len(rows) * math.prod(array.shape[1:]) * array.itemsize for array in arrays]


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

    def place(
        self, arrays: Sequence[NDArray[Any]], slot: int, rows: Rows | None = None
    ) -> list[Buffer]:
        """Write `arrays` into a slot; give what does not fit and goes through the socket.

        `rows`: which rows of each array, in this order; None: all. They are copied once.
        """
        sizes = sizes_of(arrays, rows)
        *starts, end = offsets(sizes)
        if end > SLOT:
            padded: list[Buffer] = []
            for array, size, start, after in zip(
                arrays, sizes, starts, [*starts[1:], end], strict=True
            ):
                taken = array if rows is None else array[rows]
                padded.append(np.ascontiguousarray(taken).reshape(-1).view(np.uint8).data)
                padded.append(bytes(after - start - size))
            return padded
        for array, size, start in zip(arrays, sizes, starts, strict=True):
            count = size // array.itemsize
            flat = np.frombuffer(self.view, array.dtype, count, slot * SLOT + start)
            if rows is None:
                flat.reshape(array.shape)[...] = array
            else:
                # "clip" spares a copy; the rows were checked by whoever chose them.
                out = flat.reshape(len(rows), *array.shape[1:])
                np.take(array, rows, axis=0, out=out, mode="clip")
        return []

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
