"""A new version against the certified one: numbers by other means, silence, what is released."""

import datetime as dt
import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from registry.trust.canonical import canonical
from tests.validators import evidence_made as made
from validators.cases import CaseTable
from validators.comparators.predecessor import against_certified
from validators.comparators.predecessor_evidence import (
    CertifiedVersion,
    PredecessorEvidence,
    VersionDifference,
)
from validators.evaluate import evaluate
from validators.evidence import Report
from validators.metrics.segmentation_table import SegmentationTable
from validators.protocol.schema import Disclosure, Endpoint, Protocol
from validators.report.build import report_bytes
from validators.report.disclosure import release
from validators.report.html import report_html
from validators.report.pdf import NamedRun, report_pdf
from validators.report.pdf_data import pdf_data
from validators.report.schema import report_schema
from validators.report.words import predecessor_in_words

DIGESTS = {
    name: "sha256:" + letter * 64
    for name, letter in
    (("certificate", "1"), ("model", "2"), ("protocol", "3"), ("predictions", "4"))
}  # fmt: skip
BEFORE = CertifiedVersion(version=6, **DIGESTS)
RULES = made.protocol(attributes=())
RUN = NamedRun("lumen/nodule-net 7", "CN=Test facility")
ISSUED = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)


def older(table: CaseTable, seed: int = 5, spread: float = 0.8) -> CaseTable:
    """The same cases by a version that is somewhat worse."""
    noise = np.random.default_rng(seed).normal(size=table.n)
    logit = np.log(table.score / (1 - table.score))
    return replace(table, score=1 / (1 + np.exp(-(logit + spread * noise))), failed_by_code={})


def section(
    new: CaseTable, old: CaseTable, rules: Protocol = RULES, earlier: Protocol | None = None
) -> PredecessorEvidence:
    found = evaluate(new, rules).endpoints
    return against_certified(new, old, rules, earlier or rules, BEFORE, found)


def rows(found: PredecessorEvidence) -> dict[str, VersionDifference]:
    return {row.metric: row for row in found.endpoints}


def reported(found: PredecessorEvidence | None, table: CaseTable) -> Report:
    whole = made.report(table, RULES)
    return Report.model_validate(
        whole.model_dump() | {"predecessor": None if found is None else found.model_dump()}
    )


def test_each_difference_and_interval_by_other_means() -> None:
    """AUC and shares by a bootstrap of patients, Brier by scipy's paired t."""
    rules = made.protocol(attributes=(), cluster="patient")
    new = made.cases(600, patients=True)
    old = older(new)
    found = rows(section(new, old, rules))
    y = new.reference

    def differences(chosen: Any) -> tuple[float, float, float]:
        a, b, truth = new.score[chosen], old.score[chosen], y[chosen] == 1
        calls = [(of >= 0.5) for of in (a, b)]
        return (
            area(truth, a) - area(truth, b),
            float(calls[0][truth].mean() - calls[1][truth].mean()),
            float(calls[1][~truth].mean() - calls[0][~truth].mean()),
        )

    def area(truth: Any, score: Any) -> float:
        m = int(truth.sum())
        above = float(stats.rankdata(score)[truth].sum()) - m * (m + 1) / 2
        return above / (m * (len(truth) - m))

    assert area(y == 1, new.score) == pytest.approx(roc_auc_score(y, new.score))
    exact = differences(np.arange(new.n))
    cases = [np.flatnonzero(new.patient == code) for code in range(200)]
    rng = np.random.default_rng(3)
    drawn = np.array([differences(np.concatenate([cases[k] for k in rng.integers(0, 200, 200)]))
                      for _ in range(400)])  # fmt: skip
    for i, metric in enumerate(("auc", "sensitivity", "specificity")):
        row = found[metric]
        assert row.difference == pytest.approx(exact[i], abs=1e-12)
        assert row.difference == pytest.approx(row.new - row.certified, abs=1e-12)
        ends = np.quantile(drawn[:, i], (0.025, 0.975))
        # Wider by what was not seen, never by more than a sixth of the bootstrap's width.
        assert row.interval.low - ends[0] == pytest.approx(0, abs=np.ptp(ends) / 6)
        assert row.interval.high - ends[1] == pytest.approx(0, abs=np.ptp(ends) / 6)
        assert row.interval.level == 0.95
        assert row.clusters <= 200
    assert (found["auc"].n, found["auc"].clusters) == (600, 200)
    assert found["sensitivity"].n == int(y.sum())
    loss = [(of.score - y) ** 2 for of in (new, old)]
    assert found["brier"].difference == pytest.approx(float((loss[0] - loss[1]).mean()))
    alone = rows(section(replace(new, patient=None), replace(old, patient=None)))["brier"]
    by_scipy = stats.ttest_rel(*loss).confidence_interval(0.95)
    assert (alone.interval.low, alone.interval.high) == pytest.approx(tuple(by_scipy), rel=1e-9)
    assert alone.interval.method == "robust t"
    assert found["calibration_slope"].certified is not None
    assert found["calibration_slope"].interval is None
    assert "no paired interval" in found["calibration_slope"].reason
    assert found["failure_rate"].difference == 0.0


def test_a_difference_of_masks_by_weights_drawn_anew() -> None:
    """Gaffke's bound by its definition: uniform weights on the cases and one end of the scale."""
    rng = np.random.default_rng(4)
    dice = [np.clip(0.8 + 0.1 * rng.normal(size=80) + by, 0, 1) for by in (0.05, 0.0)]
    new, old = (
        SegmentationTable(values={f"{kind}_organ": of for kind in ("dice", "nsd", "hd95")}
                          | {"volume_error_organ": of - 1})
        for of in dice
    )  # fmt: skip
    rules = Protocol.model_validate(
        made.protocol(attributes=()).model_dump(mode="json")
        | {"task": "segmentation", "threshold": None, "subgroups": [],
           "segmentation": {"structures": [{"name": "organ", "tolerance": 1.0}],
                            "maximum_distance": 20.0},
           "endpoints": [{"metric": "dice_organ", "goal": 0.5},
                         {"metric": "volume_error_organ", "role": "secondary",
                          "rule": "reported"}]}
    )  # fmt: skip
    found = against_certified(new, old, rules, rules, BEFORE, evaluate(new, rules).endpoints)
    of = rows(found)["dice_organ"]
    each = np.sort(dice[0] - dice[1])
    weight = rng.dirichlet(np.ones(81), 40_000)
    low, high = (np.quantile(weight @ np.append(each, end), q)
                 for end, q in ((-1.0, 0.025), (1.0, 0.975)))  # fmt: skip
    assert of.difference == pytest.approx(each.mean())
    assert (of.interval.low, of.interval.high) == pytest.approx((low, high), abs=2e-3)
    assert rows(found)["volume_error_organ"].interval is None
    assert found.changed is None
    assert found.threshold is None


def test_a_change_of_the_threshold_alone_shows_in_shares_and_sides_and_not_in_the_auc() -> None:
    new = made.cases()
    earlier = made.protocol(attributes=(), threshold=0.3)
    found = section(new, new, RULES, earlier)
    assert found.threshold == 0.3
    moved = (new.score >= 0.3) & (new.score < 0.5)
    assert found.changed is not None
    assert found.changed.model_dump() == {
        "cases": 400, "to_positive": 0, "to_negative": int(moved.sum())
    }  # fmt: skip
    assert rows(found)["auc"].difference == 0.0
    lost = float((moved & new.positive).sum() / new.positive.sum())
    assert rows(found)["sensitivity"].difference == pytest.approx(-lost)
    assert rows(found)["specificity"].difference > 0


def test_silence_never_flatters_the_new_version_and_its_cases_have_no_side() -> None:
    new, old = made.cases(), older(made.cases())
    whole, failed = rows(section(new, old)), np.arange(400) < 20
    quiet = replace(new, score=np.where(failed, np.nan, new.score))
    silent_before = replace(old, score=np.where(failed, np.nan, old.score))
    for changed in (section(quiet, old), section(new, silent_before)):
        for metric in ("auc", "sensitivity", "specificity"):
            one, of = rows(changed)[metric], whole[metric]
            assert one.difference <= of.difference
            assert one.interval.low <= of.interval.low
            assert one.interval.high <= of.interval.high + 1e-12
        assert rows(changed)["brier"].difference > whole["brier"].difference
        assert changed.changed is not None
        assert changed.changed.cases == 380
    assert rows(section(quiet, old))["failure_rate"].difference == 0.05
    assert section(new, silent_before).failed == 20


def test_without_a_certified_version_a_report_is_what_it_was() -> None:
    table = made.cases()
    said = json.loads(report_bytes(reported(None, table)))
    assert "predecessor" not in said
    assert report_bytes(reported(None, table)) == report_bytes(made.report(table, RULES))
    assert "predecessor" not in release(reported(None, table), "certified", Disclosure())
    assert "Against the certified version" not in report_html(reported(None, table))
    jsonschema.validate(said, report_schema())


def test_what_is_released_is_rounded_and_says_nothing_of_few_cases() -> None:
    table, disclosure = made.cases(), Disclosure()
    found = section(table, older(table))
    report = reported(found, table)
    jsonschema.validate(json.loads(report_bytes(report)), report_schema())
    shown = release(report, "certified", disclosure)["predecessor"]
    assert shown["certified"] == {"version": 6} | {
        name: of for name, of in DIGESTS.items() if name != "predictions"
    }
    assert (shown["cases"], shown["changed"]["cases"]) == (400, 400)
    assert shown["changed"]["to_positive"] == found.changed.to_positive >= 10
    for row, exact in zip(shown["endpoints"], found.endpoints, strict=True):
        for name in ("certified", "new", "difference"):
            assert row[name] == pytest.approx(getattr(exact, name), abs=0.005) or row[name] is None
        if exact.interval is not None:
            assert row["interval"]["low"] <= exact.interval.low
            assert row["interval"]["high"] >= exact.interval.high
    assert (
        DIGESTS["predictions"] not in canonical(release(report, "certified", disclosure)).decode()
    )
    for audience in ("innovator_open", "monitoring"):
        told = release(report, audience, disclosure)  # type: ignore[arg-type]
        assert DIGESTS["certificate"] not in str(told)

    few = replace(older(table), score=np.where(np.arange(400) < 3, 1 - table.score, table.score))
    near = section(table, few)
    assert 0 < near.changed.to_positive + near.changed.to_negative < 4
    changed = release(reported(near, table), "certified", disclosure)["predecessor"]["changed"]
    assert set(changed.values()) == {None}

    silent = replace(older(table), score=np.where(np.arange(400) < 20, np.nan, table.score))
    shown = release(reported(section(table, silent), table), "certified", disclosure)["predecessor"]
    assert shown["changed"]["cases"] is None, "400 less it is how many failed"
    for row in shown["endpoints"]:
        assert (row["difference"], row["interval"]) == (None, None), "it tells who failed, by class"
        assert row["new"] is not None


def test_people_read_it_in_the_page_the_pdf_and_on_the_screen() -> None:
    table = made.cases()
    report = reported(section(table, older(table)), table)
    page = report_html(report)
    assert "Version 6 of the same model held a certificate" in page
    assert "spends no alpha" in page
    released = release(report, "certified", Disclosure())
    (part,) = [of for of in pdf_data(released, RUN, ISSUED)["further"]
               if of["title"] == "Against the certified version"]  # fmt: skip
    assert [row["cells"][0] for row in part["rows"]][:2] == ["Sensitivity", "AUC"]
    assert "spends no alpha" in part["note"]
    assert report_pdf(released, RUN, ISSUED, ISSUED).startswith(b"%PDF")
    lines = predecessor_in_words(json.loads(report_bytes(report))["predecessor"])
    assert lines[0].startswith("against the certified version 6, new less certified: sensitivity")
    assert "decides nothing" in lines[1]


def test_what_can_t_be_compared_says_so_everywhere() -> None:
    table, why = made.cases(), "it was run on the cohort nodules 1, and this one on nodules 2"
    report = reported(PredecessorEvidence(certified=BEFORE, not_compared=why), table)
    released = release(report, "certified", Disclosure())
    assert released["predecessor"]["not_compared"] == why
    assert released["predecessor"]["cases"] is None
    assert f"Nothing was compared: {why}." in report_html(report)
    (part,) = [of for of in pdf_data(released, RUN, ISSUED)["further"]
               if of["title"] == "Against the certified version"]  # fmt: skip
    assert why in part["note"]
    assert part["rows"] == []
    assert report_pdf(released, RUN, ISSUED, ISSUED).startswith(b"%PDF")
    assert predecessor_in_words(released["predecessor"]) == [
        f"against the certified version 6: {why}"
    ]


def test_an_endpoint_that_is_asked_twice_stands_once() -> None:
    table = replace(made.cases(), further={"clinic_model": older(made.cases()).score})
    other = {"name": "clinic_model", "kind": "model", "margin": 0.05}
    asked = Endpoint.model_validate(
        {"metric": "auc", "comparator": other, "role": "secondary", "rule": "reported"}
    )
    rules = made.protocol(attributes=(), endpoints=(*RULES.endpoints, asked))
    found = section(table, older(table), rules)
    assert [row.metric for row in found.endpoints] == [of.metric for of in RULES.endpoints]
