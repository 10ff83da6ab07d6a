"""What a maker declares: what is taken, what is refused, and what a cohort is held against."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.trust.errors import Invalid, Refused
from tests.validators import evidence_made
from validators.assess import assess
from validators.declaration import (
    Declaration,
    check_declared,
    parse_declaration,
    read_declaration,
)
from validators.drift.columns import asked_drift, patient_columns
from validators.drift.compare import drift_evidence
from validators.drift.distribution import DevelopmentDistribution
from validators.protocol.questions import Drift

ETHICS = "approval by an ethics committee"
DEVELOPMENT: dict[str, Any] = {
    "id": "ours", "version": "1",
    "attributes": [
        {"kind": "categories", "attribute": "sex", "counts": {"female": 500, "male": 500}},
        {"kind": "histogram", "attribute": "age", "edges": [20, 50, 80], "counts": [400, 600],
         "mean": 55.0, "standard_deviation": 11.0},
        {"kind": "histogram", "attribute": "dose", "edges": [0, 1, 2], "counts": [1, 1],
         "mean": 1.0, "standard_deviation": 1.0},
        {"kind": "categories", "attribute": "scanner", "counts": {"x": 1, "y": 2}},
    ],
}  # fmt: skip
DECLARED = DevelopmentDistribution.model_validate(DEVELOPMENT)


def test_a_declaration_is_what_its_digest_says() -> None:
    one = parse_declaration({"development": DEVELOPMENT, "regulatory_references": {ETHICS: "7/26"}})
    again = parse_declaration(one.model_dump(mode="json"))
    other = parse_declaration({"development": DEVELOPMENT, "regulatory_references": {ETHICS: "8"}})
    assert one.digest == again.digest != other.digest
    assert Declaration().digest == parse_declaration({}).digest


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"developement": DEVELOPMENT}, "did you mean 'development'"),
        ({"development": DEVELOPMENT | {"patients": ["p1"]}}, "no field development.patients"),
        ({"development": DEVELOPMENT | {"attributes": []}}, "development.attributes"),
        ({"development": {**DEVELOPMENT, "attributes": [
            DEVELOPMENT["attributes"][1] | {"mean": float("nan")}]}}, "finite number"),
        ({"development": {**DEVELOPMENT, "attributes": [
            DEVELOPMENT["attributes"][1] | {"mean": float("inf")}]}}, "finite number"),
        ({"development": {**DEVELOPMENT, "attributes": [
            DEVELOPMENT["attributes"][0] | {"counts": {"female": -1, "male": 2}}]}}, "at least 0"),
        ({"regulatory_references": {ETHICS: ""}}, "regulatory_references"),
        ({"regulatory_references": {ETHICS: " \t "}}, "regulatory_references"),
        ({"regulatory_references": {ETHICS: "one\nline"}}, "regulatory_references"),
        ({"regulatory_references": {ETHICS: "x" * 501}}, "at most 500"),
        ({"regulatory_references": {str(n): "x" for n in range(51)}}, "at most 50"),
        ([], "must hold named fields"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(value: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        parse_declaration(value)
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 400


def test_a_file_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    with pytest.raises(Invalid, match="larger than 1 MiB"):
        read_declaration(path)
    with pytest.raises(Invalid, match="larger than 1 MiB"):
        read_declaration(Path("/dev/zero"))


def test_what_a_protocol_asks_for_must_be_there() -> None:
    plain = evidence_made.protocol()
    asks = evidence_made.protocol(drift=Drift(), regulatory_references=(ETHICS,))
    check_declared(plain, None)
    check_declared(plain, Declaration())
    references = {"regulatory_references": {ETHICS: "7/26"}}
    for given, says in (
        (None, "`development` in a file named with --declaration"),
        (parse_declaration(references), "`development`"),
        (parse_declaration({"development": DEVELOPMENT}), ETHICS),
        (parse_declaration({"development": DEVELOPMENT,
                            "regulatory_references": {"another": "x"}}), ETHICS),
    ):  # fmt: skip
        with pytest.raises(Refused, match=says) as refused:
            check_declared(asks, given)
        assert refused.value.code == "declaration_missing"
    check_declared(asks, parse_declaration({"development": DEVELOPMENT} | references))


def test_a_patient_is_described_by_the_first_of_its_cases() -> None:
    columns = patient_columns(
        DECLARED,
        ["b", "a", "b", "c", "a"],
        {
            "sex": ["male", "female", "female", "", "male"],
            "age": ["40", "61.5", "99", "unknown", "7"],
            "dose": ["1", "thin", "1", "1", "1"],
            "unasked": ["1"] * 5,
        },
    )
    assert set(columns) == {"sex", "age"}, "dose does not parse, and scanner is not there"
    assert columns["sex"].tolist() == ["male", "female", ""]
    assert columns["age"][:2].tolist() == [40.0, 61.5]
    assert np.isnan(columns["age"][2])
    assert len(patient_columns(DECLARED, None, {"sex": ["male"] * 5})["sex"]) == 5


def test_the_cohort_is_compared_as_the_protocol_says() -> None:
    asked = evidence_made.protocol(drift=Drift(alpha=0.1, smallest_index=0.2))
    columns = {"sex": np.array(["male"] * 30 + ["female"] * 10)}
    assert asked_drift(asked, DECLARED, columns) == drift_evidence(
        DECLARED, columns, minimum_group=10, alpha=0.1, smallest_index=0.2
    )
    assert asked_drift(evidence_made.protocol(), DECLARED, columns) is None


@pytest.mark.parametrize("patients", [True, False])
def test_a_table_s_patients_are_held_against_the_declaration(
    tmp_path: Path, patients: bool
) -> None:
    random = np.random.default_rng(3)
    rows = ["case,patient,reference,score,sex,age,who"]
    for number in range(200):
        truth = number % 2
        score = np.clip(0.3 + 0.4 * truth + random.normal(0, 0.2), 0, 1)
        sex = "female" if number < 150 else "male"
        rows.append(f"c{number},p{number // 2},{truth},{score:.4f},{sex},{30 + number % 40},x")
    text = "\n".join(rows)
    table = tmp_path / "predictions.csv"
    table.write_text(text if patients else text.replace("patient,", "other,"))
    rules = evidence_made.protocol(attributes=(), drift=Drift())
    declaration = parse_declaration({"development": DEVELOPMENT})
    found = assess(table, rules, tmp_path / "out", {}, declaration)
    assert found.drift is not None
    sex = next(of for of in found.drift.attributes if of.attribute == "sex")
    assert sex.cohort == (100 if patients else 200)
    assert sex.shifted is True
    assert set(found.drift.absent) == {"dose", "scanner"}
    assert found.drift.distribution == DECLARED.digest
    assert assess(table, rules, tmp_path / "out", {}).drift is None
