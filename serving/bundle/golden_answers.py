"""What a model answers to golden cases, and how far two answers are apart: for both sides.

Rules
-----
1. Every output is checked against the contract before it is used, as in a run.
2. Maps of labels are compared voxel by voxel and structure by structure; Dice is asked only of
   structures of 100 voxels or more, since in a small one a single voxel decides.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.bundle.golden_files import Arrays, RawCase, raw_files
from serving.sandbox.outputs import check_outputs, numbers_of
from validators.contract.schema import Contract

SMALL_STRUCTURE = 100
Answer = tuple[NDArray[np.float64], NDArray[np.uint8] | None]
"""One number a case, and [cases, voxels] where the score is a map of labels."""


class Runner(Protocol):
    """What is asked of a sandbox: one call of the loaded model, and what computes it."""

    execution: dict[str, int | bool | str]

    def run(self, inputs: Arrays, /) -> dict[str, NDArray[Any]]: ...


def answers_of(
    sandbox: Runner, arrays: Arrays, contract: Contract, batch: int, order: tuple[int, ...]
) -> Iterator[Answer]:
    """The answers in this order, a batch at a time. Raises ModelFailure."""
    for start in range(0, len(order), batch):
        chosen = list(order[start : start + batch])
        outputs = sandbox.run({name: array[chosen] for name, array in arrays.items()})
        check_outputs(contract, outputs, len(chosen))
        maps = None
        if contract.reference is not None:
            maps = outputs[contract.score].reshape(len(chosen), -1).astype(np.uint8)
        yield numbers_of(contract, outputs), maps


def read_raw(
    files: Mapping[str, bytes], contract: Contract, cases: Sequence[RawCase], block: Arrays
) -> Arrays:
    """The inputs of raw cases: images from their files, the others from the block. Invalid."""
    from serving.bundle.raw_read import image_of

    made: dict[str, list[NDArray[Any]]] = {tensor.name: [] for tensor in contract.inputs}
    for case in cases:
        of_case = raw_files(files, contract, case)
        for tensor in contract.inputs:
            given = of_case.get(tensor.name)
            row = block[tensor.name][case.row] if given is None else image_of(tensor, given)
            made[tensor.name].append(row)
    return {name: np.stack(rows) for name, rows in made.items()}


def distance(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> tuple[float, float]:
    """(largest part of a case's voxels that differ, least Dice of a structure) of [n, voxels]."""
    if ours.shape != theirs.shape:
        return math.inf, 0.0
    share = float((ours != theirs).mean(axis=1).max())
    least = 1.0
    if share > 0:
        for one, other in zip(ours, theirs, strict=True):
            for label in set(np.unique(one)) | set(np.unique(other)):
                mine, its = one == label, other == label
                marked = int(mine.sum()), int(its.sum())
                if label != 0 and max(marked) >= SMALL_STRUCTURE:
                    least = min(least, 2 * int((mine & its).sum()) / sum(marked))
    return share, least
