"""A bucket in which a key is what was written under it first, whatever came afterwards.

    >>> bucket = LockedBucket(client, "objects", days=3650)
    >>> version, mine = bucket.write("a/b", io.BytesIO(data), len(data))
    >>> bucket.read(bucket.first("a/b"))

Rules
-----
1. The first version of a key is the object. It is locked (COMPLIANCE), so nobody can replace or
   remove it for that time; a later version or a delete marker is somebody's work, is logged,
   and is read past. Every read names the version.
2. `IfNoneMatch: *` refuses a second version early. What decides is which version is the first.
3. A large object goes up in parts and appears when the last is in, or not at all.
"""

import datetime as dt
import io
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from registry.storage.s3_client import TAKEN, code_of, speaking
from registry.trust.errors import Tampered, Unavailable

PART = 16 << 20
_WHOLE = 2 * PART
_TRIES = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """The first version of a key; `followed` if there is a later one or a delete marker."""

    key: str
    id: str
    size: int
    followed: bool = False


class LockedBucket:
    """One bucket through one identity. Safe for many threads and processes."""

    def __init__(self, client: Any, name: str, *, days: int) -> None:
        self.name = name
        self._client = client
        self._days = days

    def first(self, key: str) -> Version | None:
        """The first version of `key`."""
        found = next((one for one in self._versions(key, only=key) if one.key == key), None)
        if found and found.followed:
            _log.warning(
                "somebody wrote or deleted %r in the bucket %s again; the first version stands",
                key, self.name,
            )  # fmt: skip
        return found

    def below(self, prefix: str) -> Iterator[Version]:
        """The first version of every key that begins with `prefix`, by key."""
        yield from self._versions(prefix)

    def children(self, prefix: str) -> tuple[list[Version], list[str]]:
        """The first versions directly under a folder's `prefix` ("a/"), and its folders."""
        folders: list[str] = []
        return list(self._versions(prefix, folders=folders)), sorted(folders)

    def write(
        self,
        key: str,
        source: BinaryIO,
        size: int,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Version, bool]:
        """Write once; returns the key's first version, and whether this call wrote it."""
        if source.seek(0, io.SEEK_END) != size:
            raise Unavailable(f"{key} changed while it was being stored; try again")
        with speaking(f"the object {key}", self.name):
            try:
                more = {"Bucket": self.name, "Key": key, "Metadata": dict(metadata or {})}
                if size <= _WHOLE:
                    mine = self._put(source, size, more)
                else:
                    mine = self._put_in_parts(source, size, more)
            except ClientError as error:
                if code_of(error) not in TAKEN:
                    raise
                mine = None
            first = self.first(key)
        if first is None:
            raise Unavailable(f"the S3 server did not keep the object {key}; try again")
        return first, first.id == mine

    def hold(self, version: Version) -> None:
        """See to it that a version found in place is locked as long as one written now."""
        self.hold_until(version, self._until() - dt.timedelta(days=1))

    def hold_until(self, version: Version, until: dt.datetime) -> None:
        """See to it that a version is locked until `until`; a longer lock stays as it is."""
        names = {"Bucket": self.name, "Key": version.key, "VersionId": version.id}
        with speaking(f"the object {version.key}", self.name):
            head = self._client.head_object(**names)
            held = head.get("ObjectLockRetainUntilDate")
            if head.get("ObjectLockMode") == "COMPLIANCE" and held >= until:
                return
            until = max(until, self._until())
            self._client.put_object_retention(
                **names, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
            )

    def metadata(self, version: Version) -> Mapping[str, str]:
        """What was written beside the bytes."""
        with speaking(f"the object {version.key}", self.name):
            head = self._client.head_object(Bucket=self.name, Key=version.key, VersionId=version.id)
        metadata: Mapping[str, str] = head["Metadata"]
        return metadata

    def read(self, version: Version, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to before `stop`; Tampered if the version is not as listed."""
        stop = version.size if stop is None else min(stop, version.size)
        if start >= stop:
            return b""
        part = {} if (start, stop) == (0, version.size) else {"Range": f"bytes={start}-{stop - 1}"}
        with speaking(f"the object {version.key}", self.name):
            for attempt in range(_TRIES):
                answer = self._client.get_object(
                    Bucket=self.name, Key=version.key, VersionId=version.id, **part
                )
                try:
                    data: bytes = answer["Body"].read()
                    break
                except BotoCoreError:  # the connection broke in the middle of the body
                    if attempt == _TRIES - 1:
                        raise
                    time.sleep(0.1 * 2**attempt)
        if len(data) != stop - start:
            raise Tampered(f"the object {version.key} is not as long as the S3 server says")
        return data

    def _put(self, source: BinaryIO, size: int, more: Mapping[str, Any]) -> str:
        answer = self._client.put_object(
            **more, Body=_Window(source, 0, size), IfNoneMatch="*", ChecksumAlgorithm="SHA256",
            **self._lock(),
        )  # fmt: skip
        return self._version_of(answer)

    def _put_in_parts(self, source: BinaryIO, size: int, more: Mapping[str, Any]) -> str:
        names = {"Bucket": more["Bucket"], "Key": more["Key"]}
        upload = self._client.create_multipart_upload(
            **more, ChecksumAlgorithm="SHA256", **self._lock()
        )["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            for start in range(0, size, PART):
                part = self._client.upload_part(
                    **names, UploadId=upload, PartNumber=len(parts) + 1,
                    Body=_Window(source, start, min(start + PART, size)),
                    ChecksumAlgorithm="SHA256",
                )  # fmt: skip
                kept = {name: part[name] for name in ("ETag", "ChecksumSHA256") if name in part}
                parts.append({"PartNumber": len(parts) + 1, **kept})
            answer = self._client.complete_multipart_upload(
                **names, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            with suppress(ClientError, BotoCoreError):
                self._client.abort_multipart_upload(**names, UploadId=upload)
            raise
        return self._version_of(answer)

    def _version_of(self, answer: Mapping[str, Any]) -> str:
        version = answer.get("VersionId")
        if not version or version == "null":
            raise Unavailable(
                f"the S3 bucket {self.name} keeps no versions any more; "
                "see `touchstone storage check`"
            )
        return str(version)

    def _lock(self) -> dict[str, Any]:
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": self._until()}

    def _until(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(days=self._days)

    def _versions(
        self, prefix: str, *, only: str | None = None, folders: list[str] | None = None
    ) -> Iterator[Version]:
        """First versions by key; S3 lists keys in order, and each key's newest version first."""
        pending: dict[str, Any] | None = None
        count, marked = 0, set[str]()
        for page in self._pages(prefix, "/" if folders is not None else None):
            if folders is not None:
                folders += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
            marked |= {one["Key"] for one in page.get("DeleteMarkers", [])}
            for entry in page.get("Versions", []):
                if pending is not None and pending["Key"] != entry["Key"]:
                    yield _version(pending, count, marked)
                    count = 0
                    if only is not None:
                        return
                pending = entry
                count += 1
        if pending is not None:
            yield _version(pending, count, marked)

    def _pages(self, prefix: str, delimiter: str | None) -> Iterator[Mapping[str, Any]]:
        asked: dict[str, Any] = {"Bucket": self.name, "Prefix": prefix}
        if delimiter:
            asked["Delimiter"] = delimiter
        while True:
            with speaking(f"the list of {prefix or 'everything'}", self.name):
                page = self._client.list_object_versions(**asked)
            yield page
            if not page.get("IsTruncated"):
                return
            markers = {
                "KeyMarker": page.get("NextKeyMarker"),
                "VersionIdMarker": page.get("NextVersionIdMarker"),
            }
            if not any(markers.values()):
                raise Unavailable(f"the S3 server did not list all of {self.name}; try again")
            asked |= {name: value for name, value in markers.items() if value}


class _Window(io.RawIOBase):
    """A piece of a seekable stream, sent without holding it: many upload at once."""

    def __init__(self, source: BinaryIO, start: int, stop: int) -> None:
        super().__init__()
        self._source, self._start, self._size, self._at = source, start, stop - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._source.seek(self._start + self._at)
        data = self._source.read(left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


def _version(entry: Mapping[str, Any], count: int, marked: set[str]) -> Version:
    key = str(entry["Key"])
    return Version(key, str(entry["VersionId"]), int(entry["Size"]), count > 1 or key in marked)


def printable(key: str) -> str:
    """A key as it may be shown, whoever chose it."""
    return re.sub(r"[^A-Za-z0-9_.@=+/-]", "?", key)[:200]
