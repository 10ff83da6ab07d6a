"""What every metric gives: a number with its interval, or the reason why there is none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.intervals.influence import Floats
from validators.intervals.share import Complement, Share
from validators.metrics.measure import Cases, Side, Undefined
from validators.outcome import Interval


@dataclass(frozen=True)
class Estimate:
    """`clusters` are the patients behind the `n` cases; `note` says why something is None."""

    value: float | None
    interval: Interval | None
    n: int
    clusters: int | None
    note: str = ""


def number_of_patients(patient: NDArray[np.int64] | None) -> int | None:
    """How many patients occur, or None where cases are independent."""
    return None if patient is None else len(np.unique(patient))


def shown(found: Side | Undefined, tail: float, *, judged: bool = True) -> Estimate:
    """A side with its interval, error `tail` on each side, or why there is none."""
    if isinstance(found, Undefined):
        return Estimate(found.value, None, found.n, found.clusters, found.reason)
    return Estimate(
        found.value, interval_of(found, tail, judged=judged), found.n, found.clusters
    )  # fmt: skip


def interval_of(found: Side, tail: float, *, judged: bool = True) -> Interval:
    """The interval that judges; of a share that decides nothing Wilson's, which is only shown."""
    (low, high), method = found.gating(tail), found.method
    if isinstance(found, Share | Complement):
        if not judged:
            (low, high), method = found.shown(tail), "Wilson"
        if found.clusters not in (None, found.n):
            method = f"{method} on the effective sample size"
    return Interval(low=low, high=high, level=1 - 2 * tail, method=method)


def checked_weight(table: Cases, weight: Floats | None) -> Floats:
    """The sampling weights ([n]): those given, else the table's own, else 1 each.

    Raises Invalid if one is not above 0.
    """
    if weight is None:
        weight = table.weight if isinstance(table, CaseTable) else None
    if weight is None:
        return np.ones(table.n)
    given = np.asarray(weight, dtype=np.float64)
    if given.shape != (table.n,):
        raise Invalid(f"there are {given.size} weights, and {table.n} cases")
    if wrong := int((~np.isfinite(given) | (given <= 0)).sum()):
        raise Invalid(f"{wrong} of {table.n} weights are no finite number above 0")
    return given
