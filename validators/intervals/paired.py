"""The difference of two models on the same cases, with an interval that keeps the pairs.

    >>> found = paired_areas(candidate, comparator, positive, patient)
    >>> found.value, found.gating(0.025)

Rules
-----
1. value = candidate - comparator; positive where the candidate is better.
2. Shares (sensitivity, specificity): a case adds 1 where only the candidate is right, -1 where only
   the comparator is, else 0. The interval is Gaffke's of such a bounded mean
   (`validators.intervals.mean`), by patient; without one discordant case it still has a width.
   `newcombe_paired` is what is commonly printed for independent cases (Newcombe 1998, method 10);
   it is shown and does not judge.
3. Areas: patients' differences of placements (DeLong, DeLong & Clarke-Pearson 1988; Obuchowski 1997
   where patients have several cases), Student's t on the smaller class's independent units, the
   variance stabilised by one patient with the largest that the difference of two independent areas
   can have. Bounds reach further on the side of a long tail, by the third moment (Johnson 1978).
4. All else (`paired_statistics`): the patient bootstrap of the difference, by the same draws of
   patients for both, so that what a draw does to both cancels out. Shares and areas have intervals
   of their own, which need no 30 patients and are less bold: errors up to .028 where the bootstrap
   had .040 (nine conditions of `models_draw` in bench/comparators.py, 600 cohorts; nominal .025).
   Guard: patients who were decided alike by both may still have been decided differently in a
   share of up to 1 - tail^(1/u).
5. Losses (Brier): cluster-robust t of the mean difference (`paired_losses`), which describes and
   judges nothing: it does not mind what was not seen.
6. A failed prediction of the candidate is wrong, one of the comparator right (last and first in
   their rankings); variances range over what they could have been. So no bound is better for the
   candidate because either model was silent. Who passes two statistics builds them so
   (`failed_is_right`).
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.auc import area
from validators.intervals.bootstrap import REPLICATES, Resampled, Statistic, resampled
from validators.intervals.estimated import Estimated, by_patient, robust_error
from validators.intervals.influence import Box, Floats, long_tail
from validators.intervals.mean import Mean, mean
from validators.intervals.proportion import Pair, mover, wilson

LARGEST_VARIANCE = 0.5
"""Of the difference of two independent AUCs, times the units: 1/4 each (van Dantzig 1951)."""
_NO_ERROR = 1e-12


@dataclass(frozen=True, eq=False)
class PairedAreas:
    """A difference of two AUCs of the same cases; `influence` ranges over what failures allow."""

    value: float
    n: int
    clusters: int | None
    influence: Box = field(repr=False)
    units: float
    """Independent units of the smaller class."""
    freedom: int

    gap_method = "MOVER over paired t intervals"

    @property
    def method(self) -> str:
        """The interval's name."""
        by = "DeLong" if self.clusters in (None, self.n) else "Obuchowski"
        return f"paired {by}, t, stabilised"

    @property
    def standard_error(self) -> float:
        """The root of the variance (its upper end if cases failed), not stabilised."""
        return math.sqrt(self.influence.squared().total()[1])

    def gating(self, tail: float) -> Pair:
        """The interval that a difference is judged by."""
        t = -float(special.stdtrit(self.freedom, tail))
        # Each bound has the variance that is worst for the candidate.
        narrow, wide = self.influence.squared().total()
        units = self.units
        stable = [(of * units + LARGEST_VARIANCE / units) / (units + 1) for of in (wide, narrow)]
        down, up = (t * math.sqrt(of) for of in stable)
        down += long_tail(self.influence.mirrored(), t)
        up += long_tail(self.influence, t) if narrow == wide else 0.0
        return max(-1.0, self.value - down), min(1.0, self.value + up)

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of."""
        return self.gating(tail)

    def p_value(self) -> float:
        """Two-sided, for no difference; on the plain normal scale as commonly printed."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * special.ndtr(-abs(self.value) / self.standard_error))


def paired_areas(
    candidate: Floats,
    comparator: Floats,
    positive: NDArray[np.bool_],
    patient: NDArray[np.int64] | None = None,
) -> PairedAreas:
    """AUC of `candidate` less that of `comparator` ([n] each, NaN where the prediction failed).

    `positive` [n], both classes occur; `patient` holds codes 0, 1, …, or is None where cases are
    independent.
    """
    code = np.arange(len(positive)) if patient is None else patient
    first = area(candidate, positive, code)
    second = area(comparator, positive, code, failed_is_right=True)
    if first.influence is None or second.influence is None:
        raise ValueError("an area without clusters has no influence")
    parts = first.influence.plus(second.influence.mirrored())
    clusters = None if patient is None else first.clusters
    value = first.value - second.value
    return PairedAreas(value, first.n, clusters, parts, first.units, first.freedom)


def paired_shares(
    candidate_right: NDArray[np.bool_],
    comparator_right: NDArray[np.bool_],
    patient: NDArray[np.int64] | None = None,
) -> Mean:
    """The share right of the candidate less that of the comparator, on the same cases ([n] each).

    Who calls counts a failed prediction of the candidate as wrong, of the comparator as right.
    """
    difference = candidate_right.astype(np.float64) - comparator_right.astype(np.float64)
    return mean(difference, (-1.0, 1.0), patient, few_values=True)


def paired_losses(
    candidate: Floats,
    comparator: Floats,
    patient: NDArray[np.int64] | None = None,
    weight: Floats | None = None,
) -> Estimated | str:
    """The mean loss of the candidate less that of the comparator ([n] each, none missing), or why
    it has no interval. `weight` ([n], above 0) are sampling weights; `patient` holds 0, 1, …

    Variance between patients' sums of deviations (Liang & Zeger 1986), t on the patients less one.
    """
    of_case = np.ones(len(candidate)) if weight is None else weight
    difference = candidate - comparator
    value = float(of_case @ difference / of_case.sum())
    parts = of_case * (difference - value) / of_case.sum()
    if patient is not None:
        parts = by_patient(parts, patient, int(patient.max()) + 1)
    if len(parts) < 2:
        return "one patient gives no interval"
    error = robust_error(Box(parts, parts))
    if error < _NO_ERROR:
        return "the difference is the same in every case, so it gives no interval"
    clusters = None if patient is None else len(parts)
    return Estimated(value, len(candidate), clusters, (value, value), error, len(parts) - 1)


def paired_statistics(
    candidate: Statistic,
    comparator: Statistic,
    strata: NDArray[np.int64],
    *,
    n: int,
    clusters: int | None,
    scale: Pair,
    units: float | None = None,
    higher_is_better: bool = True,
    replicates: int = REPLICATES,
) -> Resampled | str:
    """The difference of two statistics of one value each, or why it has no interval.

    `scale` is that of one statistic; `units` are the patients that the difference rests on, where
    that is fewer than all.
    """
    sign, width = 1.0 if higher_is_better else -1.0, scale[1] - scale[0]
    found = resampled(
        lambda drawn: sign * (candidate(drawn) - comparator(drawn)), strata, n=n,
        clusters=clusters, scale=(-width, width), guard="both", units=units, replicates=replicates,
    )  # fmt: skip
    if isinstance(found, str):
        return found
    return replace(found, method="paired patient bootstrap, expanded percentile")


def newcombe_paired(
    candidate_right: NDArray[np.bool_], comparator_right: NDArray[np.bool_], tail: float
) -> Pair:
    """The hybrid score interval of the difference of two paired shares of independent cases.

    Newcombe (1998, Statistics in Medicine 17:2635), method 10: Wilson's intervals joined with the
    phi correlation, whose numerator is drawn towards 0 by n / 2.
    """
    n = len(candidate_right)
    both = int((candidate_right & comparator_right).sum())
    neither = int((~candidate_right & ~comparator_right).sum())
    first, second = int(candidate_right.sum()), int(comparator_right.sum())
    product = first * (n - first) * second * (n - second)
    numerator = float(both * neither - (first - both) * (second - both))
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    phi = numerator / math.sqrt(product) if product else 0.0
    return mover(
        first / n, wilson(first, n, tail), second / n, wilson(second, n, tail), phi
    )  # fmt: skip
