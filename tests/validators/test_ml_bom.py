"""The ML-BOM says what was released, in the form that tools for CycloneDX read."""

import datetime as dt
import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.trust.canonical import canonical, hex_of, sha256_bytes
from tests.validators import evidence_made as made
from validators.contract.schema import Contract, Tensor
from validators.protocol.schema import Disclosure
from validators.report.disclosure import release
from validators.report.ml_bom import NamedCohort, NamedModel, ml_bom

ISSUED = dt.datetime(2026, 11, 28, 12, 0, tzinfo=dt.UTC)
FILES = {"model.onnx": sha256_bytes(b"m"), "weights.data": sha256_bytes(b"w")}
CONTRACT = Contract(
    id="nodule", version="1", score="probability",
    inputs=(Tensor(name="ct", dtype="float32", shape=(1, 64, 64), unit="HU"),),
    outputs=(Tensor(name="probability", dtype="float32", shape=(1,)),),
)  # fmt: skip


def bom(n: int = 400, licence: str = "CC BY 3.0") -> dict:  # type: ignore[type-arg]
    return ml_bom(
        release(made.report(made.cases(n)), "certified", Disclosure()),
        CONTRACT,
        model=NamedModel("lumen", "nodule-net", 3, FILES),
        cohort=NamedCohort("lidc", "1", licence),
        issued=ISSUED,
        tool="0.1.0",
    )


@pytest.mark.parametrize(("n", "licence"), [(400, "CC BY 3.0"), (400, ""), (12, "")])
def test_it_is_valid_by_the_published_schema(n: int, licence: str) -> None:
    text = json.dumps(bom(n, licence))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_names_every_file_of_the_model_and_the_cohort_by_its_root() -> None:
    found = bom()
    model = found["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert {of["name"]: of["hashes"][0]["content"] for of in model["components"]} == {
        f"model/{name}": hex_of(digest) for name, digest in FILES.items()
    }
    (cohort,) = found["components"]
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": cohort["bom-ref"]}]
    said = cohort["data"][0]["contents"]["properties"]
    assert said == [{"name": "touchstone:cohort-root", "value": made.ROOT}]
    assert cohort["licenses"] == [{"license": {"name": "CC BY 3.0"}}]


def test_its_numbers_are_those_that_were_released() -> None:
    released = release(made.report(), "certified", Disclosure())
    card = bom()["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    (auc,) = [of for of in metrics if of["type"] == "AUC" and "slice" not in of]
    endpoint = next(of for of in released["endpoints"] if of["metric"] == "auc")
    assert auc["value"] == str(endpoint["estimate"])
    assert auc["confidenceInterval"] == {
        "lowerBound": str(endpoint["interval"]["low"]),
        "upperBound": str(endpoint["interval"]["high"]),
    }
    assert {of["slice"] for of in metrics if "slice" in of} >= {"sex = female", "sex = male"}
    assert card["considerations"]["technicalLimitations"]


def test_what_is_withheld_is_not_in_it() -> None:
    metrics = bom(12)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    assert all("AUC" not in of["type"] for of in metrics["performanceMetrics"])


def test_the_same_report_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert canonical(bom()) == canonical(bom())
    assert bom()["serialNumber"] != bom(399)["serialNumber"]
