"""Objects in an S3 bucket with Object Lock.

    >>> store = open_s3(settings.s3)
    >>> store.put("submissions/1/report.json", data)
    >>> store.get("submissions/1/report.json")

Rules, beyond those of every store
-----
1. An object is the first version of its key, which the server keeps from everybody for the days
   of the settings (`LockedBucket`). A second version or a delete marker is read past: refusing to
   read would let whoever holds the credential stop the facility. It is logged, and
   `touchstone storage check` lists it.
2. Bytes found in place are as safe as bytes just written: `put` sees that they are locked.
3. A bucket without versioning and Object Lock is not opened.
4. A folder is a way of naming: an object may bear the name of others' folder.
"""

import datetime as dt
import io
from typing import Any, BinaryIO

from registry.storage.s3_bucket import LockedBucket, Version
from registry.storage.s3_check import check_locked
from registry.storage.s3_client import bucket_client
from registry.storage.s3_settings import S3Settings
from registry.storage.store import parts_of
from registry.trust.errors import Conflict, Invalid, NotFound

_BUFFER = 1 << 20
_DAY_END = dt.time(23, 59, 59)


def open_s3(settings: S3Settings) -> "S3Store":
    """The store of our own objects; Unavailable where the bucket is not as it must be."""
    client = bucket_client(settings, settings.objects)
    check_locked(client, settings.objects.name)
    days = settings.objects.retention_days
    return S3Store(LockedBucket(client, settings.objects.name, days=days))


class S3Store:
    """An `ObjectStore` over one locked bucket."""

    def __init__(self, bucket: LockedBucket) -> None:
        self._bucket = bucket

    def get(self, path: str) -> bytes:
        """The object's bytes; NotFound without one."""
        return self._bucket.read(self._first(path))

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable stream, fetched as it is read; NotFound without one."""
        return io.BufferedReader(_Stream(self._bucket, self._first(path)), _BUFFER)

    def size(self, path: str) -> int:
        """The object's size in bytes; NotFound without one."""
        return self._first(path).size

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        parts_of(path)
        return self._bucket.first(path) is not None

    def list(self, prefix: str) -> list[str]:
        """The paths of every object below the folder `prefix` ("" for all), sorted."""
        return [key for key in self.names(prefix) if _is_path(key)]

    def names(self, folder: str) -> tuple[str, ...]:
        """As `list`, and every other key that begins with the folder's."""
        prefix = "/".join((*parts_of(folder.rstrip("/")), "")) if folder else ""
        return tuple(sorted(one.key for one in self._bucket.below(prefix)))

    def put(self, path: str, data: bytes | bytearray) -> None:
        """Write once. Conflict if other bytes are there, Unavailable if they can't be stored."""
        parts_of(path)
        first, mine = self._bucket.first(path), False
        if first is None:
            first, mine = self._bucket.write(path, io.BytesIO(data), len(data))
        if mine:
            return
        if first.size != len(data) or self._bucket.read(first) != data:
            raise Conflict(f"the object {path} exists with other content")
        self._bucket.hold(first)

    def keep(self, path: str, until: dt.date) -> None:
        """Lock the object until the end of this day (UTC), never for less than it is locked."""
        self._bucket.hold_until(self._first(path), dt.datetime.combine(until, _DAY_END, dt.UTC))

    def _first(self, path: str) -> Version:
        parts_of(path)
        first = self._bucket.first(path)
        if first is None:
            raise NotFound(f"there is no object {path}")
        return first


class _Stream(io.RawIOBase):
    """One version, a range at a time."""

    def __init__(self, bucket: LockedBucket, version: Version) -> None:
        super().__init__()
        self._bucket, self._version, self._at = bucket, version, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._version.size}[whence]
        if start + offset < 0:
            raise ValueError("a stream has no place before its beginning")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._bucket.read(self._version, self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self._bucket.read(self._version, self._at)
        self._at += len(data)
        return data


def _is_path(key: str) -> bool:
    try:
        parts_of(key)
    except Invalid:
        return False
    return True
