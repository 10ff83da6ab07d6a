"""Staged cases held against what was seen before: another staged folder, or a list of patients.

    >>> found = search(open_staged(cohort), open_staged(development), open_linking_key(path))
    >>> found.evidence.outcome
    'held_for_review'

Rules
-----
1. Before a cohort is sealed: afterwards its patients have pseudonyms of their own.
2. Against a staged folder: patients under the linking key, cases that are the same to the pixel,
   and pictures that look alike. Against a list of identifiers: patients alone.
3. A picture is the first input tensor that has rows and columns. Flat ones, and cases without
   a picture, are left out of both comparisons of pixels.
4. The evidence holds counts. `pairs` name the source's own case ids: they are for the facility's
   reviewers and leave it nowhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from registry.trust.errors import Invalid
from validators.cohort.ingest import Staged, open_staged
from validators.leakage.evidence import (
    LeakageEvidence,
    leakage_evidence,
    of_exact_pixels,
    of_near_pictures,
    of_patients,
)
from validators.leakage.identifiers import Linked, LinkingKey, linked, overlap
from validators.leakage.perceptual import near_duplicates, perceptual_hash, picture_of
from validators.leakage.pixels import exact_duplicates, is_flat, pixel_digest

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


@dataclass(frozen=True)
class _Pictures:
    """Pixel digests and perceptual hashes of the cases with a picture that is not flat."""

    cases: list[str]
    digests: list[str]
    hashed: list[str]
    hashes: NDArray[np.uint64]


def search(
    cohort: Staged,
    other: Staged | Sequence[str],
    key: LinkingKey,
    *,
    against: str = "the other side",
    progress: Progress = lambda done, total: None,
) -> Found:
    """What the two sides share. `other` is a staged folder, or identifiers of patients.

    Raises Invalid where an identifier is empty or a staging folder is damaged.
    """
    patients = of_patients(overlap(_linked(cohort, key), _linked(other, key)), against)
    if not isinstance(other, Staged):
        return Found(leakage_evidence((patients,)), ())
    total = cohort.cases + other.cases
    mine = _pictures(cohort, lambda done: progress(done, total))
    theirs = _pictures(other, lambda done: progress(cohort.cases + done, total))
    exact = exact_duplicates(mine.digests, theirs.digests)
    near = near_duplicates(mine.hashes, theirs.hashes)
    evidence = leakage_evidence(
        (patients, of_exact_pixels(exact, against), of_near_pictures(near, against))
    )
    names = [*mine.hashed, *theirs.hashed]
    pairs = [Pair("exact_pixels", mine.cases[b], mine.cases[a], 0) for a, b in exact.pairs_within]
    pairs += [
        Pair("exact_pixels", mine.cases[a], theirs.cases[b], 0) for a, b in exact.pairs_across
    ]
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


def _linked(side: Staged | Sequence[str], key: LinkingKey) -> Linked:
    if isinstance(side, Staged):
        return linked(key, side.table()["patient"].to_pylist())
    return linked(key, side)


def _pictures(staged: Staged, progress: Callable[[int], None]) -> _Pictures:
    names: list[str] = staged.table()["case"].to_pylist()
    cases, digests, hashed, hashes = [], [], [], []
    for position, image in enumerate(_images(staged)):
        if image is not None and not is_flat(image):
            cases.append(names[position])
            digests.append(pixel_digest(image))
            if (bits := perceptual_hash(picture_of(image))) is not None:
                hashed.append(names[position])
                hashes.append(bits)
        progress(position + 1)
    return _Pictures(cases, digests, hashed, np.array(hashes, dtype=np.uint64))


def _images(staged: Staged) -> Iterator[NDArray[Any] | None]:
    """The picture of each case in the order of the table."""
    for number, path in enumerate(staged.blocks()):
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise Invalid(
                f"{path} is missing or damaged; run `touchstone cohort ingest` again"
            ) from error
        images = [of for _, of in sorted(arrays.items()) if of.ndim in (3, 4, 5)]
        for row in range(min(staged.block_size, staged.cases - number * staged.block_size)):
            yield images[0][row] if images else None
