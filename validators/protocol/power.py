"""How many cases a protocol needs: for writing down why its counts and goals are what they are.

    >>> needed = required_counts(goal=0.80, expected=0.90, alpha=0.025, power=0.90)
    >>> needed.smallest, needed.lasting
    (137, 149)

The rule is the one that judges sensitivity and specificity: pass if Clopper-Pearson's lower
bound, with one-sided error alpha, reaches the goal. It depends on the number of right cases
alone, so its power is an exact binomial sum (no normal approximation). Power is not monotone in n
(the bound moves in steps), hence two answers.

Unit: the case, independent. On clustered data multiply by the expected design effect
1 + (mean cases a patient - 1) * correlation.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid

LARGEST = 1_000_000
_BLOCK = 20_000


@dataclass(frozen=True)
class RequiredCounts:
    """Numbers of positives (for sensitivity) or negatives (for specificity)."""

    smallest: int
    """The first number at which the rule has the power."""
    lasting: int
    """The number from which on it never loses it again."""
    power: float
    """The power at `smallest`."""


def required_counts(goal: float, expected: float, alpha: float, power: float) -> RequiredCounts:
    """The cases with which a model whose true value is `expected` passes with `power`.

    Raises Invalid where no number up to a million is enough, or `expected` does not exceed `goal`.
    """
    if not 0 < goal < expected <= 1:
        raise Invalid(
            f"a true value of {expected:g} can't be shown to reach the goal {goal:g}: expect more "
            "than the goal, and both in (0, 1]"
        )
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise Invalid(f"alpha {alpha:g} and power {power:g} must lie between 0 and 1")
    # Beyond this many the power stays above: steps shrink as 1 / sqrt(n), the margin does not.
    smallest, found, start = 0, 0.0, 1
    last_below = 0
    while start <= LARGEST:
        n = np.arange(start, min(start + _BLOCK, LARGEST + 1))
        powers = pass_probability(n, goal, expected, alpha)
        enough = powers >= power
        if not smallest and enough.any():
            smallest, found = int(n[enough][0]), float(powers[enough][0])
        below = n[~enough]
        last_below = int(below[-1]) if len(below) else last_below
        if smallest and n[-1] > 2 * max(smallest, last_below):
            return RequiredCounts(smallest, last_below + 1, found)
        start += _BLOCK
    raise Invalid(
        f"more than {LARGEST} cases would be needed to show {goal:g} when {expected:g} is true"
    )


def pass_probability(
    n: NDArray[np.int64] | int, goal: float, true: float, alpha: float
) -> NDArray[np.float64]:
    """The chance that a model with the value `true` passes on `n` cases, for each n."""
    from scipy import stats

    count = np.atleast_1d(np.asarray(n))
    # Clopper-Pearson's lower bound reaches the goal where P(X >= x | goal) <= alpha.
    needed = stats.binom.isf(alpha, count, goal) + 1
    return np.asarray(stats.binom.sf(needed - 1, count, true), dtype=np.float64)


def smallest_passable(goal: float, alpha: float) -> int:
    """The fewest cases at which a model without a single error passes: goal^n <= alpha."""
    return math.ceil(math.log(alpha) / math.log(goal) - 1e-12)
