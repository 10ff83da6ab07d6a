"""The model against another: the same draws for both, and three answers by the bounds."""

import math

import numpy as np
import pytest

from registry.trust.errors import Invalid
from validators.comparators.model import Comparison, judge_comparison, paired
from validators.evidence import Interval
from validators.metrics.measure import Undefined

TAIL = 0.025


def right_of(right: np.ndarray):
    """A bootstrap statistic: the share of right decisions, one case a patient."""
    return lambda drawn: drawn @ right / drawn.sum(axis=1)


def models(first: np.ndarray, second: np.ndarray, **kwargs: object) -> Comparison | Undefined:
    n = len(first)
    return paired(right_of(first), right_of(second), np.zeros(n, dtype=np.int64), n=n,
                  clusters=None, scale=(0.0, 1.0), tail=TAIL, **kwargs)  # fmt: skip


def test_a_pair_has_the_interval_of_its_differences():
    rng = np.random.default_rng(8)
    easy = rng.random(400)
    first, second = (easy < 0.85).astype(float), (easy + 0.1 * rng.normal(size=400) < 0.8) * 1.0
    found = models(first, second)
    error = (first - second).std(ddof=1) / 20
    assert found.difference == pytest.approx((first - second).mean())
    assert found.interval.low == pytest.approx(found.difference - 1.97 * error, abs=0.006)
    assert found.interval.high == pytest.approx(found.difference + 1.97 * error, abs=0.006)
    unpaired = math.sqrt(first.var() / 400 + second.var() / 400)
    assert found.interval.high - found.interval.low < 0.9 * 2 * 1.96 * unpaired


def test_turning_the_pair_turns_the_interval():
    rng = np.random.default_rng(9)
    first, second = (rng.random((2, 80)) < [[0.9], [0.8]]).astype(float)
    one, other = models(first, second), models(second, first)
    assert one.difference == pytest.approx(-other.difference)
    assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-9)
    less = models(1 - first, 1 - second, higher_is_better=False)
    assert less.difference == pytest.approx(one.difference)
    assert less.interval.low == pytest.approx(one.interval.low)


@pytest.mark.parametrize(("patients", "outcome"), [(60, "insufficient_evidence"), (80, "pass")])
def test_models_that_never_differed_are_alike_only_as_far_as_the_patients_tell(patients, outcome):
    same = np.ones(patients)
    found = models(same, same)
    assert found.interval.low == pytest.approx(0.025 ** (1 / patients) - 1)
    assert judge_comparison(found.difference, found.interval, 0.05)[0] == outcome


def test_too_few_patients_and_absent_values_have_a_reason():
    assert "too few to draw from" in models(np.ones(29), np.ones(29)).reason
    n = 40
    rare = np.arange(n) == 0

    def among_rare(drawn: np.ndarray) -> np.ndarray:
        counted = (drawn * rare).sum(axis=1)
        return np.where(counted > 0, 1.0, np.nan)

    found = paired(among_rare, among_rare, np.zeros(n, dtype=np.int64), n=n, clusters=n,
                   scale=(0.0, 1.0), tail=TAIL)  # fmt: skip
    assert "bootstrap draws one of the two has no value" in found.reason
    assert found.value == 0


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
