"""Intervals for a proportion and for the difference of two.

Unit: the case. Clusters: patients; cases of one patient may be alike, patients are independent.

- `clopper_pearson`: exact (Clopper & Pearson 1934). Never above its nominal error: it may gate.
- `clustered`: Clopper-Pearson on the effective sample size (Korn & Graubard 1998): the cases are
  divided by the design effect of the ratio estimator (at least 1) and by the squared ratio of
  t-quantiles, which pays for estimating that effect from few patients. Where nothing varies
  (p = 0 or 1) the design effect can't be estimated, and the patients are the sample.
- `wilson`: Wilson 1927; for display and inside the difference. It does not gate.
- `difference`: Newcombe's hybrid score interval (1998, method 10), which is MOVER (Zou & Donner
  2008) over two Wilson intervals. The two groups are taken as independent; patients with cases
  in both make it wider than it need be, which errs on the safe side.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats


@dataclass(frozen=True)
class Proportion:
    """A share with the sample size that its uncertainty is worth."""

    estimate: float
    n: int
    effective_n: float
    clusters: int | None

    @property
    def events(self) -> float:
        """Events on the scale of the effective sample size."""
        return self.estimate * self.effective_n


def proportion(
    event: NDArray[np.bool_], cluster: NDArray[np.int64] | None, level: float
) -> Proportion:
    """The share of true values, with its effective sample size at `level`."""
    n = len(event)
    estimate = float(event.mean())
    if cluster is None:
        return Proportion(estimate, n, float(n), None)
    _, code = np.unique(cluster, return_inverse=True)
    sizes = np.bincount(code)
    clusters = len(sizes)
    if clusters == n:
        return Proportion(estimate, n, float(n), clusters)
    if estimate in (0.0, 1.0) or clusters < 2:
        return Proportion(estimate, n, float(clusters), clusters)
    residual = np.bincount(code, weights=event.astype(float)) - estimate * sizes
    variance = clusters / (clusters - 1) * float(residual @ residual) / n**2
    design_effect = max(1.0, variance * n / (estimate * (1 - estimate)))
    upper = (1 + level) / 2
    few = (stats.t.ppf(upper, n - 1) / stats.t.ppf(upper, clusters - 1)) ** 2
    return Proportion(estimate, n, max(1.0, n / design_effect * few), clusters)


def clopper_pearson(events: float, n: float, level: float) -> tuple[float, float]:
    """The exact interval; `events` and `n` may be fractional (effective sizes)."""
    tail = (1 - level) / 2
    low = 0.0 if events <= 0 else float(special.betaincinv(events, n - events + 1, tail))
    high = 1.0 if events >= n else float(special.betaincinv(events + 1, n - events, 1 - tail))
    return low, high


def exact(share: Proportion, level: float) -> tuple[float, float]:
    """Clopper-Pearson on the effective sample size."""
    return clopper_pearson(share.events, share.effective_n, level)


def wilson(events: float, n: float, level: float) -> tuple[float, float]:
    """The score interval without continuity correction."""
    z = float(stats.norm.ppf((1 + level) / 2))
    p = events / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return max(0.0, min(low, p)), min(1.0, max(high, p))


def mover(
    first: float, first_interval: tuple[float, float],
    second: float, second_interval: tuple[float, float],
) -> tuple[float, float]:  # fmt: skip
    """The interval of first - second from the two intervals (Zou & Donner 2008)."""
    gap = first - second
    low = gap - math.hypot(first - first_interval[0], second_interval[1] - second)
    high = gap + math.hypot(first_interval[1] - first, second - second_interval[0])
    return max(-1.0, low), min(1.0, high)


def difference(first: Proportion, second: Proportion, level: float) -> tuple[float, float]:
    """Newcombe's interval of first - second, each on its effective sample size."""
    return mover(
        first.estimate,
        wilson(first.events, first.effective_n, level),
        second.estimate,
        wilson(second.events, second.effective_n, level),
    )
