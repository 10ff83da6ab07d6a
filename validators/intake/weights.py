"""Are two models of one family? Judged by sketches of their weights alone.

    >>> compare(of_one, of_other)
    Likeness(share=1.0, same=True)

Rules
-----
1. Two tensors of one shape are close when their sketches differ in at most CLOSE of the bits, and
   alike at ALIKE or less. Each tensor has one partner at most.
2. The share is that of the larger model's weight elements that lie in tensors with an alike one.
3. The same family: the smaller model's tensors are close to theirs one and all, and the share is
   SAME or more. One and all, because a network on a public frozen backbone differs from another in
   its small last layer alone, and is another model. Where tensors were left out for their number,
   nothing is joined.
4. Much alike, MUCH or more of the elements: recorded for the assessors, and nothing is refused.
5. Models without such tensors are the same where every number is (`Weights.contents`).
6. Pure, and symmetric.

Measured (`python -m bench.model_families`: six small networks or tree ensembles a case, 15 pairs of
them), as the share of bits of the worst tensor, least to most:

- trained apart .482 to .553, none joined or shown; from one random start .148 to .166, all shown;
- copies with noise of .3 of each tensor .086 to .111, all joined; of .5 .145 to .160, all shown;
- copies cast to float16, renamed, reordered, transposed, with junk beside: .000, all joined;
- copies trained on for 60 epochs on other cases .074 to .104, all joined; two such copies of one
  network .113 to .135, two of six joined, the others shown;
- one frozen backbone, heads from other cases .174 to .229, none joined, all shown;
- hidden units scaled by .5 to 2 .145 to .178, all shown; permuted .502 to .545, not even shown.

The two limits were set after these networks were measured: no independent test of them.

What it does not see: a copy whose hidden units were permuted is a stranger to it, and so is one
whose layers were factored, merged or distilled. It stops who asks for more attempts by registering
the same model twice, not who works at hiding it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from validators.contract.description import Weights, WeightSketch

CLOSE: Final = 0.12
ALIKE: Final = 0.25
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
    found = list(_partners(small.tensors, large.tensors))
    share = sum(size for size, _ in found) / _size(large)
    close = len(found) == len(small.tensors) and all(apart <= CLOSE for _, apart in found)
    complete = small.complete and large.complete
    return Likeness(share, same=complete and close and share >= SAME)


def _partners(
    small: Sequence[WeightSketch], large: Sequence[WeightSketch]
) -> Iterator[tuple[int, float]]:
    """Size and distance of each tensor of `small` that has an alike one of its own in `large`."""
    rivals = _by_shape(large)
    for shape, tensors in _by_shape(small).items():
        if shape not in rivals:
            continue
        apart = differing(tensors, rivals[shape])
        for row in apart:
            nearest = int(row.argmin())
            if row[nearest] <= ALIKE:
                yield prod(shape), float(row[nearest])
                apart[:, nearest] = np.inf


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
