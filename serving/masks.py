"""Maps of labels by a sandboxed model, shard by shard, and whether it gives them again.

    for answers in answered(sandbox, shards, contract, batch_size=batch_of(contract), …):
        keep(answers)
    check = repeat_masks(sandbox, shards, contract, kept, order_seed=seed, cases=64)

Rules
-----
1. Batches are as many cases as take about 10 MB, 64 at most and one at least: a function of the
   contract alone, so that the same digests give the same batches. It is about what a shard holds,
   and every batch is filled up to its size.
2. A model answers alike if, in each case, no more than the contract's tolerance of all voxels came
   out with another label. A case answered now and then does not agree.
3. One shard's maps are in memory, once as they were and once as they came again.
"""

import math
from collections.abc import Iterable

import numpy as np

from serving.client import Answers, Repeatability, Shard, answered, chosen_cases, subset
from serving.sandbox.process import Sandbox
from validators.contract.schema import Contract

MOST = 64
_BYTES = 10 << 20


def batch_of(contract: Contract) -> int:
    """Cases a batch."""
    score = next(t for t in contract.outputs if t.name == contract.score)
    size = sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in (*contract.inputs, score))
    return max(1, min(MOST, _BYTES // size))


def repeat_masks(
    sandbox: Sandbox,
    shards: Iterable[Shard],
    contract: Contract,
    before: Iterable[Answers],
    names: Iterable[str],
    *,
    order_seed: str,
    cases: int = 64,
) -> Repeatability:
    """Answer a subset again in a fresh process, alone and among others, and compare.

    before: what was answered, in the order of the shards; names: all cases. `largest_difference` is
    the largest part of a case's voxels that changed; `decisions_changed` counts the cases that
    changed by more than the contract's tolerance. `sandbox` is restarted first.
    """
    chosen = chosen_cases(names, order_seed, cases)
    sandbox.restart()
    sizes = {"again": 1, "together": batch_of(contract)}
    largest, changed, compared = 0.0, 0, 0
    for shard, first in zip(shards, before, strict=True):
        rows = [row for row, case in enumerate(first.cases) if case in chosen]
        differ = np.zeros(len(rows), dtype=bool)
        for name, size in sizes.items():
            for again in answered(
                sandbox, subset([shard], chosen), contract, batch_size=size,
                order_seed=f"{name} {order_seed}",
            ):  # fmt: skip
                for place, row in enumerate(rows):
                    failed = (first.failures[row] is not None, again.failures[place] is not None)
                    part = float((first.values[row] != again.values[place]).mean())
                    if failed == (False, False):
                        largest = max(largest, part)
                    differ[place] |= failed[0] != failed[1] or (
                        not failed[0] and part > contract.tolerance
                    )
        compared += len(rows)
        changed += int(differ.sum())
    return Repeatability(
        compared=compared,
        largest_difference=largest,
        decisions_changed=changed,
        agrees=changed == 0,
    )
