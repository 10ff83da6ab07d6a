"""Two models on the same cases: published values, laws, and what silence can't do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.errors import Invalid
from tests.validators.made import table_of
from validators.cases import CaseTable
from validators.comparators.model import judge_comparison
from validators.evidence import Interval
from validators.intervals.auc import area, paired_difference
from validators.intervals.bootstrap import Resampled
from validators.intervals.paired import (
    newcombe_paired,
    paired_areas,
    paired_shares,
    paired_statistics,
)
from validators.metrics.binary_measures import BinarySettings
from validators.metrics.binary_pairs import paired

TAIL = 0.025


def pairs(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, first, second, neither]
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((36, 14, 0, 0), 0.1528, 0.4167),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_newcombe_s_method_10_gives_his_published_values(counts, low, high):
    """Newcombe 1998, Statistics in Medicine 17:2635, table III."""
    assert newcombe_paired(*pairs(*counts), TAIL) == pytest.approx((low, high), abs=5e-5)


def test_a_difference_of_shares_is_judged_by_a_wider_interval_than_newcombe_s():
    for counts in ((36, 12, 2, 0), (85, 4, 6, 5), (900, 20, 30, 50)):
        found = paired_shares(*pairs(*counts))
        low, high = found.gating(TAIL)
        plain = newcombe_paired(*pairs(*counts), TAIL)
        assert found.value == pytest.approx((counts[1] - counts[2]) / sum(counts))
        assert low < plain[0] < found.value < plain[1] < high


def test_models_that_never_disagree_have_an_interval_with_a_width():
    low, high = paired_shares(*pairs(40, 0, 0, 10)).gating(TAIL)
    assert low < -0.05
    assert high > 0.05


def test_pairing_pays_where_models_err_on_the_same_cases():
    alike = paired_shares(*pairs(160, 10, 10, 20)).gating(TAIL)
    apart = paired_shares(*pairs(145, 25, 25, 5)).gating(TAIL)
    assert alike[1] - alike[0] < 0.8 * (apart[1] - apart[0])


def test_repeating_each_case_within_its_patient_adds_nothing():
    first, second = pairs(60, 12, 6, 22)
    once = paired_shares(first, second).gating(TAIL)
    four = paired_shares(*(np.repeat(of, 4) for of in (first, second)), np.arange(400) // 4)
    assert four.gating(TAIL) == pytest.approx(once, abs=1e-9)


def scores(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    positive[:4] = (True, False, True, False)
    shared = rng.normal(size=n)
    return tuple(shared + rng.normal(size=n) + shift * positive for shift in (1.5, 1.2)), positive


def test_a_difference_of_areas_is_delong_s():
    (first, second), positive = scores(1)
    found = paired_areas(first, second, positive)
    gap, p = paired_difference(first, second, positive)
    assert found.value == pytest.approx(gap)
    assert found.p_value() == pytest.approx(p)
    low, high = found.gating(TAIL)
    assert low < gap - 1.96 * found.standard_error
    assert high > gap + 1.96 * found.standard_error


def test_obuchowski_s_difference_is_delong_s_for_one_case_a_patient_and_for_each_case_four_times():
    (first, second), positive = scores(2)
    alone = paired_areas(first, second, positive)
    for times in (1, 4):
        again = [np.repeat(of, times) for of in (first, second, positive)]
        many = paired_areas(*again, np.arange(120 * times) // times)
        assert many.value == pytest.approx(alone.value)
        assert many.standard_error == pytest.approx(alone.standard_error, rel=1e-9)
        assert many.gating(TAIL) == pytest.approx(alone.gating(TAIL), rel=1e-9)


def test_swapping_the_models_turns_the_difference():
    (first, second), positive = scores(3)
    one, other = paired_areas(first, second, positive), paired_areas(second, first, positive)
    assert one.value == pytest.approx(-other.value)
    assert one.gating(TAIL) == pytest.approx(tuple(-end for end in other.gating(TAIL)[::-1]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_ranks_alone_matter_and_not_the_order(seed):
    (first, second), positive = scores(seed)
    order = np.random.default_rng(seed).permutation(120)
    found = paired_areas(first, second, positive)
    for same in (
        paired_areas(np.exp(first), second**3 + second, positive),
        paired_areas(first[order], second[order], positive[order]),
    ):
        assert same.gating(TAIL) == pytest.approx(found.gating(TAIL), abs=1e-9)


@pytest.mark.parametrize("score", [np.zeros(40), np.arange(40.0), -np.arange(40.0)])
def test_tied_equal_and_perfect_models_have_a_width(score):
    positive = np.arange(40) >= 25
    found = paired_areas(score, score, positive)
    low, high = found.gating(TAIL)
    assert found.value == 0
    assert -1 <= low < -0.01
    assert 0.01 < high <= 1
    assert found.p_value() == 1.0


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.integers(1, 6))
def test_a_withheld_prediction_of_either_model_never_helps_the_candidate(
    seed, clustered, of_candidate, count
):
    (first, second), positive = scores(seed, 60)
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 25, 60) if clustered else None
    before = paired_areas(first, second, positive, patient)
    given_scores = [first.copy(), second.copy()]
    given_scores[0 if of_candidate else 1][rng.choice(60, count, replace=False)] = np.nan
    after = paired_areas(*given_scores, positive, patient)
    for tail in (0.001, TAIL):
        for old, new in zip(before.gating(tail), after.gating(tail), strict=True):
            assert math.isfinite(new)
            assert new <= old + 1e-9


def test_areas_of_a_pair_are_those_of_each_model():
    (first, second), positive = scores(5)
    assert paired_areas(first, second, positive).value == pytest.approx(
        area(first, positive).value - area(second, positive).value
    )


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["sensitivity", "specificity", "auc"]), st.integers(0, 10_000),
    st.booleans(), st.booleans(), st.integers(1, 8),
)  # fmt: skip
def test_silence_of_either_model_never_helps_on_a_table(metric, seed, clustered, own, count):
    rng = np.random.default_rng(seed)
    one, other = (table_of(np.random.default_rng(seed), 70, auc=auc) for auc in (0.85, 0.8))
    patient = rng.integers(0, 30, 70) if clustered else None
    score = np.array((one if own else other).score)
    score[rng.choice(70, count, replace=False)] = np.nan

    def of(mine, theirs):
        tables = [
            CaseTable(reference=one.reference, score=s, patient=patient) for s in (mine, theirs)
        ]
        return paired(*tables, metric, BinarySettings(0.5)).gating(TAIL)

    before = of(one.score, other.score)
    after = of(score, other.score) if own else of(one.score, score)
    for old, new in zip(before, after, strict=True):
        assert new <= old + 1e-9


def test_models_of_other_cases_are_not_compared():
    one, other = (table_of(np.random.default_rng(seed), 60) for seed in (1, 2))
    with pytest.raises(Invalid, match="does not hold the same cases"):
        paired(one, other, "auc", BinarySettings(0.5))
    with pytest.raises(ValueError, match="no difference"):
        paired(one, one, "brier", BinarySettings(0.5))


def test_each_model_keeps_its_threshold():
    table = table_of(np.random.default_rng(3), 80)
    found = paired(table, table, "sensitivity", BinarySettings(0.5), comparator_threshold=0.1)
    at = [(table.score >= t)[table.positive].mean() for t in (0.5, 0.1)]
    assert found.value == pytest.approx(at[0] - at[1])


def right_of(right: np.ndarray):
    """A bootstrap statistic: the share of right decisions, one case a patient."""
    return lambda drawn: drawn @ right / drawn.sum(axis=1)


def models(first: np.ndarray, second: np.ndarray, **kwargs: object) -> Resampled | str:
    n = len(first)
    return paired_statistics(right_of(first), right_of(second), np.zeros(n, dtype=np.int64), n=n,
                             clusters=None, scale=(0.0, 1.0), **kwargs)  # fmt: skip


def test_a_pair_has_the_interval_of_its_differences():
    rng = np.random.default_rng(8)
    easy = rng.random(400)
    first, second = (easy < 0.85).astype(float), (easy + 0.1 * rng.normal(size=400) < 0.8) * 1.0
    found = models(first, second)
    error = (first - second).std(ddof=1) / 20
    low, high = found.gating(TAIL)
    assert found.value == pytest.approx((first - second).mean())
    assert low == pytest.approx(found.value - 1.97 * error, abs=0.006)
    assert high == pytest.approx(found.value + 1.97 * error, abs=0.006)
    unpaired = math.sqrt(first.var() / 400 + second.var() / 400)
    assert high - low < 0.9 * 2 * 1.96 * unpaired


def test_turning_the_pair_turns_the_interval():
    rng = np.random.default_rng(9)
    first, second = (rng.random((2, 80)) < [[0.9], [0.8]]).astype(float)
    one, other = models(first, second), models(second, first)
    assert one.value == pytest.approx(-other.value)
    assert one.gating(TAIL)[0] == pytest.approx(-other.gating(TAIL)[1], abs=1e-9)
    less = models(1 - first, 1 - second, higher_is_better=False)
    assert less.value == pytest.approx(one.value)
    assert less.gating(TAIL) == pytest.approx(one.gating(TAIL))


@pytest.mark.parametrize(("patients", "outcome"), [(60, "insufficient_evidence"), (80, "pass")])
def test_models_that_never_differed_are_alike_only_as_far_as_the_patients_tell(patients, outcome):
    same = np.ones(patients)
    found = models(same, same)
    low, high = found.gating(TAIL)
    assert (low, high) == pytest.approx((0.025 ** (1 / patients) - 1, 1 - 0.025 ** (1 / patients)))
    interval = Interval(low=low, high=high, level=0.95, method=found.method)
    assert judge_comparison(found.value, interval, 0.05)[0] == outcome


def test_too_few_patients_and_absent_values_have_a_reason():
    assert "too few to draw from" in models(np.ones(29), np.ones(29))
    n = 40
    rare = np.arange(n) == 0

    def among_rare(drawn: np.ndarray) -> np.ndarray:
        counted = (drawn * rare).sum(axis=1)
        return np.where(counted > 0, 1.0, np.nan)

    found = paired_statistics(among_rare, among_rare, np.zeros(n, dtype=np.int64), n=n, clusters=n,
                              scale=(0.0, 1.0))  # fmt: skip
    assert "bootstrap draws it has no value: too few cases of one kind" in found
