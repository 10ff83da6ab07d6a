"""Sums of the first m of n random weights, for few m, without drawing all n.

    >>> sums_at(100_000, [12, 5_000], replicates=10_000, key=(1,))    # [2, 10000]

Rules
-----
1. The weights are independent standard exponentials, so their sums are a gamma process: over all n
   Gamma(n), and what lies left of a place within a stretch is a Beta share of it. A sum is found by
   halving the stretch that holds the place, log2(n) times (a gamma bridge; Avramidis & L'Ecuyer
   2006).
2. Each halving has a generator of its own, seeded by `key` and the stretch: a sum depends on m
   alone, never on which others are asked for. All sums belong to one path, so they rise with m in
   every replicate.
"""

from collections.abc import Sequence

import numpy as np

from validators.intervals.influence import Floats

_SEED = 20261128


def sums_at(n: int, places: Sequence[int], *, replicates: int, key: tuple[int, ...]) -> Floats:
    """The sums of the first m of n weights for each m of `places`; [places, replicates]."""
    whole = np.random.default_rng([_SEED, n, *key]).standard_gamma(n, replicates)
    found: dict[int, Floats] = {0: np.zeros(replicates), n: whole}
    stretches = [(0, n, sorted(set(places) - {0, n}))]
    while stretches:
        low, high, inside = stretches.pop()
        if not inside:
            continue
        middle = (low + high) // 2
        rng = np.random.default_rng([_SEED, n, *key, low, high])
        share = rng.beta(middle - low, high - middle, replicates)
        found[middle] = found[low] + share * (found[high] - found[low])
        stretches.append((low, middle, [m for m in inside if m < middle]))
        stretches.append((middle, high, [m for m in inside if m > middle]))
    return np.stack([found[m] for m in places])
