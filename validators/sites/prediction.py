"""Where the true value of another hospital lies: the interval that may judge.

The textbook's prediction interval (`RandomEffects.prediction`) takes the estimated tau² as known
but for two degrees of freedom. Where hospitals are small, tau² is often estimated as 0 and the
interval collapses: at a nominal .025 its lower bound errs in up to .065 of cohorts, this one's in
up to .032 (bench/comparators.py).

So tau² is given its confidence distribution, from the pivot Q(tau²), which is chi-squared with
k - 1 degrees of freedom at the true tau² (Viechtbauer 2007), as Nagashima, Noma & Furukawa (2019)
propose; the next hospital's value is then a mixture of normals over it. Here it is computed at
evenly spread quantiles rather than drawn. At each end the wider of both intervals is taken.
"""

import numpy as np
from scipy import special

from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair
from validators.sites.random_effects import RandomEffects

_QUANTILES = 100
_GRID = 300
_HALVINGS = 40


def prediction(fitted: RandomEffects, estimates: Floats, variances: Floats, tail: float) -> Pair:
    """The interval for another hospital's true value, with error `tail` on each side.

    `estimates` and `variances` ([k]) are those that `fitted` was made of.
    """
    centre, spread = _mixture(estimates, variances)
    low, high = fitted.prediction(tail)
    return (
        min(low, _quantile(centre, spread, tail)),
        max(high, _quantile(centre, spread, 1 - tail)),
    )


def _mixture(estimates: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Centres and standard deviations of the next value, one for each quantile of tau²."""
    widest = float(np.ptp(estimates)) ** 2 + float(variances.max())
    grid = np.append(0.0, np.geomspace(1e-6, 1e4, _GRID) * widest)
    weight = 1 / (variances + grid[:, None])
    mean = weight @ estimates / weight.sum(axis=1)
    q = (weight * (estimates - mean[:, None]) ** 2).sum(axis=1)
    asked = special.chdtri(len(estimates) - 1, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    # Q falls as tau² rises; where even 0 gives too small a Q, tau² is 0.
    tau_squared = np.interp(asked, q[::-1], grid[::-1])
    weight = 1 / (variances + tau_squared[:, None])
    total = weight.sum(axis=1)
    return weight @ estimates / total, np.sqrt(tau_squared + 1 / total)


def _quantile(centre: Floats, spread: Floats, chance: float) -> float:
    low, high = float((centre - 12 * spread).min()), float((centre + 12 * spread).max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = float(special.ndtr((middle - centre) / spread).mean())
        low, high = (middle, high) if below < chance else (low, middle)
    return (low + high) / 2
