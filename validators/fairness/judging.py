"""Three answers to a question about a group, in words and numbers."""

from collections.abc import Sequence

from validators.evidence import Outcome
from validators.intervals.proportion import Pair
from validators.metrics.measure import Measure
from validators.verdict import apart


def judge_gap(
    gap: float, bounds: tuple[float, float, float], margin: float, tested: int
) -> tuple[Outcome, str]:
    """Outcome of a gap; `bounds` are the corrected lower, the lower and the upper one."""
    corrected, low, high = bounds
    said = (
        f"{_behind(gap, margin)} the rest (interval {apart(low, margin)} to {apart(high, margin)})"
    )
    among = f", corrected for {tested} groups," if tested > 1 else ""
    if corrected > margin:
        return "fail", (
            f"{said}: its lower bound{among} is {apart(corrected, margin)}, so the gap is shown to "
            f"be beyond the margin {margin:g}"
        )
    if high < margin:
        return "pass", f"{said}: the gap is shown to be inside the margin {margin:g}"
    if low > margin:
        return "insufficient_evidence", (
            f"{said}: beyond the margin {margin:g}, but not by the lower bound{among} which is "
            f"{apart(corrected, margin)}"
        )
    return "insufficient_evidence", (
        f"{said}: the interval holds the margin {margin:g}, so this cohort shows neither that the "
        "gap is inside it nor that it is beyond"
    )


def _behind(gap: float, margin: float) -> str:
    return f"{apart(gap, margin)} behind" if gap >= 0 else f"{-gap:.3f} ahead of"


def judge_floor(
    measure: Measure, value: float, intervals: tuple[Pair, Pair], floor: float
) -> tuple[Outcome, str]:
    """Outcome of a group's own value against the floor (a ceiling where less is better).

    `intervals` are the one that passes and the corrected, wider one that fails.
    """
    interval, corrected = intervals
    low, high = (apart(bound, floor) for bound in interval)
    said = f"{measure.name} {value:.3f} in this group (interval {low} to {high})"
    lower = measure.direction == "lower"
    good = interval[1] <= floor if lower else interval[0] >= floor
    bad = corrected[0] > floor if lower else corrected[1] < floor
    if good:
        return "pass", f"{said} is shown to reach the floor {floor:g}"
    if bad:
        side = "above" if lower else "below"
        return "fail", f"{said} is shown to lie {side} the floor {floor:g}"
    return (
        "insufficient_evidence",
        f"{said} holds the floor {floor:g}: reached or not, it can't say",
    )


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several questions that must all be passed."""
    order: tuple[Outcome, ...] = ("fail", "insufficient_evidence", "pass")
    return next((outcome for outcome in order if outcome in outcomes), "not_judged")
