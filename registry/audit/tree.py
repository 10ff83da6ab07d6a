"""The log's tree, built from the database.

Rules
-----
1. The database hands out leaf hashes, never other people's events.
2. A row that is not there is noticed here: the log has no gap.

Cost: one pass over the log; 32 bytes an event read, 64 kept (bench/log.py measures the time).
"""

import threading

from registry.database.record import Record
from registry.trust.errors import Tampered
from registry.trust.merkle import Tree

PAGE = 100_000
_HASH_BYTES = 32


def grow(tree: Tree, gate: Record) -> Tree:
    """Add to `tree` every event that the log has beyond it; returns the same tree."""
    while True:
        with gate.transaction() as now:
            row = now.one("log_leaves", after=tree.size, most=PAGE)
        if row["last"] is None:
            return tree
        leaves = bytes(row["leaves"])
        if len(leaves) != (row["last"] - tree.size) * _HASH_BYTES:
            raise Tampered(
                f"the log has a gap between event {tree.size} and event {row['last']}; "
                "`touchstone audit verify` names it",
                code="log_broken",
            )
        for start in range(0, len(leaves), _HASH_BYTES):
            tree.append(leaves[start : start + _HASH_BYTES])


class KnownTree:
    """A tree that is kept between proofs, and believed only where a checkpoint agrees with it."""

    def __init__(self, gate: Record) -> None:
        self._gate = gate
        self._tree = Tree()
        self._one_at_a_time = threading.Lock()

    def at(self, size: int, root: bytes) -> Tree:
        """A tree whose first `size` leaves have this root; Tampered if the log has none."""
        with self._one_at_a_time:
            if self._tree.size < size:
                grow(self._tree, self._gate)
            if self._tree.size < size or self._tree.root(size) != root:
                self._tree = grow(Tree(), self._gate)  # what was kept may be what is wrong
            if self._tree.size < size or self._tree.root(size) != root:
                raise Tampered(
                    f"the log is not the one whose checkpoint of {size} events was signed; "
                    "`touchstone audit verify` names the first bad row",
                    code="log_broken",
                )
            return self._tree
