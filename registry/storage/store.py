"""What the rooms ask of a store of objects, wherever it lies.

Rules
-----
1. An object is named by a path: relative, ASCII, parts of letters, digits and `_ . @ = + -`, none
   beginning with a dot. One object has one spelling.
2. It is written once and never changes. The same bytes again do nothing, others are a Conflict.
3. It appears whole or not at all, and what `put` has returned from survives a power cut.
4. `keep` only ever lengthens the time in which nobody can remove an object.
"""

import datetime as dt
import re
from typing import BinaryIO, Protocol

from registry.trust.errors import Invalid

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@=+-]{0,200}\Z")
_LONGEST = 1000


class ObjectStore(Protocol):
    """Objects by path. Every method raises Invalid for a path that breaks the rules."""

    def get(self, path: str) -> bytes:
        """The object's bytes; NotFound without one."""

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable stream, for what is too large to hold; NotFound without one."""

    def size(self, path: str) -> int:
        """The object's size in bytes; NotFound without one."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""

    def list(self, prefix: str) -> list[str]:
        """The paths of every object below the folder `prefix` ("" for all), sorted."""

    def names(self, folder: str) -> tuple[str, ...]:
        """As `list`, and all else that lies there: by names that break rule 1 too, sorted.

        Nothing of ours bears such a name, so whatever does was put there by somebody.
        """

    def put(self, path: str, data: bytes | bytearray) -> None:
        """Write once. Conflict if other bytes are there, Unavailable if they can't be stored."""

    def keep(self, path: str, until: dt.date) -> None:
        """Lock the object until the end of this day (UTC), or longer; NotFound without one."""


def parts_of(path: str) -> tuple[str, ...]:
    """The parts of an object's path; Invalid if it breaks rule 1."""
    parts = tuple(path.split("/"))
    if len(path) > _LONGEST or not all(_PART.match(part) for part in parts):
        raise Invalid(f"{path[:120]!a} is not a path of an object")
    return parts
