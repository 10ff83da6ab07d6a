"""Which cases go together to the model, and in which order: a function of digests alone.

Rules
-----
1. The order of a shard's cases is a permutation under the seed, the shard's index and its case
   ids (Philox's raw stream, which is fixed for good), so that anybody can recompute it.
2. Batches never cross shards. All batches of a shard have the same number of rows: as few batches
   as the largest size allows, filled evenly; the last one is filled up with cases of its own, whose
   answers are thrown away.
3. The largest size is a function of the contract (`serving.sandbox.batch`): about 5 MB.
4. Inputs keep the type that they lie in; they are cast in the process that holds the model.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.sandbox.batch import largest_batch
from validators.contract.schema import Contract

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.intp]


class Shard(Protocol):
    """What `validators.cohort.stream` yields: some cases and their inputs, row by row."""

    @property
    def index(self) -> int: ...
    @property
    def cases(self) -> Sequence[str]: ...
    @property
    def inputs(self) -> Arrays: ...


def batch_of(contract: Contract) -> int:
    """How many cases a call of a model with this contract gets at most."""
    a_case = sum(
        math.prod(tensor.shape) * np.dtype(tensor.staged_type).itemsize
        for tensor in contract.inputs
    )
    return largest_batch(a_case)


def rows_a_batch(cases: int, largest: int) -> int:
    """The rows of each batch of a shard of so many cases; 1 for an empty one."""
    if largest < 1:
        raise Invalid("a batch holds at least one case")
    return max(1, math.ceil(cases / max(1, math.ceil(cases / largest))))


def ordered(seed: str, index: int, cases: Sequence[str]) -> Rows:
    """The order in which a shard's cases are asked."""
    key = int.from_bytes(mixed(seed, index, *cases)[:16], "big")
    return np.argsort(np.random.Philox(key=key).random_raw(len(cases)), kind="stable")


def batches(order: Rows, size: int) -> Iterator[Rows]:
    """The order, cut into batches of at most `size`."""
    for start in range(0, len(order), size):
        yield order[start : start + size]


def mixed(*parts: object) -> bytes:
    """The SHA-256 over these parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def fitting(contract: Contract, shard: Shard) -> dict[str, NDArray[Any]]:
    """The contract's inputs of a shard; Invalid where name, shape or type do not fit."""
    inputs = {}
    for tensor in contract.inputs:
        if tensor.name not in shard.inputs:
            raise Invalid(
                f"shard {shard.index} has no input {tensor.name!r}, which the contract asks for: "
                "cohort and contract don't belong together",
                code="shard_unfit",
            )
        array = shard.inputs[tensor.name]
        if array.shape != (len(shard.cases), *tensor.shape):
            raise Invalid(
                f"input {tensor.name!r} of shard {shard.index} has shape {list(array.shape)}, "
                f"expected {[len(shard.cases), *tensor.shape]}",
                code="shard_unfit",
            )
        if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            raise Invalid(
                f"input {tensor.name!r} of shard {shard.index} is {array.dtype}, which can't "
                f"become {tensor.dtype} without losing its meaning",
                code="shard_unfit",
            )
        exact = np.can_cast(array.dtype, tensor.dtype)
        inputs[tensor.name] = array if exact else array.astype(tensor.dtype)
    return inputs
