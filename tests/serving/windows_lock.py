"""A double of Windows' lock: one byte of an open file, at its present place."""

import os
import types
from pathlib import Path


class Msvcrt(types.ModuleType):
    """What `msvcrt.locking` does, as far as its documentation says."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.holders: dict[tuple[int, int, int], int] = {}

    def _place(self, descriptor: int) -> tuple[int, int, int]:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert count == 1
        place = self._place(descriptor)
        if mode == self.LK_NBLCK:
            if place in self.holders:
                raise PermissionError(13, "Permission denied")
            self.holders[place] = descriptor
        elif self.holders.get(place) == descriptor:
            del self.holders[place]
        else:
            raise PermissionError(13, "Permission denied")

    def refuses(self, path: Path) -> bool:
        """Whether the file is open, and so can't be removed."""
        status = path.stat()
        return any(place[:2] == (status.st_dev, status.st_ino) for place in self.holders)
