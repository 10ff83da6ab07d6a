"""A random-effects summary: the mean of hospitals' true values, and how much they differ.

    >>> found = summarise(estimates, variances)
    >>> found.interval(0.025), found.prediction(0.025)

Model: each hospital has a true value, normal around a common mean with variance tau²; its
estimate is normal around that with a known variance.

- tau²: restricted maximum likelihood, which Langan et al. (2019) recommend after simulation.
- Interval of the mean: Hartung & Knapp (2001), Sidik & Jonkman (2002): t with k - 1 degrees of
  freedom. Their factor is taken as at least 1 (Röver, Knapp & Friede 2015): hospitals that happen
  to agree do not make it narrower than their own uncertainty.
- Prediction interval: t with k - 2 degrees of freedom on tau² plus the squared standard error of
  the mean (Higgins, Thompson & Spiegelhalter 2009; Riley, Higgins & Deeks 2011).
- Q (Cochran 1954) and I² (Higgins & Thompson 2002) are shown and judge nothing.

Fewer than five hospitals give no summary: their variance rests on at most three degrees of
freedom, and the prediction interval holds everything.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import special

from registry.trust.errors import Invalid
from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair

FEWEST_SITES = 5
_GRID = 60
_ROUNDS = 8


@dataclass(frozen=True)
class RandomEffects:
    """`mean` over `sites` hospitals, its standard error (Hartung-Knapp) and their variance."""

    mean: float
    standard_error: float
    tau_squared: float
    sites: int
    q: float
    """Cochran's Q; if hospitals do not differ, chi-squared with `sites` - 1 degrees of freedom."""
    q_p_value: float
    i_squared: float
    """Share of the estimates' variance that is between hospitals."""

    method = "random effects: REML, Hartung-Knapp-Sidik-Jonkman"

    def interval(self, tail: float) -> Pair:
        """The interval of the mean over hospitals."""
        return self._around(self.sites - 1, self.standard_error, tail)

    def prediction(self, tail: float) -> Pair:
        """Where the true value of another hospital like these lies, by the textbook.

        `validators.sites.prediction` has the one that may judge.
        """
        error = sqrt(self.tau_squared + self.standard_error**2)
        return self._around(self.sites - 2, error, tail)

    def _around(self, freedom: int, error: float, tail: float) -> Pair:
        half = -float(special.stdtrit(freedom, tail)) * error
        return self.mean - half, self.mean + half


def summarise(estimates: Floats, variances: Floats) -> RandomEffects | str:
    """The summary of `estimates` ([k]) with sampling `variances` ([k]), or why there is none.

    Raises Invalid for a variance that is not positive or a value that is not finite.
    """
    k = len(estimates)
    finite = np.isfinite(estimates).all() and np.isfinite(variances).all()
    if not finite or not (variances > 0).all():
        raise Invalid("a hospital's estimate is not finite, or its variance is not above 0")
    if k < FEWEST_SITES:
        return (
            f"{k} {'site says' if k == 1 else 'sites say'} too little of how sites differ; at "
            f"least {FEWEST_SITES} are needed for a summary and a prediction"
        )
    tau_squared = _reml(estimates, variances)
    weight = 1 / (variances + tau_squared)
    mean = float(weight @ estimates / weight.sum())
    factor = float(weight @ (estimates - mean) ** 2) / (k - 1)
    fixed = 1 / variances
    q = float(fixed @ (estimates - fixed @ estimates / fixed.sum()) ** 2)
    # The typical sampling variance of Higgins & Thompson 2002.
    typical = (k - 1) * fixed.sum() / (fixed.sum() ** 2 - (fixed**2).sum())
    return RandomEffects(
        mean=mean,
        standard_error=sqrt(max(1.0, factor) / float(weight.sum())),
        tau_squared=tau_squared,
        sites=k,
        q=q,
        q_p_value=float(special.chdtrc(k - 1, q)),
        i_squared=float(tau_squared / (tau_squared + typical)),
    )


def _reml(estimates: Floats, variances: Floats) -> float:
    """tau² at the largest restricted likelihood; 0 where that is its best value.

    Searched on a wide grid first, since the likelihood may have several peaks, then on finer ones.
    """
    spread = float(np.ptp(estimates)) ** 2
    if spread == 0:
        return 0.0

    def lost(tau_squared: Floats) -> Floats:
        """Minus twice the restricted log-likelihood without its constant; [m] -> [m]."""
        total = variances + tau_squared[:, None]
        weight = 1 / total
        mean = weight @ estimates / weight.sum(axis=1)
        squares = (weight * (estimates - mean[:, None]) ** 2).sum(axis=1)
        return np.asarray(np.log(total).sum(axis=1) + np.log(weight.sum(axis=1)) + squares)

    grid = np.append(0.0, np.geomspace(1e-8, 4.0, _GRID) * spread)
    for _ in range(_ROUNDS):
        best = int(np.argmin(lost(grid)))
        grid = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], _GRID)
    found = float(grid[int(np.argmin(lost(grid)))])
    return 0.0 if found <= 1e-10 * spread else found
