"""Tests that may be looked at every day: wealth of bets against a claim about a bounded mean.

    >>> path, _ = log_wealth(right[:, None], [0.82])      # "at least .82 of patients are right"
    >>> crossed = np.flatnonzero(path >= math.log(1 / 0.05))

A claim says that each new value x in [0, 1] has, given all before it, a mean of at least m. For an
alternative p < m a gambler bets the share (m - p) / (m (1 - m)) of what it has on m - x. If the
claim holds its wealth is a non-negative supermartingale that begins at 1, so the chance that it
*ever* reaches 1 / alpha is at most alpha, however often one looks and whenever one stops (Ville
1939). Wealth is spread evenly over a grid of alternatives (the betting of Waudby-Smith & Ramdas,
JRSS B 86 (2024), 1-27, with a grid of bets). For values 0 and 1 each gambler's wealth is Wald's
likelihood ratio (1945), (p/m)^successes ((1-p)/(1-m))^failures, so the whole is a sequential
likelihood ratio test with a mixture for its alternative.

Rules
-----
1. Several claims that hold together are one test: their wealths' mean is again such a wealth,
   whatever the dependence between them (Vovk & Wang, Annals of Statistics 49 (2021), 1736-1754).
2. The state after n values is one number a gambler: a test can go on without its past.
3. Alternatives are m (1 - f^2) for even f: dense near m, for small changes, and down to 0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GAMBLERS = 30


def log_wealth(
    values: Floats, at_least: Sequence[float], before: Floats | None = None
) -> tuple[Floats, Floats]:
    """(log wealth after each row, [n]; state of the gamblers afterwards, [claims, gamblers]).

    values: [n, claims], each in [0, 1]; column i is claimed to have a mean of at least
    `at_least[i]`, within (0, 1). before: the state to go on from.
    """
    least = np.asarray(at_least, dtype=np.float64)
    state = np.zeros((len(least), GAMBLERS)) if before is None else before
    if not len(values):
        return np.empty(0), state
    shares = (least[:, None] - alternatives(least)) / (least * (1 - least))[:, None]
    path = np.empty(len(values))
    # In blocks: [rows, claims, gamblers] of a long pilot with many bins would be large.
    rows = max(1, 2_000_000 // state.size)
    for start in range(0, len(values), rows):
        gain = (least - values[start : start + rows])[:, :, None] * shares
        logs = state + np.cumsum(np.log1p(gain), axis=0)
        path[start : start + rows] = _log_mean(logs)
        state = logs[-1]
    return path, state


def alternatives(least: Floats) -> Floats:
    """The means that gamblers bet on, [claims, gamblers], all below their claim."""
    f = (np.arange(GAMBLERS) + 0.5) / GAMBLERS
    return np.asarray(least[:, None] * (1 - f**2))


def _log_mean(logs: Floats) -> Floats:
    """The log of the mean of exp over claims and gamblers."""
    flat = logs.reshape(len(logs), -1)
    top = flat.max(axis=1)
    return np.asarray(top + np.log(np.exp(flat - top[:, None]).mean(axis=1)))
