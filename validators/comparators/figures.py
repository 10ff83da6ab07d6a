"""Figures of merit of several deciders on the same cases, whole and without each patient.

The values without a patient are exact and need no second sort: a patient takes its own pairs of
cases out of the AUC's sum, and its own decisions out of a share's.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from validators.intervals.auc import placements
from validators.intervals.bootstrap import units_of
from validators.intervals.influence import Floats

Flags = NDArray[np.bool_]
Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Figures:
    """`whole` is [deciders], `without` [patients, deciders].

    `units` are the patients of equal weight that the figure rests on (of the smaller class).
    """

    whole: Floats
    without: Floats
    units: float


def figures_of(
    metric: Literal["auc", "sensitivity", "specificity"],
    positive: Flags,
    values: Floats,
    code: Codes,
) -> Figures | None:
    """The figures of each column of `values` ([n, deciders]); `code` is 0, 1, … by patient.

    None where one patient holds all cases of a class. Both classes that the metric needs must
    occur. Patients without a case of the class that a share counts are left out.
    """
    if metric == "auc":
        return _areas(positive, values, code)
    chosen = positive if metric == "sensitivity" else ~positive
    right = (values[chosen] > 0.5) == (metric == "sensitivity")
    kept = np.unique(code[chosen], return_inverse=True)[1]
    sizes = np.bincount(kept)
    if len(sizes) < 2:
        return None
    rights = np.column_stack([np.bincount(kept, column) for column in right.T])
    without = (rights.sum(axis=0) - rights) / (len(right) - sizes)[:, None]
    return Figures(right.mean(axis=0), without, units_of(kept))


def _areas(positive: Flags, values: Floats, code: Codes) -> Figures | None:
    total = int(code.max()) + 1
    of_x, of_y = (np.bincount(code[of], minlength=total) for of in (positive, ~positive))
    m, n = int(of_x.sum()), int(of_y.sum())
    if (of_x == m).any() or (of_y == n).any():
        return None
    left = ((m - of_x) * (n - of_y)).astype(float)
    mixed = np.flatnonzero((of_x > 0) & (of_y > 0))
    whole, without = [], []
    for column in values.T:
        above, below = placements(column, positive)
        pairs = float(above.sum()) * n
        touched = np.bincount(code[positive], above * n, total)
        touched += np.bincount(code[~positive], below * m, total)
        for k in mixed:
            x, y = column[positive & (code == k)], column[~positive & (code == k)]
            own = (x[:, None] > y).sum() + (x[:, None] == y).sum() / 2
            touched[k] -= float(own)  # counted from both sides
        whole.append(pairs / (m * n))
        without.append((pairs - touched) / left)
    units = min(units_of(code[of]) for of in (positive, ~positive))
    return Figures(np.array(whole), np.column_stack(without), units)
