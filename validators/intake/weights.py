"""Are two models of one family? Judged by sketches of their weights alone.

    >>> compare(of_one, of_other)
    Likeness(share=1.0, same=True)

Rules
-----
1. Two tensors match when they have the same shape and their sketches differ in at most
   MOST_DIFFERING of the bits. Each tensor is matched once.
2. The share is that of the larger model's weight elements that lie in tensors which match.
3. The same family: the smaller model's tensors match one and all, and the share is SAME or more.
   One and all, because a network on a public frozen backbone differs from another in its small
   last layer alone, and is another model. Where tensors were left out for their number, nothing
   is joined.
4. Much alike, MUCH or more of the elements: recorded for the assessors, and nothing is refused.
5. Models without such tensors are the same where every number is (`Weights.contents`).
6. Pure, and symmetric.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from validators.contract.description import Weights, WeightSketch

MOST_DIFFERING: Final = 0.16
SAME: Final = 0.9
MUCH: Final = 0.5


@dataclass(frozen=True)
class Likeness:
    """share: of the larger model's elements, 0 to 1; same: whether both are of one family."""

    share: float
    same: bool

    @property
    def worth_knowing(self) -> bool:
        """Whether assessors are told."""
        return self.same or self.share >= MUCH


def compare(one: Weights, other: Weights) -> Likeness:
    """How much of the weights of two models is alike."""
    if one.contents is not None and one.contents == other.contents:
        return Likeness(1.0, same=True)
    small, large = sorted((one, other), key=lambda model: (_size(model), model.contents or ""))
    if not small.tensors:
        return Likeness(0.0, same=False)
    found = [prod(tensor.shape) for tensor in _matched(small.tensors, large.tensors)]
    share = sum(found) / _size(large)
    complete = small.complete and large.complete
    return Likeness(share, same=complete and len(found) == len(small.tensors) and share >= SAME)


def _matched(
    small: Sequence[WeightSketch], large: Sequence[WeightSketch]
) -> Iterator[WeightSketch]:
    """Tensors of `small` that have a match of their own in `large`."""
    rivals = _by_shape(large)
    for shape, tensors in _by_shape(small).items():
        if shape not in rivals:
            continue
        apart = differing(tensors, rivals[shape])
        for row, tensor in zip(apart, tensors, strict=True):
            nearest = int(row.argmin())
            if row[nearest] <= MOST_DIFFERING:
                apart[:, nearest] = np.inf
                yield tensor


def differing(some: Sequence[WeightSketch], others: Sequence[WeightSketch]) -> NDArray[np.float64]:
    """The share of bits in which tensors of one shape differ, [some, others].

    Square matrices count as they are nearest, turned or not.
    """
    mine = _bits([tensor.bits for tensor in some])
    apart = _apart(mine, _bits([tensor.bits for tensor in others]))
    if any(tensor.turned for tensor in others):
        turned = _bits([tensor.turned or tensor.bits for tensor in others])
        apart = np.minimum(apart, _apart(mine, turned))
    return apart


def _by_shape(tensors: Sequence[WeightSketch]) -> dict[tuple[int, ...], list[WeightSketch]]:
    groups: dict[tuple[int, ...], list[WeightSketch]] = defaultdict(list)
    for tensor in tensors:
        groups[tensor.shape].append(tensor)
    return groups


def _bits(texts: list[str]) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(texts)), np.uint64).reshape(len(texts), -1)


def _apart(some: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.float64]:
    counts = np.stack([np.bitwise_count(row ^ others).sum(axis=1) for row in some])
    return np.asarray(counts / (64 * some.shape[1]), dtype=np.float64)


def _size(weights: Weights) -> int:
    return sum(prod(tensor.shape) for tensor in weights.tensors)
