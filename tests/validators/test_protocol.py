"""A protocol: what may be asked, how a fault in its file is told, and how many cases it needs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.errors import Invalid, Refused
from tests.validators.made import protocol
from validators.contract.read import parse_contract, read_contract
from validators.intervals.proportion import clopper_pearson
from validators.protocol.power import pass_probability, required_counts, smallest_passable
from validators.protocol.published import SCHEMA_FILE, protocol_schema, schema_text
from validators.protocol.read import check_counts, parse_protocol, read_protocol
from validators.protocol.schema import CohortRequirement, Protocol

EXAMPLE = """
id: nodules
version: "1"
intended_use: {purpose: triage, population: adults, setting: CT}
reference_standard: median of four readers
threshold: 0.5
endpoints:
  - metric: sensitivity
    goal: 0.8
  - metric: auc
    goal: 0.75
subgroups:
  - attribute: site
    margin: 0.1
"""
CONTRACT = """
id: nodule
version: "1"
inputs:
  - {name: image, dtype: float32, shape: [1, 64, 64]}
outputs:
  - {name: score, dtype: float32, shape: [1]}
score: score
"""


def test_a_protocol_reads_the_same_from_yaml_and_json(tmp_path: Path):
    (tmp_path / "p.yaml").write_text(EXAMPLE)
    (tmp_path / "p.json").write_text(json.dumps(yaml.safe_load(EXAMPLE)))
    first, second = read_protocol(tmp_path / "p.yaml"), read_protocol(tmp_path / "p.json")
    assert first.digest == second.digest
    assert parse_protocol(first.model_dump(mode="json")) == first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threshold:", "treshold:", "there is no field treshold; did you mean 'threshold'?"),
        ("margin:", "marign:", "there is no field subgroups[0].marign; did you mean 'margin'?"),
        (
            "metric: auc",
            "metric: acu",
            "endpoints[1].metric: a binary question has no metric 'acu'; did you mean 'auc'?",
        ),
        (
            "metric: auc",
            "metric: dice",
            "endpoints[1].metric: a binary question has no metric 'dice'; it has auc,",
        ),
        ("goal: 0.75", "goal: 1.5", "endpoints[1].goal: the goal 1.5 for auc can't be met"),
        ("goal: 0.75", "goal: 0.3", "endpoints[1].goal: an AUC of 0.3 is worse than chance"),
        ("goal: 0.8\n", "goal: 1\n", "endpoints[0].goal: the goal 1 for sensitivity can't be"),
        ("    goal: 0.75\n", "", "endpoints[1].goal: the gating endpoint auc has no goal"),
        ("goal: 0.75", 'goal: "0.75"', "endpoints[1].goal must be a number"),
        ("threshold: 0.5", "threshold: yes", "threshold must be a number"),
        ("threshold: 0.5", "threshold: .nan", "threshold must be a finite number"),
        ("threshold: 0.5", "threshold: 50", "threshold must be at most 1, not 50"),
        ('version: "1"', "version: 1", "version must be text; put quotes around it, not 1"),
        ('version: "1"', "version: 2026-01-31", "version was read as a date; put quotes"),
        ("threshold: 0.5\n", "", "threshold: a binary question has one locked threshold"),
        ("id: nodules\n", "id: nodules\nid: other\n", "line 3, the field 'id' is given twice"),
        ("margin: 0.1", "margin: &m 0.1\n    floor: *m", "anchors and aliases"),
        ("    margin: 0.1\n", "", "subgroups[0].margin: the gating rule on site needs a margin"),
        (
            "    margin: 0.1\n",
            "    margin: 0.1\n    metric: failure_rate\n",
            "subgroups[0].metric: the failure rate is of the whole cohort, not of groups",
        ),
        ("metric: auc", "metric: brier", "endpoints[1].rule: brier can't gate"),
        ("metric: auc", "metric: sensitivity", "endpoints: two of them ask for the same metric"),
        ("threshold: 0.5", "threshold 0.5", "line "),
        ("id: nodules", "1: nodules", "the top has the field name 1"),
    ],
)
def test_a_fault_is_one_line_that_names_its_place(tmp_path: Path, old, new, message):
    assert old in EXAMPLE
    path = tmp_path / "protocol.yaml"
    path.write_text(EXAMPLE.replace(old, new, 1))
    with pytest.raises(Invalid) as raised:
        read_protocol(path)
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert "protocol.yaml" in raised.value.message


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.yaml", b"", "is empty"),
        ("p.yaml", b"- a\n- b", "must hold named fields"),
        ("p.yaml", b"\xff\xfe\x00", "not UTF-8"),
        ("p.yaml", b"[" * 90_000, "nested too deeply"),
        ("p.json", b"[" * 90_000, "nested too deeply"),
        ("p.yaml", b"? [a, b]\n: c", "the name of a field must be text"),
        ("p.yaml", b"!!python/object/apply:os.system [ls]", "constructor"),
        ("p.json", b'{"id": 1, "id": 2}', "'id' is given twice"),
        ("p.json", b'{"id": }', "not JSON: line 1"),
        ("p.json", b'{"id": NaN}', "id must be a finite number"),
        ("p.json", b'{"alpha": 1' + b"0" * 5000 + b"}", "can't be read"),
        ("p.yaml", b"a" * (1 << 21), "larger than 1 MiB"),
    ],
)
def test_what_is_no_protocol_is_refused_in_one_line(tmp_path: Path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Invalid, match=message):
        read_protocol(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(Invalid, match=r"none\.yaml can't be read: No such file"):
        read_protocol(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("score: score", "score: scor", "score: 'scor' is not among the outputs"),
        ("dtype: float32, shape: [1, 64", "dtype: float23, shape: [1, 64",
         "inputs[0].dtype can't be 'float23'; did you mean 'float32'?"),
        ("shape: [1]", "shape: [2]", "score: it must be one float a case"),
        ("outputs:", "output:", "there is no field output; did you mean 'outputs'?"),
        ("[1, 64, 64]", "[1, 64, 0]", "inputs[0].shape[2] must be above 0, not 0"),
    ],
)  # fmt: skip
def test_a_contract_s_fault_reads_the_same_way(tmp_path: Path, old, new, message):
    assert parse_contract(yaml.safe_load(CONTRACT)).score == "score"
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT.replace(old, new, 1))
    with pytest.raises(Invalid) as raised:
        read_contract(path)
    assert message in raised.value.message


@settings(max_examples=150, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "version", "endpoints", "metric", "goal", "x"]) | st.integers(),
        inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_whatever_is_given_is_read_or_refused_in_one_line(value: Any):
    try:
        read, said = parse_protocol(value), ""
    except Invalid as error:
        read, said = None, error.message
    assert isinstance(read, Protocol) or (said and "\n" not in said)


def test_the_published_schema_is_current():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run python -m validators.protocol.published"
    )


def test_the_published_schema_accepts_a_protocol_and_refuses_a_typo():
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(protocol_schema())
    good = yaml.safe_load(EXAMPLE)
    assert validator.is_valid(good)
    assert validator.is_valid(protocol().model_dump(mode="json"))
    assert not validator.is_valid({**good, "treshold": 0.5})


def test_a_cohort_must_have_the_counts_that_the_protocol_needs():
    asked = protocol(cohort=CohortRequirement(id="lidc", positives=200, negatives=300))
    check_counts(asked, 200, 300)
    check_counts(protocol(), 1, 1)
    with pytest.raises(Refused, match="needs 200 positive cases, the cohort has 199") as raised:
        check_counts(asked, 199, 300)
    assert raised.value.code == "too_few_cases"
    with pytest.raises(Refused, match="needs 300 negative cases, the cohort has 0"):
        check_counts(asked, 200, 0)


@pytest.mark.parametrize(
    ("goal", "expected", "power"), [(0.8, 0.9, 0.9), (0.7, 0.85, 0.8), (0.9, 0.95, 0.9)]
)
def test_the_required_count_is_the_smallest_with_the_power(goal, expected, power):
    needed = required_counts(goal, expected, 0.025, power)
    chance = pass_probability(np.arange(1, needed.lasting + 400), goal, expected, 0.025)
    assert (chance[: needed.smallest - 1] < power).all()
    assert chance[needed.smallest - 1] == needed.power >= power
    assert (chance[needed.lasting - 1 :] >= power).all()
    assert chance[needed.lasting - 2] < power


def test_the_power_is_that_of_the_rule_that_judges():
    """20,000 simulated models on the required number of cases, judged by the interval itself."""
    needed = required_counts(0.8, 0.9, 0.025, 0.9)
    right = np.random.default_rng(31).binomial(needed.smallest, 0.9, 20_000)
    passes = {
        int(x): clopper_pearson(int(x), needed.smallest, 0.025)[0] >= 0.8 for x in np.unique(right)
    }
    simulated = np.mean([passes[int(x)] for x in right])
    assert simulated == pytest.approx(needed.power, abs=0.007)
    at_goal = np.random.default_rng(32).binomial(needed.smallest, 0.8, 20_000)
    assert np.mean([clopper_pearson(int(x), needed.smallest, 0.025)[0] >= 0.8
                    for x in at_goal[:4000]]) <= 0.025 + 0.006  # fmt: skip


@pytest.mark.parametrize("goal", [0.6, 0.8, 0.95])
def test_with_fewer_than_the_smallest_passable_count_even_perfection_fails(goal):
    n = smallest_passable(goal, 0.025)
    assert clopper_pearson(n, n, 0.025)[0] >= goal
    assert clopper_pearson(n - 1, n - 1, 0.025)[0] < goal


@pytest.mark.parametrize(
    ("goal", "expected", "message"),
    [
        (0.9, 0.9, "can't be shown"),
        (0.9, 0.8, "can't be shown"),
        (0.9, 0.9001, "more than 1000000"),
    ],
)
def test_what_no_cohort_could_show_is_said(goal, expected, message):
    with pytest.raises(Invalid, match=message):
        required_counts(goal, expected, 0.025, 0.9)


def test_a_development_cohort_is_another_one_than_the_cohort_that_gates() -> None:
    body = yaml.safe_load(EXAMPLE)
    beside = body | {"cohort": {"id": "locked"}, "development_cohort": {"id": "open"}}
    chosen = parse_protocol(beside).development_cohort
    assert chosen is not None
    assert (chosen.id, chosen.version, chosen.trials) == ("open", None, 100)
    for wrong, words in (
        (beside | {"development_cohort": {"id": "locked", "version": "2"}}, "is the cohort that"),
        (body | {"development_cohort": {"id": "open"}}, "beside a `cohort` that gates"),
        (beside | {"development_cohort": {"id": "open", "trials": 0}}, "trials"),
    ):
        with pytest.raises(Invalid, match=words):
            parse_protocol(wrong)


def test_a_protocol_without_a_development_cohort_keeps_its_digest() -> None:
    plain = parse_protocol(yaml.safe_load(EXAMPLE))
    assert "development_cohort" not in plain.model_dump(mode="json")
