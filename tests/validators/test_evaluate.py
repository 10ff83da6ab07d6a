"""The whole evaluation: its laws, its edges, and what real data must give."""

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid
from tests.validators.made import protocol, table_of
from validators.cases import CaseTable
from validators.evaluate import Evaluation, evaluate
from validators.intervals.auc import area, paired_difference
from validators.protocol.schema import Endpoint, SubgroupRule

LESIONS = Path(__file__).parents[3] / "shared" / "data" / "lesion-size-2020"
ORDER = ("fail", "insufficient_evidence", "conditional", "pass")
RULES = (
    SubgroupRule(attribute="site", metric="sensitivity", margin=0.3, minimum=2),
    SubgroupRule(attribute="site", metric="auc", margin=0.3, floor=0.6, minimum=2),
    SubgroupRule(attribute="site", metric="specificity", floor=0.4, minimum=2,
                 if_insufficient="conditional"),
)  # fmt: skip


def plain(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON values; canonical JSON refuses NaN and infinity."""
    return json.loads(canonical({
        "endpoints": [row.model_dump(mode="json") for row in evaluation.endpoints],
        "complete_case": [row.model_dump(mode="json") for row in evaluation.complete_case],
        "subgroups": [row.model_dump(mode="json") for row in evaluation.subgroups],
        "case_flow": evaluation.case_flow.model_dump(mode="json"),
        "verdict": evaluation.verdict.model_dump(mode="json"),
        "curves": evaluation.curves.model_dump(mode="json"),
    }))  # fmt: skip


def outcomes(evaluation: Evaluation) -> dict[str, str]:
    """Every judged rule and the overall verdict."""
    found: dict[str, str] = {rule.id: rule.outcome for rule in evaluation.verdict.rules}
    found["overall"] = evaluation.verdict.overall
    return {name: outcome for name, outcome in found.items() if outcome != "not_judged"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(30, 250), st.data())
def test_making_predictions_fail_never_improves_an_outcome(seed, clustered, n, data):
    rng = np.random.default_rng(seed)
    table = table_of(
        rng, n, auc=data.draw(st.sampled_from([0.7, 0.9, 0.97, 0.999])), failed=0.02,
        patients=max(4, n // 3) if clustered else None, groups=2,
    )  # fmt: skip
    asked = protocol(*RULES, cluster="patient" if clustered else None)
    score = np.array(table.score)
    silenced = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=12, unique=True))
    score[silenced] = np.nan
    silent = CaseTable(
        reference=table.reference, score=score, patient=table.patient, attributes=table.attributes
    )
    before, after = outcomes(evaluate(table, asked)), outcomes(evaluate(silent, asked))
    for rule, outcome in after.items():
        assert ORDER.index(outcome) <= ORDER.index(before[rule]), rule


def test_leaving_errors_out_does_not_turn_a_fail_into_a_pass():
    """85 right of 100 against .80; withholding ten errors would give 85 of 90."""
    score = np.concatenate([np.full(85, 0.9), np.full(15, 0.1), np.full(100, 0.1)])
    asked = protocol(endpoints=(Endpoint(metric="sensitivity", goal=0.8),))
    withheld = score.copy()
    withheld[85:95] = np.nan
    reference = np.arange(200) < 100
    before = evaluate(CaseTable(reference=reference, score=score), asked)
    after = evaluate(CaseTable(reference=reference, score=withheld), asked)
    assert before.endpoints[0].outcome == "insufficient_evidence"
    assert after.endpoints[0].estimate == before.endpoints[0].estimate
    assert after.endpoints[0].outcome == "insufficient_evidence"
    complete = after.complete_case[0]
    assert complete.interval is not None
    assert complete.n == 90
    assert complete.interval.low > 0.8


@pytest.mark.parametrize("patients", [None, 90])
def test_the_order_of_cases_and_the_codes_of_patients_do_not_matter(patients):
    rng = np.random.default_rng(5)
    table = table_of(rng, 240, failed=0.03, patients=patients)
    order = rng.permutation(240)
    other = CaseTable(
        reference=table.reference[order],
        score=table.score[order],
        patient=None if table.patient is None else (table.patient[order] * 7919 - 10**9),
        attributes={name: column[order] for name, column in table.attributes.items()},
    )
    asked = protocol(*RULES, cluster="patient" if patients else None)
    first, second = plain(evaluate(table, asked)), plain(evaluate(other, asked))
    assert outcomes(evaluate(table, asked)) == outcomes(evaluate(other, asked))
    for row, same in zip(first["endpoints"], second["endpoints"], strict=True):
        assert row["estimate"] == pytest.approx(same["estimate"], rel=1e-9)
        assert row["interval"]["low"] == pytest.approx(same["interval"]["low"], rel=1e-7)


def test_the_same_table_gives_the_same_bytes():
    table = table_of(np.random.default_rng(6), 300, failed=0.02, patients=120)
    asked = protocol(*RULES, cluster="patient")
    assert canonical(plain(evaluate(table, asked))) == canonical(plain(evaluate(table, asked)))


def _edge(name: str) -> CaseTable:
    reference = np.arange(120) >= 20
    score = {
        "perfect": reference.astype(float),
        "upside down": 1.0 - reference,
        "constant": np.full(120, 0.3),
        "all failed": np.full(120, np.nan),
        "positives failed": np.where(reference, np.nan, 0.2),
        "two cases": np.array([0.2, 0.9]),
        "one positive": np.linspace(0, 1, 120),
    }[name]
    if name == "two cases":
        reference = np.array([False, True])
    if name == "one positive":
        reference = np.arange(120) == 17
    return CaseTable(
        reference=reference,
        score=score,
        patient=np.arange(len(score)) // 3,
        attributes={"site": np.array(["a", "b"])[np.arange(len(score)) % 2]},
    )


EDGES = ["perfect", "upside down", "constant", "all failed", "positives failed", "two cases",
         "one positive"]  # fmt: skip


@pytest.mark.parametrize("cluster", [None, "patient"])
@pytest.mark.parametrize("name", EDGES)
def test_at_the_edges_nothing_is_nan_and_no_judged_interval_has_zero_width(name, cluster):
    found = evaluate(_edge(name), protocol(*RULES, cluster=cluster))
    plain(found)  # refuses NaN and infinity
    for row in (*found.endpoints, *found.subgroups):
        assert row.reason
        if row.estimate is None:
            assert row.interval is None
        elif row.interval is not None:
            assert row.interval.low <= row.estimate <= row.interval.high
            assert row.interval.high > row.interval.low
    if name == "perfect":
        assert "fail" not in outcomes(found).values()
    if name in ("all failed", "upside down"):
        assert found.verdict.overall == "fail"


def test_a_protocol_s_attribute_must_be_in_the_cases():
    table = table_of(np.random.default_rng(7), 50)
    with pytest.raises(Invalid, match=r"'hospital', which the cases lack; they have: site"):
        evaluate(table, protocol(SubgroupRule(attribute="hospital", margin=0.1)))


def test_a_clustered_protocol_needs_patients():
    table = table_of(np.random.default_rng(8), 50)
    with pytest.raises(Invalid, match="name no patients"):
        evaluate(table, protocol(cluster="patient"))


def test_the_case_flow_counts_every_case_once():
    made = table_of(np.random.default_rng(9), 100, patients=40)
    score = np.array(made.score)
    score[:5] = np.nan
    table = CaseTable(
        reference=made.reference, score=score, patient=made.patient,
        attributes=made.attributes, failed_by_code={"timeout": 5}, excluded={"rating 3": 7},
    )  # fmt: skip
    flow = evaluate(table, protocol()).case_flow
    assert (flow.sealed, flow.scored, flow.failed) == (100, 95, 5)
    assert flow.positives + flow.negatives == 100
    assert flow.patients == len(np.unique(made.patient))
    assert (flow.failed_by_code, flow.excluded) == ({"timeout": 5}, {"rating 3": 7})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reference": [1, 1, 1]}, "all 3 cases are positive"),
        ({"reference": [0, 0, 0]}, "all 3 cases are negative"),
        ({"reference": [0, 1, 2]}, "neither 0 nor 1 in 1 of 3"),
        ({"reference": []}, "no case"),
        ({"reference": [0, 1]}, "score has 3 rows, the reference standard has 2"),
        ({"score": [0.1, 1.2, -0.1]}, "2 of 3 scores lie outside"),
        ({"score": [0.1, math.inf, 0.2]}, "1 of 3 scores lie outside"),
        ({"score": ["0.1", "0.2", "0.3"]}, "must be numbers"),
        ({"patient": ["p1", "p2", "p3"]}, "whole-number codes"),
        ({"patient": [1, 2]}, "patient has 2 rows"),
        ({"attributes": {"site": ["a"]}}, "site has 1 rows"),
        ({"failed_by_code": {"timeout": 2}}, "2 cases have a failure code, and only 0"),
        ({"excluded": {"rating": -1}}, "negative count"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused_by_counts(fields, message):
    values = {"reference": [0, 1, 1], "score": [0.1, 0.7131, 0.3], **fields}
    with pytest.raises(Invalid, match=message) as raised:
        CaseTable(**{
            name: value if isinstance(value, dict) else np.array(value)
            for name, value in values.items()
        })  # fmt: skip
    assert "0.7131" not in str(raised.value)


def test_a_table_can_t_be_changed_after_it_was_checked_and_shows_no_case():
    table = CaseTable(reference=np.array([0, 1]), score=np.array([0.1317, np.nan]))
    with pytest.raises(ValueError, match="read-only"):
        table.score[0] = 7
    assert "0.1317" not in repr(table)


def test_a_hundred_thousand_cases_in_thirty_groups_take_seconds():
    table = table_of(np.random.default_rng(10), 100_000, patients=40_000, groups=30, failed=0.01)
    rules = tuple(
        SubgroupRule(attribute="site", metric=metric, margin=0.1)
        for metric in ("sensitivity", "auc")
    )
    start = time.process_time()
    found = evaluate(table, protocol(*rules, cluster="patient"))
    assert time.process_time() - start < 15
    assert len(found.subgroups) == 60


def lesions(revision: str = "d0468cf") -> list[dict[str, str]]:
    path = LESIONS / f"lesion-size-2020_metadata.{revision}.csv"
    if not path.is_file():
        pytest.skip("the lesion-size-2020 table is not beside this checkout (../shared/data)")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lesion_table(rows: list[dict[str, str]], score: str = "adae_score") -> CaseTable:
    bands = {True: "below 50", False: "50 and over"}
    age = [bands[float(row["age"]) < 50] if row["age"] else "unknown" for row in rows]
    return CaseTable(
        reference=np.array([int(float(row["target"])) for row in rows]),
        score=np.array([float(row[score]) for row in rows]),
        attributes={
            "tiny": np.array([row["tiny"] for row in rows]),
            "sex": np.array([row["sex"] for row in rows]),
            "site": np.array([row["anatom_site_general"] for row in rows]),
            "age": np.array(age),
        },
    )


@pytest.mark.parametrize(
    ("score", "full", "large", "tiny"),
    [("adae_score", 0.810, 0.816, 0.752), ("crowd_score", 0.703, 0.673, 0.658)],
)
def test_real_lesions_give_the_aucs_that_their_authors_printed(score, full, large, tiny):
    table = lesion_table(lesions(), score)
    small = table.attributes["tiny"] == "1"
    for chosen, value in ((np.ones(len(small), bool), full), (~small, large), (small, tiny)):
        found = area(table.score[chosen], table.positive[chosen])
        assert found.value == pytest.approx(value, abs=5.1e-4)


def test_real_lesions_show_a_gap_for_small_ones_and_none_between_the_sexes():
    rules = (
        SubgroupRule(attribute="tiny", margin=0.1),
        SubgroupRule(attribute="sex", metric="auc", margin=0.1),
        SubgroupRule(attribute="site", margin=0.1, rule="reported"),
        SubgroupRule(attribute="age", margin=0.1, rule="reported"),
    )
    found = evaluate(lesion_table(lesions()), protocol(*rules, threshold=0.05))
    rows = {(row.attribute, row.group): row for row in found.subgroups}
    assert rows["tiny", "1"].estimate == pytest.approx(0.462, abs=5e-4)
    assert rows["tiny", "0"].estimate == pytest.approx(0.874, abs=5e-4)
    assert rows["tiny", "1"].outcome == "fail"
    assert rows["tiny", "1"].adjusted_p is not None
    assert rows["tiny", "1"].adjusted_p < 1e-4
    sexes = sorted(round(rows["sex", sex].estimate or 0, 3) for sex in ("female", "male"))
    assert sexes == [0.802, 0.810]
    assert {rows["sex", sex].outcome for sex in ("female", "male")} == {"pass"}
    for nothing in (("site", "oral/genital"), ("site", "palms/soles")):
        assert rows[nothing].estimate is None
        assert rows[nothing].outcome == "insufficient_evidence"
    assert rows["age", "below 50"].positives == 7
    assert rows["age", "below 50"].outcome == "insufficient_evidence"


def test_the_rerun_of_the_lesion_model_does_not_differ():
    first = {row["image_name"]: row for row in lesions()}
    pairs = [(first[row["CI_name"]], row) for row in lesions("8f78292") if row["CI_name"] in first]
    positive = np.array([int(float(a["target"])) == 1 for a, _ in pairs])
    scores = [
        np.array([float(row["adae_score"]) for row in side]) for side in zip(*pairs, strict=True)
    ]
    gap, p = paired_difference(scores[0], scores[1], positive)
    assert gap == pytest.approx(0.0008, abs=5e-5)
    assert p == pytest.approx(0.48, abs=5e-3)
