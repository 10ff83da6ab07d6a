"""What censoring hides, by inverse-probability weights, for many weightings of the cases at once.

    >>> seen = follow_up(time, event)
    >>> known, weights = seen.known_by(24.0, multiplicities)
    >>> share_with_event = weights[event[known] & (time[known] <= 24)].sum(axis=0) / cases

Weights are [cases, replicates]: a column is one bootstrap draw, and each column has a censoring
distribution of its own (Kaplan & Meier 1958, with censoring as the event).

Rules
-----
1. At one time events come before censorings: who is censored at 24 months had no event by then,
   and is known to be free of it at 24 months.
2. A case's status at t is known if it was followed up to min(time, t); the chance of that is the
   censoring curve just before it, G(min(time, t)-). Its weight is the inverse (Graf et al. 1999;
   Uno et al. 2007). The weights of the known cases sum to the number of cases, unless nobody is
   left at t: then there is no value (NaN).
3. Nothing here looks at a prediction.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from validators.intervals.influence import Floats

_MISSING = 1e-9
"""Share of the weight that rounding may lose."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FollowUp:
    """Times and events of n cases, ordered once."""

    time: Floats = field(repr=False)
    event: NDArray[np.bool_] = field(repr=False)
    order: Rows = field(repr=False)
    """Cases by time, events before censorings."""
    censored_at: Floats = field(repr=False)
    """Times with a censoring, ascending; m of them."""
    first: Rows = field(repr=False)
    """Place in `order` of the first case censored at each of these times."""
    after: Rows = field(repr=False)
    """Place in `order` behind the last one."""

    def uncensored(self, weights: Floats) -> Floats:
        """The share not yet censored before each of `censored_at`, and after all; [m + 1, r]."""
        at_risk = np.zeros((len(weights) + 1, weights.shape[1]))
        np.cumsum(weights[self.order[::-1]], axis=0, out=at_risk[-2::-1])
        before, later = at_risk[self.first], at_risk[self.after]
        curve = np.ones((len(self.first) + 1, weights.shape[1]))
        np.divide(later, before, out=curve[1:], where=before > 0)
        return np.cumprod(curve, axis=0, out=curve)

    def before(self, time: Floats) -> Rows:
        """The rows of `uncensored` that hold just before each time."""
        return np.searchsorted(self.censored_at, time, side="left")

    def known_by(self, horizon: float, weights: Floats) -> tuple[Rows, Floats]:
        """Cases whose status at `horizon` is known ([k]), and their weights ([k, r]).

        A column is NaN where the known cases do not stand for all.
        """
        return self.known(horizon), self.weighted(horizon, weights, self.uncensored(weights))

    def is_known(self, horizon: float) -> NDArray[np.bool_]:
        """Of which cases the status at `horizon` is known."""
        return np.asarray(self.event | (self.time >= horizon))

    def known(self, horizon: float) -> Rows:
        """The cases whose status at `horizon` is known."""
        return np.flatnonzero(self.is_known(horizon))

    def weighted(self, horizon: float, weights: Floats, curve: Floats) -> Floats:
        """The weights of the known cases, `curve` being `uncensored(weights)`."""
        known = self.known(horizon)
        chance = curve[self.before(np.minimum(self.time[known], horizon))]
        chance[chance == 0] = 1.0  # nobody who was drawn is behind it
        found = np.divide(weights[known], chance, out=chance)
        total = weights.sum(axis=0)
        found[:, np.abs(found.sum(axis=0) - total) > _MISSING * total] = np.nan
        return found

    def had_event(self, horizon: float) -> NDArray[np.bool_]:
        """Which cases had the event by `horizon`, for sure."""
        return np.asarray(self.event & (self.time <= horizon))


def follow_up(time: Floats, event: NDArray[np.bool_]) -> FollowUp:
    """Order the cases; time > 0 and event are [n]."""
    order = np.lexsort((~event, time))
    ordered, censored = time[order], ~event[order]
    censored_at, first = np.unique(ordered[censored], return_index=True)
    places = np.flatnonzero(censored)[first]
    after = np.searchsorted(ordered, censored_at, side="right")
    return FollowUp(time, event, order, censored_at, places, after)


def kaplan_meier(time: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """(times with an event, survival from each on, its Greenwood sum); Kaplan & Meier 1958.

    The Greenwood sum is the variance of the survival over its square.
    """
    at, events = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), at, side="left")
    left = at_risk - events
    terms = np.divide(events, at_risk * left, out=np.full(len(at), np.inf), where=left > 0)
    survival: Floats = np.cumprod(left / at_risk, dtype=np.float64)
    return at, survival, np.asarray(np.cumsum(terms), dtype=np.float64)
