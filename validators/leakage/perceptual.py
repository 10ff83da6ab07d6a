"""Nearly the same picture: a 64-bit perceptual hash, and a search for hashes close to each other.

    >>> hashes = np.array([perceptual_hash(image) for image in images], dtype=np.uint64)
    >>> found = near_duplicates(hashes, others)

The hash is pHash's (Zauner 2010): the image reduced to 32 x 32 by area means, transformed
(DCT-II), the 64 lowest frequencies but the mean taken in zigzag order, each a bit: above their
median or not. So brightness, contrast, resolution, compression and some noise leave most bits
alone; mirroring, turning and cropping do not, and are not found.

The code is our own: ImageHash (BSD-2) hashes 8-bit Pillow images alone and brings Pillow and
PyWavelets for what is one matrix product here; medical images are 16 bits or float and have
slices.

Rules
-----
1. Near is a Hamming distance of at most 6 of 64 by default. Of 20,000 pairs of unrelated random
   images none is that near (tests); scans of one body region are alike, so there some are. What is
   found is a reason to look, never a proof.
2. The search is exact: every pair, by exclusive or and popcount, row by row. 100,000 hashes are
   5 thousand million pairs and take about 5 seconds of one core, so an index would save nothing
   that anybody waits for.
3. Equal hashes are one group, and pairs of them are counted by multiplication; at most 10,000
   pairs are listed for review, nearest first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from registry.trust.errors import Invalid
from validators.leakage.pixels import is_flat

Hashes = NDArray[np.uint64]
SIDE, LOWEST, BITS = 32, 8, 64
NEAR = 6
LISTED = 10_000
_KEPT = 20 * LISTED


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of near images.

    within: pairs inside the first list. across: pairs of one of the first and one of the second.
    cases: images of the first list in any pair. `listed`: [pairs, 3] of position, position
    (counted on through the second list) and distance, for the facility's reviewers.
    """

    images: int
    within: int
    across: int
    cases: int
    distance: int
    listed: NDArray[np.int64] = field(repr=False)


def perceptual_hash(image: NDArray[Any]) -> int | None:
    """64 bits of a picture [rows, columns], or None for a flat one, which has no structure."""
    if image.ndim != 2 or min(image.shape) < 2:
        raise Invalid(f"a perceptual hash is of [rows, columns], not of shape {list(image.shape)}")
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if is_flat(values):
        return None
    small = _means(values.shape[0]) @ values @ _means(values.shape[1]).T
    waves = fft.dctn(small, norm="ortho")[_ZIGZAG]
    if np.abs(waves).max() <= 1e-9 * np.abs(values).max():
        return None
    bits = waves > np.median(waves)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def picture_of(tensor: NDArray[Any]) -> NDArray[np.float64]:
    """One picture [rows, columns] of a case: the mean of the channels of the middle slice.

    [rows, columns], [channels, rows, columns] or [channels, slices, rows, columns].
    """
    values = np.asarray(tensor, dtype=np.float64)
    if values.ndim == 4:
        values = values[:, values.shape[1] // 2]
    if values.ndim == 3:
        values = values.mean(axis=0)
    if values.ndim != 2:
        raise Invalid(f"shape {list(tensor.shape)} is neither an image nor a volume")
    return values


def near_duplicates(
    first: Hashes, second: Hashes | None = None, *, distance: int = NEAR
) -> NearDuplicates:
    """All pairs at a Hamming distance of at most `distance`, within `first` and across both."""
    if not 0 <= distance < BITS // 2:
        raise Invalid(f"a distance of {distance} bits means nothing; use 0 to {BITS // 2 - 1}")
    both = np.concatenate([first, np.empty(0, np.uint64) if second is None else second])
    unique, code, counts = np.unique(
        both.astype(np.uint64), return_inverse=True, return_counts=True
    )
    mine = np.bincount(code[: len(first)], minlength=len(unique))
    theirs = counts - mine
    within, across = int((mine * (mine - 1) // 2).sum()), int((mine * theirs).sum())
    paired = (mine > 1) | ((mine > 0) & (theirs > 0))
    # Ours first: pairs of two of theirs are of no interest and are not looked at.
    order = np.argsort(mine == 0, kind="stable")
    ordered = unique[order]
    found, waiting = [np.empty((0, 3), dtype=np.int64)], 0
    different, apart = np.empty_like(ordered), np.empty(len(ordered), np.uint8)
    for place in range(int((mine > 0).sum())):
        rest = ordered[place + 1 :]
        xor, bits = different[: len(rest)], apart[: len(rest)]
        np.bitwise_count(np.bitwise_xor(rest, ordered[place], out=xor), out=bits)
        if not len(rest) or bits.min() > distance:
            continue
        near = np.flatnonzero(bits <= distance)
        left, right = order[place], order[place + 1 + near]
        within += int(mine[left] * mine[right].sum())
        across += int(mine[left] * theirs[right].sum() + theirs[left] * mine[right].sum())
        paired[left] = True
        paired[right] = True
        found.append(np.stack([np.full_like(right, left), right, bits[near]], axis=1))
        waiting += len(near)
        if waiting > _KEPT:
            found, waiting = [_nearest(found)], 0
    return NearDuplicates(
        images=len(first),
        within=within,
        across=across,
        cases=int(mine[paired].sum()),
        distance=distance,
        listed=_listed(code, mine, counts, _nearest(found), len(first)),
    )


def _nearest(found: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs[:, 2], kind="stable")[:LISTED]]


def _listed(
    code: NDArray[np.int64], mine: NDArray[np.int64], counts: NDArray[np.int64],
    pairs: NDArray[np.int64], first: int,
) -> NDArray[np.int64]:  # fmt: skip
    """Up to LISTED pairs of positions with their distance, nearest first; one of each is ours."""
    order = np.argsort(code, kind="stable")
    starts = np.cumsum(counts) - counts
    rows: list[tuple[int, int, int]] = []

    def members(group: int) -> list[int]:
        return [int(n) for n in order[starts[group] : starts[group] + counts[group]]]

    def add(some: Iterable[tuple[int, int]], distance: int) -> None:
        ours = ((min(a, b), max(a, b), distance) for a, b in some if min(a, b) < first)
        rows.extend(islice(ours, LISTED - len(rows)))

    for group in np.flatnonzero((mine > 0) & (counts > 1)):
        add(combinations(members(int(group)), 2), 0)
    for left, right, distance in pairs:
        add(product(members(int(left)), members(int(right))), int(distance))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


@lru_cache(maxsize=64)
def _means(size: int) -> NDArray[np.float64]:
    """[32, size]: area means (of fewer pixels than 32, with repetition)."""
    edges = np.linspace(0, size, SIDE + 1)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.clip(overlap, 0, None) * SIDE / size, dtype=np.float64)


def _zigzag() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of the 64 lowest frequencies but the mean, lowest first."""
    places = sorted(
        ((row, column) for row in range(16) for column in range(16) if row + column),
        key=lambda place: (sum(place), place),
    )[:BITS]
    return np.array([row for row, _ in places]), np.array([column for _, column in places])


_ZIGZAG = _zigzag()
