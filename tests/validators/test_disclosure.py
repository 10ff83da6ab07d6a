"""What leaves the facility: rounded, suppressed, and proof against subtraction.

The attacker in here reads the released JSON alone, knows which groups make up which, and solves
for what was withheld.
"""

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from registry.trust.canonical import canonical
from tests.validators.evidence_made import MODEL, cases, report
from validators.evidence import CaseFlow, Interval, Report, SubgroupEvidence
from validators.protocol.schema import Disclosure
from validators.report.disclosure import SUPPRESSED, release
from validators.report.label import WIDTH, model_label
from validators.report.suppression import Cell, withheld

K = 10
RULES = Disclosure(minimum_group=K, decimals=2)
BASE = report()
Groups = dict[str, Cell]


def _row(attribute: str, group: str, metric: str, cell: Cell) -> SubgroupEvidence:
    n = {"sensitivity": cell.positives, "specificity": cell.negatives}.get(metric, sum(cell))
    estimate = (n - n // 4) / n if n else None
    interval = Interval(low=0.5 / (n + 1), high=1 - 0.5 / (n + 1), level=0.95, method="m")
    return SubgroupEvidence(
        attribute=attribute, group=group, metric=metric, n=sum(cell), positives=cell.positives,
        negatives=cell.negatives, clusters=None, estimate=estimate, interval=interval,
        gap=0.1 / (n + 1), gap_interval=interval, adjusted_p=0.5, margin=0.1, floor=None,
        rule="reported", outcome="insufficient_evidence", reason=f"{cell.positives} positives",
    )  # fmt: skip


def _made(attributes: dict[str, Groups], *, failed: int = 0, patients: int | None = None) -> Report:
    first = next(iter(attributes.values()))
    positives = sum(cell.positives for cell in first.values())
    negatives = sum(cell.negatives for cell in first.values())
    flow = CaseFlow(
        sealed=positives + negatives, excluded={}, scored=positives + negatives - failed,
        failed=failed, failed_by_code={"timeout": failed} if failed else {}, positives=positives,
        negatives=negatives, patients=patients,
    )  # fmt: skip
    rows = tuple(
        _row(attribute, group, metric, cell)
        for attribute, groups in attributes.items()
        for metric in ("sensitivity", "specificity", "auc")
        for group, cell in groups.items()
    )
    return BASE.model_copy(update={"case_flow": flow, "subgroups": rows})


counts = st.one_of(st.integers(0, 3), st.integers(4, 25), st.integers(26, 400))
fine_groups = st.lists(st.builds(Cell, counts, counts), min_size=1, max_size=6)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[dict[str, Groups], dict[str, list[str]]]:
    """A fine attribute, a coarse one made of it, and an unrelated one; and how coarse is made."""
    cells = draw(fine_groups)
    fine = {f"fine{i}": cell for i, cell in enumerate(cells)}
    parent = [draw(st.integers(0, 2)) for _ in cells]
    made_of: dict[str, list[str]] = {}
    for name, number in zip(fine, parent, strict=True):
        made_of.setdefault(f"coarse{number}", []).append(name)
    coarse = {
        name: Cell(*(sum(fine[part][side] for part in parts) for side in (0, 1)))
        for name, parts in made_of.items()
    }
    total = Cell(*(sum(cell[side] for cell in cells) for side in (0, 1)))
    share = [draw(st.integers(0, total[side])) for side in (0, 1)]
    other = {"left": Cell(*share), "right": Cell(total[0] - share[0], total[1] - share[1])}
    return {"fine": fine, "coarse": coarse, "other": other}, made_of


def _ranges(
    released: dict[str, Any], made_of: dict[str, list[str]], side: str, target: list[str]
) -> tuple[float, float]:
    """The least and the greatest that the sum of the fine groups `target` can be."""
    known: dict[str, int] = {}
    for row in released["subgroups"]:
        if row["attribute"] in ("fine", "coarse") and row.get(side) is not None:
            known[row["group"]] = row[side]
    fine = sorted(part for parts in made_of.values() for part in parts)
    equations, values = [[1.0] * len(fine)], [float(released["cases"][side])]
    for name, count in known.items():
        parts = made_of.get(name, [name])
        equations.append([1.0 if group in parts else 0.0 for group in fine])
        values.append(float(count))
    aim = np.array([1.0 if group in target else 0.0 for group in fine])
    found = [linprog(sign * aim, A_eq=equations, b_eq=values, bounds=(0, None)) for sign in (1, -1)]
    assert all(answer.success for answer in found)
    return found[0].fun, -found[1].fun


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cohorts())
def test_no_count_below_k_can_be_worked_out(
    cohort: tuple[dict[str, Groups], dict[str, list[str]]],
) -> None:
    attributes, made_of = cohort
    released = release(_made(attributes), "certified", RULES)
    if released["cases"]["positives"] is None:
        assert all(row["outcome"] == SUPPRESSED for row in released["subgroups"])
        assert all(row["estimate"] is None for row in released["endpoints"])
        return
    for side in ("positives", "negatives"):
        for attribute in ("fine", "coarse"):
            for group, cell in attributes[attribute].items():
                if getattr(cell, side) < K:
                    parts = made_of.get(group, [group])
                    low, high = _ranges(released, made_of, side, parts)
                    assert low < 0.5, (group, side, low, high)
                    assert high > K - 1.5, (group, side, low, high)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.builds(Cell, counts, counts), min_size=1, max_size=9))
def test_subtraction_from_a_total_leaves_nothing_or_at_least_k_in_two_groups(
    cells: list[Cell],
) -> None:
    groups = {f"g{i}": cell for i, cell in enumerate(cells)}
    hidden = withheld({"site": groups}, K)
    for side in ("positives", "negatives"):
        names = {name for _, name, of in hidden if of == side}
        small = {name for name, cell in groups.items() if getattr(cell, side) < K}
        assert small <= names
        if names and names != set(groups):
            assert len(names) >= 2
            assert sum(getattr(groups[name], side) for name in names) >= K


def test_a_reader_who_knows_which_groups_are_the_small_ones_learns_no_more() -> None:
    """9 + 9 withheld alone would be given away by their sum of 18; 0 + 10 by its sum of 10."""
    for small, next_one in ((9, 9), (0, 10)):
        groups = {
            "a": Cell(small, 99),
            "b": Cell(next_one, 99),
            "c": Cell(70, 99),
            "d": Cell(80, 99),
        }
        hidden = withheld({"site": groups}, K)
        assert ("site", "c", "positives") in hidden
        assert ("site", "d", "positives") not in hidden


def test_a_coarser_attribute_does_not_give_a_finer_one_away() -> None:
    fine = {"pre": Cell(50, 90), "post": Cell(64, 90), "unknown": Cell(6, 90), "male": Cell(30, 90)}
    coarse = {"female": Cell(120, 270), "male": Cell(30, 90)}
    assert ("fine", "male", "positives") in withheld({"fine": fine}, K)
    hidden = withheld({"fine": fine, "coarse": coarse}, K)
    assert ("coarse", "male", "positives") in hidden, "120 - 50 - 64 gives 6"


@settings(max_examples=100, deadline=None)
@given(cohorts())
def test_a_withheld_row_holds_no_number_that_was_measured(
    cohort: tuple[dict[str, Groups], dict[str, list[str]]],
) -> None:
    released = release(_made(cohort[0]), "certified", RULES)
    for row in released["subgroups"]:
        if row["outcome"] == SUPPRESSED:
            measured = {"positives", "negatives", "estimate", "interval", "gap", "gap_interval"}
            assert all(row[key] is None for key in measured & row.keys())
        else:
            assert all(row[key] >= K for key in ("positives", "negatives") if key in row)


def test_a_rate_is_withheld_with_its_count_and_shown_without_the_other_one() -> None:
    """Positives of a group are too few; its specificity stands on the negatives alone."""
    groups = {"a": Cell(4, 200), "b": Cell(40, 200), "c": Cell(60, 300)}
    rows = release(_made({"site": groups}), "certified", RULES)["subgroups"]
    found = {(row["group"], row["metric"]): row for row in rows}
    assert found["a", "sensitivity"]["outcome"] == SUPPRESSED
    assert found["a", "auc"]["outcome"] == SUPPRESSED
    assert found["a", "specificity"]["negatives"] == 200
    assert "positives" not in found["a", "specificity"]


@pytest.mark.parametrize(("failed", "shown"), [(0, 0), (1, None), (9, None), (10, 10)])
def test_few_failures_are_withheld_wherever_they_could_be_worked_out(
    failed: int, shown: int | None
) -> None:
    released = release(report(cases(800, failed=failed)), "certified", RULES)
    assert released["cases"]["failed"] == shown
    rate = next(row for row in released["endpoints"] if row["metric"] == "failure_rate")
    assert (rate["estimate"] is None) == (shown is None)
    assert "timeout" not in json.dumps(released)
    assert "scored" not in released["cases"]
    gaps = [row["gap"] for row in released["subgroups"]]
    assert all(gap is None for gap in gaps) == (failed > 0)


@pytest.mark.parametrize(("patients", "shown"), [(400, None), (395, None), (200, 200), (9, None)])
def test_patients_are_not_counted_where_few_have_several_cases(
    patients: int, shown: int | None
) -> None:
    made = _made({"site": {"a": Cell(200, 200)}}, patients=patients)
    assert release(made, "certified", RULES)["cases"]["patients"] == shown


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, list):
        for item in value:
            yield from _floats(item)


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_no_measured_number_has_more_decimals_than_the_protocol_allows(decimals: int) -> None:
    released = release(
        report(cases(failed=12)), "certified", Disclosure(minimum_group=K, decimals=decimals)
    )
    for found in [*released["endpoints"], *released["subgroups"]]:
        for key in ("estimate", "gap"):
            assert found.get(key) is None or round(found[key], decimals) == found[key]
        for key in ("interval", "gap_interval"):
            if found.get(key):
                assert all(
                    round(found[key][end], decimals) == found[key][end] for end in ("low", "high")
                )


@given(st.floats(-1, 1), st.floats(0, 1), st.integers(1, 3))
def test_an_interval_is_only_ever_rounded_outward(low: float, width: float, decimals: int) -> None:
    interval = Interval(low=low, high=low + width, level=0.95, method="m")
    made = BASE.model_copy(
        update={"endpoints": (BASE.endpoints[0].model_copy(update={"interval": interval}),)}
    )
    rules = Disclosure(minimum_group=K, decimals=decimals)
    found = release(made, "certified", rules)["endpoints"][0]["interval"]
    noise, step = 1e-11, 10.0**-decimals
    assert low - step - noise < found["low"] <= low + noise
    assert interval.high - noise <= found["high"] < interval.high + step + noise


def test_a_bound_that_is_exact_but_for_noise_stays_where_it_is() -> None:
    interval = Interval(low=0.7999999999999999, high=0.8500000000000001, level=0.95, method="m")
    made = BASE.model_copy(
        update={"endpoints": (BASE.endpoints[0].model_copy(update={"interval": interval}),)}
    )
    found = release(made, "certified", RULES)["endpoints"][0]["interval"]
    assert (found["low"], found["high"]) == (0.8, 0.85)


def test_never_released_curves_reasons_p_values_complete_case_and_predictions() -> None:
    made = report(cases(failed=12, excluded={"rated 3": 40, "no contour": 2}))
    released = release(made, "certified", RULES)
    text = canonical(released).decode()
    for word in ("curves", "roc", "complete_case", "adjusted_p", "reason", "repeatability",
                 "clusters", "failed_by_code", "largest_difference"):  # fmt: skip
        assert f'"{word}"' not in text, word
    assert made.digests.predictions is not None
    assert made.digests.predictions not in text
    assert released["cases"]["excluded"] == {"rated 3": 40, "no contour": None}
    assert set(_floats(released["verdict"])) == set()


def test_an_open_attempt_shows_one_bit_and_which_model_and_protocol_it_is_about() -> None:
    assert release(BASE, "innovator_open", RULES) == {
        "schema_id": "touchstone/released-outcome/v1",
        "protocol_id": "nodule-triage",
        "protocol_version": "1",
        "model": MODEL,
        "outcome": "pass",
    }


@pytest.mark.parametrize(
    ("overall", "outcome"),
    [
        ("pass", "pass"),
        ("conditional", "pass"),
        ("fail", "not_pass"),
        ("insufficient_evidence", "not_pass"),
    ],
)
def test_an_open_attempt_does_not_tell_a_fail_from_too_little_evidence(
    overall: str, outcome: str
) -> None:
    verdict = BASE.verdict.model_copy(update={"overall": overall})
    other = report(cases(1000, seed=7, failed=3)).model_copy(update={"verdict": verdict})
    assert release(other, "innovator_open", RULES)["outcome"] == outcome
    same = BASE.model_copy(update={"verdict": verdict})
    assert release(other, "innovator_open", RULES) == release(same, "innovator_open", RULES)


def test_a_condition_names_its_group_and_no_number() -> None:
    rules = tuple(
        rule.model_copy(update={"gating": True, "outcome": "insufficient_evidence"})
        if rule.id == "subgroup:site=head:sensitivity"
        else rule
        for rule in BASE.verdict.rules
    )
    verdict = BASE.verdict.model_copy(
        update={"overall": "conditional", "rules": rules, "conditions": ("3 positives of 4",)}
    )
    found = release(BASE.model_copy(update={"verdict": verdict}), "certified", RULES)["verdict"]
    assert found["conditions"] == [
        "sensitivity where site is head: not shown; the evidence is insufficient"
    ]


def test_the_label_is_one_page_of_released_numbers() -> None:
    table = cases(failed=12)
    released = release(report(table), "certified", RULES)
    label = model_label(
        released,
        model="lumen/nodule-net 3",
        conditions=("sensitivity where site is head: not shown",),
        not_after=dt.datetime(2027, 11, 24, tzinfo=dt.UTC),
    )
    assert max(len(line) for line in label.splitlines()) <= WIDTH
    assert len(label.splitlines()) <= 70
    for wanted in (
        "lumen/nodule-net 3",
        "2027-11-24",
        "SHADOW MODE",
        "site is head",
        "Made-up cases",
        "no human-factors evidence",
        "median of four readers",
    ):
        assert wanted in label
    assert label.index("CONDITIONS") < label.index("MEASURED ON")


def test_the_label_says_withheld_where_a_group_is() -> None:
    groups = {"a": Cell(4, 200), "b": Cell(40, 200), "c": Cell(60, 300)}
    released = release(_made({"site": groups}), "certified", RULES)
    label = model_label(
        released, model="m", conditions=(), not_after=dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    )
    assert label.count("withheld\n") == 4  # sensitivity and AUC of a and its cover
