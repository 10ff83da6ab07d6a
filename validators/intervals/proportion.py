"""Intervals for a proportion and for the difference of two. Pure formulas, no clustering.

`events` and `n` may be fractional: on clustered data they are effective sizes
(`validators.intervals.share`). `tail` is the error on one side: .025 gives a 95 % interval.

- `clopper_pearson`: exact (Clopper & Pearson 1934). One-sided error never above `tail` where
  cases are independent: this one may gate.
- `wilson`: Wilson 1927. Its one-sided error exceeds the nominal at places (.031 for .025 at .7),
  so it does not gate alone; it is the better building block of a difference.
- `mover`: the interval of a difference out of two intervals (Zou & Donner 2008). With Wilson's
  intervals and no correlation it is Newcombe's hybrid score interval (1998, method 10).
"""

import math

from scipy import special

Pair = tuple[float, float]


def clopper_pearson(events: float, n: float, tail: float) -> Pair:
    """The exact interval."""
    low = 0.0 if events <= 0 else float(special.betaincinv(events, n - events + 1, tail))
    high = 1.0 if events >= n else float(special.betaincinv(events + 1, n - events, 1 - tail))
    return low, high


def wilson(events: float, n: float, tail: float) -> Pair:
    """The score interval without continuity correction."""
    z = float(special.ndtri(1 - tail)) if tail > 1e-10 else -float(special.ndtri(tail))
    p = events / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The clamps hold p inside in spite of rounding; exact arithmetic would not need them.
    return max(0.0, min((centre - half) / scale, p)), min(1.0, max((centre + half) / scale, p))


def mover(
    first: float, first_interval: Pair, second: float, second_interval: Pair,
    correlation: float = 0.0, *, width: float = 1.0,
) -> Pair:  # fmt: skip
    """The interval of first - second; `correlation` is that of the two estimates.

    `width` is that of the scale: no difference is larger.
    """
    gap = first - second
    down = (first - first_interval[0], second_interval[1] - second)
    up = (first_interval[1] - first, second - second_interval[0])
    low = gap - _joined(*down, correlation)
    high = gap + _joined(*up, correlation)
    return max(-width, low), min(width, high)


def newcombe(events1: float, n1: float, events2: float, n2: float, tail: float) -> Pair:
    """The hybrid score interval of p1 - p2 of two independent groups."""
    return mover(
        events1 / n1, wilson(events1, n1, tail), events2 / n2, wilson(events2, n2, tail)
    )  # fmt: skip


def _joined(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))
