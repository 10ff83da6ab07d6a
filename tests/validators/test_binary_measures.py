"""The measures of a binary question in the shape of all tasks: sides, gaps, weights, figures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from tests.validators.made import protocol, table_of
from validators.cases import CaseTable
from validators.evaluate import estimate, evaluate
from validators.fairness.gaps import subgroup_evidence
from validators.intervals.mean import mean
from validators.metrics import binary_measures
from validators.metrics.binary import brier_side
from validators.metrics.binary_clinical import net_benefit_side
from validators.metrics.binary_measures import MEASURES, BinarySettings
from validators.metrics.figure import Figure
from validators.metrics.measure import Undefined
from validators.metrics.of_rates import logit_interval, of_rates
from validators.metrics.regression_table import RegressionTable
from validators.metrics.tasks import measures_of
from validators.protocol.read import parse_protocol
from validators.protocol.schema import SubgroupRule

TAIL = 0.025
SETTINGS = BinarySettings(0.5, 0.1, (0.25, 0.4))
NO_SIDE = {"positive_likelihood_ratio", "negative_likelihood_ratio", "ici", "ece"}


def asked():
    use = protocol().intended_use.model_copy(update={"prevalence": 0.1})
    return protocol(intended_use=use, decision_thresholds=(0.25, 0.4))


def test_every_measure_has_a_side_or_a_reason_and_its_estimate_is_the_same():
    table = table_of(np.random.default_rng(1), 400)
    assert set(measures_of("binary", None)) == {*MEASURES, "failure_rate"}
    for metric in measures_of("binary", None):
        found = binary_measures.side(table, metric, SETTINGS)
        if metric in NO_SIDE:
            assert isinstance(found, Undefined)
            assert found.reason
            continue
        assert not isinstance(found, Undefined), (metric, found)
        shown = estimate(table, metric, asked())
        assert shown.value == pytest.approx(found.value)
        assert shown.interval is not None
        low, high = found.gating(TAIL)
        assert low < found.value < high or (metric, found.value) == ("failure_rate", 0)
        assert (shown.interval.low, shown.interval.high) == pytest.approx((low, high), abs=1e-12)
    with pytest.raises(ValueError, match="no binary metric"):
        binary_measures.side(table, "dice", SETTINGS)


def test_what_the_protocol_leaves_out_is_named():
    table = table_of(np.random.default_rng(1), 100)
    for metric, why in (("ppv", "prevalence"), ("net_benefit", "decision threshold")):
        found = binary_measures.side(table, metric, BinarySettings(0.5))
        assert isinstance(found, Undefined)
        assert why in found.reason


def test_the_false_positive_rate_is_one_less_the_specificity():
    table = table_of(np.random.default_rng(2), 300, failed=0.05, patients=90)
    names = ("specificity", "false_positive_rate")
    of, rate = (binary_measures.side(table, name, SETTINGS) for name in names)
    assert rate.value == pytest.approx(1 - of.value)
    assert rate.gating(TAIL) == pytest.approx((1 - of.gating(TAIL)[1], 1 - of.gating(TAIL)[0]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["ppv", "npv", "net_benefit", "false_positive_rate", "failure_rate"]),
    st.integers(0, 10_000), st.integers(1, 15), st.booleans(),
)  # fmt: skip
def test_a_withheld_prediction_never_improves_a_bound_that_may_decide(
    metric, seed, count, clustered
):
    rng = np.random.default_rng(seed)
    made = table_of(rng, 80, patients=35 if clustered else None)
    score = np.array(made.score)
    score[rng.choice(80, count, replace=False)] = np.nan
    silent = CaseTable(reference=made.reference, score=score, patient=made.patient)
    before, after = (binary_measures.side(of, metric, SETTINGS) for of in (made, silent))
    if isinstance(after, Undefined):
        return
    worse = -1 if MEASURES.get(metric, MEASURES["ece"]).direction == "lower" else 1
    for old, new in zip(before.gating(TAIL), after.gating(TAIL), strict=True):
        assert worse * new <= worse * old + 1e-9


def shifted(rng: np.random.Generator, n: int, off: float, tilt: float) -> CaseTable:
    """Three sites; at site c the true logit is `off` + `tilt` times that of the score."""
    site = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    logit = rng.normal(-0.3, 1.3, n)
    true = np.where(site == "c", off + tilt * logit, logit)
    return CaseTable(
        reference=rng.random(n) < special.expit(true), score=special.expit(logit),
        patient=rng.integers(0, n // 2, n), attributes={"site": site},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "margin"), [("calibration_in_the_large", 0.3), ("calibration_slope", 0.3)]
)
def test_a_gap_of_calibration_is_judged_on_both_sides(metric, margin):
    rule = SubgroupRule(attribute="site", metric=metric, margin=margin)
    alike = shifted(np.random.default_rng(3), 9000, 0.0, 1.0)
    apart = shifted(np.random.default_rng(3), 9000, 1.0, 0.4)
    clustered = protocol(cluster="patient")
    assert {row.outcome for row in subgroup_evidence(alike, [rule], clustered)} == {"pass"}
    found = {row.group: row for row in subgroup_evidence(apart, [rule], clustered)}
    assert found["c"].outcome == "fail"
    assert found["c"].gap_interval is not None


def test_a_gap_has_the_metric_that_was_asked_for():
    """It was once the specificity's for all but three metrics."""
    table = table_of(np.random.default_rng(4), 900)
    inside = table.attributes["site"] == "g0"
    for metric in ("ppv", "npv", "brier", "net_benefit", "false_positive_rate", "failure_rate"):
        rule = SubgroupRule(attribute="site", metric=metric, margin=0.3, rule="reported")
        row = subgroup_evidence(table, [rule], asked())[0]
        expected = estimate(table.subset(inside), metric, asked()).value
        assert row.estimate == pytest.approx(expected)


def test_groups_with_different_numbers_of_patients_have_a_gap_of_a_mean():
    """Patients' contributions once had the codes of each group."""
    rng = np.random.default_rng(5)
    reference = rng.uniform(10, 90, 300)
    table = RegressionTable(
        reference=reference, prediction=reference + rng.normal(size=300),
        patient=rng.integers(0, 120, 300),
        attributes={"site": np.array(["a", "b", "c"])[rng.integers(0, 3, 300)]},
    )  # fmt: skip
    body = protocol().model_dump(mode="json") | {
        "task": "regression", "threshold": None, "cluster": "patient",
        "regression": {"unit": "ml", "lowest": 0, "highest": 100},
        "endpoints": [{"metric": "mae", "goal": 15}],
    }  # fmt: skip
    rule = SubgroupRule(attribute="site", metric="mae", margin=5)
    for row in subgroup_evidence(table, [rule], parse_protocol(body)):
        assert row.gap_interval is not None
        assert row.gap_interval.low < row.gap < row.gap_interval.high


def test_brier_and_net_benefit_with_weights_are_those_of_repeated_cases():
    made = table_of(np.random.default_rng(6), 200, failed=0.03)
    times = np.random.default_rng(7).integers(1, 4, 200)
    patient, again = np.arange(200) // 2, np.repeat(np.arange(200), times)
    one = CaseTable(reference=made.reference, score=made.score, patient=patient)
    many = CaseTable(
        reference=made.reference[again], score=made.score[again], patient=patient[again]
    )
    weighted, repeated = brier_side(one, times.astype(float)), brier_side(many)
    assert weighted.value == pytest.approx(repeated.value)
    assert weighted.gating(TAIL) == pytest.approx(repeated.gating(TAIL), rel=1e-9)
    gains = net_benefit_side(one, 0.2, times.astype(float)), net_benefit_side(many, 0.2)
    assert gains[0].value == pytest.approx(gains[1].value)
    assert gains[0].gating(TAIL) == pytest.approx(gains[1].gating(TAIL), rel=1e-9)


def test_weights_undo_an_enriched_cohort():
    """Positives drawn ten times as often as negatives, and weighted by a tenth of theirs."""
    rng = np.random.default_rng(8)
    logit = rng.normal(-3, 1.2, 400_000)
    y = rng.random(400_000) < special.expit(logit)
    kept = rng.random(400_000) < np.where(y, 0.2, 0.02)
    table = CaseTable(reference=y[kept], score=special.expit(logit[kept]))
    weight = np.where(y[kept], 5.0, 50.0)
    whole = CaseTable(reference=y, score=special.expit(logit))
    truth = net_benefit_side(whole, 0.1).value
    enriched, weighted = net_benefit_side(table, 0.1), net_benefit_side(table, 0.1, weight)
    assert weighted.gating(TAIL)[0] < truth < weighted.gating(TAIL)[1]
    assert truth < enriched.gating(TAIL)[0]


def test_many_equal_cases_have_the_bound_that_all_weights_would_give():
    rng = np.random.default_rng(9)
    values = rng.choice([-0.25, 0.0, 1.0], 6000, p=[0.2, 0.7, 0.1])
    fast, slow = (mean(values, (-0.25, 1.0), few_values=of) for of in (True, False))
    for one, other in zip(fast.gating(TAIL), slow.gating(TAIL), strict=True):
        assert one == pytest.approx(other, abs=5e-4)  # of 10,000 draws
    patient = rng.integers(0, 30_000, 60_000)
    values = rng.choice([-0.25, 0.0, 1.0], 60_000, p=[0.2, 0.7, 0.1])
    clustered = mean(values, (-0.25, 1.0), patient, few_values=True).gating(TAIL)
    variance = values.var() / 60_000  # cases of a patient are not alike here
    half = (clustered[1] - clustered[0]) / 2
    assert half == pytest.approx(1.96 * math.sqrt(variance), rel=0.1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 30))
def test_silence_never_raises_the_bound_of_many_equal_cases(seed, clustered, count):
    rng = np.random.default_rng(seed)
    reference, score = rng.random(6500) < 0.3, rng.random(6500)
    patient = np.arange(6500) if not clustered else np.minimum(np.arange(6500), 5999)
    silent = score.copy()
    silent[rng.choice(6500, count, replace=False)] = np.nan
    tables = [CaseTable(reference=reference, score=of, patient=patient) for of in (score, silent)]
    bounds = [net_benefit_side(table, 0.3).gating(TAIL) for table in tables]
    for old, new in zip(*bounds, strict=True):
        assert new <= old + 1e-12


def test_the_logit_interval_is_the_spread_of_simulated_predictive_values():
    rng = np.random.default_rng(10)
    found, sizes = (0.8, 0.9), (300.0, 600.0)
    rates = [rng.binomial(int(n), p, 40_000) / n for p, n in zip(found, sizes, strict=True)]
    for metric in ("ppv", "npv"):
        values = [of_rates(metric, a, b, 0.1) for a, b in zip(*rates, strict=True)]
        low, high = logit_interval(metric, found, sizes, 0.1, TAIL)
        spread = special.logit(np.quantile(values, (TAIL, 1 - TAIL)))
        assert special.logit([low, high]) == pytest.approx(spread, abs=0.03)
    assert logit_interval("ppv", (1.0, 0.9), sizes, 0.1, TAIL) is None


@pytest.mark.parametrize(
    ("at", "right", "wrong", "model", "everybody"),
    [
        (0.05, 96, 320, 0.105544, 0.094737),
        (0.1, 87, 193, 0.087407, 0.044444),
        (0.25, 72, 72, 0.064000, -0.146667),
        (0.4, 47, 27, 0.038667, -0.433333),
    ],
)
def test_net_benefit_at_four_thresholds_is_that_of_dcurves(at, right, wrong, model, everybody):
    """dcurves 1.1.7 (Apache-2.0), its df_binary, 105 positives of 750; true and false positives
    of cancerpredmarker at each threshold, and dca(data=df, outcome="cancer",
    modelnames=["cancerpredmarker"], thresholds=[.05, .1, .25, .4])."""
    reference = np.arange(750) < 105
    score = np.where(reference, np.arange(750) < right, np.arange(750) - 105 < wrong) * 0.9
    table = CaseTable(reference=reference, score=score)
    assert net_benefit_side(table, at).value == pytest.approx(model, abs=5e-7)
    all_of = CaseTable(reference=reference, score=np.ones(750))
    assert net_benefit_side(all_of, at).value == pytest.approx(everybody, abs=5e-7)


@pytest.mark.parametrize("failed", [0.0, 0.05])
def test_figures_are_drawn_of_groups_without_a_number_that_is_none(failed):
    table = table_of(np.random.default_rng(11), 300, failed=failed)
    found = binary_measures.figures(table, SETTINGS)
    assert [figure.name for figure in found] == ["roc", "calibration", "decision-curve", "scores"]
    for figure in found:
        assert isinstance(figure, Figure)
        for series in figure.series:
            assert np.isfinite(series.points).all()
            assert len(series.low) in (0, len(series.points))
            assert np.isfinite([*series.low, *series.high]).all()
    scores = {series.label: sum(y for _, y in series.points) for series in found[3].series}
    for label, chosen in (("positive", table.positive), ("negative", ~table.positive)):
        assert scores[label] == pytest.approx(1 - table.failed[chosen].mean())


def test_figures_of_few_tied_or_no_scores():
    reference = np.arange(10) % 2
    for score in (np.full(10, 0.5), np.full(10, np.nan), reference * 1.0, np.arange(10) / 10):
        figures = binary_measures.figures(CaseTable(reference=reference, score=score), SETTINGS)
        assert {"roc", "scores"} <= {figure.name for figure in figures}


def test_calibration_of_the_mean_gates_only_where_the_sampling_says_so():
    from registry.trust.errors import Invalid

    body = protocol().model_dump(mode="json") | {
        "endpoints": [
            {"metric": "auc", "goal": 0.7},
            {"metric": "calibration_in_the_large", "role": "secondary", "band": [-1, 1]},
            {"metric": "observed_expected", "role": "secondary", "band": [0.5, 2]},
            {"metric": "calibration_slope", "role": "secondary", "band": [0.5, 2]},
        ]
    }
    with pytest.raises(Invalid, match="depends on the cohort's prevalence"):
        parse_protocol(body)
    asked_for = parse_protocol(body | {"sampling": {"design": "consecutive"}})
    rng = np.random.default_rng(12)
    logit = rng.normal(-0.3, 1.5, 2000)
    table = CaseTable(reference=rng.random(2000) < special.expit(logit), score=special.expit(logit))
    found = evaluate(table, asked_for)
    assert [row.outcome for row in found.endpoints] == ["pass"] * 4
    assert found.verdict.overall == "pass"
