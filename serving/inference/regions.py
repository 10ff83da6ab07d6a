"""Regions of system shared memory that clients of this host registered.

Rules
-----
1. Only files of /dev/shm whose name begins with the operator's prefix; no link is followed.
2. Bytes are read and written by system calls, never through a mapping: a region that its owner
   shrinks gives an error here, and not a signal that ends the server.
3. A place is held against the registered size before it is touched.
4. A region that lost its name and whose owner holds no lock on it (flock) any more is forgotten
   when the next one comes: its owner died.
"""

import contextlib
import fcntl
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.trust.errors import Conflict, Invalid, NotFound, Refused
from serving.inference.datatypes import name_of, size_of
from serving.inference.rows import Place

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  (shm_open's own place)
PREFIX: Final = "touchstone-"
"""What names must begin with, unless the operator says otherwise."""
MOST_REGIONS: Final = 64
_KEY = re.compile(r"/?([A-Za-z0-9][A-Za-z0-9._-]{0,200})\Z", re.ASCII)


@dataclass
class _Region:
    key: str
    offset: int
    size: int
    descriptor: int


class Regions:
    """The regions by name. `prefix` None: shared memory is not offered."""

    def __init__(self, prefix: str | None) -> None:
        self._prefix = prefix
        self._regions: dict[str, _Region] = {}
        # Models' threads read while the loop may close a descriptor, whose number is used again.
        self._lock = threading.Lock()

    @property
    def offered(self) -> bool:
        """Whether the operator allowed a prefix."""
        return self._prefix is not None

    def register(self, name: str, value: dict[str, Any]) -> None:
        """Register {key, offset, byte_size} under `name`.

        Raises Refused (region_refused) for a key outside the prefix, Conflict for a name that is
        taken, Invalid where the file is smaller than that.
        """
        self._forget_orphans()
        name_of(name)
        if not set(value) <= {"key", "offset", "byte_size"}:
            raise Invalid("a region has key, offset and byte_size", code="bad_request")
        offset = size_of(value.get("offset", 0), "offset")
        size = size_of(value.get("byte_size"), "byte_size")
        if name in self._regions:
            raise Conflict("a region of this name is registered", code="region_taken")
        if len(self._regions) >= MOST_REGIONS:
            raise Conflict(f"{MOST_REGIONS} regions are registered already", code="region_taken")
        key = value.get("key")
        found = _KEY.match(key) if isinstance(key, str) else None
        if self._prefix is None or found is None or not found[1].startswith(self._prefix):
            raise Refused(
                "this server takes no such region: its name must begin with the operator's "
                "--shared-memory-prefix",
                code="region_refused",
            )
        descriptor = _open(found[1])
        try:
            _check_size(descriptor, offset + size)
        except BaseException:
            os.close(descriptor)
            raise
        self._regions[name] = _Region(str(key), offset, size, descriptor)

    def unregister(self, name: str | None = None) -> None:
        """Forget one region, or all of them. One that is not there is no error."""
        for gone in [name] if name is not None else list(self._regions):
            with self._lock:
                region = self._regions.pop(gone, None)
                if region is not None:
                    os.close(region.descriptor)

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """What is registered, as the protocol tells it. Raises NotFound."""
        names = [name] if name is not None else list(self._regions)
        return [
            {"name": n, "key": r.key, "offset": r.offset, "byte_size": r.size}
            for n, r in ((n, self._named(n)) for n in names)
        ]

    def check(self, place: Place) -> None:
        """Raise unless `place` lies inside its region, as the file is now."""
        region = self._named(place.region)
        if place.offset + place.size > region.size:
            raise Invalid("a tensor lies outside its shared memory region", code="bad_size")
        _check_size(region.descriptor, region.offset + place.offset + place.size)

    def read(self, place: Place, into: memoryview) -> None:
        """Copy the bytes at `place`, which was checked, into a buffer of its size."""
        with self._lock:
            region = self._named(place.region)
            done = 0
            while done < place.size:
                start = region.offset + place.offset + done
                got = os.preadv(region.descriptor, [into[done : place.size]], start)
                if not got:
                    raise Invalid("a shared memory region has shrunk", code="bad_size")
                done += got

    def write(self, place: Place, data: memoryview) -> None:
        """Copy `data`, of at most its size, to `place`, which was checked."""
        with self._lock:
            region = self._named(place.region)
            done = 0
            while done < len(data):
                start = region.offset + place.offset + done
                done += os.pwrite(region.descriptor, data[done:], start)

    def _forget_orphans(self) -> None:
        for name, region in list(self._regions.items()):
            if os.fstat(region.descriptor).st_nlink == 0:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(region.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.unregister(name)

    def _named(self, name: str) -> _Region:
        if name not in self._regions:
            raise NotFound("there is no such shared memory region", code="region_unknown")
        return self._regions[name]


def _open(name: str) -> int:
    try:
        descriptor = os.open(
            DIRECTORY / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError as error:
        raise NotFound(
            "the shared memory object can't be opened: it must exist and belong to the server's "
            "own account",
            code="region_unknown",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("a region is no plain file", code="region_refused")
    return descriptor


def _check_size(descriptor: int, needed: int) -> None:
    if os.fstat(descriptor).st_size < needed:
        raise Invalid("the shared memory object is smaller than that", code="bad_size")
