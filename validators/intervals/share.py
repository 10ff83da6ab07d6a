"""A share of right decisions, with the sample size that its uncertainty is worth.

Unit: the case. Clusters: patients; cases of one patient may be alike, patients are independent,
and how many cases a patient has is taken to say nothing of how hard they are.

The interval is Clopper-Pearson on the effective sample size (Korn & Graubard 1998): the number
of cases divided by the design effect and by the squared ratio of t-quantiles that pays for
estimating it from few patients. The design effect is the largest of
- 1;
- the ratio estimator's (linearised variance over that of independent cases; Kish 1965);
- 1 + (a - 1) rho, where a is the mean cluster size seen from a case (Kish) and rho the
  correlation of cases of one patient, each case weighted alike, with one more patient added
  whose cases all agree (rho = 1) to the b that tell of it.
The second alone fails where errors sit in few large clusters: at 100 patients, sizes 1 to 8 and
rho = 1 its one-sided error at p = .95 is .105 instead of .025. The third repairs that (.032 at
most in all conditions of bench/coverage.py). It also leads without a jump to p = 1, where nothing
varies, rho can't be estimated, and the patients are the sample rather than the cases.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.influence import Box
from validators.intervals.proportion import Pair, clopper_pearson, wilson


@dataclass(frozen=True, eq=False)
class Share:
    """`value` with failed cases at the asked end; the design effect over what they could be."""

    value: float
    n: int
    clusters: int | None
    design_effect: Pair = (1.0, 1.0)
    influence: Box | None = field(default=None, repr=False)
    method = "Clopper-Pearson"
    gap_method = "Newcombe (hybrid score)"

    def effective_n(self, tail: float, *, wide: bool) -> float:
        """The sample size at `tail`: the smallest (`wide`) or largest that failures allow."""
        effect = self.design_effect[1 if wide else 0]
        if self.clusters is None or self.clusters == self.n:
            return float(self.n)
        paid = 1.0
        if self.clusters > 1:
            paid = float(
                special.stdtrit(self.n - 1, tail) / special.stdtrit(self.clusters - 1, tail)
            )
        return max(1.0, self.n / effect * paid**2)

    def gating(self, tail: float) -> Pair:
        """The interval that a goal or floor is judged by."""
        wide, narrow = self.effective_n(tail, wide=True), self.effective_n(tail, wide=False)
        low, _ = clopper_pearson(self.value * wide, wide, tail)
        _, high = clopper_pearson(self.value * narrow, narrow, tail)
        return low, high

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of."""
        n = self.effective_n(tail, wide=wide)
        return wilson(self.value * n, n, tail)

    def shown(self, tail: float) -> Pair:
        """The interval of a share that decides nothing: nearer to its level on average."""
        return self.compared(tail, wide=True)


@dataclass(frozen=True, eq=False)
class Complement:
    """One less a share: the false positive rate of a specificity."""

    of: Share

    method = Share.method
    gap_method = Share.gap_method

    @property
    def value(self) -> float:
        """The estimate, failed cases at the asked end."""
        return 1 - self.of.value

    @property
    def n(self) -> int:
        """Cases."""
        return self.of.n

    @property
    def clusters(self) -> int | None:
        """Patients."""
        return self.of.clusters

    @property
    def influence(self) -> Box | None:
        """What each patient contributes."""
        of = self.of.influence
        return None if of is None else Box(-of.high, -of.low)

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by."""
        low, high = self.of.gating(tail)
        return 1 - high, 1 - low

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of."""
        low, high = self.of.compared(tail, wide=wide)
        return 1 - high, 1 - low

    def shown(self, tail: float) -> Pair:
        """The interval where it decides nothing."""
        low, high = self.of.shown(tail)
        return 1 - high, 1 - low


def share(
    right: NDArray[np.bool_],
    failed: NDArray[np.bool_],
    cluster: NDArray[np.int64] | None,
    *,
    failed_is_right: bool = False,
    clusters: int | None = None,
) -> Share:
    """The share of `right` cases ([n], false where `failed`).

    `cluster` holds codes 0 … clusters - 1. Failed cases count as wrong, or as right with
    `failed_is_right` (the rest of the cohort, when a group is held against it).
    """
    n = len(right)
    low, high = float(right.sum()) / n, float((right | failed).sum()) / n
    value = high if failed_is_right else low
    if cluster is None:
        return Share(value, n, None)
    total = clusters or int(cluster.max()) + 1
    sizes = np.bincount(cluster, minlength=total)
    rights = np.bincount(cluster[right], minlength=total)
    fails = np.bincount(cluster[failed], minlength=total)
    influence = Box((rights - high * sizes) / n, (rights + fails - low * sizes) / n)
    seen = sizes > 0
    effect = _design_effect(sizes[seen], rights[seen], fails[seen])
    return Share(value, n, int(seen.sum()), effect, influence)


def size_bound_share(event: NDArray[np.bool_], cluster: NDArray[np.int64] | None) -> Share:
    """A share whose cases of one patient are taken as wholly alike: n is n^2 / sum(size^2).

    Used for failed predictions: more of them always give a higher bound.
    """
    n = len(event)
    value = float(event.sum()) / n
    if cluster is None:
        return Share(value, n, None)
    sizes = np.bincount(cluster)
    effect = float((sizes.astype(float) ** 2).sum()) / n
    return Share(value, n, int((sizes > 0).sum()), (effect, effect))


def _design_effect(
    sizes: NDArray[np.int64], rights: NDArray[np.int64], fails: NDArray[np.int64]
) -> Pair:
    """The range of the design effect over what the failed cases could have been."""
    n, k = int(sizes.sum()), len(sizes)
    a = float((sizes.astype(float) ** 2).sum()) / n
    if k == n or k < 2:
        return a, a
    low, high = int(rights.sum()) / n, int((rights + fails).sum()) / n
    deviation = Box(rights - high * sizes, rights + fails - low * sizes).squared()
    # Without the degenerate ends, where nothing varies and rho is 1 by definition.
    ends = [min(max(p, 1 / n), 1 - 1 / n) for p in (low, high)]
    spread = sorted(p * (1 - p) for p in ends)
    if low <= 0.5 <= high:
        spread[1] = 0.25
    degenerate = low == 0 or high == 1
    only_degenerate = degenerate and low == high
    ratio = [x * k / (k - 1) / n for x in deviation.total()]
    ratio_low, ratio_high = ratio[0] / spread[1], ratio[1] / spread[0]
    within = Box(
        rights * (1 - high) ** 2 + (sizes - rights - fails) * low**2,
        (rights + fails) * (1 - low) ** 2 + (sizes - rights) * high**2,
    )
    several = sizes > 1
    weight = 1 / (sizes[several] - 1)
    pairs = float(sizes[several].sum())
    rho_low = float((weight * (deviation.low - within.high)[several]).sum()) / pairs
    rho_high = float((weight * (deviation.high - within.low)[several]).sum()) / pairs
    rho_low = rho_low / (spread[1] if rho_low > 0 else spread[0])
    rho_high = rho_high / (spread[0] if rho_high > 0 else spread[1])
    if degenerate:
        rho_high = 1.0
    if only_degenerate:
        rho_low, ratio_low, ratio_high = 1.0, 0.0, 0.0
    # Patients with several cases tell of rho once they hold the rarer outcome.
    most, all_of = (rights + fails)[several], sizes[several]
    surely = min(int((most < all_of).sum()), int((rights[several] > 0).sum()))
    possibly = min(int((rights[several] < all_of).sum()), int((most > 0).sum()))
    return (
        max(1.0, ratio_low, 1 + (a - 1) * _with_one_alike(rho_low, possibly)),
        max(1.0, ratio_high, 1 + (a - 1) * _with_one_alike(rho_high, surely)),
    )


def _with_one_alike(rho: float, telling: int) -> float:
    """The correlation with one more patient whose cases all agree."""
    return (telling * min(1.0, max(0.0, rho)) + 1) / (telling + 1)
