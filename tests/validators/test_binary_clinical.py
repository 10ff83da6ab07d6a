"""Predictive values, likelihood ratios, net benefit and calibration-in-the-large."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from registry.trust.errors import Invalid
from tests.validators.made import protocol, table_of
from validators.cases import CaseTable
from validators.evaluate import evaluate
from validators.metrics.binary_measures import BinarySettings, estimate
from validators.metrics.decision_curve import decision_curve
from validators.metrics.estimate import Estimate
from validators.protocol.read import parse_protocol


def counted(right1: int, n1: int, right0: int, n0: int) -> CaseTable:
    """n1 positives of which right1 are found; n0 negatives of which right0 are cleared."""
    return CaseTable(
        reference=np.arange(n1 + n0) < n1,
        score=np.concatenate([np.full(right1, 0.9), np.full(n1 - right1, 0.1),
                              np.full(right0, 0.1), np.full(n0 - right0, 0.9)]),
    )  # fmt: skip


def of(table: CaseTable, metric: str, prevalence: float | None = 0.1, at: float = 0.25) -> Estimate:
    return estimate(table, metric, BinarySettings(0.5, prevalence, (at,)), 0.025)


def test_predictive_values_are_bayes_at_the_declared_prevalence():
    table = counted(80, 100, 270, 300)
    assert of(table, "ppv").value == pytest.approx(0.08 / (0.08 + 0.09))
    assert of(table, "npv").value == pytest.approx(0.81 / (0.81 + 0.02))
    assert of(table, "positive_likelihood_ratio").value == pytest.approx(8)
    assert of(table, "negative_likelihood_ratio").value == pytest.approx(0.2 / 0.9)
    cohort = of(table, "ppv", prevalence=0.25)
    assert cohort.value == pytest.approx(80 / 110)


def test_rates_of_one_have_an_interval_and_rates_of_zero_a_reason():
    perfect = counted(50, 50, 60, 60)
    for metric in ("ppv", "npv"):
        found = of(perfect, metric)
        assert found.value == 1
        assert found.interval is not None
        assert 0 < found.interval.low < 0.995
        assert found.interval.high == 1
    assert of(perfect, "positive_likelihood_ratio").value is None
    assert "divided by a rate that is 0" in of(perfect, "positive_likelihood_ratio").note
    assert of(perfect, "negative_likelihood_ratio").value == 0


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "n1", "n0", "prevalence"),
    [(0.9, 0.8, 100, 150, 0.1), (0.95, 0.95, 60, 200, 0.05), (0.7, 0.95, 40, 400, 0.02)],
)
def test_each_bound_misses_at_most_as_often_as_asked(
    sensitivity: float, specificity: float, n1: int, n0: int, prevalence: float
):
    rng, p = np.random.default_rng(3), prevalence
    truth = {
        "ppv": sensitivity * p / (sensitivity * p + (1 - specificity) * (1 - p)),
        "npv": specificity * (1 - p) / (specificity * (1 - p) + (1 - sensitivity) * p),
        "negative_likelihood_ratio": (1 - sensitivity) / specificity,
    }
    misses = {(name, side): 0 for name in truth for side in ("low", "high")}
    for _ in range(600):
        found, cleared = rng.binomial(n1, sensitivity), rng.binomial(n0, specificity)
        table = counted(int(found), n1, int(cleared), n0)
        for name, true in truth.items():
            interval = of(table, name, prevalence=p).interval
            assert interval is not None
            misses[name, "low"] += interval.low > true
            misses[name, "high"] += interval.high < true
    assert max(misses.values()) / 600 < 0.025 + 3 * math.sqrt(0.025 * 0.975 / 600), misses


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_a_withheld_prediction_never_raises_a_bound_of_a_predictive_value(seed: int, few: int):
    rng = np.random.default_rng(seed)
    table = table_of(rng, 120, patients=60)
    silent = table.score.copy()
    silent[rng.choice(120, few, replace=False)] = np.nan
    other = CaseTable(reference=table.reference, score=silent, patient=table.patient)
    for metric in ("ppv", "npv"):
        before, after = of(table, metric).interval, of(other, metric).interval
        assert before is not None
        assert after is None or (after.low <= before.low + 1e-12)
        assert after is None or (after.high <= before.high + 1e-12)


def test_net_benefit_is_that_of_dcurves():
    """dcurves 1.1.7, df_binary, cancerpredmarker at .25: 72 of 105 positives and 72 of 645
    negatives lie above; net benefit .0640, of treating all -.1467."""
    table = counted(72, 105, 573, 645)
    assert of(table, "net_benefit").value == pytest.approx(0.0640, abs=5e-5)
    [figure] = decision_curve(table, [0.25, 0.4], 0.025)
    assert figure.series[0].points[0] == (0.25, pytest.approx(0.0640, abs=5e-5))
    assert figure.series[1].points[0] == (0.25, pytest.approx(-0.1467, abs=5e-5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_a_withheld_prediction_never_raises_the_bound_of_net_benefit(seed: int, withheld: int):
    rng = np.random.default_rng(seed)
    reference, score = rng.random(80) < 0.4, rng.random(80)
    reference[:2] = (True, False)
    silent = score.copy()
    silent[rng.choice(80, withheld, replace=False)] = np.nan
    bounds = [of(CaseTable(reference=reference, score=s), "net_benefit").interval
              for s in (score, silent)]  # fmt: skip
    assert bounds[0] is not None
    assert bounds[1] is not None
    assert bounds[1].low <= bounds[0].low + 1e-12
    assert bounds[1].high <= bounds[0].high + 1e-12


def test_calibration_in_the_large_is_that_of_a_logistic_model_with_an_offset():
    table = table_of(np.random.default_rng(4), 400)
    kept = ~table.failed
    y, score = table.reference[kept].astype(float), np.clip(table.score[kept], 1e-6, 1 - 1e-6)
    fitted = sm.GLM(y, np.ones_like(y), family=sm.families.Binomial(), offset=special.logit(score))
    expected = fitted.fit(cov_type="HC1")
    found = of(table, "calibration_in_the_large")
    assert found.value == pytest.approx(float(expected.params[0]), abs=1e-6)
    assert found.interval is not None
    half = (found.interval.high - found.interval.low) / 2
    assert half == pytest.approx(1.966 * float(expected.bse[0]), rel=0.01)


def test_the_expected_calibration_error_has_a_value_and_decides_nothing():
    found = of(table_of(np.random.default_rng(4), 400), "ece")
    assert found.value is not None
    assert 0 <= found.value <= 1
    assert found.interval is None
    with pytest.raises(Invalid, match="ece can't gate"):
        parse_protocol(_asking("ece", goal=0.1))


def _asking(metric: str, **more: object) -> dict[str, object]:
    body = protocol().model_dump(mode="json")
    return body | {"endpoints": [{"metric": "sensitivity", "goal": 0.8},
                                 {"metric": metric, "role": "secondary", **more}]}  # fmt: skip


def test_a_protocol_says_at_which_prevalence_and_threshold():
    reported = {"rule": "reported"}
    use = protocol().intended_use.model_dump(mode="json") | {"prevalence": None}
    with pytest.raises(Invalid, match=r"intended_use\.prevalence: ppv is computed at"):
        parse_protocol(_asking("ppv", **reported) | {"intended_use": use})
    with pytest.raises(Invalid, match="net_benefit is computed at the first"):
        parse_protocol(_asking("net_benefit", **reported))
    with pytest.raises(Invalid, match="depends on the cohort's prevalence"):
        parse_protocol(_asking("net_benefit", goal=0.01) | {"decision_thresholds": [0.2]})
    sampled = {"decision_thresholds": [0.2], "sampling": {"design": "consecutive"}}
    rules = parse_protocol(_asking("net_benefit", goal=0.001) | sampled)
    found = evaluate(
        table_of(np.random.default_rng(4), 400), rules.model_copy(update={"subgroups": ()})
    )
    assert found.endpoints[1].metric == "net_benefit"
    drawn = [figure.name for figure in found.curves.figures]
    assert drawn == ["roc", "calibration", "decision-curve", "scores"]
