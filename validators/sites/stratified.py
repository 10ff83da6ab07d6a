"""The gap of a group behind the rest, compared within hospitals and then averaged.

    >>> gap = stratified_gap(site, inside, lambda chosen, failed_is_right: share_right(…))
    >>> gap.value, gap.gating(0.025), gap.reversal

A group that is seen mostly at a hospital with hard cases looks worse off in all cases together
though it is not in any hospital, and the other way round (Simpson 1951).

Rules
-----
1. gap = rest - group, positive where the group is worse off; for sensitivity and specificity.
2. Hospitals are weighted as by Mantel & Haenszel (1959): n1 n0 / (n1 + n0), of the cases that the
   metric counts. A hospital without cases on one side tells nothing and is named.
3. Interval: at each end the wider of two. Sato's (1989), whose variance holds for few large
   hospitals and for many small ones, but has no width where nothing varies; and MOVER's (Zou,
   Huang & Zhang 2009) over the hospitals' hybrid score intervals, which always has one, but at 20
   hospitals of 2 against 5 cases errs in .078 instead of .025. Both on effective sample sizes where
   patients have several cases. (Greenland & Robins' variance takes a group of one case as certain.)
4. Failed predictions are wrong in the group and right in the rest; a positive correlation of both
   sides is not used, a negative one widens (`validators.fairness.gaps`, rules 5 and 6).
5. `reversal`: the gap of all cases together and the one within hospitals have different signs:
   `shown` if both intervals exclude 0, else `estimated`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.fairness.judging import judge_gap
from validators.intervals.influence import widening_correlation
from validators.intervals.proportion import Pair, mover
from validators.intervals.share import Share
from validators.metrics.measure import Undefined
from validators.outcome import Outcome

Flags = NDArray[np.bool_]
ShareOf = Callable[[Flags, bool], Share | Undefined]
"""(chosen cases, failed predictions count as right) -> the share of right decisions."""
Reversal = Literal["none", "estimated", "shown"]


@dataclass(frozen=True, eq=False)
class SiteGap:
    """A group against the rest at one hospital."""

    site: str
    group: Share
    rest: Share

    @property
    def value(self) -> float:
        """Rest minus group."""
        return self.rest.value - self.group.value

    @property
    def weight(self) -> float:
        """Mantel and Haenszel's."""
        return self.group.n * self.rest.n / (self.group.n + self.rest.n)

    def gating(self, tail: float) -> Pair:
        """The hybrid score interval (Newcombe 1998), on the effective sample sizes."""
        least, most = widening_correlation(self.rest.influence, self.group.influence)
        bounds = []
        for wide, correlation in ((False, most), (True, least)):
            rest, group = (of.compared(tail, wide=wide) for of in (self.rest, self.group))
            bounds.append(mover(self.rest.value, rest, self.group.value, group, correlation))
        return bounds[0][0], bounds[1][1]

    def sato(self, gap: float, tail: float, *, wide: bool) -> Pair:
        """(part of the variance's numerator, weight) that this hospital adds; Sato 1989."""
        n1, n0 = (of.effective_n(tail, wide=wide) for of in (self.group, self.rest))
        x, y, n = self.group.value * n1, self.rest.value * n0, n1 + n0
        # Sato's P is for group minus rest, so the gap enters with its sign turned.
        p = (n1**2 * y - n0**2 * x + n1 * n0 * (n0 - n1) / 2) / n**2
        q = (x * (n0 - y) + y * (n1 - x)) / (2 * n)
        return q - gap * p, n1 * n0 / n


@dataclass(frozen=True, eq=False)
class StratifiedGap:
    """`crude` is the gap of all cases together; `left_out` names sites with cases on one side."""

    sites: tuple[SiteGap, ...]
    crude: SiteGap
    left_out: tuple[str, ...]
    reversal: Reversal
    opposite: tuple[str, ...]
    """Sites whose own gap has the other sign than the crude one."""

    method = "Mantel-Haenszel, the wider of Sato's and MOVER's interval"

    @property
    def value(self) -> float:
        """The weighted mean of the gaps within hospitals."""
        return _weighted(self.sites)

    def standard_error(self, tail: float, *, wide: bool = True) -> float:
        """Sato's (1989), on the effective sample sizes at `tail`."""
        return _standard_error(self.sites, tail, wide=wide)

    def gating(self, tail: float) -> Pair:
        """The interval that a margin is judged by."""
        return _gating(self.sites, tail)

    def judged(self, margin: float, tail: float) -> tuple[Outcome, str]:
        """Whether the gap within hospitals is inside `margin`."""
        low, high = self.gating(tail)
        outcome, reason = judge_gap(self.value, (low, low, high), margin, 1)
        return outcome, f"within sites {reason}"


def stratified_gap(
    site: NDArray[np.str_], inside: Flags, share_of: ShareOf, *, tail: float = 0.025
) -> StratifiedGap | Undefined:
    """The gap of the cases `inside` ([n]) behind the rest, within the hospitals of `site` ([n]).

    `tail` is the error of the intervals that a reversal is called by.
    """
    everywhere = np.ones(len(site), dtype=bool)
    crude = _at("all", everywhere, inside, share_of)
    if isinstance(crude, str):
        return Undefined(crude, int(inside.sum()), None)
    names = [str(name) for name in np.unique(site)]
    found = {name: _at(name, site == name, inside, share_of) for name in names}
    sites = tuple(gap for gap in found.values() if isinstance(gap, SiteGap))
    left_out = tuple(name for name, gap in found.items() if isinstance(gap, str))
    if not sites:
        return Undefined("no site has cases on both sides", crude.group.n, crude.group.clusters)
    value = _weighted(sites)
    reversal: Reversal = "none"
    if crude.value * value < 0:
        both = (crude.gating(tail), _gating(sites, tail))
        shown = all(low > 0 or high < 0 for low, high in both)
        reversal = "shown" if shown else "estimated"
    opposite = tuple(of.site for of in sites if of.value * crude.value < 0)
    return StratifiedGap(sites, crude, left_out, reversal, opposite)


def _weighted(sites: tuple[SiteGap, ...]) -> float:
    return sum(of.weight * of.value for of in sites) / sum(of.weight for of in sites)


def _gating(sites: tuple[SiteGap, ...], tail: float) -> Pair:
    total = sum(of.weight for of in sites)
    value = _weighted(sites)
    down = up = 0.0
    for of in sites:
        low, high = of.gating(tail)
        down += (of.weight / total * (of.value - low)) ** 2
        up += (of.weight / total * (high - of.value)) ** 2
    z = -float(special.ndtri(tail))
    low = value - max(sqrt(down), z * _standard_error(sites, tail, wide=False))
    high = value + max(sqrt(up), z * _standard_error(sites, tail, wide=True))
    return max(-1.0, low), min(1.0, high)


def _standard_error(sites: tuple[SiteGap, ...], tail: float, *, wide: bool) -> float:
    parts = [of.sato(_weighted(sites), tail, wide=wide) for of in sites]
    return sqrt(max(0.0, sum(part[0] for part in parts))) / sum(part[1] for part in parts)


def _at(name: str, here: Flags, inside: Flags, share_of: ShareOf) -> SiteGap | str:
    group = share_of(here & inside, False)
    rest = share_of(here & ~inside, True)
    if isinstance(group, Undefined):
        return f"the group has no value: {group.reason}"
    if isinstance(rest, Undefined):
        return f"the rest has no value: {rest.reason}"
    return SiteGap(name, group, rest)
