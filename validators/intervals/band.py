"""A mean whose ideal lies inside its scale: a bias, which may be wrong in both directions.

A failed prediction could lie at either end, so its interval reaches from the lower bound with all
failed cases at the lowest value to the upper bound with all at the highest. A withheld prediction
therefore never narrows it, on either side (`validators.intervals.mean` for each bound).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validators.intervals.influence import Box, Floats
from validators.intervals.mean import Mean, mean
from validators.intervals.proportion import Pair


@dataclass(frozen=True, eq=False)
class BandMean:
    """`value` with failed cases at the end that is farther from the ideal, or at the ideal."""

    lowest: Mean
    highest: Mean
    value: float

    gap_method = Mean.gap_method

    @property
    def n(self) -> int:
        """Cases."""
        return self.lowest.n

    @property
    def clusters(self) -> int | None:
        """Patients."""
        return self.lowest.clusters

    @property
    def influence(self) -> Box | None:
        """What each patient contributes."""
        return self.lowest.influence

    @property
    def method(self) -> str:
        """The interval's name."""
        return self.lowest.method

    def gating(self, tail: float) -> Pair:
        """The interval that both limits are judged by."""
        return self.compared(tail, wide=True)

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of: over all that failures leave open."""
        return (
            self.lowest.compared(tail, wide=wide)[0],
            self.highest.compared(tail, wide=wide)[1],
        )


def band_mean(
    values: Floats,
    scale: Pair,
    patient: NDArray[np.int64] | None = None,
    *,
    ideal: float = 0.0,
    failed_is_right: bool = False,
) -> BandMean:
    """The mean of `values` ([n], NaN where the prediction failed), each within `scale`."""
    lowest = mean(values, scale, patient)
    highest = mean(values, scale, patient, failed_is_right=True)
    if failed_is_right:
        value = float(np.where(np.isnan(values), ideal, values).mean())
    else:
        value = max(lowest.value, highest.value, key=lambda end: abs(end - ideal))
    return BandMean(lowest, highest, value)
