"""Calibration: other software, laws, and what a withheld prediction can't do."""

import math
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.interpolate import CubicSpline

from tests.validators.made import table_of
from validators.cases import CaseTable
from validators.intervals.bootstrap import draws
from validators.intervals.estimated import Estimated
from validators.metrics.calibration import slope
from validators.metrics.calibration_curve import (
    KNOTS,
    band,
    drawn_band,
    fitted,
    ici,
    robust_band,
)
from validators.metrics.measure import Undefined
from validators.metrics.recalibration import in_the_large, observed_expected

TAIL = 0.025
ALL = (in_the_large, observed_expected, slope)


def scored(seed: int, n: int, off: float = 0.0, tilt: float = 1.0) -> CaseTable:
    """Scores whose true logit is `off` + `tilt` times theirs."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-0.5, 1.3, n)
    return CaseTable(
        reference=rng.random(n) < special.expit(off + tilt * logit), score=special.expit(logit)
    )


def sided(find, table: CaseTable, **options) -> Estimated:
    found = find(table, **options)
    assert isinstance(found, Estimated), found
    return found


def natural_spline(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Another basis of the same curves: natural splines of 0 and 1 at the knots, then lines."""
    columns = []
    for one in np.eye(len(knots)):
        spline = CubicSpline(knots, one, bc_type="natural")
        inside = np.clip(x, knots[0], knots[-1])
        columns.append(spline(inside) + (x - inside) * spline(inside, 1))
    return np.column_stack(columns)


def test_the_intercept_is_that_of_a_logistic_model_with_an_offset_also_with_weights():
    table = scored(1, 300, off=0.4)
    weight = np.random.default_rng(2).uniform(0.5, 3, 300)
    for given_weight in (None, weight):
        model = sm.GLM(
            table.reference.astype(float), np.ones(300), family=sm.families.Binomial(),
            offset=special.logit(table.score), freq_weights=given_weight,
        ).fit()  # fmt: skip
        found = sided(in_the_large, table, weight=given_weight)
        assert found.value == pytest.approx(float(model.params[0]), abs=1e-7)


def test_the_slope_with_weights_is_that_of_a_weighted_logistic_model():
    table = scored(3, 300, tilt=0.7)
    weight = np.random.default_rng(2).uniform(0.5, 3, 300)
    model = sm.GLM(
        table.reference.astype(float), sm.add_constant(special.logit(table.score)),
        family=sm.families.Binomial(), freq_weights=weight,
    ).fit()  # fmt: skip
    assert sided(slope, table, weight=weight).value == pytest.approx(
        float(model.params[1]), abs=1e-7
    )


def test_observed_over_expected_by_hand():
    table = CaseTable(reference=np.array([1, 0, 0, 1]), score=np.array([0.5, 0.25, 0.25, 0.6]))
    found = sided(observed_expected, table)
    assert found.value == pytest.approx(2 / 1.6)
    assert found.gating(TAIL)[0] >= 0


def test_the_curve_is_a_logistic_model_of_a_natural_spline():
    table = scored(4, 500, tilt=0.6)
    x = special.logit(table.score)
    knots = np.quantile(x, KNOTS, method="inverted_cdf")
    design = natural_spline(x, knots)
    model = sm.GLM(table.reference.astype(float), design, family=sm.families.Binomial()).fit()
    curve = fitted(table)
    assert not isinstance(curve, str)
    assert np.allclose(curve.at(table.score), model.fittedvalues, atol=1e-6)
    expected = float(np.abs(model.fittedvalues - table.score).mean())
    assert ici(table, 0.95).value == pytest.approx(expected, abs=1e-6)


def test_one_newton_step_is_nearly_a_fit():
    table = scored(5, 400)
    curve = fitted(table)
    assert not isinstance(curve, str)
    drawn = next(draws(np.zeros(400, dtype=np.int64), 40))
    stepped = curve.at(np.array([0.2, 0.4, 0.7]), curve.stepped(drawn))
    for place, times in enumerate(drawn):
        again = np.repeat(np.arange(400), times)
        refitted = fitted(
            CaseTable(reference=table.reference[again], score=table.score[again]),
        )
        assert not isinstance(refitted, str)
        # Knots move a little in a refit, so the curves agree to their own width and no further.
        assert np.allclose(stepped[:, place], refitted.at(np.array([0.2, 0.4, 0.7])), atol=0.04)


def test_a_calibrated_model_has_a_small_index_and_a_tilted_one_a_large_one():
    good, poor = ici(scored(6, 3000), 0.95), ici(scored(6, 3000, tilt=0.3), 0.95)
    for found in (good, poor):
        assert found.value is not None
        assert found.interval is not None
        assert 0 <= found.interval.low <= found.value <= found.interval.high <= 1
    assert good.interval.high < poor.interval.low


def test_the_band_of_many_patients_is_that_of_the_draws_without_them():
    curve, at = fitted(scored(8, 12_000)), np.linspace(0.05, 0.95, 19)
    assert not isinstance(curve, str)
    robust, drawn = robust_band(curve, at, TAIL), drawn_band(curve, at, TAIL)
    assert robust is not None
    assert drawn is not None
    assert np.array_equal(band(curve, at, TAIL), robust)
    width = drawn[1] - drawn[0]
    for mine, other in zip(robust, drawn, strict=True):
        assert np.abs((mine - other) / width).max() < 0.06


def test_the_band_holds_the_curve_and_narrows_with_the_cohort():
    at = np.array([0.2, 0.5, 0.8])
    widths = []
    for n in (200, 3200):
        curve = fitted(scored(7, n))
        assert not isinstance(curve, str)
        low, high = band(curve, at, TAIL)
        assert (low < curve.at(at)).all()
        assert (curve.at(at) < high).all()
        widths.append((high - low).mean())
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.4)


@pytest.mark.parametrize("find", ALL)
def test_a_weight_of_three_is_a_case_three_times(find):
    made = table_of(np.random.default_rng(8), 160, auc=0.8)
    times = np.random.default_rng(9).integers(1, 4, 160)
    patient = np.arange(160) // 2
    again = np.repeat(np.arange(160), times)
    repeated = CaseTable(
        reference=made.reference[again], score=made.score[again], patient=patient[again]
    )
    one = CaseTable(reference=made.reference, score=made.score, patient=patient)
    weighted, plain = sided(find, one, weight=times.astype(float)), sided(find, repeated)
    assert weighted.value == pytest.approx(plain.value, rel=1e-6)
    assert weighted.gating(TAIL) == pytest.approx(plain.gating(TAIL), rel=1e-6)


@pytest.mark.parametrize("find", ALL)
def test_wrong_weights_are_refused(find):
    from registry.trust.errors import Invalid

    table = scored(10, 50)
    with pytest.raises(Invalid, match="3 weights, and 50 cases"):
        find(table, weight=np.ones(3))
    with pytest.raises(Invalid, match="1 of 50 weights are no finite number above 0"):
        find(table, weight=np.append(np.ones(49), 0.0))


def silent(table: CaseTable, failed: np.ndarray) -> CaseTable:
    return CaseTable(
        reference=table.reference, score=np.where(failed, np.nan, table.score),
        patient=table.patient,
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ALL), st.integers(0, 10_000), st.integers(1, 5), st.booleans(),
    st.sampled_from(["any", "far", "near"]),
)  # fmt: skip
def test_an_interval_holds_that_of_every_prediction_withheld(find, seed, count, clustered, where):
    """So what fails to pass a band with its predictions does not pass without them."""
    rng = np.random.default_rng(seed)
    made = table_of(rng, 120, auc=0.8)
    score = np.array(made.score)
    lost = rng.choice(120, count, replace=False)
    if where == "far":
        score[lost] = rng.choice([0.0, 1.0, 1e-4, 1 - 1e-4], count)
    elif where == "any":
        score[lost] = rng.random(count)
    patient = rng.integers(0, 50, 120) if clustered else None
    whole = CaseTable(reference=made.reference, score=score, patient=patient)
    one, all_of = np.zeros(120, bool), np.zeros(120, bool)
    one[lost[0]], all_of[lost] = True, True
    found = [find(table) for table in (whole, silent(whole, one), silent(whole, all_of))]
    for less, more in pairwise(found):
        if isinstance(less, Undefined) or isinstance(more, Undefined):
            continue
        for tail in (0.001, TAIL, 0.2):
            inner, outer = less.gating(tail), more.gating(tail)
            assert outer[0] <= inner[0] + 1e-7
            assert outer[1] >= inner[1] - 1e-7
        assert more.gating(TAIL)[0] <= more.value <= more.gating(TAIL)[1]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), st.integers(0, 10_000))
def test_the_order_of_cases_does_not_matter(find, seed):
    rng = np.random.default_rng(seed)
    made = table_of(rng, 100, failed=0.03, patients=40)
    assume((~made.failed).sum() > 50)
    order = rng.permutation(100)
    turned = CaseTable(
        reference=made.reference[order], score=made.score[order], patient=made.patient[order]
    )
    one, other = find(made), find(turned)
    assert one.value == pytest.approx(other.value, rel=1e-7, abs=1e-9)
    if isinstance(one, Estimated):
        assert one.gating(TAIL) == pytest.approx(other.gating(TAIL), rel=1e-6, abs=1e-9)


BAD = {
    "all tied": ([0.4] * 8, [0, 1] * 4, None),
    "separated": ([0.1] * 4 + [0.9] * 4, [0] * 4 + [1] * 4, None),
    "wrongly separated": ([0.9] * 4 + [0.1] * 4, [0] * 4 + [1] * 4, None),
    "exactly 0 and 1": ([0.0] * 4 + [1.0] * 4, [0] * 4 + [1] * 4, None),
    "exactly wrong": ([1.0] * 4 + [0.0] * 4, [0] * 4 + [1] * 4, None),
    "all failed but one": ([np.nan] * 7 + [0.5], [0, 1] * 4, None),
    "all failed": ([np.nan] * 8, [0, 1] * 4, None),
    "one class known": ([np.nan] * 4 + [0.3, 0.4, 0.5, 0.6], [0] * 4 + [1] * 4, None),
    "one patient": ([0.2, 0.6, 0.4, 0.3, 0.7, 0.2, 0.9, 0.1], [0, 1] * 4, [0] * 8),
    "patients across classes": ([0.2, 0.6, 0.4, 0.3, 0.7, 0.2, 0.9, 0.1], [0, 1] * 4,
                                [0, 0, 1, 1, 2, 2, 3, 3]),
    "all scores 0": ([0.0] * 8, [0, 1] * 4, None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("find", ALL)
def test_bad_input_gets_a_number_or_a_reason_and_never_nan(find, name):
    score, reference, patient = BAD[name]
    table = CaseTable(
        reference=np.array(reference), score=np.array(score),
        patient=None if patient is None else np.array(patient),
    )  # fmt: skip
    found = find(table)
    assert found.value is None or math.isfinite(found.value)
    if isinstance(found, Undefined):
        assert found.reason
    else:
        low, high = found.gating(TAIL)
        assert math.isfinite(low)
        assert math.isfinite(high)
        assert low < high
    shown = ici(table, 0.95)
    assert shown.value is None or 0 <= shown.value <= 1
    assert shown.interval is not None or shown.note


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), st.integers(0, 10_000), st.integers(1, 6))
def test_the_ends_hold_the_value_of_every_completion(find, seed, count):
    rng = np.random.default_rng(seed)
    made = scored(seed, 400)
    lost = rng.choice(400, count, replace=False)
    failed = np.zeros(400, bool)
    failed[lost] = True
    low, high = sided(find, silent(made, failed)).ends
    worst = np.where(made.reference[lost] == 1, 0.0, 1.0)
    for answers in (worst, 1 - worst, rng.random(count), rng.choice([1e-4, 0.5, 1.0], count)):
        score = np.array(made.score)
        score[lost] = answers
        value = sided(find, CaseTable(reference=made.reference, score=score)).value
        assert low - 1e-9 <= value <= high + 1e-9


def test_the_low_end_of_a_slope_is_nearly_that_of_the_worst_answers():
    made = scored(12, 2000)
    failed = np.arange(2000) < 8
    low, _ = sided(slope, silent(made, failed)).ends
    score = np.where(failed, 1.0 - made.reference, made.score)
    worst = sided(slope, CaseTable(reference=made.reference, score=score)).value
    assert low == pytest.approx(worst, abs=0.05)
    assert low < sided(slope, made).value - 0.1
