"""The root of a function that falls: Newton's method, and halving where it would leave."""

import math
from collections.abc import Callable

_STEPS, _ARRIVED = 200, 1e-10


def falling_root(
    function: Callable[[float], tuple[float, float]], farthest: float, start: float = 0.0
) -> float:
    """Where it is 0 within +-`farthest`; `function` gives (value, steepness of the fall)."""
    low, high, at = -farthest, farthest, start
    for _ in range(_STEPS):
        value, fall = function(at)
        low, high = (at, high) if value > 0 else (low, at)
        new = at + value / fall if fall > 0 else math.inf
        # At the root itself the step is nothing: both ends of the bracket are allowed.
        new = new if low <= new <= high else (low + high) / 2
        if abs(new - at) < _ARRIVED * (1 + abs(at)):
            return new
        at = new
    return at
