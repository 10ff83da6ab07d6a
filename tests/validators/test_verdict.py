"""The verdict: what each rule says of its evidence, and what they say together."""

import numpy as np
import pytest

from tests.validators.made import GENTLE, protocol, table_of
from validators.cases import CaseTable
from validators.evaluate import evaluate
from validators.evidence import Interval, Verdict
from validators.metrics.tasks import measures_of
from validators.protocol.schema import Endpoint, FailedCases, SubgroupRule
from validators.verdict import apart, judge_goal

MEASURES = measures_of("binary", None)


def between(low: float, high: float) -> Interval:
    return Interval(low=low, high=high, level=0.95, method="made")


@pytest.mark.parametrize(
    ("metric", "low", "high", "outcome"),
    [
        ("sensitivity", 0.80, 0.90, "pass"),
        ("sensitivity", 0.79, 0.90, "insufficient_evidence"),
        ("sensitivity", 0.60, 0.80, "insufficient_evidence"),
        ("sensitivity", 0.60, 0.79, "fail"),
        ("failure_rate", 0.0, 0.8, "pass"),
        ("failure_rate", 0.7, 0.9, "insufficient_evidence"),
        ("failure_rate", 0.81, 0.9, "fail"),
    ],
)
def test_an_endpoint_is_judged_by_the_edge_of_its_interval(metric, low, high, outcome):
    found, reason = judge_goal(MEASURES[metric], (low + high) / 2, between(low, high), 0.8)
    assert found == outcome
    assert f"{low:.3f} to {high:.3f}" in reason
    assert "0.8" in reason


def test_a_missing_interval_is_no_pass_and_says_why():
    found, reason = judge_goal(MEASURES["brier"], 0.1, None, 0.2, "the loss does not vary")
    assert found == "insufficient_evidence"
    assert reason == "Brier score has no interval: the loss does not vary"


def test_a_bound_is_never_printed_as_if_it_were_the_goal():
    assert apart(0.84996, 0.85) == "0.84996"
    assert apart(0.85, 0.85) == "0.850"
    assert apart(0.8, 0.85) == "0.800"


def verdict_of(right: int, positives: int, **fields: object) -> Verdict:
    """Sensitivity right / positives; 300 negatives, all right; AUC follows."""
    score = np.concatenate(
        [np.full(right, 0.9), np.full(positives - right, 0.45), np.full(300, 0.1)]
    )
    table = CaseTable(
        reference=np.arange(len(score)) < positives,
        score=score,
        attributes={"site": np.array(["a", "b"])[np.arange(len(score)) % 2]},
    )
    return evaluate(table, protocol(**fields)).verdict


def test_all_gating_rules_must_pass():
    assert verdict_of(95, 100).overall == "pass"
    assert verdict_of(95, 100).reason == "all 4 gating rules passed"


def test_too_little_evidence_is_neither_pass_nor_fail():
    found = verdict_of(16, 20)
    assert found.overall == "insufficient_evidence"
    assert "endpoint:sensitivity" in found.reason
    assert not found.conditions


def test_one_fail_is_a_fail_whatever_else_is_missing():
    rule = SubgroupRule(attribute="site", margin=0.05)
    found = verdict_of(30, 100, subgroups=(rule,))
    assert found.overall == "fail"
    assert {rule.outcome for rule in found.rules if rule.gating} >= {
        "fail", "pass", "insufficient_evidence",
    }  # fmt: skip


def test_an_open_rule_becomes_a_condition_only_where_the_protocol_said_so():
    rule = SubgroupRule(attribute="site", margin=0.02, if_insufficient="conditional")
    lenient = verdict_of(95, 100, subgroups=(rule,))
    strict = verdict_of(
        95, 100, subgroups=(rule.model_copy(update={"if_insufficient": "block"}),)
    )  # fmt: skip
    assert (lenient.overall, strict.overall) == ("conditional", "insufficient_evidence")
    assert lenient.conditions
    assert lenient.conditions[0].startswith("subgroup:site=")
    assert strict.conditions == ()


def test_a_reported_rule_changes_nothing():
    endpoints = (
        Endpoint(metric="auc", goal=0.7),
        Endpoint(metric="sensitivity", goal=0.99, **GENTLE),
    )
    rule = SubgroupRule(attribute="site", floor=0.99, rule="reported")
    found = verdict_of(95, 100, endpoints=endpoints, subgroups=(rule,))
    assert found.overall == "pass"
    outcomes = {rule.id: rule.outcome for rule in found.rules}
    assert outcomes["endpoint:sensitivity"] == "fail"


def test_too_many_failures_fail_and_are_a_rule_of_their_own():
    rng = np.random.default_rng(1)
    table = table_of(rng, 1000, auc=0.98, failed=0.03)
    count = int(table.failed.sum())
    for allowed, outcome in ((count / 1000, "pass"), ((count - 1) / 1000, "fail")):
        found = evaluate(table, protocol(failed_cases=FailedCases(maximum_rate=allowed))).verdict
        rule = next(rule for rule in found.rules if rule.id == "failure_rate")
        assert (rule.outcome, rule.gating) == (outcome, True)
        assert rule.reason.startswith(f"{count} of 1000 cases")
    assert found.overall == "fail"


def test_rules_are_named_for_what_they_ask():
    rule = SubgroupRule(attribute="site", metric="auc", margin=0.2)
    ids = [rule.id for rule in verdict_of(95, 100, subgroups=(rule,)).rules]
    assert ids == [
        "endpoint:sensitivity", "endpoint:specificity", "endpoint:auc", "endpoint:brier",
        "endpoint:calibration_slope", "endpoint:failure_rate", "subgroup:site=a:auc",
        "subgroup:site=b:auc", "failure_rate",
    ]  # fmt: skip
