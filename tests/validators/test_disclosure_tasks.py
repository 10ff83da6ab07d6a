"""What leaves of questions without two classes: case counts, and nothing on counts not held."""

import json
from typing import Any

import pytest

from tests.validators.evidence_made import report
from validators.evidence import CaseFlow, EndpointEvidence, Interval, Report, SubgroupEvidence
from validators.protocol.schema import Disclosure
from validators.report.disclosure import SUPPRESSED, release

RULES = Disclosure(minimum_group=10, decimals=2)
BASE = report()
INTERVAL = Interval(low=0.4321, high=0.8765, level=0.95, method="m")


def endpoint(metric: str, n: int) -> EndpointEvidence:
    return EndpointEvidence(
        metric=metric, estimate=0.6543, interval=INTERVAL, n=n, positives=None, negatives=None,
        clusters=None, goal=0.5, role="primary", rule="gating", outcome="pass", reason="r",
    )  # fmt: skip


def group(name: str, metric: str, n: int) -> SubgroupEvidence:
    return SubgroupEvidence(
        attribute="site", group=name, metric=metric, n=n, positives=None, negatives=None,
        clusters=None, estimate=0.6543, interval=INTERVAL, gap=0.1234, gap_interval=INTERVAL,
        adjusted_p=0.5, margin=0.2, floor=None, rule="reported", outcome="pass", reason="r",
    )  # fmt: skip


def made(
    task: str, endpoints: list[EndpointEvidence], groups: list[SubgroupEvidence], *,
    sealed: int = 300, failed: int = 0,
) -> Report:  # fmt: skip
    flow = CaseFlow(
        sealed=sealed, excluded={}, scored=sealed - failed, failed=failed, failed_by_code={},
        positives=None, negatives=None, patients=None,
    )  # fmt: skip
    return BASE.model_copy(
        update={
            "task": task,
            "threshold": None,
            "case_flow": flow,
            "endpoints": tuple(endpoints),
            "subgroups": tuple(groups),
        }
    )


def released_of(value: Report) -> dict[str, Any]:
    return release(value, "certified", RULES)


TASKS = {
    "segmentation": "dice_gland",
    "regression": "mae",
    "time_to_event": "uno_c",
    "detection": "false_positives_per_scan",
    "ordinal": "quadratic_kappa",
    "multiclass": "accuracy",
}


@pytest.mark.parametrize(("task", "metric"), TASKS.items())
def test_cases_are_counted_and_numbers_rounded(task: str, metric: str) -> None:
    rows = [group("a", metric, 120), group("b", metric, 180)]
    released = released_of(made(task, [endpoint(metric, 300)], rows))
    assert released["cases"] == {"n": 300, "patients": None, "failed": 0, "excluded": {}}
    assert (released["task"], released["threshold"]) == (task, None)
    assert released["endpoints"][0]["estimate"] == 0.65
    assert released["endpoints"][0]["interval"]["low"] == 0.43
    assert [row["n"] for row in released["subgroups"]] == [120, 180]
    assert released["subgroups"][0]["gap"] == 0.12
    text = json.dumps(released)
    for word in ('"positives"', '"negatives"', "figures", "matrices", "curves", "0.6543"):
        assert word not in text


@pytest.mark.parametrize(("task", "metric"), TASKS.items())
def test_small_groups_and_what_gives_them_away_are_withheld(task: str, metric: str) -> None:
    rows = [group("a", metric, 6), group("b", metric, 94), group("c", metric, 200)]
    found = released_of(made(task, [endpoint(metric, 300)], rows))["subgroups"]
    assert [row["outcome"] for row in found] == [SUPPRESSED, SUPPRESSED, "pass"]
    for row in found[:2]:
        assert {row[key] for key in ("n", "estimate", "interval", "gap")} == {None}


def test_a_cohort_of_too_few_cases_shows_no_number() -> None:
    released = released_of(made("regression", [endpoint("mae", 9)], [group("a", "mae", 9)],
                                sealed=9))  # fmt: skip
    assert released["cases"]["n"] is None
    assert released["endpoints"][0]["estimate"] is None
    assert released["subgroups"][0]["outcome"] == SUPPRESSED


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("multiclass", "sensitivity_pirads_5"),
        ("ordinal", "auc_pirads_5"),
        ("detection", "lesion_sensitivity"),
        ("detection", "lesion_sensitivity_at_rate"),
        ("time_to_event", "observed_expected_at_36"),
    ],
)
def test_in_groups_nothing_leaves_that_stands_on_counts_which_are_not_known(
    task: str, metric: str
) -> None:
    """200 cases of a group may hold 3 of the class; rate and interval would say so."""
    rows = [group("a", metric, 100), group("b", metric, 200)]
    found = released_of(made(task, [], rows))["subgroups"]
    assert {row["outcome"] for row in found} == {SUPPRESSED}
    assert {row["estimate"] for row in found} == {None}


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"low": 100, "mid": 120, "high": 80}, True),
        ({"low": 100, "mid": 194, "high": 6}, False),
        ({"low": 100, "mid": 194}, False),  # 6 are left for the class that was not asked
        ({"low": 100, "mid": 100}, True),
    ],
)
def test_single_classes_leave_together_or_not_at_all(counts: dict[str, int], shown: bool) -> None:
    asked = [endpoint(f"sensitivity_{name}", n) for name, n in counts.items()]
    asked += [endpoint("auc_low", 300), endpoint("auc_other", 300), endpoint("macro_auc", 300)]
    found = {row["metric"]: row for row in released_of(made("ordinal", asked, []))["endpoints"]}
    for name in counts:
        assert (found[f"sensitivity_{name}"]["estimate"] is not None) == shown
    assert (found["auc_low"]["estimate"] is not None) == shown
    assert found["auc_other"]["estimate"] is None, "nobody says how many there are"
    assert found["macro_auc"]["estimate"] is not None


def test_few_lesions_hide_their_sensitivity() -> None:
    asked = [endpoint("lesion_sensitivity", 9), endpoint("false_positives_per_scan", 300)]
    found = released_of(made("detection", asked, []))["endpoints"]
    assert [row["estimate"] for row in found] == [None, 0.65]


def test_few_failures_hide_gaps_and_their_rate_here_too() -> None:
    asked = [endpoint("mae", 300), endpoint("failure_rate", 300)]
    released = released_of(made("regression", asked, [group("a", "mae", 300)], failed=3))
    assert released["cases"]["failed"] is None
    assert released["endpoints"][1]["estimate"] is None
    assert released["subgroups"][0]["gap"] is None
