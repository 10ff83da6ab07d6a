"""The rules of a certificate with what was found, so that anybody computes the verdict again.

    >>> found = recompute(results)               # from the numbers alone
    >>> found.overall, found.by_numbers, found.by_word
    ('pass', 9, 2)

Rules
-----
1. Every rule asks for one thing: an interval that lies between two limits, `least` and `most`, of
   which one may be open. A goal, a floor, a band, a margin behind others and a largest drop are all
   that. Shares are counted: `count` of `cases` is at most `most`.
2. A rule is passed if the interval lies within the limits, to the end: within, not beyond, is what
   outward rounding keeps. It is failed if it lies wholly outside, and open otherwise.
3. Intervals are rounded outward, but never across a limit that they were shown to keep: a low end
   of .8062 at two decimals is .80, and .805 where .805 was asked. So a true pass is never lost to
   rounding. It gives nothing away, for that the limit is kept is what the outcome says.
4. What is stated may be more careful than the numbers (too few patients behind a good interval),
   never better: a stated pass whose numbers do not pass is refused.
5. A group too small to be shown has no numbers. Its outcome stands on the signers' word, and is
   counted as that.
6. One gating fail fails all. An open gating rule blocks, or becomes a condition where the protocol
   let it. At least one gating rule is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.trust.errors import Tampered

Outcome = Literal["pass", "fail", "insufficient_evidence", "not_judged", "suppressed"]
Overall = Literal["pass", "conditional", "fail", "insufficient_evidence"]
About = Literal["value", "difference", "gap", "prediction", "drop", "share"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ShownInterval(_Strict):
    """A two-sided interval at `level`, rounded outward (rule 3), and the method that made it."""

    low: float
    high: float
    level: float
    method: str


class Limits(_Strict):
    """One thing asked: that `interval`, or the share `count` of `cases`, lies within the limits.

    about: the metric's value; its difference from a comparator (the model less the other); a
    group's gap behind the rest; what another hospital could expect; a drop under perturbation; a
    share that is counted. `interval` and the counts are None where they are withheld.
    """

    about: About
    least: float | None
    most: float | None
    interval: ShownInterval | None = None
    count: Annotated[int, Field(ge=0)] | None = None
    cases: Annotated[int, Field(ge=1)] | None = None


class Result(_Strict):
    """One rule of the protocol and what was found: an endpoint, a group, hospitals, a drop."""

    id: str
    """As in report.json: `endpoint:auc`, `subgroup:sex=F:sensitivity`, `failure_rate`."""
    metric: str
    rule: Literal["gating", "reported"]
    if_insufficient: Literal["block", "conditional"]
    asked: tuple[Limits, ...]
    """All must hold. Empty where nothing was asked."""
    estimate: float | None
    counts: dict[str, int]
    """Cases, positives, negatives, as far as they may be shown."""
    outcome: Outcome


@dataclass(frozen=True)
class Recomputed:
    """The verdict from the numbers; how many gating rules have them, and how many do not."""

    overall: Overall
    by_numbers: int
    by_word: int


def outcome_of(asked: Limits) -> Outcome | None:
    """What the numbers of one thing asked say; None where they are withheld."""
    least, most = asked.least, asked.most
    if asked.about == "share":
        if asked.count is None or asked.cases is None or most is None:
            return None
        return "pass" if asked.count <= most * asked.cases * (1 + 1e-12) else "fail"
    if asked.interval is None:
        return None
    low, high = asked.interval.low, asked.interval.high
    if (least is None or low >= least) and (most is None or high <= most):
        return "pass"
    if (least is not None and high < least) or (most is not None and low > most):
        return "fail"
    return "insufficient_evidence"


def recompute(results: Sequence[Result]) -> Recomputed:
    """The verdict of the results, each held against its own numbers.

    Raises Tampered (verdict_disagrees) where a result is said to be better than its numbers, an
    interval is none, a gating rule asks for nothing or none is there.
    """
    if len({result.id for result in results}) != len(results):
        raise _disagrees("the certificate judges one rule twice")
    gating = [result for result in results if result.rule == "gating"]
    if not gating:
        raise _disagrees("the certificate has no gating rule: that would pass every model")
    by_numbers = sum(_check(result) for result in gating)
    for result in results:
        if result.rule == "reported":
            _check(result)
    return Recomputed(_overall(gating), by_numbers, len(gating) - by_numbers)


def _check(result: Result) -> bool:
    """Whether the outcome follows from numbers that are shown."""
    for asked in result.asked:
        of = asked.interval
        if of is not None and not of.low <= of.high:
            raise _disagrees(f"the interval of {result.id} ends before it begins")
        if asked.least is None and asked.most is None:
            raise _disagrees(f"{result.id} has no limit")
    if result.rule == "gating" and (not result.asked or result.outcome == "suppressed"):
        raise _disagrees(f"the gating rule {result.id} asks for nothing, or has no outcome")
    found = [outcome_of(asked) for asked in result.asked]
    worse = [asked for asked, outcome in zip(result.asked, found, strict=True)
             if outcome not in (None, "pass")]  # fmt: skip
    if result.outcome == "pass" and worse:
        raise _disagrees(f"{result.id} is said to pass, but {_in_words(worse[0])}")
    return None not in found


def _overall(gating: Sequence[Result]) -> Overall:
    if any(result.outcome == "fail" for result in gating):
        return "fail"
    open_rules = [result for result in gating if result.outcome != "pass"]
    if any(result.if_insufficient == "block" for result in open_rules):
        return "insufficient_evidence"
    return "conditional" if open_rules else "pass"


def _in_words(asked: Limits) -> str:
    ends = [f"at least {asked.least:g}" if asked.least is not None else "",
            f"at most {asked.most:g}" if asked.most is not None else ""]  # fmt: skip
    wanted = " and ".join(end for end in ends if end)
    if asked.interval is None:
        return f"{asked.count} of {asked.cases} is not {wanted}"
    return f"its {asked.about} of {asked.interval.low:g} to {asked.interval.high:g} is not {wanted}"


def _disagrees(reason: str) -> Tampered:
    return Tampered(
        f"the verdict does not follow from the certificate's own numbers: {reason}. Don't use the "
        "model, and tell the facility",
        code="verdict_disagrees",
    )
