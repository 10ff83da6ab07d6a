"""A hospital's copy of the facility's status: from a web server or a stick, whole or not at all.

    >>> fetched = fetch(Path("state"), root, now, folder_reader(Path("/media/stick/status")))
    >>> standing_of = standing_from(Path("state"), root, grace)      # asked on a schedule

Rules
-----
1. Nobody is trusted on the way: what comes is checked under the pinned root and against the memory
   before it takes the place of what is here, in one move. Otherwise all stays as it was.
2. A status that has ended is still kept where it is newer: it may hold a revocation.
3. The copy is written before the memory, both under the lock: a kill between the two leaves a
   status that is newer than the memory, which is no harm.
"""

import contextlib
import datetime as dt
import json
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
from cryptography import x509

from registry.trust.canonical import canonical, parse_canonical
from registry.trust.checkpoint import parse
from registry.trust.errors import Conflict, Invalid, Tampered, TouchstoneError, Unavailable
from registry.trust.status import DOWNGRADE, ENDORSEMENT, TIMESTAMP, file_name
from registry.trust.tiles import CERTIFICATE, CHECKPOINT
from serving.bundle.log_copy import FOLDER, MOST_EVENTS, bring_log, tile_names
from serving.bundle.memory import LOG, STATUS, Memory, open_memory, write_whole
from serving.bundle.standing import Standing, StandingOf
from serving.bundle.status import MOST_ROOTS, NO_GRACE, Status, checked
from serving.bundle.status_parts import LARGEST

Reader = Callable[[str], bytes | None]
"""The bytes under a name; None where there is no such file."""
NAME = re.compile(r"timestamp\.json|1\.root\.dsse\.json|"
                  r"[1-9][0-9]{0,8}\.(root|targets|downgrade|snapshot)\.json\Z")  # fmt: skip
LARGEST_WHOLE = 8 * LARGEST
"""Of all parts together: nothing of them is checked before all are here."""
_SECONDS, _WHOLE_SECONDS = 30.0, 600.0


def collect(read: Reader) -> dict[str, bytes]:
    """Every file of the newest status that `read` knows, still unchecked."""
    files: dict[str, bytes] = {}

    def found(name: str) -> bytes | None:
        data = read(name)
        if data is not None:
            files[name] = data
            if sum(map(len, files.values())) > LARGEST_WHOLE:
                raise Tampered(
                    f"this status is larger than {LARGEST_WHOLE >> 20} MiB", code="status_malformed"
                )
        return data

    def take(name: str) -> bytes:
        data = found(name)
        if data is None:
            raise Unavailable(f"there is no {name} there: is it a status?", code="status_missing")
        return data

    take(ENDORSEMENT)
    take(file_name("root", 1))
    for version in range(2, MOST_ROOTS + 1):
        if found(file_name("root", version)) is None:
            break
    meta = _names(take(TIMESTAMP))
    snapshot = _names(take(file_name("snapshot", meta.get("snapshot.json", 0))))
    for role in ("targets", DOWNGRADE):
        take(file_name(role, snapshot.get(f"{role}.json", 0)))
    return files


def _names(data: bytes) -> dict[str, int]:
    """{name: version} in a part that names others, unchecked."""
    try:
        meta = json.loads(data)["signed"]["meta"]
        return {str(name): int(one["version"]) for name, one in meta.items()}
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError
    ) as error:  # fmt: skip
        raise Tampered("this status can't be read", code="status_malformed") from error


def folder_reader(folder: Path) -> Reader:
    """Reads from a folder, such as one on a stick."""

    def read(name: str) -> bytes | None:
        path = folder / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device never ends
                return None
            with path.open("rb") as stream:
                data = stream.read(LARGEST + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"{path} can't be read ({error.strerror})") from error
        if len(data) > LARGEST:
            raise Tampered(f"{path} is too large to be a status", code="status_malformed")
        return data

    return read


def web_reader(address: str, client: httpx.Client) -> Reader:
    """Reads plain files below an address of any web server, for ten minutes at most."""
    until = time.monotonic() + _WHOLE_SECONDS
    plain = {"Accept-Encoding": "identity"}

    def read(name: str) -> bytes | None:
        url = f"{address.rstrip('/')}/{name}"
        data = bytearray()
        try:
            with client.stream("GET", url, timeout=_SECONDS, headers=plain) as answer:
                if answer.status_code in (403, 404):
                    return None
                if answer.status_code != httpx.codes.OK:
                    raise Unavailable(f"{url} answered {answer.status_code}: try again")
                if "content-encoding" in answer.headers:  # a few bytes may unpack to gigabytes
                    raise Tampered(f"{url} came compressed", code="status_malformed")
                for block in answer.iter_raw():
                    data += block
                    if len(data) > LARGEST:
                        raise Tampered(f"{url} is too large", code="status_malformed")
                    if time.monotonic() > until:
                        raise Unavailable(f"{url} came too slowly: try again, or take a stick")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"no status came from {url} ({type(error).__name__}); what was here before is "
                "still here"
            ) from error
        return bytes(data)

    return read


def fetch(state: Path, root: x509.Certificate, at: dt.datetime, read: Reader) -> Status:
    """Bring the copy in `state` up to what `read` knows; the status as it is now."""
    memory = open_memory(state, root, at)
    files = collect(read)
    with memory.alone():
        status = checked(files, root, at, memory.remembered)
        write_whole(state / STATUS, _packed(files))
        _remember(memory, status, at)
        bring_log(read, state / LOG, root, at)
    return status


def kept(state: Path, root: x509.Certificate, at: dt.datetime) -> tuple[Status, Memory]:
    """The copy in `state`, checked anew, and the memory; Unavailable where none was fetched."""
    memory = open_memory(state, root, at)
    with memory.alone():
        return checked(read_copy(state), root, at, memory.remembered), memory


def read_copy(state: Path) -> dict[str, bytes]:
    """The files of the copy in `state`."""
    try:
        data = (state / STATUS).read_bytes()
    except FileNotFoundError as error:
        raise Unavailable(
            f"there is no status in {state} yet: run `touchstone status fetch`",
            code="status_missing",
        ) from error
    except OSError as error:
        raise Unavailable(f"{state / STATUS} can't be read ({error.strerror})") from error
    try:
        value = parse_canonical(data)
        return {str(name): text.encode() for name, text in value.items()}
    except (Invalid, AttributeError, RecursionError) as error:
        raise Tampered(
            f"{state / STATUS} is damaged: fetch the status again", code="status_malformed"
        ) from error


def export_log(read: Reader, folder: Path) -> int:
    """Write the log's tree beside a status, as it comes; how many files. Full tiles stay."""
    note = read(FOLDER + CHECKPOINT)
    if note is None:
        return 0
    size = parse(note)[0].size
    if size > MOST_EVENTS:  # unverified: whoever takes it in asks who signed it
        raise Tampered(f"the log there claims {size} events", code="log_malformed")
    names = [*tile_names(size), CERTIFICATE]
    for name in names:
        path = folder / FOLDER / name
        if name == CERTIFICATE or not path.is_file():
            data = read(FOLDER + name)
            if data is None:
                raise Unavailable(f"there is no {FOLDER}{name} there", code="status_missing")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
    write_whole(folder / FOLDER / CHECKPOINT, note)
    return len(names) + 1


def export(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a status as plain files; what names the others comes last, in one move."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, key=lambda name: name == TIMESTAMP):
            if not NAME.fullmatch(name):
                raise Invalid(f"{name[:40]!a} is no file of a status")
            write_whole(folder / name, files[name])
    except OSError as error:
        raise Conflict(f"{folder} can't be written ({error.strerror})") from error


@contextlib.contextmanager
def reader_of(source: str) -> Iterator[Reader]:
    """Reads from a web address or a folder."""
    if source.startswith(("http://", "https://")):
        with httpx.Client(trust_env=False, follow_redirects=False) as client:
            yield web_reader(source, client)
    else:
        yield folder_reader(Path(source))


def standing_from(
    state: Path, root: x509.Certificate, grace: dt.timedelta = NO_GRACE, source: str | None = None
) -> StandingOf:
    """Who may ask again and again: each time the copy in `state` is read and checked anew.

    source: a web address or folder to fetch from first; where it can't be reached, the copy as it
    is says until when it holds.
    """

    def standing_of(statement: str, at: dt.datetime) -> Standing:
        refused: TouchstoneError | None = None
        if source is not None:
            try:
                with reader_of(source) as read:
                    fetch(state, root, at, read)
            except Unavailable:
                pass
            except TouchstoneError as error:
                refused = error
        status, _ = kept(state, root, at)
        standing = status.standing(statement, grace)
        if refused is not None and standing.state == "in_force":
            raise refused  # a false source may not hide a stop that came another way
        return standing

    return standing_of


def _remember(memory: Memory, status: Status, at: dt.datetime) -> None:
    memory.remember(
        latest=max(at, status.signed_at),
        seen=status.seen,
        stops={statement: stop.since for statement, stop in status.stops.items()},
    )


def _packed(files: Mapping[str, bytes]) -> bytes:
    try:
        return canonical({name: data.decode() for name, data in files.items()})
    except UnicodeDecodeError as error:
        raise Tampered("this status is not text", code="status_malformed") from error
