"""Hospitals: published summaries, other software, and what is said where there is too little."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from registry.trust.errors import Invalid
from tests.validators.made import table_of
from validators.cases import CaseTable
from validators.intervals.auc import area
from validators.intervals.mean import mean
from validators.intervals.share import Share
from validators.metrics.binary import share_right
from validators.metrics.measure import Undefined
from validators.sites import random_effects
from validators.sites.by_site import by_site, judge_prediction, on_scale
from validators.sites.prediction import prediction
from validators.sites.random_effects import summarise

TAIL = 0.025
# Colditz et al. 1994, 13 trials of the BCG vaccine (dat.bcg of R's metafor): with and without
# tuberculosis among the vaccinated, then among the others.
VACCINATED = np.array([
    (4, 119), (6, 300), (3, 228), (62, 13536), (33, 5036), (180, 1361), (8, 2537), (505, 87886),
    (29, 7470), (17, 1699), (186, 50448), (5, 2493), (27, 16886),
])  # fmt: skip
OTHERS = np.array([
    (11, 128), (29, 274), (11, 209), (248, 12619), (47, 5761), (372, 1079), (10, 619),
    (499, 87892), (45, 7232), (65, 1600), (141, 27197), (3, 2338), (29, 17825),
])  # fmt: skip
EFFECTS = [
    ([0.1, 0.5, 0.3, 0.9, 0.2, 0.4], [0.02, 0.03, 0.01, 0.05, 0.02, 0.04]),
    ([1.2, 2.5, 2.1, 1.7, 2.9, 2.2, 1.1], [0.1, 0.2, 0.05, 0.15, 0.3, 0.1, 0.2]),
    ([0.5, 0.52, 0.48, 0.51, 0.5], [0.01, 0.02, 0.01, 0.03, 0.02]),
]


def bcg() -> tuple[np.ndarray, np.ndarray]:
    """Log relative risks and their variances."""
    one, other = VACCINATED.sum(axis=1), OTHERS.sum(axis=1)
    a, c = VACCINATED[:, 0], OTHERS[:, 0]
    return np.log(a / one / (c / other)), 1 / a - 1 / one + 1 / c - 1 / other


def test_the_bcg_trials_have_the_values_of_metafor_s_documentation():
    """rma(yi, vi): tau² .3132, estimate -.7145; Q 152.2330, I² 92.22 %. With test="knha":
    se .1808, interval -1.1084 to -.3206."""
    found = summarise(*bcg())
    assert found.tau_squared == pytest.approx(0.3132, abs=5e-5)
    assert found.mean == pytest.approx(-0.7145, abs=5e-5)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.i_squared == pytest.approx(0.9222, abs=5e-5)
    assert found.standard_error == pytest.approx(0.1808, abs=5e-5)
    assert found.interval(TAIL) == pytest.approx((-1.1084, -0.3206), abs=5e-5)


def test_the_textbook_s_prediction_interval_has_t_with_two_fewer_degrees_of_freedom():
    found = summarise(*bcg())
    half = stats.t.ppf(0.975, 11) * math.sqrt(found.tau_squared + found.standard_error**2)
    assert found.prediction(TAIL) == pytest.approx((found.mean - half, found.mean + half))


# PyMARE 0.0.13: VarianceBasedLikelihoodEstimator(method="REML").fit_dataset(Dataset(y, v))
# .summary() gives tau2 and get_fe_stats()["est"].
@pytest.mark.parametrize(
    ("effects", "tau_squared", "estimate"),
    [(EFFECTS[0], 0.03098916, 0.35836234), (EFFECTS[1], 0.2053009, 1.91960099),
     (EFFECTS[2], 0.0, 0.498)],
)  # fmt: skip
def test_restricted_likelihood_agrees_with_pymare(effects, tau_squared, estimate):
    found = summarise(*map(np.array, effects))
    assert found.tau_squared == pytest.approx(tau_squared, abs=1e-6)
    assert found.mean == pytest.approx(estimate, abs=1e-6)


@pytest.mark.parametrize("effects", [*EFFECTS[:2], bcg()])
def test_hartung_and_knapp_s_interval_agrees_with_statsmodels(effects, monkeypatch):
    """At statsmodels' own tau² (DerSimonian & Laird), for it has no restricted likelihood."""
    value, variance = map(np.array, effects)
    theirs = combine_effects(value, variance, method_re="chi2", use_t=True)
    monkeypatch.setattr(random_effects, "_reml", lambda *_: theirs.tau2)
    ours = summarise(value, variance)
    assert ours.mean == pytest.approx(theirs.mean_effect_re)
    assert ours.q == pytest.approx(theirs.q)
    widened = math.sqrt(max(1.0, 1 / theirs.scale_hksj_re))
    assert ours.standard_error == pytest.approx(theirs.sd_eff_w_re_hksj * widened)


def test_hospitals_that_happen_to_agree_keep_their_own_uncertainty():
    found = summarise(*map(np.array, EFFECTS[2]))
    assert found.tau_squared == 0
    assert found.standard_error**2 == pytest.approx(1 / (1 / np.array(EFFECTS[2][1])).sum())
    equal = summarise(np.full(6, 0.4), np.full(6, 0.01))
    assert (equal.tau_squared, equal.q) == (0, pytest.approx(0, abs=1e-12))
    low, high = prediction(equal, np.full(6, 0.4), np.full(6, 0.01), TAIL)
    assert low < 0.4 < high


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(-3, 3), st.floats(0.001, 2)), min_size=5, max_size=25),
    shift=st.floats(-5, 5),
    factor=st.floats(0.1, 10),
)
def test_a_summary_moves_and_stretches_with_its_hospitals(rows, shift, factor):
    value, variance = np.array(rows).T
    one = summarise(value, variance)
    other = summarise(value * factor + shift, variance * factor**2)
    assert other.mean == pytest.approx(one.mean * factor + shift, abs=1e-3 * factor)
    assert 0 <= one.tau_squared < math.inf
    assert 0 <= one.i_squared <= 1
    low, high = prediction(one, value, variance, TAIL)
    textbook = one.prediction(TAIL)
    assert low <= textbook[0] < textbook[1] <= high
    assert textbook[0] < one.interval(TAIL)[0]


def test_four_hospitals_and_impossible_variances():
    assert "4 sites say too little" in summarise(np.zeros(4), np.ones(4))
    assert "1 site says too little" in summarise(np.zeros(1), np.ones(1))
    for value, variance in ((np.zeros(5), np.zeros(5)), (np.full(5, np.nan), np.ones(5))):
        with pytest.raises(Invalid, match="not finite, or its variance"):
            summarise(value, variance)


def test_a_share_s_standard_error_is_read_from_its_interval():
    sides = [Share(x / 50, 50, None) for x in (30, 40, 45, 48)]
    value, variance = on_scale(sides, "logit")
    p = (163 + 2) / (200 + 4)  # with half a case on both sides, four times
    assert value == pytest.approx(
        np.log([30.5 / 20.5, 40.5 / 10.5, 45.5 / 5.5, 48.5 / 2.5]), rel=0.01
    )
    assert variance == pytest.approx(np.full(4, 1 / (50 * p * (1 - p))), rel=0.06)


def test_hospitals_without_an_error_have_finite_values():
    for size in (1, 3, 50):
        value, variance = on_scale([Share(p, size, None) for p in (0.0, 1.0)], "logit")
        assert value[1] == pytest.approx(math.log((size + 0.5) / 0.5))
        assert value[0] == pytest.approx(-value[1])
        assert np.isfinite(variance).all()
        assert (variance > 0).all()
    perfect = area(np.arange(20) / 20, np.arange(20) >= 10)
    assert np.isfinite(on_scale([perfect], "logit")).all()


# By site.


def sensitivity(table: CaseTable):
    def side(chosen: np.ndarray):
        kept = chosen & table.positive
        if not kept.any():
            return Undefined("there is no positive case", int(chosen.sum()), None)
        return share_right(table, 0.5, kept)

    return side


def test_each_hospital_stands_by_itself_and_beside_all_others():
    table = table_of(np.random.default_rng(3), 900, groups=6, patients=300, failed=0.02)
    site = table.attributes["site"]
    found = by_site(site, sensitivity(table), TAIL)
    assert [row.site for row in found.estimates] == [f"g{i}" for i in range(6)]
    for row in found.estimates:
        here = share_right(table, 0.5, (site == row.site) & table.positive)
        others = share_right(table, 0.5, (site != row.site) & table.positive)
        assert (row.value, row.without) == (here.value, others.value)
        assert (row.interval.low, row.interval.high) == here.gating(TAIL)
        assert (row.without_interval.low, row.without_interval.high) == others.gating(TAIL)
    summary = found.summary
    assert summary.scale == "logit"
    assert 0 < summary.prediction.low < summary.interval.low < summary.mean
    assert summary.mean < summary.interval.high < summary.prediction.high < 1


def test_an_auc_is_summarised_on_the_logit_scale_and_a_mean_as_it_is():
    rng = np.random.default_rng(4)
    table = table_of(rng, 900, groups=6)
    site = table.attributes["site"]
    of_auc = by_site(site, lambda kept: area(table.score[kept], table.positive[kept]), TAIL)
    values = rng.beta(8, 2, 900)
    of_mean = by_site(site, lambda kept: mean(values[kept], (0.0, 1.0)), TAIL)
    assert of_auc.summary.scale == "logit"
    assert of_auc.summary.mean == pytest.approx(0.9, abs=0.03)
    assert of_mean.summary.scale == "identity"
    assert of_mean.summary.mean == pytest.approx(values.mean(), abs=0.01)
    assert of_mean.summary.interval.method.endswith("identity")


def test_a_hospital_without_positives_and_few_hospitals_have_reasons():
    table = table_of(np.random.default_rng(5), 400, groups=5)
    site = np.where(table.positive & (table.attributes["site"] == "g0"), "g1",
                    table.attributes["site"])  # fmt: skip
    found = by_site(site, sensitivity(table), TAIL)
    assert found.estimates[0].value is None
    assert found.estimates[0].note == "there is no positive case"
    assert found.estimates[0].without is not None
    assert "4 sites say too little" in found.reason
    outcome, reason = judge_prediction(found.summary, 0.8, found.reason)
    assert outcome == "insufficient_evidence"
    assert "4 sites" in reason
    one = by_site(np.full(400, "only"), sensitivity(table), TAIL)
    assert one.summary is None
    assert one.estimates[0].note == "without this site: there is no other site"
    none = by_site(site, lambda kept: Undefined("nothing", 0, None), TAIL)
    assert none.summary is None
    assert "0 sites" in none.reason


def test_a_prediction_has_three_outcomes():
    rng = np.random.default_rng(6)

    def of(p: float, sites: int) -> object:
        right = [rng.binomial(300, p) for _ in range(sites)]
        shares = iter([Share(x / 300, 300, None) for x in right for _ in range(1)] * 2)
        return by_site(np.array([f"s{i:02}" for i in range(sites)]), lambda _: next(shares), TAIL)

    assert judge_prediction(of(0.95, 12).summary, 0.8)[0] == "pass"
    assert judge_prediction(of(0.7, 12).summary, 0.8)[0] == "fail"
    outcome, reason = judge_prediction(of(0.81, 12).summary, 0.8)
    assert outcome == "insufficient_evidence"
    assert "holds the floor" in reason


def test_the_interval_that_judges_holds_where_the_textbook_s_collapses():
    """20 hospitals of 20 cases, true values around .9 with tau .5; 400 cohorts."""
    textbook = judged = 0
    cohorts = 400
    for seed in range(cohorts):
        rng = np.random.default_rng([31, seed])
        true = 1 / (1 + np.exp(-(math.log(9) + 0.5 * rng.normal(size=21))))
        right = rng.binomial(20, true[:20])
        value, variance = on_scale([Share(x / 20, 20, None) for x in right], "logit")
        fitted = summarise(value, variance)
        another = math.log(true[20] / (1 - true[20]))
        textbook += fitted.prediction(TAIL)[0] > another
        judged += prediction(fitted, value, variance, TAIL)[0] > another
    limit = TAIL + 3 * math.sqrt(TAIL * (1 - TAIL) / cohorts)
    assert judged / cohorts <= limit
    assert textbook > judged
