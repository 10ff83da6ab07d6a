"""The difference of two sides, with the interval that judges it.

`validators.fairness.gaps` has the rules (5 and 6); this is their arithmetic.
"""

from dataclasses import dataclass

import numpy as np

from validators.intervals.proportion import Pair, mover
from validators.metrics.measure import Measure, Side

_LEAST_P, _LARGEST_TAIL = 1e-12, 0.499
_HALVINGS = 50


@dataclass(frozen=True, eq=False)
class Gap:
    """A group against the rest: two sides and the range of their (negative) correlation."""

    group: Side
    rest: Side
    correlation: Pair
    measure: Measure

    @property
    def value(self) -> float:
        """How far the group is behind the rest."""
        return self._better.value - self._worse.value

    @property
    def _better(self) -> Side:
        """The side that the difference is taken from."""
        return self.group if self.measure.direction == "lower" else self.rest

    @property
    def _worse(self) -> Side:
        return self.rest if self.measure.direction == "lower" else self.group

    def low(self, tail: float) -> float:
        """The lower bound, with one-sided error `tail`."""
        return self._bounds(tail, wide=False, correlation=self.correlation[1])[0]

    def high(self, tail: float) -> float:
        """The upper bound, with one-sided error `tail`."""
        return self._bounds(tail, wide=True, correlation=self.correlation[0])[1]

    def _bounds(self, tail: float, *, wide: bool, correlation: float) -> Pair:
        first, second = self._better, self._worse
        return mover(
            first.value,
            first.compared(tail, wide=wide),
            second.value,
            second.compared(tail, wide=wide),
            correlation,
            width=self.measure.width,
        )

    def p_value(self) -> float:
        """One-sided, for a gap of at least nothing: the tail at which the bound touches 0.

        At a tail of one half both bounds are the estimate; the search stops just short of it.
        """
        above = self.value > 0
        least, most = np.log(_LEAST_P), np.log(_LARGEST_TAIL)
        for _ in range(_HALVINGS):
            middle = (least + most) / 2
            tail = float(np.exp(middle))
            beyond = self.low(tail) > 0 if above else self.high(tail) < 0
            least, most = (least, middle) if beyond else (middle, most)
        tail = float(np.exp(most))
        return tail if above else 1 - tail
