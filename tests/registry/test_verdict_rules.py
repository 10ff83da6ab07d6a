"""The verdict of a certificate follows from its own numbers, and rounding never loses one."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from registry.pipeline.certificate_results import limits
from registry.trust.errors import Tampered
from registry.trust.verdict_rules import Limits, Result, ShownInterval, outcome_of, recompute
from validators.outcome import Interval
from validators.report.rounding import outward

TWELVE = st.floats(-2, 2).map(lambda value: float(f"{value:.12g}") + 0.0)
"""What a report holds: twelve significant digits."""


def result(name: str = "endpoint:auc", **changes: object) -> Result:
    interval = ShownInterval(low=0.8, high=0.9, level=0.95, method="x")
    values: dict[str, object] = {
        "id": name, "metric": "auc", "rule": "gating", "if_insufficient": "block",
        "asked": (Limits(about="value", least=0.75, most=None, interval=interval),),
        "estimate": 0.85, "counts": {}, "outcome": "pass",
    }  # fmt: skip
    return Result.model_validate(values | changes)


@given(TWELVE, TWELVE, st.one_of(st.none(), TWELVE), st.one_of(st.none(), TWELVE),
       st.sampled_from([1, 2, 3]))  # fmt: skip
def test_rounding_outward_says_the_same_and_never_more(
    one: float, other: float, least: float | None, most: float | None, decimals: int
) -> None:
    """Of any interval and any limits: a pass stays one, and nothing else becomes one."""
    exact = Interval(low=min(one, other), high=max(one, other), level=0.95, method="x")
    shown = limits("value", least, most, outward(exact, decimals), exact)
    assert shown.interval is not None
    assert shown.interval.low <= exact.low
    assert exact.high <= shown.interval.high
    truly = outcome_of(shown.model_copy(update={"interval": ShownInterval(**exact.model_dump())}))
    assert (outcome_of(shown) == "pass") == (truly == "pass")
    if outcome_of(shown) == "fail":
        assert truly == "fail"


def test_a_limit_that_was_kept_is_where_rounding_ends() -> None:
    exact = Interval(low=0.8062, high=0.9013, level=0.95, method="x")
    shown = limits("value", 0.805, None, outward(exact, 2), exact)
    assert shown.interval is not None
    assert (shown.interval.low, shown.interval.high) == (0.805, 0.91)
    plain = limits("value", 0.7, None, outward(exact, 2), exact)
    assert plain.interval is not None
    assert plain.interval.low == 0.8, "a limit farther off is in nobody's way"


@pytest.mark.parametrize(
    ("results", "overall", "numbers", "word"),
    [
        ([result()], "pass", 1, 0),
        ([result(), result("endpoint:b", outcome="fail")], "fail", 2, 0),
        ([result(), result("endpoint:b", outcome="insufficient_evidence")],
         "insufficient_evidence", 2, 0),
        ([result(), result("endpoint:b", outcome="not_judged", if_insufficient="conditional")],
         "conditional", 2, 0),
        ([result(), result("endpoint:b", outcome="fail", rule="reported")], "pass", 1, 0),
        ([result(), result("g", asked=(Limits(about="gap", least=None, most=0.1),))], "pass", 1, 1),
        ([result(asked=(Limits(about="share", least=None, most=0.07, count=7, cases=100),))],
         "pass", 1, 0),
    ],
)  # fmt: skip
def test_the_verdict_of(results: list[Result], overall: str, numbers: int, word: int) -> None:
    found = recompute(results)
    assert (found.overall, found.by_numbers, found.by_word) == (overall, numbers, word)


@pytest.mark.parametrize(
    "results",
    [
        [],
        [result(rule="reported")],
        [result(), result()],
        [result(asked=())],
        [result(outcome="suppressed")],
        [result(asked=(Limits(about="value", least=None, most=None),))],
        [result(asked=(Limits(about="value", least=0.81, most=None,
                              interval=result().asked[0].interval),))],
        [result(asked=(*result().asked, Limits(about="gap", least=None, most=0.1, interval=(
            ShownInterval(low=0.0, high=0.11, level=0.95, method="x")))))],
        [result(asked=(Limits(about="share", least=None, most=0.07, count=8, cases=100),))],
        [result(), result("endpoint:b", rule="reported", asked=(Limits(
            about="value", least=0.95, most=None, interval=result().asked[0].interval),))],
        [result(asked=(Limits(about="value", least=0.1, most=None, interval=(
            ShownInterval(low=0.9, high=0.8, level=0.95, method="x"))),))],
    ],
)  # fmt: skip
def test_what_does_not_follow_is_refused(results: list[Result]) -> None:
    with pytest.raises(Tampered) as raised:
        recompute(results)
    assert raised.value.code == "verdict_disagrees"
