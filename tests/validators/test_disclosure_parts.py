"""What leaves of the further evidence, of other versions' counts, and of other task types."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.trust.canonical import canonical
from tests.validators.evidence_made import (
    asking_everything,
    cases_for_everything,
    drifted,
    everything,
    report,
)
from tests.validators.test_disclosure import RULES, Groups, K, _floats, _made, _ranges, cohorts
from validators.cohort.manifest import Counts
from validators.evidence import Report
from validators.report.disclosure import SUPPRESSED, release
from validators.report.suppression import Cell, Version, withheld
from validators.report.withheld import CountTable
from validators.sites.evidence import WithinSites

ALL = everything()
Sides = ("positives", "negatives")


class Other:
    """The counts of another version, as its manifest has them."""

    def __init__(self, attributes: dict[str, Groups], patients: int = 0) -> None:
        totals = next(iter(attributes.values())).values()
        self.counts = _counts(Cell(*(sum(cell[i] for cell in totals) for i in (0, 1))), patients)
        self.attributes = {
            name: {group: _counts(cell) for group, cell in groups.items()}
            for name, groups in attributes.items()
        }


def _counts(cell: Cell, patients: int = 0) -> Counts:
    return Counts(cases=sum(cell), patients=patients, positives=cell[0], negatives=cell[1])


def released_of(made: Report, *others: CountTable) -> dict[str, Any]:
    return release(made, "certified", RULES, others)


def test_a_comparison_leaves_rounded_and_without_what_the_comparator_reached() -> None:
    rows = [row for row in released_of(ALL)["endpoints"] if "comparison" in row]
    assert [row["comparison"]["name"] for row in rows] == ["clinic_model", "the_readers"]
    for row in rows:
        of = row["comparison"]
        assert set(of) == {"name", "kind", "margin", "difference", "interval"}
        exact = next(
            found.comparison
            for found in ALL.endpoints
            if found.comparison is not None and found.comparison.name == of["name"]
        )
        assert exact.interval is not None
        assert of["difference"] == round(exact.difference or 0, 2)
        assert exact.interval.low - 0.01 < of["interval"]["low"] <= exact.interval.low
        assert exact.interval.high <= of["interval"]["high"] < exact.interval.high + 0.01


def test_no_hospital_is_named_or_counted() -> None:
    rules = asking_everything()
    by_hospital = [
        {"attribute": "hospital", "metric": "sensitivity", "margin": 0.2},
        {"attribute": "sex", "crossed_with": ("hospital",), "metric": "auc", "rule": "reported",
         "margin": 0.2},
    ]  # fmt: skip
    asked = asking_everything(subgroups=(*rules.subgroups, *by_hospital))
    made = report(cases_for_everything(), asked)
    assert any("hospital 3" in rule.id for rule in made.verdict.rules)
    verdict = made.verdict.model_copy(
        update={
            "overall": "conditional",
            "rules": tuple(
                rule.model_copy(update={"outcome": "insufficient_evidence"})
                if "hospital=" in rule.id
                else rule
                for rule in made.verdict.rules
            ),
        }
    )
    released = released_of(made.model_copy(update={"verdict": verdict}))
    text = canonical(released).decode()
    assert "hospital 0" not in text
    assert "hospital 3" not in text
    assert released["verdict"]["conditions"].count(
        "sensitivity within single hospitals: not shown; the evidence is insufficient"
    ) == 1  # fmt: skip


@pytest.mark.parametrize(("hospitals", "n", "shown"), [(6, 900, True), (4, 900, False),
                                                       (20, 500, False)])  # fmt: skip
def test_what_hospitals_share_leaves_only_where_five_or_more_can_be_counted(
    hospitals: int, n: int, shown: bool
) -> None:
    made = report(cases_for_everything(n, hospitals=hospitals), asking_everything())
    for row, exact in zip(released_of(made)["sites"], made.sites, strict=True):
        numbers = {"hospitals", "mean", "interval", "prediction"}
        assert {row[key] is not None for key in numbers} == {shown}
        assert row["outcome"] == exact.outcome
        assert set(row) == numbers | {"metric", "floor", "rule", "outcome"}


@pytest.mark.parametrize(("failed", "shown"), [(0, True), (12, False)])
def test_a_gap_within_hospitals_leaves_with_a_shown_group_where_nothing_failed(
    failed: int, shown: bool
) -> None:
    released = released_of(everything(failed=failed))
    rows = [row for row in released["subgroups"] if row["metric"] != "auc"]
    assert {"within_sites" in row for row in rows} == {shown}
    if shown:
        assert all(set(row["within_sites"]) == {"gap", "reversal"} for row in rows)


def test_a_withheld_group_shows_no_reversal() -> None:
    made = _made({"site": {"a": Cell(4, 200), "b": Cell(40, 200), "c": Cell(60, 300)}})
    interval = made.subgroups[0].interval
    assert interval is not None
    within = WithinSites(gap=0.1, interval=interval, sites=5, opposite=1, reversal="shown")
    rows = tuple(row.model_copy(update={"within_sites": within}) for row in made.subgroups)
    for row in released_of(made.model_copy(update={"subgroups": rows}))["subgroups"]:
        assert ("within_sites" in row) == (row["outcome"] != SUPPRESSED)


@pytest.mark.parametrize(
    ("failed", "perturbed", "counted", "interval"),
    [(0, 0, 0, True), (0, 3, None, False), (0, 20, 20, True), (3, 20, 20, False)],
)
def test_a_drop_leaves_and_its_interval_where_failures_can_be_counted(
    failed: int, perturbed: int, counted: int | None, interval: bool
) -> None:
    made = everything(failed=failed, failed_perturbed=perturbed)
    noise, blur = released_of(made)["robustness"]
    exact = made.robustness[0]
    assert noise["failed"] == counted
    assert (noise["amount"], noise["unit"]) == (40.0, "HU")
    for row, drop in zip(noise["drops"], exact.drops, strict=True):
        assert drop.drop is not None
        assert row["drop"] == round(drop.drop, 2)
        assert (row["interval"] is not None) == interval
    assert blur["drops"][0]["outcome"] == "insufficient_evidence"
    assert blur["drops"][0]["drop"] is None


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ((("a", 120, 300), ("b", 80, 600)), [{"attribute": "age", "shifted": True}]),
        ((("a", 120, 891), ("b", 80, 9)), []),
        ((("a", 120, 900), ("b", 80, 0)), []),
    ],
)
def test_of_drift_one_bit_leaves_where_every_cell_can_be_counted(
    cells: tuple[tuple[str, int, int], ...], shown: list[dict[str, Any]]
) -> None:
    made = ALL.model_copy(update={"drift": drifted(cells)})
    released = released_of(made)
    assert released["drift"] == shown
    assert "stability" not in canonical(released).decode()


def test_of_the_search_for_leakage_nothing_leaves() -> None:
    assert ALL.leakage is not None
    text = canonical(released_of(ALL)).decode()
    for word in ("leakage", "held_for_review", "ceiling"):
        assert word not in text


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, None), (9, None), (10, 10), (895, None)])
def test_few_indeterminate_answers_are_withheld(count: int, shown: int | None) -> None:
    flow = ALL.case_flow.model_copy(update={"indeterminate": count})
    assert (
        released_of(ALL.model_copy(update={"case_flow": flow}))["cases"]["indeterminate"] == shown
    )
    assert "indeterminate" not in released_of(report())["cases"]


def test_no_count_of_the_further_evidence_leaves() -> None:
    """Every whole number of comparisons, hospitals and runs that leaves is one of these."""
    released = released_of(everything(failed=12, failed_perturbed=15))
    for part in ("sites", "robustness"):
        found = json.dumps(released[part])
        for word in ("positives", "negatives", '"n"', "cases", "clusters", "without", "tau"):
            assert word not in found, (part, word)
    for row in [*released["sites"], *(d for run in released["robustness"] for d in run["drops"])]:
        kept = {key: of for key, of in row.items() if key not in ("floor", "maximum_drop")}
        for of in (kept, kept.get("interval") or {}, kept.get("prediction") or {}):
            ends = {key: value for key, value in of.items() if key != "level"}
            assert all(round(value, 2) == value for value in _floats(list(ends.values())))


def test_a_class_that_is_too_small_hides_every_number_that_stands_on_it() -> None:
    flow = ALL.case_flow.model_copy(update={"positives": 9})
    released = released_of(ALL.model_copy(update={"case_flow": flow}))
    assert all(row["estimate"] is None for row in released["endpoints"])
    for row in released["endpoints"]:
        if "comparison" in row:
            assert row["comparison"]["difference"] is None
            assert row["comparison"]["interval"] is None
    assert all(row["mean"] is None for row in released["sites"])
    assert all(
        drop["drop"] is None and drop["interval"] is None
        for run in released["robustness"] for drop in run["drops"]
    )  # fmt: skip
    assert released["drift"] == []
    assert all(row["outcome"] == SUPPRESSED for row in released["subgroups"])


def test_new_rules_leave_with_their_outcome_and_words() -> None:
    rules = tuple(
        rule.model_copy(update={"gating": True, "outcome": "insufficient_evidence"})
        if rule.id
        in ("sites:auc", "endpoint:auc against the_readers", "robustness:blur_2_image:auc")
        else rule
        for rule in ALL.verdict.rules
    )
    verdict = ALL.verdict.model_copy(update={"overall": "conditional", "rules": rules})
    found = released_of(ALL.model_copy(update={"verdict": verdict}))["verdict"]
    assert found["conditions"] == [
        f"{said}: not shown; the evidence is insufficient"
        for said in (
            "AUC against the readers",
            "AUC in another hospital like these",
            "drop of AUC under blur of severity 2 on image",
        )
    ]
    assert [rule["id"] for rule in found["rules"]] == [rule.id for rule in ALL.verdict.rules]


def test_the_use_of_the_pilot_leaves() -> None:
    released = released_of(ALL)
    assert released["pilot_mode"] == "assistive"
    assert released["regulatory_references"] == ["approval by an ethics committee"]
    assert released["sampling"].startswith("enriched")
    assert released["task"] == "binary"


# Versions of a cohort


@st.composite
def versions(draw: st.DrawFn) -> tuple[dict[str, Groups], dict[str, list[str]], dict[str, Groups]]:
    """A cohort, how its coarse attribute is made, and another version of it."""
    attributes, made_of = draw(cohorts())
    step = st.one_of(st.just(0), st.integers(-12, 12), st.integers(-60, 60))
    fine = {
        name: Cell(*(max(0, count + draw(step)) for count in cell))
        for name, cell in attributes["fine"].items()
    }
    coarse = {
        name: Cell(*(sum(fine[part][i] for part in parts) for i in (0, 1)))
        for name, parts in made_of.items()
    }
    total = Cell(*(sum(cell[i] for cell in fine.values()) for i in (0, 1)))
    left = Cell(*(min(total[i], max(0, attributes["other"]["left"][i] + draw(step)))
                  for i in (0, 1)))  # fmt: skip
    right = Cell(total[0] - left[0], total[1] - left[1])
    return attributes, made_of, {"fine": fine, "coarse": coarse,
                                 "other": {"left": left, "right": right}}  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(versions())
def test_no_small_count_or_difference_can_be_worked_out_from_two_versions(
    cohort: tuple[dict[str, Groups], dict[str, list[str]], dict[str, Groups]],
) -> None:
    """The attacker knows the other version to the last number, and the nesting of groups."""
    attributes, made_of, other = cohort
    released = released_of(_made(attributes), Other(other))
    for place, side in enumerate(Sides):
        total = sum(cell[place] for cell in attributes["fine"].values())
        before = sum(cell[place] for cell in other["fine"].values())
        if released["cases"][side] is None:
            assert all(row.get(side) is None for row in released["subgroups"])
            metric = {"positives": "sensitivity", "negatives": "specificity"}[side]
            numbers = [row["estimate"] for row in released["endpoints"] if row["metric"] == metric]
            assert numbers == [None]
            continue
        assert not 0 < abs(total - before) < K
        for attribute in ("fine", "coarse"):
            for group, cell in attributes[attribute].items():
                count = getattr(cell, side)
                moved = abs(count - getattr(other[attribute][group], side))
                if count >= K and not 0 < moved < K:
                    continue
                low, high = _ranges(released, made_of, side, made_of.get(group, [group]))
                assert high - low > K - 1.5, (group, side, low, high)
                if count < K:
                    assert low < 0.5, (group, side, low, high)


@settings(max_examples=150, deadline=None)
@given(versions())
def test_what_is_withheld_together_differs_by_none_or_at_least_k(
    cohort: tuple[dict[str, Groups], dict[str, list[str]], dict[str, Groups]],
) -> None:
    attributes, _, other = cohort
    totals = [Cell(*(sum(cell[i] for cell in of["fine"].values()) for i in (0, 1)))
              for of in (attributes, other)]  # fmt: skip
    hidden = withheld(attributes, K, [Version(totals[1], other)])
    for attribute, groups in attributes.items():
        for place, side in enumerate(Sides):
            if 0 < abs(totals[0][place] - totals[1][place]) < K:
                continue  # the whole class goes
            names = {name for of, name, what in hidden if (of, what) == (attribute, side)}
            moves = {name: groups[name][place] - other[attribute][name][place] for name in names}
            if any(0 < abs(move) < K for move in moves.values()):
                assert len(names) >= 2
                assert not 0 < abs(sum(moves.values())) < K


def test_a_version_that_counts_alike_withholds_nothing_more() -> None:
    attributes = {"site": {"a": Cell(40, 200), "b": Cell(60, 300)}}
    made = _made(attributes)
    assert released_of(made, Other(attributes)) == released_of(made)


def test_one_patient_more_in_a_group_is_not_to_be_seen() -> None:
    here = {"site": {"a": Cell(41, 200), "b": Cell(60, 300), "c": Cell(90, 300)}}
    before = {"site": {"a": Cell(40, 200), "b": Cell(45, 300), "c": Cell(90, 300)}}
    rows = released_of(_made(here), Other(before))["subgroups"]
    shown = {(row["group"], row["metric"]): row["outcome"] for row in rows}
    assert shown["a", "sensitivity"] == shown["b", "sensitivity"] == SUPPRESSED
    assert shown["c", "sensitivity"] != SUPPRESSED
    assert shown["a", "specificity"] != SUPPRESSED


def test_a_class_that_grew_by_three_is_not_shown_at_all() -> None:
    here = {"site": {"a": Cell(40, 200), "b": Cell(63, 300)}}
    before = {"site": {"a": Cell(40, 200), "b": Cell(60, 300)}}
    released = released_of(_made(here), Other(before))
    assert (released["cases"]["n"], released["cases"]["positives"]) == (None, None)
    assert released["cases"]["negatives"] == 500
    shown = {row["metric"]: row["estimate"] for row in released["endpoints"]}
    assert shown["sensitivity"] is shown["auc"] is None
    assert shown["specificity"] is not None


def test_an_intersection_is_withheld_beside_a_version_that_does_not_count_it() -> None:
    crossed = {"sex x site": {"f / a": Cell(40, 200), "m / a": Cell(60, 300)}}
    single = {"sex": {"f": Cell(40, 200), "m": Cell(60, 300)}, "site": {"a": Cell(100, 500)}}
    grown = {"sex": {"f": Cell(60, 250), "m": Cell(60, 300)}, "site": {"a": Cell(120, 550)}}
    made = _made(single | crossed)

    def outcomes(*others: CountTable) -> set[str]:
        rows = released_of(made, *others)["subgroups"]
        return {row["outcome"] for row in rows if row["attribute"] == "sex x site"}

    assert outcomes(Other(grown)) == {SUPPRESSED}
    assert SUPPRESSED not in outcomes(Other(single))
    assert SUPPRESSED not in outcomes()


def test_patients_are_withheld_where_another_version_has_few_more() -> None:
    groups = {"site": {"a": Cell(200, 200)}}
    made = _made(groups, patients=200)
    assert released_of(made, Other(groups, 195))["cases"]["patients"] is None
    assert released_of(made, Other(groups, 180))["cases"]["patients"] == 200
