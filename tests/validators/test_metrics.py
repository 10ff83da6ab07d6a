"""Point estimates against independent software, and what stands where there is none."""

import numpy as np
import pytest

from tests.validators.made import protocol, table_of
from validators.cases import CaseTable
from validators.evaluate import estimate
from validators.metrics.binary import right, roc_curve
from validators.metrics.calibration import calibration_bins, slope
from validators.metrics.estimate import shown


def test_brier_and_auc_are_scikit_learn_s():
    from sklearn.metrics import brier_score_loss, roc_auc_score

    table = table_of(np.random.default_rng(1), 300)
    assert estimate(table, "brier", protocol()).value == pytest.approx(
        brier_score_loss(table.reference, table.score)
    )
    assert estimate(table, "auc", protocol()).value == pytest.approx(
        roc_auc_score(table.reference, table.score)
    )


def test_the_roc_curve_is_scikit_learn_s():
    from sklearn.metrics import roc_curve as reference_curve

    table = table_of(np.random.default_rng(2), 300)
    fpr, tpr, _ = reference_curve(table.reference, table.score, drop_intermediate=False)
    assert np.allclose(roc_curve(table), np.column_stack([fpr, tpr]))


def test_a_score_at_the_threshold_is_positive():
    table = CaseTable(reference=np.array([1, 0]), score=np.array([0.5, 0.5]))
    assert right(table, 0.5).tolist() == [True, False]


def test_failed_cases_are_wrong_last_and_worst():
    made = table_of(np.random.default_rng(3), 100)
    score = np.array(made.score)
    score[:10] = np.nan
    wrong = np.where(np.isnan(score), np.where(made.reference == 1, 0.0, 1.0), score)
    failed = CaseTable(reference=made.reference, score=score)
    filled = CaseTable(reference=made.reference, score=wrong)
    for metric in ("sensitivity", "specificity", "auc", "brier"):
        assert estimate(failed, metric, protocol()).value == pytest.approx(
            estimate(filled, metric, protocol()).value
        )


def test_the_calibration_slope_is_that_of_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    table = table_of(np.random.default_rng(4), 400, auc=0.8)
    logit = np.log(table.score / (1 - table.score))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit, table.reference)
    found = shown(slope(table), 0.025)
    assert found.value == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high


def test_the_slope_of_a_calibrated_model_is_one_and_its_interval_covers():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        score = rng.beta(1.5, 1.5, 200)
        table = CaseTable(reference=rng.random(200) < score, score=score)
        interval = shown(slope(table), 0.025).interval
        assert interval is not None
        covered += interval.low <= 1 <= interval.high
    assert covered >= 180


def test_repeating_each_case_widens_nothing_once_patients_are_known():
    made = table_of(np.random.default_rng(6), 150, auc=0.8)
    four = {"reference": np.repeat(made.reference, 4), "score": np.repeat(made.score, 4)}
    clustered = CaseTable(**four, patient=np.repeat(np.arange(150), 4))
    for metric in ("brier", "calibration_slope"):
        once = estimate(made, metric, protocol()).interval
        again = estimate(clustered, metric, protocol(cluster="patient")).interval
        assert once is not None
        assert again is not None
        assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=2e-3)
        assert again.method.startswith("cluster-robust")


@pytest.mark.parametrize(
    ("score", "why"),
    [
        ([0.1, 0.2, 0.8, 0.9], "separate"),
        ([0.9, 0.8, 0.2, 0.1], "separate"),
        ([0.4, 0.4, 0.4, 0.4], "equal"),
        ([np.nan, np.nan, 0.2, 0.1], "one class"),
    ],
)
def test_a_slope_that_does_not_exist_is_none_with_its_reason(score, why):
    table = CaseTable(reference=np.array([0, 0, 1, 1]), score=np.array(score))
    found = shown(slope(table), 0.025)
    assert (found.value, found.interval) == (None, None)
    assert why in found.note


def test_scores_of_exactly_0_and_1_have_a_slope():
    table = table_of(np.random.default_rng(7), 200)
    found = slope(CaseTable(reference=table.reference, score=np.round(table.score)))
    assert found.value is not None
    assert 0 < found.value < 1


def test_calibration_bins_hold_every_scored_case_once_and_split_no_ties():
    table = table_of(np.random.default_rng(8), 203, failed=0.05)
    bins = calibration_bins(table)
    assert sum(of.n for of in bins) == int((~table.failed).sum())
    assert [of.mean_score for of in bins] == sorted(of.mean_score for of in bins)
    tied = CaseTable(reference=table.reference, score=np.round(table.score * 2) / 2)
    assert [of.mean_score for of in calibration_bins(tied)] == [0.0, 0.5, 1.0]


def test_a_share_that_decides_nothing_is_shown_with_wilsons_interval():
    """Wilson's own numbers for 81 of 263 (Newcombe 1998); where it gates, Clopper-Pearson."""
    table = CaseTable(
        reference=np.r_[np.ones(263, dtype=int), 0],
        score=np.r_[np.where(np.arange(263) < 81, 0.9, 0.1), 0.1],
    )
    interval = estimate(table, "sensitivity", protocol(), judged=False).interval
    assert interval is not None
    assert interval.method == "Wilson"
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    judged = estimate(table, "sensitivity", protocol()).interval
    assert judged is not None
    assert judged.method == "Clopper-Pearson"
    assert judged.low < interval.low
    assert judged.high > interval.high
