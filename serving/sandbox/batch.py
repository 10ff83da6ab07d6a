"""How many cases a call of a model gets at most: one rule, for whoever asks and whoever checks."""

from typing import Final

BATCH_BYTES: Final = 5_000_000
"""Of inputs as they lie in a shard: enough to hide what a call costs, and two fit into a cache."""
MOST_CASES: Final = 1024


def largest_batch(bytes_a_case: int) -> int:
    """Cases a call, where a case's inputs take so many bytes."""
    return max(1, min(MOST_CASES, BATCH_BYTES // max(1, bytes_a_case)))
