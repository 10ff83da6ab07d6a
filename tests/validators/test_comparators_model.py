"""The model against another: three answers by the bounds of the difference."""

import math

import pytest

from registry.trust.errors import Invalid
from validators.comparators.model import judge_comparison
from validators.evidence import Interval


def between(low: float, high: float) -> Interval:
    return Interval(low=low, high=high, level=0.95, method="made")


@pytest.mark.parametrize(
    ("low", "high", "margin", "outcome", "words"),
    [
        (-0.04, 0.02, 0.05, "pass", "no more than 0.05 worse, as was asked"),
        (-0.09, -0.051, 0.05, "fail", "worse by more than 0.05"),
        (-0.06, 0.02, 0.05, "insufficient_evidence", "the interval holds -0.05"),
        (-0.05, 0.02, 0.05, "insufficient_evidence", "the interval holds -0.05"),
        (0.001, 0.02, 0.0, "pass", "shown to be better, as was asked"),
        (-0.02, -0.001, 0.0, "fail", "shown to be worse; better was asked"),
        (0.0, 0.0, 0.0, "insufficient_evidence", "the interval holds 0"),
        (-0.06, 0.02, None, "not_judged", "no margin was set"),
    ],
)
def test_a_comparison_has_three_outcomes_by_its_bounds(low, high, margin, outcome, words):
    found, reason = judge_comparison((low + high) / 2, between(low, high), margin)
    assert found == outcome
    assert words in reason


def test_a_margin_must_be_a_shortfall():
    for margin in (-0.01, 1.0, math.nan):
        with pytest.raises(Invalid, match="margin"):
            judge_comparison(0.0, between(-0.1, 0.1), margin)
