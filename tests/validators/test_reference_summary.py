"""What a pilot's drift is measured against says nothing that the report withholds."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.canonical import canonical
from tests.validators import evidence_made as made
from validators.cohort.manifest import Counts
from validators.report.disclosure import release
from validators.report.reference_summary import OTHERS, ReferenceSummary, _joined, _shares

PROTOCOL = made.protocol()


@dataclass(frozen=True)
class OtherVersion:
    counts: Counts
    attributes: dict[str, dict[str, Counts]]


def summary(n: int = 400, **how: object) -> ReferenceSummary:
    report = made.report(made.cases(n, **how), PROTOCOL)  # type: ignore[arg-type]
    found = release(report, "monitoring", PROTOCOL.disclosure, score="probability")
    return ReferenceSummary.model_validate_json(json.dumps(found))


def test_scores_are_those_of_the_cohort_in_bins_that_can_be_counted() -> None:
    of = summary().score
    assert of is not None
    assert of.name == "probability"
    table = made.cases(400)
    counts = np.histogram(table.score, of.edges)[0]
    assert counts.min() >= PROTOCOL.disclosure.minimum_group
    assert np.abs(counts / 400 - of.shares).max() <= 1e-4
    assert len(of.shares) > 5
    assert math.fsum(of.shares) == pytest.approx(1, abs=1e-12)


def test_calibration_bins_hold_k_of_each_class_and_are_unions_of_the_others() -> None:
    found = summary()
    assert found.calibration is not None
    assert found.score is not None
    edges, table = found.calibration.edges, made.cases(400)
    assert set(edges) <= set(found.score.edges)
    for positive in (True, False):
        assert np.histogram(table.score[table.positive == positive], edges)[0].min() >= 10
    up = np.histogram(table.score[table.positive], edges)[0]
    every = np.histogram(table.score, edges)[0]
    assert np.abs(up / every - found.calibration.observed).max() <= 1e-4


def test_the_rest_is_what_the_report_says() -> None:
    report = made.report()
    released, found = release(report, "certified", PROTOCOL.disclosure), summary()
    assert found.cases == released["cases"]["n"] == 400
    assert found.prevalence == round(released["cases"]["positives"] / 400, 4)
    endpoints = {of["metric"]: of for of in released["endpoints"]}
    assert found.performance["auc"].model_dump() == {
        name: endpoints["auc"][name] for name in ("estimate", "interval")
    }
    sexes = made.cases().attributes["sex"]
    assert found.attributes["sex"]["male"] == pytest.approx((sexes == "male").mean(), abs=1e-4)
    assert math.fsum(found.attributes["site"].values()) == pytest.approx(1)


def test_small_groups_are_together_among_the_others() -> None:
    sites = np.array(["head"] * 6 + ["leg"] * 60 + ["trunk"] * 334)
    table = made.cases(400, attributes={"site": sites})
    report = made.report(table)
    found = release(report, "monitoring", PROTOCOL.disclosure)["attributes"]["site"]
    assert "head" not in found
    assert found[OTHERS] * 400 >= 10


@pytest.mark.parametrize("how", [{"n": 24}, {"failed": 3}])
def test_scores_are_withheld_where_they_would_give_a_few_cases_away(how: dict[str, int]) -> None:
    found = summary(**how)  # type: ignore[arg-type]
    assert found.score is None
    assert found.calibration is None


def test_failures_that_can_be_counted_leave_the_scores() -> None:
    assert summary(failed=20).score is not None


def test_a_class_that_another_version_would_give_away_takes_the_scores_along() -> None:
    report = made.report()
    flow = report.case_flow
    fewer = Counts(
        cases=397, patients=397, positives=(flow.positives or 0) - 3, negatives=flow.negatives or 0
    )
    other = OtherVersion(fewer, {})
    found = release(report, "monitoring", PROTOCOL.disclosure, [other])
    assert found["score"] is None
    assert found["prevalence"] is None


def test_the_same_report_gives_the_same_bytes() -> None:
    report = made.report()
    one, two = (canonical(release(report, "monitoring", PROTOCOL.disclosure)) for _ in range(2))
    assert one == two


@settings(max_examples=200, deadline=None)
@given(cells=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=20, max_size=20))
def test_every_bin_has_k_cases_and_none_is_lost(cells: list[tuple[int, int]]) -> None:
    counts = [(number / 20, up, down) for number, (up, down) in enumerate(cells)]
    joined = _joined(counts, 10)
    if not joined:
        assert sum(map(sum, cells)) < 10
        return
    assert joined[0][0] == 0.0
    assert all(up + down >= 10 for _, up, down in joined)
    assert sum(up + down for _, up, down in joined) == sum(map(sum, cells))


@given(counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
def test_shares_add_up_and_are_off_by_less_than_a_step(counts: list[int]) -> None:
    shares = _shares(counts)
    assert math.fsum(shares) == pytest.approx(1, abs=1e-12)
    assert all(abs(a - c / sum(counts)) < 1e-4 for a, c in zip(shares, counts, strict=True))
