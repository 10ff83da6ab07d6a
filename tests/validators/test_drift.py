"""The cohort against the declared development data: what is found, and what never leaves."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from scipy.spatial.distance import jensenshannon

from registry.trust.errors import Invalid
from validators.contract.schema import Strict
from validators.drift.compare import drift_evidence, joined, pooled
from validators.drift.distribution import (
    SCHEMA_FILE,
    DevelopmentDistribution,
    distribution_schema,
    schema_text,
)
from validators.drift.evidence import DriftCell, DriftEvidence
from validators.drift.facility import evidently_report, expanded
from validators.drift.measures import index_by_chance, jensen_shannon, stability_index

EDGES = [30, 40, 50, 55, 60, 65, 70, 75, 80, 100]
SITES = ["north", "south", "east"]


def patients(rng: np.random.Generator, n: int, *, older: float = 0.0, site: Any = None) -> Any:
    """Ages and sites of n patients; `older` in standard deviations."""
    return {
        "age": np.round(np.clip(rng.normal(62 + 10 * older, 10, n), 31, 99), 2),
        "site": rng.choice(SITES, n, p=site or [0.5, 0.3, 0.2]),
    }


def declared_of(columns: Any, **more: Any) -> DevelopmentDistribution:
    names, counts = np.unique(columns["site"], return_counts=True)
    return DevelopmentDistribution.model_validate(
        {
            "id": "development",
            "version": "1",
            "attributes": [
                {
                    "kind": "histogram",
                    "attribute": "age",
                    "unit": "years",
                    "edges": EDGES,
                    "counts": np.histogram(columns["age"], EDGES)[0].tolist(),
                    "mean": float(columns["age"].mean()),
                    "standard_deviation": float(columns["age"].std(ddof=1)),
                },
                {
                    "kind": "categories",
                    "attribute": "site",
                    "counts": dict(zip(names.tolist(), counts.tolist(), strict=True)),
                },
            ],
        }
        | more
    )


def found(declared: DevelopmentDistribution, columns: Any, **options: Any) -> dict[str, Any]:
    return {of.attribute: of for of in drift_evidence(declared, columns, **options).attributes}


@pytest.mark.parametrize(("n", "most", "least"), [(60, 0.05, 0.4), (300, 0.01, 0.99)])
def test_a_shift_is_found_and_the_rest_is_left_alone(n, most, least):
    """False alarms stay below alpha (.05 over both attributes) and shifts are found.

    300 cohorts a size; older by .7 standard deviations. A rate of .05 is seen above .088 with
    chance .001 or less.
    """
    rng = np.random.default_rng(n)
    alarms = shifts = neighbours = 0
    for _ in range(300):
        declared = declared_of(patients(rng, 1000))
        same = found(declared, patients(rng, n))
        alarms += any(of.shifted for of in same.values())
        older = found(declared, patients(rng, n, older=0.7))
        shifts += older["age"].shifted
        neighbours += bool(older["site"].shifted)
    assert alarms / 300 <= most + 0.038
    assert neighbours / 300 <= most + 0.038
    assert shifts / 300 >= least


def test_without_the_sample_s_size_the_customary_limit_cries_wolf():
    """Why `limit` is not simply .1: fifty of the same population exceed it most of the time."""
    rng = np.random.default_rng(1)
    p = np.full(10, 0.1)
    indices = [stability_index(rng.multinomial(100, p), rng.multinomial(50, p)) for _ in range(400)]
    limit = index_by_chance([10] * 10, [5] * 10, 0.05)
    assert np.mean(np.array(indices) > 0.1) > 0.8
    assert np.mean(np.array(indices) > limit) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_shift_of_categories_is_found_too():
    rng = np.random.default_rng(6)
    other = found(declared_of(patients(rng, 1000)), patients(rng, 400, site=[0.2, 0.3, 0.5]))
    assert other["site"].shifted is True
    assert other["age"].shifted is False
    assert other["site"].standardized_mean_difference is None


def test_the_measures_are_those_of_the_books():
    """PSI by hand on shares without ties to the smoothing; the distance against scipy."""
    p, q = np.array([4000, 6000]), np.array([3000, 7000])
    by_hand = (0.3 - 0.4) * np.log(0.3 / 0.4) + (0.7 - 0.6) * np.log(0.7 / 0.6)
    assert stability_index(p, q) == pytest.approx(by_hand, rel=1e-3)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2), rel=1e-3)
    assert jensen_shannon(p, p) == 0
    assert jensen_shannon([100_000, 0], [0, 100_000]) == pytest.approx(1, abs=1e-3)
    rng = np.random.default_rng(3)
    older = found(declared_of(patients(rng, 4000)), patients(rng, 4000, older=0.5))
    assert older["age"].standardized_mean_difference == pytest.approx(0.5, abs=0.06)


def test_what_was_not_declared_or_not_recorded_has_a_cell_of_its_own():
    rng = np.random.default_rng(11)
    columns = patients(rng, 200)
    columns["site"] = columns["site"].astype(object)
    columns["site"][:30] = None
    columns["site"][30:45] = "Dr Marple's practice"
    columns["age"][:12] = np.nan
    columns["age"][12:30] = 120
    of = found(declared_of(patients(rng, 500)), columns)
    cells = {name: {cell.label: cell.cohort for cell in of[name].cells} for name in of}
    assert cells["site"]["not recorded"] == 30
    assert cells["site"]["not declared"] == 15
    assert cells["age"]["not recorded"] == 12
    assert any(label.endswith("above") and n >= 18 for label, n in cells["age"].items())
    assert of["age"].cohort == of["site"].cohort == 200
    taken = declared_of(patients(rng, 500)).model_dump(mode="json")
    taken["attributes"][1]["counts"] = {"pooled": 3, "north": 4}
    with pytest.raises(ValidationError, match="group of its own"):
        DevelopmentDistribution.model_validate(taken)


def test_no_value_of_a_row_enters_the_evidence():
    rng = np.random.default_rng(11)
    columns = patients(rng, 200)
    columns["age"][:3] = (17.77, 101.25, np.nan)
    columns["site"][:2] = ("Dr Marple's practice", "")
    text = drift_evidence(declared_of(patients(rng, 500)), columns).model_dump_json()
    assert "Marple" not in text
    numbers = {round(n, 6) for n in _numbers(json.loads(text))}
    raw = {float(age) for age in columns["age"][np.isfinite(columns["age"])]}
    assert not {age for age in raw if age != int(age)} & numbers


def _numbers(value: Any) -> list[float]:
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [float(value)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in _numbers(part)]


counts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(counts)
def test_no_cell_shows_few_patients_and_none_is_lost_but_when_all_are_few(pairs):
    cells = [DriftCell(label=f"{i} to {i + 1}", declared=a, cohort=b)
             for i, (a, b) in enumerate(pairs)]  # fmt: skip
    total = sum(b for _, b in pairs)
    for shown in (pooled(cells, 10), pooled(joined(cells, 10), 10)):
        assert not [cell for cell in shown if 0 < cell.cohort < 10]
        assert sum(cell.cohort for cell in shown) == (total if total >= 10 else 0)
        if total >= 10:
            assert sum(cell.declared for cell in shown) == sum(a for a, _ in pairs)


def test_neighbouring_bins_are_joined_in_order():
    cells = [DriftCell(label=f"{i} to {i + 1}", declared=5, cohort=n)
             for i, n in enumerate([30, 4, 12, 40, 2])]  # fmt: skip
    assert [(c.label, c.declared, c.cohort) for c in joined(cells, 10)] == [
        ("0 to 1", 5, 30), ("1 to 3", 10, 16), ("3 to 5", 10, 42),
    ]  # fmt: skip


def test_too_few_patients_give_no_measure():
    rng = np.random.default_rng(2)
    few = found(declared_of(patients(rng, 500)), patients(rng, 9))
    assert few["age"].population_stability_index is None
    assert few["age"].shifted is None
    assert few["age"].cells == ()
    assert few["age"].standardized_mean_difference is None
    assert "fewer than two groups" in few["age"].reason


def test_what_the_cohort_lacks_is_named_and_text_is_no_number():
    rng = np.random.default_rng(2)
    declared = declared_of(patients(rng, 500))
    assert drift_evidence(declared, {"site": np.array(["north"] * 30)}).absent == ("age",)
    with pytest.raises(Invalid, match="must be numbers"):
        drift_evidence(declared, {"age": np.array(["61"] * 30)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"edges": [30, 30, 40]}, "ascend"),
        ({"counts": [1]}, "at least 2"),
        ({"counts": [1, 2, 3]}, "9 bins"),
        ({"standard_deviation": 0}, "greater than 0"),
        ({"patients": ["a"]}, "Extra inputs"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(change, match):
    good = declared_of(patients(np.random.default_rng(0), 100)).model_dump(mode="json")
    good["attributes"][0] |= change
    with pytest.raises(ValidationError, match=match):
        DevelopmentDistribution.model_validate(good)


def test_the_published_schema_is_current_and_accepts_a_declaration():
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    good = declared_of(patients(np.random.default_rng(0), 100)).model_dump(mode="json")
    checked = Draft202012Validator(distribution_schema())
    checked.validate(good)
    assert not checked.is_valid(good | {"names": []})
    Draft202012Validator(DriftEvidence.model_json_schema()).validate(
        drift_evidence(declared_of(patients(np.random.default_rng(0), 100)), {}).model_dump(
            mode="json"
        )
    )


@pytest.fixture(scope="module")
def page_and_columns():
    """Evidently's page on a cohort that is a standard deviation older, with one rare category."""
    rng = np.random.default_rng(9)
    declared = declared_of(patients(rng, 1000))
    columns = patients(rng, 250, older=1.0)
    columns["age"] = rng.normal(72, 10, 250)
    columns["site"] = np.append(columns["site"][1:], "Dr Marple's practice")
    return evidently_report(expanded(declared), columns), columns


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_evidently_finds_the_shifted_column(page_and_columns):
    page, _ = page_and_columns
    p_values = {
        metric["config"]["column"]: metric["value"]
        for metric in json.loads(page.json)["metrics"]
        if "column" in metric["config"]
    }
    assert p_values["age"] < 1e-6


def test_evidently_s_page_shows_single_patients_so_it_is_facility_only(page_and_columns):
    page, columns = page_and_columns
    text = page.html.decode()
    assert sum(repr(float(age)) in text for age in columns["age"]) > 10
    assert "Marple" in text
    assert repr(page) == "FacilityOnly()"
    assert not isinstance(page, Strict)
    with pytest.raises(TypeError):
        json.dumps(page)


def test_expanded_columns_have_the_declared_distribution():
    declared = declared_of(patients(np.random.default_rng(4), 20_000))
    columns = expanded(declared)
    assert len(columns["age"]) == pytest.approx(5000, abs=10)
    same = found(declared, columns)
    assert max(of.population_stability_index for of in same.values()) < 0.001


def test_columns_must_be_shared_and_of_one_kind():
    ages = {"age": np.arange(40.0)}
    with pytest.raises(Invalid, match="no column"):
        evidently_report(ages, {"sex": np.array(["F"])})
    with pytest.raises(Invalid, match="numbers on one side"):
        evidently_report(ages, {"age": np.array(["61"])})


def test_a_makers_words_run_no_script_in_a_page_that_shows_patients():
    evil = "</script><script src=//evil.example></script>"
    declared, here = np.array([evil, "F"] * 50), np.array([evil, "F", "M"] * 30)
    page = evidently_report({"sex": declared}, {"sex": here}).html.decode()
    assert "evil.example" in page
    assert "<script src=//evil" not in page
    assert "</script><script src" not in page
