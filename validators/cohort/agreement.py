"""How far readers agree with each other, when not every reader read every unit.

>>> krippendorff_alpha([[1, 1], [4, 4], [3]], values=range(1, 6), ordinal=True)
1.0
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def krippendorff_alpha(
    units: Sequence[Sequence[int]], *, values: Sequence[int], ordinal: bool
) -> float:
    """Krippendorff's alpha: 1 is perfect agreement, 0 is what chance gives.

    units: the readings of each unit; those with a single reading pair with nothing and are left
    out. values: every possible reading in order. ordinal: the ordinal difference function,
    otherwise the nominal one. NaN when no unit has two readings or all readings are alike.

    Krippendorff K. Content Analysis, 4th ed., 2019, chapter 12; Hayes AF, Krippendorff K.
    Communication Methods and Measures 2007;1:77-89. It is used in place of Fleiss' kappa because
    the number of readers varies and the ratings are ordered.
    """
    position = {value: i for i, value in enumerate(values)}
    coincidences = np.zeros((len(position), len(position)))
    for unit in units:
        if len(unit) < 2:
            continue
        counts = np.bincount([position[value] for value in unit], minlength=len(position))
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(axis=1)
    n = totals.sum()
    difference = _ordinal(totals) if ordinal else 1 - np.eye(len(position))
    expected = (np.outer(totals, totals) * difference).sum()
    if n == 0 or expected == 0:
        return float("nan")
    return float(1 - (n - 1) * (coincidences * difference).sum() / expected)


def _ordinal(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    between = np.cumsum(totals)
    reach = between[None, :] - between[:, None] + (totals[:, None] - totals[None, :]) / 2
    return np.square(reach)
