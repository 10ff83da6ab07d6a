"""Gaps: what the intervals let one say of a group, and what they do not."""

import numpy as np
import pytest

from tests.validators.made import protocol, table_of
from validators.cases import CaseTable
from validators.evidence import SubgroupEvidence
from validators.fairness.gaps import subgroup_evidence
from validators.protocol.schema import SubgroupRule

SENSITIVITY = SubgroupRule(attribute="site", metric="sensitivity", margin=0.1)


def of_counts(counts: dict[str, tuple[int, int]], **fields: object) -> CaseTable:
    """Positives by group as (right, all); as many negatives, all right."""
    score: list[float] = []
    site: list[str] = []
    for group, (right, n) in counts.items():
        score += [0.9] * right + [0.1] * (n - right)
        site += [group] * n
    positives = len(score)
    return CaseTable(
        reference=np.arange(2 * positives) < positives,
        score=np.array(score + [0.1] * positives),
        attributes={"site": np.array(site + site)},
        **fields,
    )


def rows(table: CaseTable, rule: SubgroupRule, **fields: object) -> dict[str, SubgroupEvidence]:
    return {row.group: row for row in subgroup_evidence(table, [rule], protocol(**fields))}


def test_a_gap_has_three_outcomes():
    large = rows(of_counts({"a": (90, 100), "b": (300, 600)}), SENSITIVITY)
    none = rows(of_counts({"a": (540, 600), "b": (540, 600)}), SENSITIVITY)
    small = rows(of_counts({"a": (18, 20), "b": (15, 20)}), SENSITIVITY)
    assert (large["b"].outcome, none["b"].outcome, small["b"].outcome) == (
        "fail", "pass", "insufficient_evidence",
    )  # fmt: skip
    assert large["a"].outcome == "pass"


def test_a_gap_over_the_margin_by_the_point_alone_is_no_fail():
    found = rows(of_counts({"a": (18, 20), "b": (15, 20)}), SENSITIVITY)["b"]
    assert found.gap == pytest.approx(0.15)
    assert found.outcome == "insufficient_evidence"
    assert "0.150 behind the rest" in found.reason


def test_the_gap_interval_is_newcombe_s():
    found = rows(of_counts({"a": (56, 70), "b": (48, 80)}), SENSITIVITY)["b"]
    assert found.gap_interval is not None
    assert (found.gap_interval.low, found.gap_interval.high) == pytest.approx(
        (0.0524, 0.3339), abs=5e-5
    )


def test_a_group_below_the_minimum_is_not_tested_however_bad_it_looks():
    found = rows(of_counts({"a": (90, 100), "b": (0, 9)}), SENSITIVITY)["b"]
    assert (found.outcome, found.adjusted_p) == ("insufficient_evidence", None)
    assert found.reason.startswith("this group has 9 positive cases")
    assert found.estimate == 0


def test_a_group_without_positives_has_no_estimate():
    table = of_counts({"a": (90, 100), "b": (0, 0)})
    with_negatives = CaseTable(
        reference=np.append(table.reference, [0] * 12),
        score=np.append(table.score, [0.2] * 12),
        attributes={"site": np.append(table.attributes["site"], ["b"] * 12)},
    )
    found = rows(with_negatives, SENSITIVITY)["b"]
    assert (found.estimate, found.interval, found.gap) == (None, None, None)
    assert found.outcome == "insufficient_evidence"


def test_a_single_group_has_no_rest_to_be_compared_with():
    found = rows(of_counts({"a": (90, 100)}), SENSITIVITY)["a"]
    assert found.outcome == "insufficient_evidence"
    assert "no rest" in found.reason


def test_a_rule_without_margin_and_floor_reports():
    rule = SubgroupRule(attribute="site", metric="specificity", rule="reported")
    found = rows(of_counts({"a": (90, 100), "b": (5, 9)}), rule)
    assert {row.outcome for row in found.values()} == {"not_judged"}


def test_complements_dilute_a_gap_and_a_floor_catches_it():
    counts = {f"good{i}": (90, 100) for i in range(3)} | {f"poor{i}": (70, 100) for i in range(3)}
    rule = SENSITIVITY.model_copy(update={"margin": 0.15})
    diluted = rows(of_counts(counts), rule)["poor0"]
    assert diluted.gap == pytest.approx(0.12)
    assert diluted.outcome != "fail"
    floored = rows(of_counts(counts), rule.model_copy(update={"floor": 0.85}))["poor0"]
    assert floored.outcome == "fail"
    assert "below the floor 0.85" in floored.reason


def test_failures_count_against_the_group_and_for_the_rest():
    table = of_counts({"a": (90, 100), "b": (80, 100)})
    score = np.array(table.score)
    score[[0, 1, 100, 101, 102]] = np.nan  # two right cases of a, three right ones of b
    silent = CaseTable(reference=table.reference, score=score, attributes=table.attributes)
    found = rows(silent, SENSITIVITY)
    assert found["b"].estimate == pytest.approx(0.77)
    assert found["b"].gap == pytest.approx(0.90 - 0.77)
    assert found["a"].gap == pytest.approx(0.80 - 0.88)


def test_the_adjusted_p_is_holm_s_and_agrees_with_the_interval():
    found = rows(of_counts({"a": (95, 100), "b": (80, 100), "c": (90, 100)}), SENSITIVITY)
    p = {name: row.adjusted_p for name, row in found.items()}
    assert p["b"] is not None
    assert p["b"] < 0.025
    assert p["a"] == 1.0
    alone = rows(of_counts({"a": (185, 200), "b": (80, 100)}), SENSITIVITY)["b"]
    assert alone.gap_interval is not None
    assert p["b"] == pytest.approx(3 * (alone.adjusted_p or 0) / 2, rel=1e-6)
    assert (alone.gap_interval.low > 0) == ((alone.adjusted_p or 1) / 2 < 0.025)


def test_the_p_of_a_gap_is_near_fisher_s_for_the_same_table():
    from scipy import stats

    found = rows(of_counts({"a": (76, 87), "b": (12, 26)}), SENSITIVITY)["b"]
    fisher = stats.fisher_exact([[76, 11], [12, 14]], alternative="greater").pvalue
    assert found.adjusted_p is not None
    assert found.adjusted_p / 2 < fisher < 20 * found.adjusted_p


def test_six_identical_groups_are_rarely_said_to_differ():
    rng = np.random.default_rng(21)
    flagged = 0
    for _ in range(150):
        counts = {f"g{i}": (int(rng.binomial(60, 0.85)), 60) for i in range(6)}
        found = rows(of_counts(counts), SENSITIVITY)
        flagged += any((row.adjusted_p or 1) < 0.025 for row in found.values())
    assert flagged <= 10  # 2.5 % of 150 are 4


def test_a_gap_as_large_as_the_margin_rarely_passes_and_rarely_fails():
    """The two one-sided errors at the edge: 400 cohorts, .025 each; 18 is 2.5 SE above 10."""
    rng = np.random.default_rng(22)
    passed = failed = 0
    for _ in range(400):
        counts = {"a": (int(rng.binomial(300, 0.9)), 300), "b": (int(rng.binomial(150, 0.8)), 150)}
        outcome = rows(of_counts(counts), SENSITIVITY)["b"].outcome
        passed, failed = passed + (outcome == "pass"), failed + (outcome == "fail")
    assert passed <= 18
    assert failed <= 18


def test_patients_in_both_group_and_rest_do_not_make_the_gap_too_sure():
    """Each patient has two cases in a and two in b; sensitivity is .85 in both."""
    rng = np.random.default_rng(23)
    patient = np.repeat(np.arange(60), 4)
    site = np.tile(["a", "a", "b", "b"], 60)
    out = 0
    for _ in range(300):
        right = rng.random(240) < rng.beta(1.7, 0.3, 60)[patient]
        table = CaseTable(
            reference=np.append(np.ones(240), np.zeros(240)),
            score=np.append(np.where(right, 0.9, 0.1), np.full(240, 0.1)),
            patient=np.append(patient, patient),
            attributes={"site": np.append(site, site)},
        )
        gap = rows(table, SENSITIVITY, cluster="patient")["b"].gap_interval
        assert gap is not None
        out += not gap.low <= 0 <= gap.high
    assert out <= 0.05 * 300


def test_auc_gaps_use_the_negative_correlation_of_shared_patients():
    """A patient's positive case is in a and its negative one in b for half of them, and so on."""
    rng = np.random.default_rng(24)
    n = 120
    patient = np.repeat(np.arange(n), 2)
    site = np.tile(["a", "b"], n)
    reference = np.tile([1, 0], n)
    reference[n:] = np.tile([0, 1], n // 2)
    out = 0
    for _ in range(200):
        noise = np.sqrt(0.8) * rng.normal(size=n)[patient] + np.sqrt(0.2) * rng.normal(size=2 * n)
        score = 1 / (1 + np.exp(-(noise + 1.5 * (reference - 0.5))))
        table = CaseTable(
            reference=reference, score=score, patient=patient, attributes={"site": site}
        )
        rule = SubgroupRule(attribute="site", metric="auc", margin=0.1)
        gap = rows(table, rule, cluster="patient")["b"].gap_interval
        assert gap is not None
        out += not gap.low <= 0 <= gap.high
    assert out <= 0.08 * 200


@pytest.mark.parametrize("patients", [None, 120])
@pytest.mark.parametrize("metric", ["sensitivity", "specificity", "auc"])
def test_every_number_of_a_group_is_finite_and_its_bounds_are_ordered(metric, patients):
    rng = np.random.default_rng(25)
    rule = SubgroupRule(attribute="site", metric=metric, margin=0.1, floor=0.6, minimum=2)
    for n in (12, 40, 300):
        table = table_of(rng, n, failed=0.1, patients=patients, groups=5)
        fields = {} if patients is None else {"cluster": "patient"}
        for row in rows(table, rule, **fields).values():
            for value, interval in ((row.estimate, row.interval), (row.gap, row.gap_interval)):
                assert (value is None) == (interval is None)
                if value is not None and interval is not None:
                    assert -1 <= interval.low <= value <= interval.high <= 1
            assert row.adjusted_p is None or 0 < row.adjusted_p <= 1
