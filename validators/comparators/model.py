"""The model against another on the same cases: three answers by the interval of the difference.

    >>> found = paired_areas(score, other, positive, patient)
    >>> low, high = found.gating(0.025)
    >>> interval = Interval(low=low, high=high, level=0.95, method=found.method)
    >>> judge_comparison(found.value, interval, margin=0.05)

Differences and their intervals are made in `validators.intervals.paired` (two models) and
`validators.comparators.readers` (a model and readers); here they are judged only.

Rules
-----
1. The difference is model minus comparator, turned so that positive is better.
2. Non-inferior (`pass`): the lower bound lies above -margin. `fail`: the upper bound lies below
   it. Otherwise `insufficient_evidence`. A margin of 0 asks for superiority. The point never
   decides (ICH E9; CONSORT's extension for non-inferiority, Piaggio et al. 2012).
"""

from dataclasses import dataclass

from registry.trust.errors import Invalid
from validators.evidence import Interval, Outcome
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
