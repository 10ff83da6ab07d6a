"""What a hospital remembers between two looks, in its own folder: `--state DIR`.

    >>> memory = open_memory(Path("state"), root, now)       # refuses an earlier clock
    >>> memory.checkpoint                                    # the last state of the log, or None
    >>> memory.remember(checkpoint=note)                     # newer things only ever replace older

Rules
-----
1. One folder is for one facility: its root is pinned at the first use and never replaced.
2. What is remembered only grows: the latest moment, the newest version of each part of the
   status, every stop, the longest log. So two processes may write, in any order.
3. Each change is read, merged and written under a lock, and takes its place in one move: killed
   anywhere, the folder holds the old or the new.
4. A clock that stands before the latest moment seen is refused: nothing that depends on a date
   can be believed. So is a memory that can't be read: an empty one would believe everything.
"""

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from registry.trust.canonical import canonical, parse_canonical
from registry.trust.checkpoint import parse as parse_checkpoint
from registry.trust.enrolment import certificate_digest
from registry.trust.errors import Conflict, Invalid, Refused, Tampered, Unavailable
from serving.locking import Taken, held
from serving.whole_file import put_whole

MEMORY = "memory.json"
STATUS = "status.json"
"""Where the last status that was fetched lies, whole."""
LOG = "log"
"""Where the tree of the facility's log lies, as it came with the status."""

CLOCK_TOLERANCE = dt.timedelta(minutes=5)
_LOCK, _PATIENCE = "lock", 20.0
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Seen(BaseModel):
    """The newest version of one part of the status, and the digest of what was signed.

    era: of a machine's part, how often its keys had been replaced. A new key begins anew: whoever
    stole the one before could have given out any version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Annotated[int, Field(ge=1)]
    digest: _Digest
    era: Annotated[int, Field(ge=0)] = 0


class Remembered(BaseModel):
    """What lies in `memory.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    form: Literal["touchstone/hospital-memory/v1"] = "touchstone/hospital-memory/v1"
    root: _Digest
    latest: AwareDatetime
    seen: dict[str, Seen] = {}
    """By role; `first-root` is the one that the X.509 root signed."""
    stops: dict[_Digest, str] = {}
    """The latest moment at which each statement was seen to be stopped."""
    checkpoint: str | None = None

    def merged(self, other: "Remembered") -> "Remembered":
        """The newer of each."""
        seen = dict(self.seen)
        for role, one in other.seen.items():
            if role not in seen or (one.era, one.version) > (seen[role].era, seen[role].version):
                seen[role] = one
        stops = {
            digest: max(self.stops.get(digest, ""), other.stops.get(digest, ""))
            for digest in sorted({*self.stops, *other.stops})
        }
        return Remembered(
            root=self.root,
            latest=max(self.latest, other.latest),
            seen=seen,
            stops=stops,
            checkpoint=max(self.checkpoint, other.checkpoint, key=_size),
        )


def _size(note: str | None) -> int:
    return -1 if note is None else parse_checkpoint(note.encode())[0].size


class Memory:
    """A hospital's memory. `remembered` is as it was when it was opened or last written to."""

    def __init__(self, folder: Path, remembered: Remembered) -> None:
        self.folder = folder
        self.remembered = remembered

    @property
    def latest(self) -> dt.datetime:
        """The latest moment seen."""
        return self.remembered.latest

    @property
    def checkpoint(self) -> bytes | None:
        """The log's last checkpoint that was seen, as the note that was signed."""
        note = self.remembered.checkpoint
        return None if note is None else note.encode()

    def remember(
        self,
        *,
        latest: dt.datetime | None = None,
        seen: Mapping[str, Seen] | None = None,
        stops: Mapping[str, str] | None = None,
        checkpoint: bytes | None = None,
    ) -> None:
        """Add to what is remembered; what is older than what is known changes nothing."""
        added = Remembered(
            root=self.remembered.root,
            latest=latest or self.latest,
            seen=dict(seen or {}),
            stops=dict(stops or {}),
            checkpoint=None if checkpoint is None else checkpoint.decode(),
        )
        with self.alone():
            write_whole(self.folder / MEMORY, _bytes(self.remembered.merged(added)))
            self.remembered = self.remembered.merged(added)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts nobody else writes here; `remembered` is as it stands now."""
        if getattr(self, "_held", False):
            yield
            return
        with state_held(self.folder):
            known = _read(self.folder)
            if known is not None:
                _check_root(self.folder, known, self.remembered.root)
                self.remembered = known
            self._held = True
            try:
                yield
            finally:
                self._held = False


def open_memory(folder: Path, root: x509.Certificate, at: dt.datetime) -> Memory:
    """The memory in `folder`, made with this root where there is none yet.

    Raises Refused (root_changed, clock_set_back), Tampered (state_damaged), Conflict
    (state_in_use), Unavailable where the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"{folder} can't be made ({error.strerror})", code="state") from error
    pinned = certificate_digest(root)
    known = _read(folder)
    if known is not None:
        _check_root(folder, known, pinned)
        check_clock(known.latest, at)
    memory = Memory(folder, known or Remembered(root=pinned, latest=at))
    memory.remember(latest=at)
    return memory


def seen_checkpoint(folder: Path, root: x509.Certificate) -> bytes | None:
    """The log's last checkpoint that was seen; None where nothing is remembered yet. Only reads.

    Raises Refused (root_changed), Tampered (state_damaged), Unavailable (state).
    """
    known = _read(folder)
    if known is None:
        return None
    _check_root(folder, known, certificate_digest(root))
    return Memory(folder, known).checkpoint


def check_clock(latest: dt.datetime, at: dt.datetime) -> None:
    """Raise Refused where the clock stands before the latest moment that was seen."""
    if at + CLOCK_TOLERANCE < latest:
        raise Refused(
            f"this machine's clock says {at:%Y-%m-%d %H:%M} UTC, and {latest:%Y-%m-%d %H:%M} UTC "
            "was seen before: set the clock right, then try again",
            code="clock_set_back",
        )


def _check_root(folder: Path, known: Remembered, pinned: str) -> None:
    if known.root != pinned:
        raise Refused(
            f"{folder} belongs to another root than the one given now: use the root that was "
            "pinned, or another folder for another facility",
            code="root_changed",
        )


def _read(folder: Path) -> Remembered | None:
    path = folder / MEMORY
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{path} can't be read ({error.strerror})", code="state") from error
    try:
        known = Remembered.model_validate(parse_canonical(data))
        _size(known.checkpoint)
    except (ValidationError, Invalid, ValueError, RecursionError) as error:
        raise Tampered(
            f"{path} is damaged: put back a copy of the folder, or begin a new one, which can't "
            "notice what went back since",
            code="state_damaged",
        ) from error
    return known


def _bytes(remembered: Remembered) -> bytes:
    return canonical(remembered.model_dump(mode="json"))


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one move: whoever looks sees the old or the new, whole."""
    try:
        put_whole(path, data)
    except OSError as error:
        raise Unavailable(f"{path} can't be written ({error.strerror})", code="state") from error


@contextlib.contextmanager
def state_held(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system gives back when this process ends."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(folder / _LOCK, patience=_PATIENCE))
        except Taken as error:
            raise Conflict(
                f"another process holds {folder}: try again when it has ended",
                code="state_in_use",
            ) from error
        except OSError as error:
            raise Unavailable(
                f"{folder} can't be written ({error.strerror})", code="state"
            ) from error
        yield
