"""Answers that are neither positive nor negative, as the protocol counts them.

`positive` and `negative` move the score from which on a case counts as positive
(`Protocol.decided_at`); `wrong` marks the cases here, and no decision on them is right.
"""

import numpy as np

from validators.cases import CaseTable
from validators.protocol.parts import Indeterminate
from validators.protocol.schema import Protocol


def marked(table: CaseTable, protocol: Protocol) -> CaseTable:
    """`table`, its indeterminate answers marked where they count as wrong."""
    asked = protocol.indeterminate
    if asked is None or asked.counts_as != "wrong":
        return table
    return table.with_undecided(_inside(table, asked))


def number_of(table: CaseTable, protocol: Protocol) -> int | None:
    """How many answers are indeterminate, or None where the protocol knows none."""
    asked = protocol.indeterminate
    return None if asked is None else int(_inside(table, asked).sum())


def _inside(table: CaseTable, asked: Indeterminate) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray((table.score >= asked.low) & (table.score < asked.high))
