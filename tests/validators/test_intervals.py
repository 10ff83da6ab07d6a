"""Intervals: published values, independent software, laws, and coverage by simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from validators.intervals.auc import area, paired_difference, placements
from validators.intervals.multiplicity import holm
from validators.intervals.proportion import clopper_pearson, mover, newcombe, wilson
from validators.intervals.share import share, size_bound_share

# Hanley & McNeil 1982, table I: ratings 1 to 5 of 58 normal and 51 abnormal CT images.
NEGATIVES, POSITIVES = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
TAIL = 0.025


def hanley_mcneil() -> tuple[np.ndarray, np.ndarray]:
    ratings = np.arange(1, 6) / 5
    score = np.concatenate([np.repeat(ratings, NEGATIVES), np.repeat(ratings, POSITIVES)])
    return score, np.arange(109) >= 58


@pytest.mark.parametrize(
    ("events", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombe_s_published_values(events, n, low, high):
    assert wilson(events, n, TAIL) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("x", "n", "y", "m", "low", "high"),
    [(56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090)],
)
def test_the_hybrid_score_interval_gives_newcombe_s_published_values(x, n, y, m, low, high):
    assert newcombe(x, n, y, m, TAIL) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("tail", [0.005, 0.025, 0.05])
@pytest.mark.parametrize(("x", "n"), [(0, 20), (1, 29), (15, 148), (85, 100), (99, 100), (20, 20)])
def test_clopper_pearson_agrees_with_scipy(x, n, tail):
    expected = stats.binomtest(x, n).proportion_ci(1 - 2 * tail, method="exact")
    assert clopper_pearson(x, n, tail) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_delong_gives_the_values_of_hanley_and_mcneil_s_data():
    found = area(*hanley_mcneil())
    assert found.value == pytest.approx(0.8932, abs=5e-5)
    assert found.standard_error == pytest.approx(0.0307, abs=5e-5)
    assert found.plain(TAIL) == pytest.approx((0.83295, 0.95339), abs=5e-6)


def test_the_judged_interval_is_on_the_logit_scale_and_wider_than_its_formula():
    found = area(*hanley_mcneil())
    a, se = found.value, found.standard_error
    half = stats.norm.ppf(0.975) * se / (a * (1 - a))
    plain = [1 / (1 + math.exp(-(math.log(a / (1 - a)) + side * half))) for side in (-1, 1)]
    low, high = found.gating(TAIL)
    assert low < plain[0] < plain[1] < high
    assert low == pytest.approx(plain[0], abs=0.01)
    assert high == pytest.approx(plain[1], abs=0.01)


def test_placements_are_those_of_counting_every_pair():
    score, positive = hanley_mcneil()
    of_x, of_y = placements(score, positive)
    x, y = score[positive], score[~positive]
    pairs = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
    assert np.allclose(of_x, pairs.mean(axis=1))
    assert np.allclose(of_y, pairs.mean(axis=0))


def test_the_auc_is_scikit_learn_s():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    for _ in range(20):
        positive = rng.random(80) < 0.3
        score = np.round(rng.random(80) + 0.3 * positive, 1)
        assert area(score, positive).value == pytest.approx(roc_auc_score(positive, score))


def test_obuchowski_is_delong_where_each_patient_has_one_case():
    score, positive = hanley_mcneil()
    alone, clustered = area(score, positive), area(score, positive, np.arange(109))
    assert clustered.variance == pytest.approx(alone.variance)
    assert clustered.gating(TAIL) == pytest.approx(alone.gating(TAIL))


def test_a_case_repeated_four_times_adds_nothing_to_a_clustered_auc():
    score, positive = hanley_mcneil()
    once = area(score, positive)
    repeated = np.repeat(score, 4), np.repeat(positive, 4)
    naive, clustered = area(*repeated), area(*repeated, np.repeat(np.arange(109), 4))
    assert naive.standard_error == pytest.approx(once.standard_error / 2, rel=0.02)
    assert clustered.standard_error == pytest.approx(once.standard_error, rel=1e-9)


def test_a_case_repeated_four_times_adds_nothing_to_a_clustered_share():
    right = np.arange(60) < 48
    none = np.zeros(240, bool)
    clustered = share(np.repeat(right, 4), none, np.repeat(np.arange(60), 4))
    assert clustered.effective_n(TAIL, wide=True) <= 60
    assert clustered.gating(TAIL)[0] == pytest.approx(clopper_pearson(48, 60, TAIL)[0], abs=0.01)


@pytest.mark.parametrize("order", [1, -1])
def test_a_perfect_auc_has_a_bound_that_is_no_point(order):
    score, positive = np.linspace(0, 1, 60)[::order], np.arange(60) >= 40
    low, high = area(score, positive).gating(TAIL)
    if order == 1:
        # All of 20 independent pairs were ordered right: an exact bound.
        assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    else:
        assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_equal_scores_give_an_auc_of_one_half_with_a_wide_interval():
    low, high = area(np.full(60, 0.3), np.arange(60) >= 40).gating(TAIL)
    assert low < 0.35
    assert high > 0.65


def test_one_positive_says_nearly_nothing():
    low, high = area(np.linspace(0, 1, 30), np.arange(30) == 20).gating(TAIL)
    assert low < 0.05
    assert high > 0.95


def test_paired_delong_agrees_with_the_covariance_of_both_scores():
    rng = np.random.default_rng(5)
    positive = rng.random(150) < 0.4
    first = rng.normal(size=150) + positive
    second = first + 0.5 * rng.normal(size=150)
    gap, p = paired_difference(first, second, positive)
    (x1, y1), (x2, y2) = placements(first, positive), placements(second, positive)
    s10, s01 = np.cov(x1, x2), np.cov(y1, y2)
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / len(x1) + s01 / len(y1)) @ contrast
    assert gap == pytest.approx(x1.mean() - x2.mean())
    assert p == pytest.approx(2 * stats.norm.sf(abs(gap) / math.sqrt(variance)))


def test_a_negative_correlation_widens_a_difference():
    sides = (0.9, (0.85, 0.95), 0.8, (0.7, 0.9))
    low, high = mover(*sides)
    wider_low, wider_high = mover(*sides, correlation=-0.5)
    assert wider_low < low < high < wider_high


def test_holm_adjusts_step_down():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == {
        "d": pytest.approx(0.02), "a": pytest.approx(0.03),
        "c": pytest.approx(0.06), "b": pytest.approx(0.06),
    }  # fmt: skip


@st.composite
def clustered_shares(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=25))
    rights = [draw(st.integers(0, size)) for size in sizes]
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    right = np.concatenate([np.arange(s) < r for s, r in zip(sizes, rights, strict=True)])
    return right, cluster


@settings(max_examples=200, deadline=None)
@given(clustered_shares(), st.sampled_from([0.001, 0.025, 0.1]))
def test_bounds_are_ordered_and_never_narrower_than_independent_cases(made, tail):
    right, cluster = made
    found = share(right, np.zeros(len(right), bool), cluster)
    low, high = found.gating(tail)
    exact_low, exact_high = clopper_pearson(int(right.sum()), len(right), tail)
    assert 0 <= low <= found.value <= high <= 1
    assert low <= exact_low + 1e-12
    assert high >= exact_high - 1e-12
    wide, narrow = found.compared(tail, wide=True), found.compared(tail, wide=False)
    assert wide == narrow
    assert found.effective_n(tail, wide=True) <= len(right)


@settings(max_examples=300, deadline=None)
@given(clustered_shares(), st.data())
def test_one_more_failure_never_raises_a_bound_of_a_share(made, data):
    right, cluster = made
    n = len(right)
    silent = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    silent &= np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    before = share(right & ~silent, silent, cluster)
    more = silent.copy()
    more[data.draw(st.integers(0, n - 1))] = True
    after = share(right & ~more, more, cluster)
    for old, new in zip(before.gating(TAIL), after.gating(TAIL), strict=True):
        assert new <= old + 1e-9


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans())
def test_one_more_failure_never_raises_a_bound_of_an_auc(data, clustered):
    n = data.draw(st.integers(4, 40))
    score = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))) / 9
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    positive[:2] = (True, False)
    cluster = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    cluster = cluster if clustered else None
    score[np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))] = np.nan
    before = area(score, positive, cluster)
    score[data.draw(st.integers(0, n - 1))] = np.nan
    after = area(score, positive, cluster)
    for old, new in zip(before.gating(TAIL), after.gating(TAIL), strict=True):
        assert new <= old + 1e-9
        assert math.isfinite(new)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=10, max_size=40), st.randoms(use_true_random=False))
def test_the_auc_cares_for_ranks_alone_and_not_for_the_order_of_cases(values, random):
    score = np.round(np.array(values), 6)
    positive = np.arange(len(score)) % 3 == 0
    shuffled = np.array(random.sample(range(len(score)), len(score)))
    found = area(score, positive)
    for same in (area(score**3 * 0.5 + score, positive), area(score[shuffled], positive[shuffled])):
        assert same.value == pytest.approx(found.value, abs=1e-12)
        assert same.gating(TAIL) == pytest.approx(found.gating(TAIL), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.02, 1.0), st.floats(0, 0.2), st.integers(5, 60))
def test_the_bound_of_an_auc_does_not_fall_when_the_auc_rises(value, step, m):
    from dataclasses import replace

    made = area(np.linspace(0, 1, 2 * m), np.arange(2 * m) >= m)
    lower, upper = replace(made, value=value), replace(made, value=min(1.0, value + step))
    assert upper.gating(TAIL)[0] >= lower.gating(TAIL)[0] - 1e-12
    assert upper.gating(TAIL)[1] >= lower.gating(TAIL)[1] - 1e-12


def test_more_failed_cases_always_raise_the_bound_of_the_failure_rate():
    cluster = np.repeat(np.arange(30), 4)
    bounds = [size_bound_share(np.arange(120) < k, cluster).gating(TAIL)[1] for k in range(120)]
    assert all(after > before for before, after in pairwise(bounds))


def _clustered(rng, patients, sizes, alike, p):
    """Beta-binomial cases: (right, cluster)."""
    size = rng.choice(sizes, patients)
    chance = (rng.random(patients) < p).astype(float)
    if alike < 1:
        scale = 1 / alike - 1
        chance = rng.beta(p * scale, (1 - p) * scale, patients)
    cluster = np.repeat(np.arange(patients), size)
    return rng.random(len(cluster)) < chance[cluster], cluster


@pytest.mark.parametrize(
    ("patients", "sizes", "alike", "p"),
    [
        (25, (4,), 0.4, 0.95),
        (25, (1, 1, 1, 2, 3, 8), 1.0, 0.8),
        (100, (1, 1, 1, 2, 3, 8), 1.0, 0.95),
        (100, (4,), 0.4, 0.9),
        (400, (1, 2, 2, 3, 4), 0.4, 0.95),
    ],
)
def test_the_clustered_share_keeps_its_one_sided_error(patients, sizes, alike, p):
    """1,000 cohorts; .0375 is .025 and two and a half standard errors of the simulation."""
    rng = np.random.default_rng(11)
    above = below = 0
    for _ in range(1000):
        right, cluster = _clustered(rng, patients, sizes, alike, p)
        low, high = share(right, np.zeros(len(right), bool), cluster).gating(TAIL)
        above += low > p
        below += high < p
    assert above <= 37
    assert below <= 37


@pytest.mark.parametrize(
    ("negatives", "positives", "auc"), [(80, 20, 0.85), (80, 20, 0.95), (200, 10, 0.95)]
)
def test_the_auc_bound_keeps_its_one_sided_error_where_plain_delong_does_not(
    negatives, positives, auc
):
    rng = np.random.default_rng(12)
    positive = np.arange(negatives + positives) >= negatives
    shift = math.sqrt(2) * stats.norm.ppf(auc)
    above = covered = plain_covered = 0
    for _ in range(800):
        found = area(rng.normal(size=len(positive)) + shift * positive, positive)
        low, high = found.gating(TAIL)
        above += low > auc
        covered += low <= auc <= high
        plain_low, plain_high = found.plain(TAIL)
        plain_covered += plain_low <= auc <= plain_high
    assert above <= 32
    assert covered >= 0.945 * 800
    assert plain_covered < covered


def test_the_clustered_auc_covers_with_25_patients_of_four_images():
    rng = np.random.default_rng(13)
    cluster = np.repeat(np.arange(25), 4)
    shift = math.sqrt(2) * stats.norm.ppf(0.85)
    naive = clustered = 0
    for _ in range(500):
        positive = np.repeat(rng.random(25) < 0.5, 4)
        if positive.all() or not positive.any():
            continue
        noise = math.sqrt(0.8) * rng.normal(size=25)[cluster] + math.sqrt(0.2) * rng.normal(
            size=100
        )
        score = noise + shift * positive
        for of, name in ((None, "naive"), (cluster, "clustered")):
            low, high = area(score, positive, of).gating(TAIL)
            hit = low <= 0.85 <= high
            naive, clustered = (
                naive + (hit and name == "naive"),
                clustered + (hit and name == "clustered"),
            )
    assert clustered >= 0.93 * 500
    assert naive < 0.85 * 500
