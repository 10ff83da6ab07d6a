"""Two cohorts held against each other, staged or sealed; or one against a list of patients.

    >>> found = search(open_staged(cohort), index.read("lidc-open", "1"), open_linking_key(path))
    >>> found.evidence.outcome
    'held_for_review'

Rules
-----
1. Of a sealed cohort there is what was kept at its sealing (`validators.leakage.links`).
2. Patients under the linking key, cases that are the same to the pixel, pictures that look alike.
   Against a list of identifiers: patients alone.
3. The evidence holds counts. `pairs` name the source's own case ids where a side is staged: they
   are for the facility's reviewers and leave it nowhere. Of two sealed cohorts there are none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cohort.ingest import Staged, open_staged
from validators.leakage.evidence import (
    LeakageEvidence,
    leakage_evidence,
    of_exact_pixels,
    of_near_pictures,
    of_patients,
)
from validators.leakage.identifiers import Linked, LinkingKey, checked, overlap
from validators.leakage.links import Links, links_of, tokens_of
from validators.leakage.perceptual import near_duplicates
from validators.leakage.pictures import pictures_of
from validators.leakage.pixels import exact_duplicates

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """Two cases for a reviewer to look at, by the ids of their sources."""

    search: str
    case: str = field(repr=False)
    other: str = field(repr=False)
    distance: int


@dataclass(frozen=True)
class Found:
    """The evidence, and the pairs for the facility's reviewers."""

    evidence: LeakageEvidence
    pairs: tuple[Pair, ...] = field(repr=False)


def search(
    cohort: Staged | Links,
    other: Staged | Links | Sequence[str],
    key: LinkingKey,
    *,
    against: str = "the other side",
    progress: Progress = lambda done, total: None,
) -> Found:
    """What the two sides share. `other` may be identifiers of patients too.

    Raises Invalid where an identifier is empty or a staging folder is damaged, Refused for links
    under another key.
    """
    total = sum(side.cases for side in (cohort, other) if isinstance(side, Staged))
    first = _side(cohort, key, lambda done: progress(done, total))
    before = cohort.cases if isinstance(cohort, Staged) else 0
    if not isinstance(other, Staged | Links):
        listed = Linked(key.fingerprint, tokens_of(key, checked(other)))
        alone = of_patients(overlap(_linked(first.links), listed), against)
        return Found(leakage_evidence((alone,)), ())
    second = _side(other, key, lambda done: progress(before + done, total))
    patients = overlap(_linked(first.links), _linked(second.links))
    exact = exact_duplicates(first.digests, second.digests)
    near = near_duplicates(first.hashes, second.hashes)
    evidence = leakage_evidence(
        (
            of_patients(patients, against),
            of_exact_pixels(exact, against),
            of_near_pictures(near, against),
        )
    )
    if first.cases is None:
        return Found(evidence, ())
    ours, theirs = first.names(first.pictured, ""), second.names(second.pictured, against)
    names = [*first.names(first.hashed, ""), *second.names(second.hashed, against)]
    pairs = [Pair("exact_pixels", ours[b], ours[a], 0) for a, b in exact.pairs_within]
    pairs += [Pair("exact_pixels", ours[a], theirs[b], 0) for a, b in exact.pairs_across]
    pairs += [Pair("near_pictures", names[a], names[b], int(d)) for a, b, d in near.listed]
    return Found(evidence, tuple(pairs))


def read_side(path: Path) -> Staged | list[str]:
    """A staged folder, or the identifiers of a text file, one a line. Raises Invalid, NotFound."""
    if path.is_dir():
        return open_staged(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            f"{path} is neither a staging folder nor a text file of identifiers"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise Invalid(f"{path} names no patient; write one identifier a line")
    return found


@dataclass(frozen=True)
class _Side:
    """A side's links, and the ids of its cases where they are known."""

    links: Links
    cases: list[str] | None = field(repr=False)

    @property
    def pictured(self) -> list[int]:
        """Rows with a digest of pixels."""
        return [row for row, token in enumerate(self.links.pixels) if token]

    @property
    def hashed(self) -> list[int]:
        """Rows with a perceptual hash."""
        return [row for row, bits in enumerate(self.links.hashes) if bits is not None]

    @property
    def digests(self) -> list[str]:
        """In the order of `pictured`."""
        return [self.links.pixels[row].hex() for row in self.pictured]

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """In the order of `hashed`."""
        return np.array([self.links.hashes[row] for row in self.hashed], dtype=np.uint64)

    def names(self, rows: list[int], otherwise: str) -> list[str]:
        """Their cases."""
        return [otherwise if self.cases is None else self.cases[row] for row in rows]


def _side(side: Staged | Links, key: LinkingKey, progress: Callable[[int], None]) -> _Side:
    if isinstance(side, Links):
        return _Side(side, None)
    table = side.table()
    patients = checked(table["patient"].to_pylist())
    links = links_of(key, patients, pictures_of(side.blocks(), progress))
    return _Side(links, table["case"].to_pylist())


def _linked(links: Links) -> Linked:
    return Linked(links.key, frozenset(links.patients) - {b""})
