"""Further questions of a protocol: what it may ask, and what each answer decides."""

from typing import Any

import numpy as np
import pytest

from registry.trust.errors import Invalid
from tests.validators.made import table_of
from validators.cases import CaseTable
from validators.evaluate import Evaluation, evaluate
from validators.protocol.amendment import looser
from validators.protocol.read import parse_protocol
from validators.protocol.schema import Protocol

NOISE = {"kind": "noise", "modality": "CT", "severity": 2, "tensor": "image"}
BODY: dict[str, Any] = {
    "id": "asked", "version": "1", "reference_standard": "simulated", "threshold": 0.5,
    "intended_use": {"purpose": "test", "population": "none", "setting": "none"},
    "endpoints": [{"metric": "sensitivity", "goal": 0.6}],
}  # fmt: skip


def asked(**fields: Any) -> Protocol:
    return parse_protocol({**BODY, **fields})


def against(kind: str = "model", metric: str = "auc", **more: Any) -> dict[str, Any]:
    readers = {"readers": ["r1", "r2", "r3", "r4"]} if kind == "readers" else {}
    given = {"name": "other", "kind": kind, "margin": 0.05, **readers, **more}
    return {"metric": metric, "comparator": given}


def outcome(found: Evaluation, rule: str) -> str:
    return {of.id: of.outcome for of in found.verdict.rules}[rule]


def cohort(n: int = 600, auc: float = 0.9, **more: Any) -> CaseTable:
    return table_of(np.random.default_rng(7), n, auc=auc, **more)


def with_further(table: CaseTable, **columns: Any) -> CaseTable:
    from dataclasses import replace

    return replace(table, further=columns)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"endpoints": [against(margin=1.0)]}, "margin"),
        ({"endpoints": [{**against(), "goal": 0.7}]}, "so no goal or band"),
        ({"endpoints": [against(metric="brier")]}, "has no comparison yet"),
        ({"endpoints": [against("readers", readers=["r1", "r2"])]}, "fewer than three"),
        ({"endpoints": [against("readers", metric="sensitivity")]}, "called a case positive"),
        ({"endpoints": [against(readers=["a", "b", "c"])]}, "`kind` is readers"),
        ({"endpoints": [against(), against()]}, "two of them ask for the same"),
        ({"endpoints": [against(name="score")]}, "names two columns"),
        ({"sites": {"metrics": [{"metric": "auc", "rule": "gating"}]}}, "needs a floor"),
        ({"sites": {"metrics": [{"metric": "brier", "floor": 0.2}]}}, "no floor across hospitals"),
        ({"sites": {"metrics": [{"metric": "failure_rate"}]}}, "whole cohort"),
        ({"cohort": {"id": "c", "sites": 5}}, "must name the attribute"),
        ({"robustness": [{"perturbation": NOISE, "metric": "auc", "maximum_drop": 0}]}, "above 0"),
        ({"leakage": {"ceilings": [{"metric": "auc", "value": 0.99}]}}, "one of the endpoints"),
        ({"indeterminate": {"low": 0.6, "high": 0.7, "counts_as": "wrong", "maximum_share": 0.1}},
         "the locked threshold must lie in it"),
        ({"indeterminate": {"low": 0.7, "high": 0.4, "counts_as": "wrong", "maximum_share": 0.1}},
         "must exceed"),
        ({"subgroups": [{"attribute": "Ethnicity", "margin": 0.1}]}, "legal basis"),
        ({"sampling": {"design": "enriched", "weights": "reference"}}, "names two columns"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words) as raised:
        asked(**fields)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("attribute", "sensitive"),
    [("tracer", False), ("PET_tracer", False), ("embrace", False), ("brace.type", False),
     ("race", True), ("RACE", True), ("patient_race", True), ("patientRace2", True),
     ("raceEthnicity", True), ("multiethnic", True), ("sexualOrientation", True)],
)  # fmt: skip
def test_a_legal_basis_is_needed_for_a_special_category_and_not_for_a_tracer(
    attribute: str, sensitive: bool
) -> None:
    rule = {"attribute": attribute, "margin": 0.1}
    if sensitive:
        with pytest.raises(Invalid, match="legal basis"):
            asked(subgroups=[rule])
        rule["legal_basis"] = "consent"
    assert asked(subgroups=[rule]).subgroups[0].attribute == attribute


def test_a_perturbation_must_fit_the_contract() -> None:
    tensor = {"name": "image", "dtype": "float32", "shape": [8]}
    score = {"name": "p", "dtype": "float32", "shape": [1]}
    contract = {"id": "c", "version": "1", "inputs": [tensor], "outputs": [score], "score": "p"}
    rule = {"perturbation": NOISE, "metric": "auc", "maximum_drop": 0.1}
    with pytest.raises(Invalid, match="an image is"):
        asked(contract=contract, robustness=[rule])
    with pytest.raises(Invalid, match="no input 'scan'"):
        asked(contract=contract, robustness=[{**rule, "perturbation": {**NOISE, "tensor": "scan"}}])


def test_what_was_locked_before_these_questions_keeps_its_digest() -> None:
    known = "sha256:2ee1823c3d297781d18168ef9b254aacf262ffd5ded0447d08b6ab24c2996f43"
    from pathlib import Path

    from validators.protocol.read import read_protocol

    example = Path(__file__).parents[2] / "docs/examples/lesion-size.yaml"
    assert read_protocol(example).digest == known


def test_a_model_is_held_against_another_on_the_same_cases() -> None:
    table = cohort()
    random = np.random.default_rng(1)
    alike = np.clip(table.score + random.normal(0, 0.01, table.n), 0, 1)
    rules = asked(endpoints=[*BODY["endpoints"], against()])
    found = evaluate(with_further(table, other=alike), rules)
    assert outcome(found, "endpoint:auc against other") == "pass"
    comparison = found.endpoints[1].comparison
    assert comparison is not None
    assert comparison.difference is not None
    assert abs(comparison.difference) < 0.01
    better = np.where(table.positive, 0.9, 0.1)
    worse = evaluate(with_further(table, other=better), rules)
    assert outcome(worse, "endpoint:auc against other") == "fail"
    assert worse.verdict.overall == "fail"


def test_silence_of_the_model_never_helps_it_against_the_comparator() -> None:
    table = cohort(failed=0.0)
    rules = asked(endpoints=[*BODY["endpoints"], against(metric="sensitivity")])
    full = evaluate(with_further(table, other=table.score), rules).endpoints[1].comparison
    hard = table.score.copy()
    hard[(table.score < 0.5) & table.positive] = np.nan
    quiet = table.scored_by(hard)
    silent = evaluate(with_further(quiet, other=table.score), rules).endpoints[1].comparison
    assert full is not None
    assert silent is not None
    assert full.interval is not None
    assert silent.interval is not None
    assert silent.interval.low <= full.interval.low


def test_readers_who_are_worse_are_beaten_and_better_ones_are_not() -> None:
    table = cohort(800)
    random = np.random.default_rng(3)
    signal = np.where(table.positive, 1.0, 0.0)

    def readers(spread: float) -> dict[str, Any]:
        return {f"r{i}": np.round(signal * 2 + random.normal(0, spread + i / 20, table.n))
                for i in range(1, 5)}  # fmt: skip

    rules = asked(endpoints=[*BODY["endpoints"], against("readers")])
    poor = evaluate(with_further(table, **readers(3.0)), rules)
    good = evaluate(with_further(table, **readers(0.2)), rules)
    assert outcome(poor, "endpoint:auc against other") == "pass"
    assert outcome(good, "endpoint:auc against other") == "fail"
    comparison = poor.endpoints[1].comparison
    assert comparison is not None
    assert comparison.readers == 4


def test_sensitivity_against_readers_is_taken_at_their_threshold() -> None:
    table = cohort(800)
    random = np.random.default_rng(3)
    ratings = {f"r{i}": np.where(table.positive, 2, 1) + random.integers(0, 2, table.n)
               for i in range(1, 5)}  # fmt: skip
    rules = asked(endpoints=[*BODY["endpoints"], against("readers", "sensitivity", threshold=3)])
    comparison = evaluate(with_further(table, **ratings), rules).endpoints[1].comparison
    assert comparison is not None
    expected = np.mean([(table.positive & (r >= 3)).sum() / table.positive.sum()
                        for r in ratings.values()])  # fmt: skip
    assert comparison.value == pytest.approx(expected)


def test_a_missing_comparator_column_is_said() -> None:
    rules = asked(endpoints=[*BODY["endpoints"], against()])
    with pytest.raises(Invalid, match="compares with 'other'"):
        evaluate(cohort(), rules)


def test_hospitals_are_shown_one_by_one_and_judged_by_the_next_one() -> None:
    metrics = [{"metric": "auc", "floor": 0.7, "rule": "gating"}, {"metric": "sensitivity"}]
    rules = asked(sites={"attribute": "site", "metrics": metrics})
    found = evaluate(cohort(3000, groups=8), rules)
    auc, _ = found.sites
    assert [row.site for row in auc.rows] == [f"g{i}" for i in range(8)]
    assert auc.across is not None
    assert auc.across.prediction.low < auc.across.interval.low < auc.across.mean
    assert sum(row.n for row in auc.rows) == 3000
    assert outcome(found, "sites:auc") == "pass"
    assert outcome(found, "sites:sensitivity") == "not_judged"
    few = evaluate(cohort(groups=3), rules)
    assert outcome(few, "sites:auc") == "insufficient_evidence"
    assert few.verdict.overall == "insufficient_evidence"


def test_a_gap_that_turns_within_hospitals_is_flagged() -> None:
    """A group seen mostly at the hard hospital: behind in all, ahead within each."""
    random = np.random.default_rng(5)
    n = 8000
    hard = random.random(n) < 0.5
    group = random.random(n) < np.where(hard, 0.9, 0.1)
    rate = np.where(hard, 0.6, 0.9) + np.where(group, 0.05, 0.0)
    reference = np.arange(n) % 2
    right = random.random(n) < rate
    score = np.where(right == (reference == 1), 0.9, 0.1)
    table = CaseTable(
        reference, score,
        attributes={"site": np.where(hard, "hard", "easy"), "g": np.where(group, "in", "out")},
    )  # fmt: skip
    rules = asked(
        subgroups=[{"attribute": "g", "margin": 0.5}],
        sites={"metrics": [{"metric": "sensitivity"}]},
    )
    row = {of.group: of for of in evaluate(table, rules).subgroups}["in"]
    assert row.gap is not None
    assert row.gap > 0
    assert row.within_sites is not None
    assert row.within_sites.gap < 0
    assert row.within_sites.reversal == "shown"
    assert row.within_sites.opposite == 2


def test_a_drop_decides_and_a_run_that_was_not_made_does_not_pass() -> None:
    rule = {"perturbation": NOISE, "metric": "sensitivity", "maximum_drop": 0.1}
    rules = asked(robustness=[rule])
    table = cohort()
    same = evaluate(with_further(table, noise_2_image=table.score), rules)
    assert outcome(same, "robustness:noise_2_image:sensitivity") == "pass"
    random = np.random.default_rng(1)
    lost = np.where(table.positive & (random.random(table.n) < 0.5), 0.0, table.score)
    assert outcome(evaluate(with_further(table, noise_2_image=lost), rules),
                   "robustness:noise_2_image:sensitivity") == "fail"  # fmt: skip
    silent = np.where(table.positive, np.nan, table.score)
    assert evaluate(with_further(table, noise_2_image=silent), rules).verdict.overall == "fail"
    without = evaluate(table, rules)
    assert without.verdict.overall == "insufficient_evidence"
    assert "not made" in without.robustness[0].drops[0].reason


def test_a_reported_drop_changes_nothing() -> None:
    rule = {"perturbation": NOISE, "metric": "auc", "maximum_drop": 0.1, "rule": "reported"}
    assert evaluate(cohort(), asked(robustness=[rule])).verdict.overall == "pass"


def test_indeterminate_answers_are_no_failures_and_count_as_was_said() -> None:
    table = cohort()
    middle = (table.score >= 0.4) & (table.score < 0.6)
    found = {}
    for counts_as in ("positive", "negative", "wrong"):
        block = {"low": 0.4, "high": 0.6, "counts_as": counts_as, "maximum_share": 0.5}
        endpoints = [*BODY["endpoints"], {"metric": "specificity", "goal": 0.1},
                     {"metric": "auc", "rule": "reported", "role": "secondary"}]  # fmt: skip
        one = evaluate(table, asked(indeterminate=block, endpoints=endpoints))
        assert one.case_flow.indeterminate == int(middle.sum()) > 0
        assert one.case_flow.failed == 0
        found[counts_as] = [of.estimate for of in one.endpoints]
    positive, negative = table.positive, ~table.positive
    high, low = table.score >= 0.6, table.score >= 0.4
    assert found["positive"][0] == pytest.approx((positive & low).sum() / positive.sum())
    assert found["negative"][0] == pytest.approx((positive & high).sum() / positive.sum())
    assert found["wrong"][0] == found["negative"][0]
    assert found["negative"][1] == pytest.approx((negative & ~high).sum() / negative.sum())
    assert found["wrong"][1] == pytest.approx((negative & ~low).sum() / negative.sum())
    assert found["wrong"][2] == found["positive"][2] == found["negative"][2]


def test_too_many_indeterminate_answers_fail() -> None:
    block = {"low": 0.2, "high": 0.8, "counts_as": "positive", "maximum_share": 0.05}
    found = evaluate(cohort(), asked(indeterminate=block))
    assert outcome(found, "indeterminate_share") == "fail"
    assert found.verdict.overall == "fail"


def test_a_result_too_good_is_held_and_fails_nobody() -> None:
    rules = asked(
        endpoints=[{"metric": "auc", "goal": 0.7}],
        leakage={"ceilings": [{"metric": "auc", "value": 0.95}]},
    )
    held = evaluate(cohort(auc=0.999), rules)
    assert held.verdict.overall == "pass"
    assert held.leakage is not None
    assert held.leakage.outcome == "held_for_review"
    plain = evaluate(cohort(auc=0.9), rules)
    assert plain.leakage is not None
    assert plain.leakage.outcome == "clear"


def test_weights_give_back_the_prevalence_of_the_population() -> None:
    """A cohort enriched to one half positive: weighted, its calibration is the population's."""
    random = np.random.default_rng(11)
    n = 200_000
    true = random.beta(1, 9, n)
    reference = (random.random(n) < true).astype(int)
    kept = (reference == 1) | (random.random(n) < 0.1)
    weight = np.where(reference == 1, 1.0, 10.0)[kept]
    table = CaseTable(reference[kept], true[kept], weight=weight)
    endpoints = [
        *BODY["endpoints"],
        {"metric": "calibration_in_the_large", "band": [-0.1, 0.1]},
        {"metric": "calibration_slope", "band": [0.9, 1.1]},
        {"metric": "net_benefit", "role": "secondary", "rule": "reported"},
    ]
    shown = {"design": "enriched", "weights": "w"}
    rules = asked(endpoints=endpoints, sampling=shown, decision_thresholds=[0.1], threshold=0.05)
    found = evaluate(table, rules)
    assert outcome(found, "endpoint:calibration_in_the_large") == "pass"
    assert outcome(found, "endpoint:calibration_slope") == "pass"
    of_all = ((reference == 1) & (true >= 0.1)).mean() - (
        (reference == 0) & (true >= 0.1)
    ).mean() / 9
    assert found.endpoints[3].estimate == pytest.approx(of_all, abs=0.002)
    with pytest.raises(Invalid, match="depends on the cohort's prevalence"):
        asked(endpoints=endpoints, sampling={"design": "enriched"}, decision_thresholds=[0.1])
    with pytest.raises(Invalid, match="they have no weights"):
        evaluate(CaseTable(reference[kept], true[kept]), rules)


def test_rules_of_one_family_share_the_correction_of_their_fails() -> None:
    """A gap shown at alpha / 1 and not at alpha / 5: it fails alone, and not among five."""
    random = np.random.default_rng(2)
    n = 1200
    reference = np.ones(n, dtype=int)
    reference[::4] = 0
    group = np.where(np.arange(n) % 3 == 0, "a", "b")
    rate = np.where(group == "a", 0.755, 0.92)
    score = np.where(random.random(n) < rate, 0.9, 0.1)
    other = np.array(["x", "y", "z", "w"])[random.integers(0, 4, n)]
    table = CaseTable(reference, score, attributes={"sex": group, "age": other})

    def one(family: str | None) -> str:
        named = {} if family is None else {"family": family}
        rules = [{"attribute": "sex", "margin": 0.09, **named},
                 {"attribute": "age", "margin": 0.09, **named}]  # fmt: skip
        found = evaluate(table, asked(subgroups=rules, endpoints=[{"metric": "sensitivity",
                                                                   "goal": 0.5}]))  # fmt: skip
        return outcome(found, "subgroup:sex=a:sensitivity")

    assert one(None) == "fail"
    assert one("all") == "insufficient_evidence"


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ({"endpoints": [*BODY["endpoints"], against(margin=0.1)]}, "margin 0.1 is wider than 0.05"),
        (
            {"endpoints": [*BODY["endpoints"], against(threshold=0.9)]},
            "threshold of the comparator",
        ),
        ({"endpoints": BODY["endpoints"]}, "auc against other: it decides no more"),
        ({"sites": None}, "sites auc: it decides no more"),
        ({"sites": {"metrics": [{"metric": "auc", "floor": 0.6, "rule": "gating"}]}}, "lower"),
        ({"robustness": []}, "noise_2_image auc: it decides no more"),
        ({"robustness": [{"perturbation": NOISE, "metric": "auc", "maximum_drop": 0.2}]}, "wider"),
        ({"leakage": None}, "the ceiling of sensitivity is higher or gone"),
        ({"indeterminate": None}, "indeterminate is another one"),
        ({"repeatability": {"cases": 10}}, "repeatability.cases is lower"),
        ({"pilot_mode": "assistive"}, "no longer shadow"),
    ],
)
def test_an_amendment_never_asks_these_more_loosely(later: dict[str, Any], words: str) -> None:
    body: dict[str, Any] = {
        **BODY,
        "endpoints": [*BODY["endpoints"], against()],
        "sites": {"metrics": [{"metric": "auc", "floor": 0.7, "rule": "gating"}]},
        "robustness": [{"perturbation": NOISE, "metric": "auc", "maximum_drop": 0.1}],
        "leakage": {"ceilings": [{"metric": "sensitivity", "value": 0.99}]},
        "indeterminate": {"low": 0.4, "high": 0.6, "counts_as": "wrong", "maximum_share": 0.1},
    }
    earlier = parse_protocol(body)
    assert looser(earlier, parse_protocol({**body, "title": "new words"})) == ()
    changed = {key: value for key, value in {**body, **later}.items() if value is not None}
    assert any(words in said for said in looser(earlier, parse_protocol(changed)))
