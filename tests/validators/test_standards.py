"""The map of guidelines and laws: nothing is covered that the report doesn't hold."""

import re
from typing import Any

import pytest

from tests.validators.evidence_made import cases, everything, protocol, report
from validators.evidence import CaseFlow, Report
from validators.report.html import report_html
from validators.report.standards import NOT_ASSESSED, PARTS, mapped
from validators.report.standards_items import STANDARDS

ALL = everything(failed=12)
DRAWN = report(rules=protocol(decision_thresholds=(0.2, 0.3)))
PEOPLE = ("training of users", "explanation", "oversight", "errors in use", "experience of users",
          "harms", "monitoring after", "follow-up", "equivalence", "declaration", "funding",
          "development of the model", "predictors", "ethic")  # fmt: skip


def covered(value: Report) -> set[str]:
    """The words of every part that is named as evidence."""
    return {words for of in mapped(value) for row in of.rows for words, _ in row.evidence}


def bare() -> Report:
    """A report that holds nothing but a count of cases."""
    flow = CaseFlow(sealed=10, excluded={}, scored=10, failed=0, failed_by_code={}, positives=5,
                    negatives=5, patients=None)  # fmt: skip
    digests = ALL.digests.model_copy(update={"model": None, "cohort_root": None})
    environment = ALL.environment.model_copy(update={"sandbox": {}, "repeatability": {}})
    return ALL.model_copy(
        update={
            "intended_use": {}, "case_flow": flow, "endpoints": (), "complete_case": (),
            "subgroups": (), "sites": (), "robustness": (), "drift": None, "leakage": None,
            "curves": None, "digests": digests, "environment": environment, "sampling": "",
            "reference_standard": "", "goals_rationale": "", "attribution": "", "threshold": None,
            "regulatory_references": (),
        }
    )  # fmt: skip


def test_a_bare_report_covers_its_cases_and_nothing_else() -> None:
    assert covered(bare()) == {"flow of cases", "failed cases"}


def without(**parts: Any) -> Report:
    return ALL.model_copy(update=parts)


def no_value(rows: Any) -> Any:
    return tuple(row.model_copy(update={"estimate": None, "interval": None}) for row in rows)


RUN = ALL.robustness[0]
NOT_MADE = RUN.model_copy(
    update={"drops": tuple(drop.model_copy(update={"drop": None}) for drop in RUN.drops)}
)
FLOW = ALL.case_flow.model_copy(update={"indeterminate": None})


@pytest.mark.parametrize(
    ("words", "without_it"),
    [
        ("groups", without(subgroups=())),
        ("groups", without(subgroups=no_value(ALL.subgroups))),
        ("gaps within hospitals", without(subgroups=report().subgroups)),
        ("hospitals", without(sites=())),
        ("disturbance", without(robustness=())),
        ("disturbance", without(robustness=(NOT_MADE,))),
        ("development data", without(drift=None)),
        ("search for leakage", without(leakage=None)),
        ("comparison", without(endpoints=report().endpoints)),
        ("intervals", without(endpoints=no_value(ALL.endpoints))),
        ("endpoints", without(endpoints=no_value(ALL.endpoints))),
        ("intended use", without(intended_use={})),
        ("sampling", without(sampling="")),
        ("reference standard", without(reference_standard="")),
        ("why these goals", without(goals_rationale="")),
        ("what a pilot needs", without(regulatory_references=())),
        ("indeterminate answers", without(case_flow=FLOW)),
        ("locked threshold", without(threshold=None)),
        ("source of the data", without(attribution="")),
        ("digests", report(model=None)),
        ("locked cohort", report(model=None)),
        ("sandbox", report(sandbox={})),
    ],
)
def test_an_item_is_covered_only_where_the_report_holds_the_part(
    words: str, without_it: Report
) -> None:
    assert words in covered(ALL)
    assert words not in covered(without_it)


def test_a_decision_curve_is_evidence_only_where_one_was_drawn() -> None:
    assert "decision curve" in covered(DRAWN)
    assert "decision curve" not in covered(report())


def test_what_people_do_with_a_model_is_never_covered() -> None:
    for value in (ALL, DRAWN):
        for standard in mapped(value):
            for row in standard.rows:
                if any(word in row.title for word in PEOPLE) and row.number != "18":
                    assert row.evidence == (), row


def test_every_part_is_known_and_used_and_every_item_has_its_own_words() -> None:
    used = {part for standard in STANDARDS for item in standard.items for part in item.parts}
    assert used == set(PARTS)
    for standard in STANDARDS:
        titles = [item.title for item in standard.items]
        assert len(set(titles)) == len(titles)
        numbers = [item.number for item in standard.items if item.number]
        assert len(set(numbers)) == len(numbers)


def test_the_lists_are_as_long_as_their_documents_say() -> None:
    count = {standard.name: len(standard.items) for standard in STANDARDS}
    assert (count["FUTURE-AI"], count["TRIPOD+AI"]) == (30, 27)
    future = [item.number.split()[0] for item in STANDARDS[0].items]
    assert [future.count(name) for name in dict.fromkeys(future)] == [3, 4, 6, 5, 3, 2, 7]
    assert [item.number for item in STANDARDS[1].items] == [str(n) for n in range(1, 28)]
    points = {item.number[0] for item in STANDARDS[4].items}
    assert points == set("123456789")


@pytest.mark.parametrize("value", [ALL, DRAWN, bare(), report(cases(excluded={"rated 3": 4}))],
                         ids=["all", "drawn", "bare", "excluded"])  # fmt: skip
def test_every_link_leads_to_a_section_of_the_page(value: Report) -> None:
    page = report_html(value)
    anchors = set(re.findall(r' id="([a-z]+)"', page))
    links = re.findall(r'<a href="#([a-z]+)">', page)
    assert set(links) <= anchors
    assert len(links) == sum(len(row.evidence) for of in mapped(value) for row in of.rows)
    missing = sum(not row.evidence for of in mapped(value) for row in of.rows)
    assert page.count(f'<span class="hint">{NOT_ASSESSED}</span>') == missing


def test_the_map_says_what_it_is_not() -> None:
    page = " ".join(report_html(ALL).split())
    part = page.split('<h2 id="standards">')[1]
    assert "A map, not a claim of conformity." in part
    assert "Standalone performance; no human-factors evidence." in part
    for word in ("complies", "conforms", "compliant", "fulfils"):
        assert word not in part
    for standard in STANDARDS:
        assert standard.source.split(",")[0] in part
