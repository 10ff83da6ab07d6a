"""`touchstone protocol power`: the counts it names are enough, and no luxury."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.evaluate import evaluate
from validators.protocol.planning import plan, unplanned
from validators.protocol.read import parse_protocol

PROTOCOL = {
    "id": "planned", "version": "1", "reference_standard": "simulated", "threshold": 0.5,
    "intended_use": {"purpose": "test", "population": "none", "setting": "none"},
    "attempts": 2, "alpha": 0.05,
    "endpoints": [{"metric": "sensitivity", "goal": 0.8}, {"metric": "specificity", "goal": 0.7}],
    "subgroups": [{"attribute": "sex", "metric": "sensitivity", "margin": 0.15}],
}  # fmt: skip
EXPECTED = {"sensitivity": 0.9, "specificity": 0.85}


def outcomes(positives: int, negatives: int, group: int, cohorts: int) -> dict[str, float]:
    """How often each rule passes when a whole run is judged, as a facility would."""
    rng, passed = np.random.default_rng(7), dict.fromkeys(("sensitivity", "specificity", "sex"), 0)
    protocol = parse_protocol(PROTOCOL)
    for _ in range(cohorts):
        positive = np.arange(positives + negatives) < positives
        right = rng.random(len(positive)) < np.where(positive, 0.9, 0.85)
        sex = np.where(np.arange(len(positive)) % positives < group, "female", "male")
        found = evaluate(
            CaseTable(reference=positive, score=np.where(right == positive, 0.9, 0.1),
                      attributes={"sex": sex}),
            protocol,
        )  # fmt: skip
        for row in found.endpoints:
            passed[row.metric] += row.outcome == "pass"
        passed["sex"] += next(r for r in found.subgroups if r.group == "female").outcome == "pass"
    return {name: count / cohorts for name, count in passed.items()}


def test_what_is_planned_is_enough_in_a_whole_run_and_a_third_less_is_not():
    needs = plan(parse_protocol(PROTOCOL), EXPECTED)
    positives, negatives, group = (need.count for need in needs)
    assert [need.of for need in needs] == ["positives", "negatives", "positives"]
    enough = outcomes(positives + group, negatives, group, 400)
    assert min(enough.values()) > 0.9 - 3 * 0.015, enough
    less = outcomes(2 * positives // 3, 2 * negatives // 3, group // 2, 400)
    assert max(less.values()) < 0.9, less


def test_alpha_is_divided_among_the_attempts():
    once = plan(parse_protocol(PROTOCOL | {"attempts": 1}), EXPECTED)
    five = plan(parse_protocol(PROTOCOL | {"attempts": 5}), EXPECTED)
    assert all(more.count > less.count for less, more in zip(once, five, strict=True))


def test_patients_with_several_cases_need_more_by_the_design_effect():
    plain = plan(parse_protocol(PROTOCOL), EXPECTED)
    clustered = plan(parse_protocol(PROTOCOL), EXPECTED, design_effect=1.6)
    assert [need.count for need in clustered] == [-(-need.count * 8 // 5) for need in plain]


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"sensitivity": 0.9}, "--expect specificity=VALUE"),
        ({"sensitivity": 0.8, "specificity": 0.85}, "can't be shown to reach the goal 0.8"),
    ],
)
def test_an_expectation_that_answers_nothing_is_refused(expected, message):
    with pytest.raises(Invalid, match=message):
        plan(parse_protocol(PROTOCOL), expected)


def test_the_command_prints_each_question(tmp_path: Path):
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(PROTOCOL))
    pairs = [word for pair in EXPECTED.items() for word in ("--expect", "{}={}".format(*pair))]
    said = json.loads(command("protocol", "power", str(path), *pairs, "--json").stdout)
    assert [row["of"] for row in said["needs"]] == ["positives", "negatives", "positives"]
    assert all(row["simulated_power"] >= 0.88 for row in said["needs"])
    refused = command("protocol", "power", str(path), "--expect", "sensitivity=much")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: --expect takes METRIC=VALUE")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    program = [sys.executable, "-c", "from registry.cli.main import main; main()"]
    return subprocess.run([*program, *words], capture_output=True, text=True, timeout=120)


def test_gating_questions_that_are_not_planned_are_named():
    endpoints = [
        *PROTOCOL["endpoints"],
        {"metric": "ppv", "goal": 0.3},
        {"metric": "auc", "comparator": {"name": "old", "kind": "model", "margin": 0.05}},
    ]
    use = {**PROTOCOL["intended_use"], "prevalence": 0.1}
    protocol = parse_protocol({**PROTOCOL, "endpoints": endpoints, "intended_use": use})
    assert unplanned(protocol) == ("endpoint ppv", "endpoint auc against old")
    assert len(plan(protocol, EXPECTED)) == 3
