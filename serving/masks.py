"""Whether a sandboxed model gives its maps of labels again.

    check = repeat_masks(sandbox, shards, contract, kept, order_seed=seed, cases=64)

Rules
-----
1. A model answers alike if, in each case, no more than the contract's tolerance of all voxels came
   out with another label. A case answered now and then does not agree.
2. One shard's maps are in memory, once as they were and once as they came again.
"""

from collections.abc import Iterable

import numpy as np

from serving.answering import Answers
from serving.batches import Shard
from serving.calls import Calls
from serving.client import Repeatability, Restarts, answered, begin_anew, chosen_cases, subset
from validators.contract.schema import Contract


def repeat_masks(
    sandbox: Calls,
    shards: Iterable[Shard],
    contract: Contract,
    before: Iterable[Answers],
    names: Iterable[str],
    *,
    order_seed: str,
    cases: int = 64,
) -> Repeatability:
    """Answer a subset again in a fresh process, alone and among others, and compare.

    before: what was answered, in the order of the shards; names: all cases. `shards` may leave out
    those that hold none of the chosen cases. `largest_difference` is the largest part of a case's
    voxels that changed; `decisions_changed` counts the cases that changed by more than the
    contract's tolerance. `sandbox` is restarted first.
    """
    chosen = chosen_cases(names, order_seed, cases)
    begin_anew(sandbox)
    sizes = {"again": 1, "together": None}
    answers = iter(before)
    largest, changed, compared = 0.0, 0, 0
    for shard in shards:
        first = next(of for of in answers if of.cases == tuple(shard.cases))
        rows = [row for row, case in enumerate(first.cases) if case in chosen]
        differ = np.zeros(len(rows), dtype=bool)
        for name, size in sizes.items():
            for again in answered(
                [sandbox], subset([shard], chosen), contract, Restarts(), batch_size=size,
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
