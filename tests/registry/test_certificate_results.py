"""Of real evidence of every kind: the certificate's numbers give the verdict, and tell no more."""

import json
from typing import Any

import pytest

from registry.pipeline.certificate_results import certified_results
from registry.trust.errors import Tampered
from registry.trust.verdict_rules import recompute
from serving.bundle.rules import check_rules
from tests.validators.evidence_made import (
    asking_everything,
    cases,
    cases_for_everything,
    protocol,
    report,
)
from validators.cases import CaseTable
from validators.protocol.schema import Endpoint, Protocol, SubgroupRule
from validators.report.disclosure import release


def gating(
    margin: float = 0.6, names: tuple[str, ...] = ("site", "sex"), **fields: Any
) -> tuple[SubgroupRule, ...]:
    """Rules on groups that gate; by a margin, a floor or both."""
    return tuple(
        SubgroupRule(attribute=name, metric=metric, margin=margin, if_insufficient="conditional",
                     **fields)
        for name in names
        for metric in ("sensitivity", "auc")
    )  # fmt: skip


EVERYTHING = asking_everything()
QUESTIONS: list[tuple[str, Protocol, CaseTable]] = [
    ("endpoints", protocol(), cases()),
    ("an odd goal", protocol(endpoints=(Endpoint(metric="auc", goal=0.7777),)), cases()),
    ("groups", protocol(subgroups=gating()), cases(1500)),
    ("groups with floors", protocol(subgroups=gating(floor=0.4)), cases(1500)),
    ("groups that are open", protocol(subgroups=gating(0.11)), cases(600)),
    ("groups too small to show", protocol(subgroups=gating()), cases(60)),
    ("failures", protocol(subgroups=gating()), cases(1500, failed=3)),
    ("more failures than allowed", protocol(), cases(400, failed=40)),
    ("patients", protocol(cluster="patient", subgroups=gating()), cases(1500, patients=True)),
    ("everything", EVERYTHING, cases_for_everything()),
    (
        "everything, with groups of hospitals that gate",
        asking_everything(subgroups=(*EVERYTHING.subgroups, *gating(0.9, ("hospital",)))),
        cases_for_everything(),
    ),
]


@pytest.mark.parametrize(
    ("rules", "table"), [row[1:] for row in QUESTIONS], ids=[row[0] for row in QUESTIONS]
)
def test_the_numbers_give_the_verdict(rules: Protocol, table: CaseTable) -> None:
    full = report(table, rules)
    released = release(full, "certified", rules.disclosure)
    results = certified_results(full, released, rules)
    found = recompute(results)
    assert found.overall == full.verdict.overall, full.verdict.reason
    check_rules(results, rules.model_dump(mode="json"))
    shown = json.dumps([result.model_dump(mode="json") for result in results])
    if rules.sites is not None:
        assert "hospital " not in shown
    for row, result in zip(released["endpoints"], results, strict=False):
        for asked in result.asked:
            of = (row.get("comparison") or row)["interval"]
            if of is not None and asked.interval is not None:
                assert of["low"] <= asked.interval.low <= asked.interval.high <= of["high"]


@pytest.mark.parametrize("change", ["goal", "lenient", "dropped", "added"])
def test_other_rules_than_the_protocols_are_noticed(change: str) -> None:
    rules = protocol(subgroups=gating())
    full = report(cases(1500), rules)
    results = certified_results(full, release(full, "certified", rules.disclosure), rules)
    asked = rules.model_dump(mode="json")
    if change == "goal":
        asked["endpoints"][0]["goal"] += 0.01
    elif change == "lenient":
        asked["subgroups"][0]["if_insufficient"] = "block"
    elif change == "dropped":
        asked["subgroups"][0]["rule"] = "reported"
    else:
        asked["subgroups"].append(asked["subgroups"][0] | {"attribute": "age"})
    with pytest.raises(Tampered) as raised:
        check_rules(results, asked)
    assert raised.value.code == "rules_mismatch"
