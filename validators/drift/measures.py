"""How far two distributions over the same cells are apart.

- Population stability index: sum of (q - p) ln(q / p). Customary words: below .1 no shift, above
  .25 a large one (Siddiqi 2006). They forget the sample size: of one population, two samples of n
  and m in B cells give (1/n + 1/m) times a chi-square with B - 1 degrees of freedom (Yurdakul &
  Naranjo 2020): .1 is exceeded by chance alone in most comparisons of 100 with 100 in ten cells.
- Jensen-Shannon distance: the root of the divergence to base 2 (Lin 1991; Endres & Schindelin
  2003); a metric, 0 to 1.
- Standardized mean difference: of means, in pooled standard deviations (Austin 2009).

Shares are (count + 1/2) / (total + cells / 2), so that an empty cell has a logarithm.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special


def stability_index(declared: Sequence[int], found: Sequence[int]) -> float:
    """The population stability index of counts in the same cells."""
    p, q = _shares(declared), _shares(found)
    return float(((q - p) * np.log(q / p)).sum())


def index_by_chance(declared: Sequence[int], found: Sequence[int], alpha: float) -> float:
    """The index that two samples of one population exceed with probability `alpha`."""
    rate = 1 / max(sum(declared), 1) + 1 / max(sum(found), 1)
    return float(special.chdtri(len(declared) - 1, alpha)) * rate


def jensen_shannon(declared: Sequence[int], found: Sequence[int]) -> float:
    """The Jensen-Shannon distance of counts in the same cells, 0 to 1."""
    p, q = _shares(declared), _shares(found)
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle)).sum() + (q * np.log2(q / middle)).sum()
    return math.sqrt(max(0.0, float(divergence) / 2))


def standardized_difference(
    declared_mean: float, declared_deviation: float, values: NDArray[np.float64]
) -> float | None:
    """(mean of `values` - declared mean) in pooled standard deviations; None for under two."""
    if len(values) < 2:
        return None
    spread = math.sqrt((float(values.var(ddof=1)) + declared_deviation**2) / 2)
    return (float(values.mean()) - declared_mean) / spread


def _shares(counts: Sequence[int]) -> NDArray[np.float64]:
    counted = np.asarray(counts, dtype=np.float64) + 0.5
    return np.asarray(counted / counted.sum())
