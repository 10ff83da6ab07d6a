"""Exactly the same pixels: digests of arrays, and how many cases share one.

    >>> exact_duplicates([pixel_digest(image) for image in cohort], development_digests)

Rules
-----
1. A digest is over type, shape and values, the values as little-endian bytes in row order, with
   -0 written as 0 and every NaN alike. How an array lies in memory does not count.
2. An image that a constant fills (an empty slice) is like every other such image and says nothing:
   leave it out (`is_flat`).
3. Positions of cases are for the facility's reviewers. Evidence takes the counts.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.canonical import canonical

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExactDuplicates:
    """Cases whose pixels occur more than once.

    within: cases of the first list that repeat an earlier one of it. across: cases of the first
    list that occur in the second. `pairs` are their positions (first list, or first and second).
    """

    cases: int
    within: int
    across: int
    pairs_within: Pairs = field(repr=False)
    pairs_across: Pairs = field(repr=False)


def pixel_digest(image: NDArray[Any]) -> str:
    """The digest of one array: the same for equal values of the same type and shape."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values + 0.0).astype(values.dtype)
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(canonical([values.dtype.name, list(values.shape)]))
    digest.update(little.tobytes())
    return "sha256:" + digest.hexdigest()


def is_flat(image: NDArray[Any]) -> bool:
    """Whether every value is the same."""
    values = np.asarray(image)
    return bool(values.size == 0 or (values == values.flat[0]).all())


def exact_duplicates(first: Sequence[str], second: Sequence[str] = ()) -> ExactDuplicates:
    """Digests that occur twice in `first`, and those of `first` that occur in `second`."""
    earliest: dict[str, int] = {}
    within: list[tuple[int, int]] = []
    for position, digest in enumerate(first):
        if digest in earliest:
            within.append((earliest[digest], position))
        else:
            earliest[digest] = position
    where = {digest: position for position, digest in reversed(list(enumerate(second)))}
    across = [(n, where[digest]) for n, digest in enumerate(first) if digest in where]
    repeated = Counter(first)
    return ExactDuplicates(
        cases=len(first),
        within=sum(count - 1 for count in repeated.values()),
        across=len(across),
        pairs_within=tuple(within),
        pairs_across=tuple(across),
    )
