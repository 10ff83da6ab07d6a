"""Concordance and limits of agreement: oracles, the worst completion, and the bootstrap's laws."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from validators.intervals.agreement import concordance, judged
from validators.intervals.bootstrap import Resampled, resampled, units_of
from validators.intervals.limits import limit_of_agreement

TAIL = 0.025
# Bland & Altman 1986, table 1: peak expiratory flow (l/min), the first reading of each meter.
LARGE = np.array([494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423,
                  427.0])  # fmt: skip
MINI = np.array([512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350,
                 451.0])  # fmt: skip


def _once(statistic, patients):
    return float(statistic(np.ones((1, patients), dtype=np.int64))[0])


def _concordance(x, y, scale, patient=None, **options):
    code = np.arange(len(x)) if patient is None else patient
    found = concordance(np.asarray(x, float), np.asarray(y, float), code, scale, **options)
    return _once(found, int(code.max()) + 1)


def test_limits_of_agreement_are_bland_and_altman_s():
    everyone = np.arange(17)
    limits = [_once(limit_of_agreement(LARGE - MINI, everyone, sign), 17) for sign in (-1, 1)]
    assert np.mean(limits) == pytest.approx(-2.1, abs=0.05)
    assert (limits[1] - limits[0]) / 2 / 1.959964 == pytest.approx(38.8, abs=0.05)


def test_the_concordance_is_lin_s_on_the_same_readings():
    # Stata's concord on these readings prints .943.
    assert _concordance(LARGE, MINI, (0, 1000)) == pytest.approx(0.943, abs=5e-4)


def test_the_concordance_is_audmetric_s():
    # audmetric 1.4.2, numpy 2.4.6:
    #   rng = np.random.default_rng(7)
    #   x = np.round(rng.gamma(4, 5, 40), 2); y = np.round(x * 1.08 + rng.normal(0, 3, 40), 2)
    #   audmetric.concordance_cc(x, y)
    rng = np.random.default_rng(7)
    x = np.round(rng.gamma(4, 5, 40), 2)
    y = np.round(x * 1.08 + rng.normal(0, 3, 40), 2)
    assert _concordance(x, y, (0, 100)) == pytest.approx(0.9500877752720758, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_concordance_is_lin_s_formula(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(50, 10, 30)
    y = rng.normal(1, 0.3) * x + rng.normal(0, 20, 30)
    lin = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert _concordance(x, y, (-200, 300)) == pytest.approx(lin, abs=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_on_classes_it_is_scikit_learn_s_quadratic_kappa(seed):
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, 60)
    y = np.clip(x + rng.integers(-2, 3, 60), 0, 4)
    weight = rng.integers(0, 3, 60)
    expected = cohen_kappa_score(x, y, weights="quadratic", sample_weight=weight)
    found = concordance(x.astype(float), y.astype(float), np.arange(60), (0.0, 4.0), steps=4)
    assert float(found(weight[None])[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_the_worst_and_best_completions_are_those_of_trying_all(seed):
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(3, 6)), int(rng.integers(5, 12))
    x = rng.integers(0, classes, n)
    x[:2] = 0, 1
    # Agreeing, opposed, and unrelated predictions: the worst differs in kind between them.
    y = [x, classes - 1 - x, rng.integers(0, classes, n)][seed % 3].copy()
    lost = rng.permutation(n)[: rng.integers(1, 4)]
    everything = []
    for completion in product(range(classes), repeat=len(lost)):
        y[lost] = completion
        everything.append(
            cohen_kappa_score(x, y, weights="quadratic", labels=range(classes))
        )  # fmt: skip
    shown = y.astype(float)
    shown[lost] = np.nan
    scale = (0.0, classes - 1.0)
    for is_right, extreme in ((False, min), (True, max)):
        found = _concordance(x, shown, scale, steps=classes - 1, failed_is_right=is_right)
        assert found == pytest.approx(extreme(everything), abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_on_measurements_no_value_is_worse_than_the_worst(seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, 12)
    y = [x, 1 - x, rng.uniform(0, 1, 12)][seed % 3].copy()
    shown = y.copy()
    shown[:2] = np.nan
    worst = _concordance(x, shown, (0.0, 1.0))
    grid, reached = np.linspace(0, 1, 41), []
    for pair in product(grid, repeat=2):
        y[:2] = pair
        lin = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        reached.append(lin)
    assert worst <= min(reached) + 1e-9
    assert worst == pytest.approx(min(reached), abs=5e-3)


@examples(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.sampled_from([None, 2, 4]))
def test_in_no_weighting_does_a_withheld_prediction_help(seed, steps):
    rng = np.random.default_rng(seed)
    n, patients = 40, 15
    x = rng.integers(0, 5, n) / 4 if steps else rng.uniform(0, 1, n)
    x = np.round(x * steps) / steps if steps else x
    noise = rng.normal(0, rng.choice([0.1, 1.0]), n) + (1 - 2 * x) * rng.choice([0.0, 1.0])
    y = np.clip(x + noise, 0, 1)
    y = np.round(y * steps) / steps if steps else y
    patient = rng.integers(0, patients, n)
    patient[:patients] = np.arange(patients)
    y[rng.permutation(n)[: rng.integers(0, 10)]] = np.nan
    fewer = y.copy()
    fewer[rng.permutation(n)[: rng.integers(1, 10)]] = np.nan
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), 200)
    for is_right, sign in ((False, 1.0), (True, -1.0)):
        before, after = (
            concordance(x, of, patient, (0.0, 1.0), steps=steps, failed_is_right=is_right)(drawn)
            for of in (y, fewer)
        )
        assert (np.isnan(before) == np.isnan(after)).all()
        defined = ~np.isnan(before)
        assert (sign * (after - before)[defined] <= 1e-10).all()
        assert (np.abs(after[defined]) <= 1).all()


def test_a_reference_that_does_not_vary_has_no_concordance():
    for y in ([1.0, 2, 3], [2.0, 2, 2], [np.nan, 2, 2], [np.nan] * 3):
        assert np.isnan(_concordance([2.0, 2, 2], y, (0, 4), steps=4))


def test_perfect_and_constant_predictions():
    x = np.arange(40) % 5
    assert _concordance(x, x, (0, 4), steps=4) == 1
    assert _concordance(x, np.full(40, 3.0), (0, 4), steps=4) == pytest.approx(0, abs=1e-12)
    assert _concordance(x, 4 - x, (0, 4), steps=4) == pytest.approx(-1)


@pytest.mark.parametrize("seed", range(10))
def test_the_components_of_variance_are_those_of_an_analysis_of_variance(seed):
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    error = 5 * (seed % 3) * rng.normal(size=12)[patient] + 2 * rng.normal(size=len(patient)) + 1
    found = anova_lm(ols("e ~ C(p)", pd.DataFrame({"e": error, "p": patient})).fit())
    between, within = found["mean_sq"]
    n, size = len(patient), np.bincount(patient)
    of_patients = max(0.0, (between - within) / ((n**2 - (size**2).sum()) / (11 * n)))
    half = 1.959963984540054 * np.sqrt(of_patients + within)
    for sign in (-1, 1):
        limit = _once(limit_of_agreement(error, patient, sign), 12)
        assert limit == pytest.approx(error.mean() + sign * half, rel=1e-9)


def test_drawing_a_patient_twice_is_having_two_like_it():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(10), 3)
    error, drawn = rng.normal(size=30), np.array([0, 2, 1, 1, 1, 1, 1, 1, 1, 1])
    found = float(limit_of_agreement(error, patient, 1.0)(drawn[None])[0])
    rows = np.concatenate([np.arange(3, 6), np.arange(3, 30)])
    alone = _once(limit_of_agreement(error[rows], np.repeat(np.arange(10), 3), 1.0), 10)
    assert found == pytest.approx(alone, rel=1e-12)


def _constant(value, patients, **options):
    found = resampled(
        lambda drawn: np.full(len(drawn), value), np.zeros(patients, dtype=np.int64), n=patients,
        clusters=patients, **{"guard": "highest", **options},
    )  # fmt: skip
    assert isinstance(found, Resampled)
    return found


GUARDS = ("highest", "lowest", "both")


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_replicates_have_an_interval_of_some_width(guard, value):
    low, high = _constant(value, 50, scale=(0.0, 1.0), guard=guard).gating(TAIL)
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.01


def test_perfect_patients_leave_open_what_is_exact():
    q = TAIL ** (1 / 50)
    assert _constant(1.0, 50, scale=(0.0, 1.0)).gating(TAIL) == pytest.approx((q, 1.0))
    mirrored = _constant(0.0, 50, scale=(0.0, 1.0), guard="lowest")
    assert mirrored.gating(TAIL) == pytest.approx((0.0, 1 - q))


@examples(max_examples=60, deadline=None)
@given(
    values=st.tuples(st.floats(0, 1), st.floats(0, 1)), tail=st.floats(0.001, 0.2),
    guard=st.sampled_from(GUARDS),
)  # fmt: skip
def test_a_worse_value_never_has_a_better_bound(values, tail, guard):
    lower, upper = (
        _constant(value, 40, scale=(0.0, 1.0), guard=guard).gating(tail) for value in sorted(values)
    )
    assert lower[0] <= upper[0] + 1e-12
    assert lower[1] <= upper[1] + 1e-12


def test_on_an_open_scale_percentiles_are_mirrored_or_left():
    def skewed(drawn):
        return np.linspace(0.0, 1.0, len(drawn)) ** 2 + (len(drawn) == 1) * 0.1

    found = {
        guard: resampled(skewed, np.zeros(50, dtype=np.int64), n=50, clusters=None, scale=None,
                         guard=guard)
        for guard in ("none", "mirror")
    }  # fmt: skip
    low, high = found["none"].gating(TAIL)
    assert 0 < low < 0.1 < high < 1
    assert found["mirror"].gating(TAIL) == pytest.approx((0.2 - high, high))
    assert found["mirror"].value == 0.1


def test_a_statistic_of_two_values_has_a_bound_of_each():
    def both(drawn):
        return np.stack([np.full(len(drawn), 0.4), np.full(len(drawn), 0.6)])

    found = resampled(both, np.zeros(50, dtype=np.int64), n=50, clusters=None, scale=(0.0, 1.0),
                      guard="both", value=0.5)  # fmt: skip
    q = TAIL ** (1 / 50)
    assert found.gating(TAIL) == pytest.approx((0.4 * q, 1 - 0.4 * q))
    assert (found.value, found.ends) == (0.5, (0.4, 0.6))


def test_few_patients_have_no_interval_and_unequal_ones_a_wider_one():
    few = resampled(
        lambda drawn: np.ones(len(drawn)), np.zeros(29, dtype=np.int64), n=29, clusters=29,
        scale=(0.0, 1.0), guard="highest",
    )  # fmt: skip
    assert few == "29 patients are too few to draw from; at least 30 are needed"
    rng = np.random.default_rng(1)
    of_patient = rng.random(40)

    def share(drawn):
        return drawn @ of_patient / drawn.sum(axis=1)

    strata = np.zeros(40, dtype=np.int64)
    found = [
        resampled(share, strata, n=40, clusters=40, scale=(0.0, 1.0), guard="highest", units=units)
        for units in (None, 12.0)
    ]
    (low, high), (lower, higher) = (of.gating(TAIL) for of in found)
    assert lower < low < high < higher


def test_units_are_patients_where_they_are_alike():
    assert units_of(np.repeat(np.arange(7), 3)) == pytest.approx(7)
    assert units_of(np.append(np.arange(7), np.full(93, 7))) < 2


def test_no_concordance_is_surer_than_normal_cases_would_make_it():
    """Lin's interval of n independent normal cases, on Fisher's z scale; t(29) is 2.045."""
    found = judged(_constant(0.6, 30, scale=(-1.0, 1.0)))
    lin = np.tanh(np.arctanh(0.6) + 2.0452 / np.sqrt(27) * np.array([-1, 1]))
    assert found.gating(TAIL) == pytest.approx(tuple(lin), abs=1e-4)
    assert found.compared(TAIL, wide=True) == found.gating(TAIL)
    wide = resampled(
        lambda drawn: np.linspace(-0.9, 0.9, len(drawn)) if len(drawn) > 1 else np.array([0.6]),
        np.zeros(30, dtype=np.int64), n=30, clusters=30, scale=(-1.0, 1.0),
        guard="highest",
    )  # fmt: skip
    assert isinstance(wide, Resampled)
    assert judged(wide).gating(TAIL) == wide.gating(TAIL)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_the_ends_of_the_scale_have_intervals_within_it(value):
    low, high = judged(_constant(value, 50, scale=(-1.0, 1.0))).gating(TAIL)
    assert -1 <= low <= value <= high <= 1
    assert high - low > 0.01
