"""The CHAI Applied Model Card: its elements, and that nothing withheld stands on it."""

import datetime as dt
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.validators.evidence_made import everything, report
from tests.validators.test_disclosure import _made
from tests.validators.test_disclosure_tasks import endpoint, group, made
from validators.evidence import Report
from validators.protocol.schema import Disclosure
from validators.report.card import NAMESPACE, NOT_PROVIDED, applied_model_card, card_xml
from validators.report.disclosure import release
from validators.report.suppression import Cell

ALL = everything(failed_perturbed=15)
METRIC = {"MetricGoal": "", "Results": {"MetricResult": [{"Label": "", "ValueJson": ""}]},
          "Interpretation": "", "TestType": "", "TestingDataDescription": "",
          "ValidationProcessAndJustification": ""}  # fmt: skip
# Elements of schema v0.2 in their order; a "?" marks those that may be left out.
SCHEMA: dict[str, Any] = {
    "BasicInfo": {"ModelName": "", "ModelDeveloper": "", "DeveloperContact": ""},
    "ReleaseInfo": {"ReleaseStage": "", "ReleaseDate": "", "ReleaseVersion": "",
                    "GlobalAvailability": "", "EHRCompatibility?": "", "RegulatoryApproval?": ""},
    "ModelSummary": {"Summary": "", "Keywords": {"Keyword": [""]}},
    "UsesAndDirections": {"IntendedUseAndWorkflow": "", "PrimaryIntendedUsers": "", "HowToUse": "",
                          "TargetedPatientPopulation": "", "CautionedOutOfScopeSettings": ""},
    "Warnings": {"KnownRisksAndLimitations": "", "KnownBiasesOrEthicalConsiderations": "",
                 "ClinicalRiskLevel": ""},
    "TrustIngredients": {
        "AISystemFacts": {
            "OutcomesAndOutputs": "", "ModelType": "", "FoundationModels?": "",
            "InputDataSource": "", "OutputAndInputDataTypes": "",
            "DevelopmentDataCharacterization": "", "BiasMitigationApproaches": "",
            "OngoingMaintenance": "", "Security?": "", "Transparency?": ""},
        "TransparencyInformation": {"FundingSource": "", "ThirdPartyInformation?": "",
                                    "StakeholdersConsulted": ""}},
    "KeyMetrics": {"UsefulnessUsabilityEfficacy": METRIC, "FairnessEquity": METRIC,
                   "SafetyReliability": METRIC},
    "Resources": {"EvaluationReferences?": "", "ClinicalTrial?": "", "PeerReviewedPublications": "",
                  "ReimbursementStatus?": "", "PatientConsentOrDisclosure": ""},
    "Bibliography": "",
}  # fmt: skip


def card_of(value: Report) -> Any:
    released = release(value, "certified", Disclosure())
    return applied_model_card(
        released, model="nodule-net", version="3", developer="lumen",
        issued=dt.datetime(2026, 11, 28), not_after=dt.datetime(2027, 11, 28),
    )  # fmt: skip


def check(value: Any, schema: Any, place: str = "card") -> None:
    """Raise AssertionError unless `value` has the schema's elements in their order."""
    if isinstance(schema, str):
        assert isinstance(value, str), place
    elif isinstance(schema, list):
        assert isinstance(value, list), place
        assert value, place
        for one in value:
            check(one, schema[0], place)
    else:
        names = list(value)
        known = [name.rstrip("?") for name in schema]
        assert names == [name for name in known if name in names], place
        needed = {name for name in schema if not name.endswith("?")}
        assert needed <= set(names), place
        for name, of in schema.items():
            if name.rstrip("?") in value:
                check(value[name.rstrip("?")], of, f"{place}.{name}")


OTHERS = made("segmentation", [endpoint("dice_gland", 300)], [group("a", "dice_gland", 300)])
SMALL = _made({"site": {"a": Cell(4, 3)}})


@pytest.mark.parametrize("value", [ALL, report(), OTHERS, SMALL],
                         ids=["all", "few", "segmentation", "nothing shown"])  # fmt: skip
def test_a_card_has_the_elements_of_the_schema_in_their_order(value: Report) -> None:
    card = card_of(value)
    check(card, SCHEMA)


def test_the_xml_holds_the_same_elements_and_texts() -> None:
    card = card_of(ALL)
    root = ElementTree.fromstring(card_xml(card))  # noqa: S314  our own text
    assert root.tag == f"{{{NAMESPACE}}}AppliedModelCard"
    assert [child.tag.split("}")[1] for child in root] == list(SCHEMA)
    found = root.findall(f".//{{{NAMESPACE}}}MetricResult")
    results = [one for of in card["KeyMetrics"].values() for one in of["Results"]["MetricResult"]]
    assert [[child.text for child in one] for one in found] == [list(of.values()) for of in results]


def test_a_name_with_markup_or_control_characters_stays_text() -> None:
    nasty = "<b>\x0c&"
    card = card_of(report()) | {"Bibliography": nasty}
    root = ElementTree.fromstring(card_xml(card))  # noqa: S314  our own text
    assert root.findtext(f"{{{NAMESPACE}}}Bibliography") == "<b>&"


def test_what_only_the_developer_knows_is_not_provided() -> None:
    card = card_of(ALL)
    assert card["BasicInfo"]["DeveloperContact"] == NOT_PROVIDED
    assert card["Warnings"]["ClinicalRiskLevel"] == NOT_PROVIDED
    assert card["UsesAndDirections"]["PrimaryIntendedUsers"] == NOT_PROVIDED
    facts = card["TrustIngredients"]["AISystemFacts"]
    assert facts["ModelType"] == facts["BiasMitigationApproaches"] == NOT_PROVIDED
    assert card_of(report())["KeyMetrics"]["SafetyReliability"]["Results"] == {
        "MetricResult": [{"Label": NOT_PROVIDED, "ValueJson": "null"}]
    }


def test_results_are_those_that_were_released() -> None:
    card, released = card_of(ALL), release(ALL, "certified", Disclosure())
    metrics = card["KeyMetrics"]

    def values(part: str) -> list[Any]:
        return [json.loads(of["ValueJson"]) for of in metrics[part]["Results"]["MetricResult"]]

    estimates = [row["estimate"] for row in released["endpoints"] if "comparison" not in row]
    found = values("UsefulnessUsabilityEfficacy")
    assert [of["estimate"] for of in found if "estimate" in of] == estimates
    assert [of["margin"] for of in found if "difference" in of] == [0.05, 0.05]
    assert len(values("FairnessEquity")) == len(released["subgroups"])
    safety = values("SafetyReliability")
    drops = [of["outcome"] for of in safety if "at_most" in of]
    assert drops == ["pass", "pass", "insufficient_evidence"]
    assert [of["mean"] for of in safety if "mean" in of] == [
        row["mean"] for row in released["sites"]
    ]


def test_nothing_that_was_withheld_stands_on_the_card() -> None:
    groups = {"palms": Cell(4, 200), "trunk": Cell(40, 200), "legs": Cell(60, 300)}
    card = card_of(_made({"site": groups}))
    shown = json.dumps(card["KeyMetrics"]["FairnessEquity"])
    assert "Sensitivity where site is palms" not in shown
    assert "AUC where site is palms" not in shown
    assert "Specificity where site is palms" in shown
    text = json.dumps(card_of(ALL))
    assert "hospital 0" not in text
    assert ALL.digests.predictions not in text


def test_groups_that_are_behind_and_signs_that_reverse_are_warned_of() -> None:
    first = ALL.subgroups[0]
    assert first.within_sites is not None
    within = first.within_sites.model_copy(update={"reversal": "shown"})
    row = first.model_copy(update={"outcome": "fail", "within_sites": within})
    warnings = card_of(ALL.model_copy(update={"subgroups": (row,)}))["Warnings"]
    said = warnings["KnownBiasesOrEthicalConsiderations"]
    assert "Sensitivity where sex is female: fail." in said
    assert "within hospitals the gap has the other sign" in said
    assert "declared development data in age" in said
    assert "no human-factors evidence" in warnings["KnownRisksAndLimitations"]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert card_xml(card_of(ALL)) == card_xml(card_of(everything(failed_perturbed=15)))
