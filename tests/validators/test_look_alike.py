"""A look-alike cohort fits the contract, has what the protocol looks at, and repeats."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.errors import Conflict, Invalid, NotFound, Refused
from validators.cohort.ingest import check_inputs
from validators.cohort.look_alike import FEWEST, make_look_alike
from validators.cohort.look_alike_folder import open_look_alike, write_look_alike
from validators.contract.made_up import bounds, plausible
from validators.contract.schema import Tensor
from validators.protocol.read import parse_protocol
from validators.protocol.schema import Protocol

CONTRACT: dict[str, Any] = {
    "id": "two-inputs",
    "version": "1",
    "inputs": [
        {"name": "volume", "dtype": "int16", "shape": [1, 4, 6, 6], "unit": "HU"},
        {"name": "table", "dtype": "float32", "shape": [3], "minimum": 1.0, "maximum": 6.0},
    ],
    "outputs": [{"name": "score", "dtype": "float32", "shape": [1]}],
    "score": "score",
}


def protocol(**changes: Any) -> Protocol:
    return parse_protocol(
        {
            "id": "question",
            "version": "1",
            "intended_use": {"purpose": "p", "population": "p", "setting": "s"},
            "reference_standard": "r",
            "threshold": 0.5,
            "cohort": {"id": "locked", "positives": 30, "negatives": 60},
            "cluster": "patient",
            "contract": CONTRACT,
            "endpoints": [{"metric": "auc", "goal": 0.8}],
            "subgroups": [
                {"attribute": "sex", "metric": "sensitivity", "margin": 0.3},
                {"attribute": "maker", "crossed_with": ["sex"], "metric": "specificity",
                 "margin": 0.3},
            ],
        }
        | changes
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_case_fits_the_contract_by_the_same_check_as_a_real_one():
    cohort = make_look_alike(protocol(), cases=50)
    for position in range(50):
        check_inputs(cohort.inputs(position), cohort.contract)
    assert sum(len(shard.cases) for shard in cohort.shards()) == 50


@settings(max_examples=30, deadline=None)
@given(cases=st.integers(FEWEST, 120), positives=st.integers(1, 90), negatives=st.integers(1, 90),
       seed=st.text(max_size=5))  # fmt: skip
def test_both_classes_occur_in_the_protocols_proportion(cases, positives, negatives, seed):
    asked = protocol(cohort={"id": "c", "positives": positives, "negatives": negatives},
                     subgroups=[])  # fmt: skip
    cohort = make_look_alike(asked, cases=cases, seed=seed)
    found = Counter(cohort.columns["reference"])
    assert set(found) == {"0", "1"}
    assert found.total() == cases
    share = max(positives, 4) / (max(positives, 4) + max(negatives, 4))
    assert abs(found["1"] - cases * share) <= 1


def test_it_has_the_cases_that_the_protocol_needs_and_every_crossing_in_both_classes():
    named = {"sex": ["female", "male"], "maker": ["A", "B", "C"]}
    cohort = make_look_alike(protocol(), groups=named)
    table = cohort.columns
    assert table["reference"].count("1") >= 30
    assert table["reference"].count("0") >= 60
    crossings = Counter(zip(table["reference"], table["sex"], table["maker"], strict=True))
    assert len(crossings) == 2 * 2 * 3
    assert min(count for (truth, *_), count in crossings.items() if truth == "0") >= 10


def test_sites_are_as_many_as_an_interval_across_hospitals_needs():
    asked = protocol(sites={"metrics": [{"metric": "auc"}]})
    assert len(set(make_look_alike(asked).columns["site"])) == 5


def test_others_columns_that_the_protocol_reads_are_there():
    asked = protocol(
        sampling={"design": "enriched", "weights": "weight"},
        endpoints=[
            {"metric": "auc", "goal": 0.8},
            {"metric": "auc", "comparator": {"name": "old", "kind": "model", "margin": 0.1}},
            {"metric": "sensitivity", "comparator": {
                "name": "readers", "kind": "readers", "margin": 0.1, "threshold": 3,
                "readers": ["r1", "r2", "r3"]}},
        ],
    )  # fmt: skip
    columns = make_look_alike(asked, cases=40).columns
    assert {"old", "r1", "r2", "r3", "weight"} <= set(columns)
    assert {float(v) for v in columns["r1"]} <= {1, 2, 3, 4, 5}
    assert all(0 < float(v) < 2 for v in columns["weight"])


def test_the_inputs_say_nothing_about_the_reference_standard():
    cohort = make_look_alike(protocol(), cases=400)
    truth = np.array([int(value) for value in cohort.columns["reference"]])
    means = np.array([cohort.inputs(n)["volume"].mean() for n in range(400)])
    assert abs(np.corrcoef(truth, means)[0, 1]) < 0.15


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        asked = protocol()
        write_look_alike(make_look_alike(asked, cases=20, seed=seed), tmp_path / name, asked)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    other = files(tmp_path / "c")
    assert all(other[name] != data for name, data in files(tmp_path / "a").items())


def test_a_folder_gives_back_what_was_written(tmp_path):
    asked = protocol()
    made = make_look_alike(asked, cases=70)
    meta = write_look_alike(made, tmp_path / "d", asked)
    opened = open_look_alike(tmp_path / "d", made.contract)
    assert opened.columns == made.columns
    rows = list(opened.shards())
    assert [len(shard.cases) for shard in rows] == [64, 6]
    np.testing.assert_array_equal(rows[1].inputs["volume"][5], made.inputs(69)["volume"])
    assert meta["made_up"] is True
    assert "MADE-UP" in json.loads((tmp_path / "d" / "meta.json").read_text())["note"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    asked = protocol()
    with pytest.raises(Conflict, match="holds no look-alike"):
        write_look_alike(make_look_alike(asked, cases=8), tmp_path / "mine", asked)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    with pytest.raises(NotFound, match="cohort dummy"):
        open_look_alike(tmp_path / "mine", asked.contract)


def test_a_folder_for_another_contract_or_with_a_pickle_is_refused(tmp_path):
    asked = protocol()
    made = make_look_alike(asked, cases=8)
    write_look_alike(made, tmp_path / "d", asked)
    other = made.contract.model_copy(update={"version": "2"})
    other.__dict__.pop("digest", None)
    with pytest.raises(Invalid, match="another contract"):
        open_look_alike(tmp_path / "d", other)
    np.save(tmp_path / "d" / "inputs" / "table.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(Invalid, match=r"table\.npy can't be read"):
        open_look_alike(tmp_path / "d", made.contract)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cases": 7}, "too few"),
        ({"groups": {"colour": ["a"]}}, "looks at no attribute 'colour'"),
        ({"groups": {"sex": ["a", "a"]}}, "twice"),
    ],
)
def test_what_it_cant_make_is_said_in_one_line(options, words):
    with pytest.raises(Invalid, match=words):
        make_look_alike(protocol(), **options)


def test_a_question_that_no_model_is_run_by_is_refused():
    body = yaml.safe_load(Path("docs/examples/regression.yaml").read_text())
    with pytest.raises(Refused, match="touchstone assess"):
        make_look_alike(parse_protocol(body))


@pytest.mark.parametrize(
    ("unit", "limits", "expected"),
    [
        ("HU", {}, (-1024, 3071)),
        ("share of readers", {}, (0, 1)),
        ("age in years", {"minimum": 40.0}, (40, 90)),
        ("years", {"minimum": 120.0}, (120, 120)),
        ("tax", {}, (-3, 3)),
        ("tax", {"maximum": 2.0}, (-3, 2)),
    ],
)
def test_a_unit_gives_the_range_that_the_contract_leaves_open(unit, limits, expected):
    tensor = Tensor(name="x", dtype="float32", shape=(2,), unit=unit, **limits)
    assert bounds(plausible(tensor)) == expected
