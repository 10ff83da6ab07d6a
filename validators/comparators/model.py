"""The model against another on the same cases: a difference, its interval and three answers.

    >>> found = paired(model, other, strata, n=n, clusters=k, scale=(0.0, 1.0), tail=0.025)
    >>> judge_comparison(found.difference, found.interval, margin=0.05)

Rules
-----
1. The difference is model minus comparator, turned so that positive is better.
2. Non-inferior (`pass`): the lower bound lies above -margin. `fail`: the upper bound lies below
   it. Otherwise `insufficient_evidence`. A margin of 0 asks for superiority. The point never
   decides (ICH E9; CONSORT's extension for non-inferiority, Piaggio et al. 2012).
3. Both models see the same draws of patients, so that what a draw does to both cancels out.
4. No interval is narrower than K patients allow who were decided alike by both: the share of
   patients decided differently is then below 1 - tail^(1/K) (exact). Two models that never
   differed in 20 patients may still differ in one of six.
5. A failed prediction is the worst case of the model and the best of the comparator: the two
   statistics must be built so (`failed_is_right`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.evidence import Interval, Outcome
from validators.intervals.bootstrap import (
    FEWEST_PATIENTS,
    REPLICATES,
    Statistic,
    draws,
    expanded_tail,
)
from validators.intervals.proportion import Pair
from validators.metrics.measure import Undefined
from validators.verdict import apart


@dataclass(frozen=True)
class Comparison:
    """Model minus comparator, positive where the model is better; `clusters` are patients."""

    difference: float
    interval: Interval
    n: int
    clusters: int | None

    @property
    def method(self) -> str:
        """The name of the interval."""
        return self.interval.method


def judge_comparison(
    difference: float | None, interval: Interval | None, margin: float | None, note: str = ""
) -> tuple[Outcome, str]:
    """(outcome, reason) of a comparison; `margin` is the largest acceptable shortfall.

    Without a margin nothing is judged; `note` says why there is no difference or interval. Raises
    Invalid for a margin that is negative or not below 1.
    """
    if margin is not None and not 0 <= margin < 1:
        raise Invalid(f"the margin of a comparison is {margin:g}; use one from 0 to below 1")
    if difference is None or interval is None:
        why = f"the comparison has no {'value' if difference is None else 'interval'}: "
        outcome: Outcome = "not_judged" if margin is None else "insufficient_evidence"
        return outcome, why + (note or "unknown")
    limit = -margin if margin else 0.0
    low, high = apart(interval.low, limit), apart(interval.high, limit)
    side = "better" if difference >= 0 else "worse"
    said = (
        f"{apart(abs(difference), abs(limit))} {side} than the comparator "
        f"({100 * interval.level:.4g} % interval of the difference {low} to {high})"
    )
    if margin is None:
        return "not_judged", f"{said}; no margin was set"
    asked = f"no more than {margin:g} worse" if margin > 0 else "better"
    if interval.low > limit:
        return "pass", f"{said}: the model is shown to be {asked}, as was asked"
    if interval.high < limit:
        beyond = f"worse by more than {margin:g}" if margin > 0 else "worse"
        return "fail", f"{said}: the model is shown to be {beyond}; {asked} was asked"
    return "insufficient_evidence", (
        f"{said}: the interval holds {limit:g}, so this cohort shows neither that the model is "
        f"{asked} nor that it is not"
    )


def paired(
    model: Statistic,
    other: Statistic,
    strata: NDArray[np.int64],
    *,
    n: int,
    clusters: int | None,
    scale: Pair,
    tail: float,
    units: float | None = None,
    higher_is_better: bool = True,
    replicates: int = REPLICATES,
) -> Comparison | Undefined:
    """The difference of two statistics of `validators.intervals.bootstrap`, by the same draws.

    `strata` is a code a patient; `units` the patients that the difference rests on, where that is
    fewer than all (those of the smaller class for an AUC). Expanded percentile interval with error
    `tail` on each side.
    """
    patients = len(strata)
    if patients < FEWEST_PATIENTS:
        who = "cases" if clusters is None else "patients"
        why = f"{patients} {who} are too few to draw from; at least {FEWEST_PATIENTS} are needed"
        return Undefined(why, n, clusters)
    sign = 1.0 if higher_is_better else -1.0
    once = np.ones((1, patients), dtype=np.int64)
    difference = sign * float((model(once) - other(once))[0])
    if np.isnan(difference):
        return Undefined("one of the two has no value on these cases", n, clusters)
    drawn = np.concatenate([sign * (model(x) - other(x)) for x in draws(strata, replicates)])
    without = int(np.isnan(drawn).sum())
    if without:
        why = f"in {without} of {len(drawn)} bootstrap draws one of the two has no value"
        return Undefined(f"{why}: too few cases of one kind", n, clusters, difference)
    weighty = float(patients) if units is None else units
    width = scale[1] - scale[0]
    least = width * (1 - tail ** (1 / weighty))
    outer = expanded_tail(tail, weighty)
    low, high = (float(q) for q in np.quantile(drawn, (outer, 1 - outer)))
    interval = Interval(
        low=max(-width, min(low, difference - least)),
        high=min(width, max(high, difference + least)),
        level=1 - 2 * tail,
        method="paired patient bootstrap, expanded percentile",
    )
    return Comparison(difference, interval, n, clusters)
