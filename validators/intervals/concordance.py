"""How often the riskier of two cases comes first, for many weightings of the cases at once.

    >>> found = concordance(time, event, risk)
    >>> found.concordant(weights, weights) / found.comparable(weights, weights)

Weights are [cases, replicates], one for the earlier and one for the later case of a pair.

Rules
-----
1. Two cases are comparable if one had the event, and the other was free of it at that time: later,
   or censored at the same time. Two events at one time are not comparable (Harrell et al. 1982,
   1996; so does lifelines).
2. Equal risks count half. A failed prediction (NaN) makes all its pairs discordant, also those
   with another failed one; concordant with `failed_is_right`. The comparable pairs stay the same,
   so each weighting has a lower (higher) concordance, or the same.
3. O(n log n) a replicate: the cases in order of time are halved again and again; the earlier half
   meets the later half once, by cumulative sums along the risk.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from validators.intervals.influence import Floats

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Meeting:
    """Earlier cases that meet later ones, each within its part; later ones by part and risk."""

    earlier: Rows
    later: Rows
    start: Rows
    """For each earlier case: how many later ones lie in the parts before its own,"""
    below: Rows
    """with those of its part whose risk is lower,"""
    upto: Rows
    """with those whose risk is equal."""

    def won(self, earlier: Floats, later: Floats) -> Floats:
        """The weight of pairs in which the earlier case has the higher risk; [r]."""
        running = np.zeros((len(self.later) + 1, later.shape[1]))
        np.cumsum(later[self.later], axis=0, out=running[1:])
        behind = running[self.below]
        if (self.below != self.upto).any():
            behind += running[self.upto]
            behind /= 2
        behind -= running[self.start]
        return np.asarray(np.einsum("ij,ij->j", earlier[self.earlier], behind))


def meeting(earlier: Rows, later: Rows, part: Rows, risk: Floats) -> Meeting:
    """The cases `earlier` against those of `later` in the same part; part and risk are [n]."""
    rank = np.unique(risk, return_inverse=True)[1]
    base = len(rank) + 1
    later = later[np.lexsort((rank[later], part[later]))]
    keys, own = part[later] * base + rank[later], part[earlier] * base + rank[earlier]
    upto = np.searchsorted(keys, own, side="right")
    start = np.searchsorted(keys, part[earlier] * base, side="left")
    any_below = upto > start
    below = np.searchsorted(keys, own, side="left")[any_below]
    return Meeting(earlier[any_below], later, start[any_below], below, upto[any_below])


@dataclass(frozen=True, eq=False)
class Concordance:
    """The comparable pairs of n cases and what the risks say of them."""

    event: NDArray[np.bool_] = field(repr=False)
    failed: NDArray[np.bool_] = field(repr=False)
    order: Rows = field(repr=False)
    """Cases by time, events before censorings."""
    after: Rows = field(repr=False)
    """For each case, how many in `order` come no later."""
    meetings: tuple[Meeting, ...] = field(repr=False)
    failed_is_right: bool = False

    def comparable(self, earlier: Floats, later: Floats) -> Floats:
        """The weight of all comparable pairs; [r]."""
        behind = np.zeros((len(self.order) + 1, later.shape[1]))
        np.cumsum(later[self.order[::-1]], axis=0, out=behind[-2::-1])
        rows = np.flatnonzero(self.event)
        return np.asarray(np.einsum("ij,ij->j", earlier[rows], behind[self.after[rows]]))

    def concordant(self, earlier: Floats, later: Floats) -> Floats:
        """The weight of the pairs whose earlier case has the higher risk, ties half; [r]."""
        found = sum((one.won(earlier, later) for one in self.meetings), np.zeros(later.shape[1]))
        if self.failed_is_right and self.failed.any():
            usable = ~self.failed[:, None]
            whole = self.comparable(earlier, later)
            found = found + whole - self.comparable(earlier * usable, later * usable)
        return np.asarray(found)


def concordance(
    time: Floats, event: NDArray[np.bool_], risk: Floats, *, failed_is_right: bool = False
) -> Concordance:
    """Prepare the pairs; time, event and risk (NaN where the prediction failed) are [n]."""
    failed = np.isnan(risk)
    order = np.lexsort((~event, time))
    step = np.ones(len(order), dtype=bool)
    step[1:] = (np.diff(time[order]) != 0) | (np.diff(event[order].astype(np.int8)) != 0)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(step) - 1
    after = np.searchsorted(place[order], place, side="right")
    known = np.where(failed, 0.0, risk)
    meetings = []
    for bit in range(int(place.max()).bit_length()):
        upper = (place >> bit) & 1 == 1
        earlier = np.flatnonzero(event & ~upper & ~failed)
        later = np.flatnonzero(upper & ~failed)
        if len(earlier) and len(later):
            meetings.append(meeting(earlier, later, place >> (bit + 1), known))
    return Concordance(event, failed, order, after, tuple(meetings), failed_is_right)
