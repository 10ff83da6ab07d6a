"""The CHAI Applied Model Card of a certified model, as far as its evaluation knows the answers.

    >>> card = applied_model_card(released, model="nodule-net", version="3", developer="lumen", …)
    >>> card["Warnings"]["ClinicalRiskLevel"]
    'not provided'

Rules
-----
1. It is made of the released report alone, so it can say nothing that was withheld.
2. The elements, their names and order are those of the Applied Model Card, schema v0.2 (Coalition
   for Health AI, https://mc.chai.org/v0.2/schema.xsd). `card_xml` writes the instance document that
   CHAI's own tools read.
3. What the evaluation does not know is "not provided": nobody but the developer can say it.
4. Results are JSON texts, as the schema asks: value, interval, goal, outcome. Outcomes are the
   protocol's; the card adds no judgement.
5. The same report gives the same bytes.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from validators.report.disclosure import SUPPRESSED
from validators.report.words import (
    OUTCOMES,
    PILOT_MODES,
    metric_in_words,
    perturbation_in_words,
    rule_in_words,
    sentence,
)

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
NOT_PROVIDED = "not provided"
Element = str | dict[str, "Element"] | list["Element"]
Card = dict[str, Element]
Released = Mapping[str, Any]


def applied_model_card(
    released: Released, *, model: str, version: str, developer: str, issued: dt.datetime,
    not_after: dt.datetime,
) -> Card:  # fmt: skip
    """The card of a report released for `certified`, as a tree of elements."""
    use, mode = released["intended_use"], str(released["pilot_mode"])
    pilot = PILOT_MODES.get(mode, mode)
    return {
        "BasicInfo": {
            "ModelName": model,
            "ModelDeveloper": developer,
            "DeveloperContact": NOT_PROVIDED,
        },
        "ReleaseInfo": {
            "ReleaseStage": f"investigational, for a clinical pilot {pilot}",
            "ReleaseDate": f"{issued:%Y-%m-%d}",
            "ReleaseVersion": version,
            "GlobalAvailability": NOT_PROVIDED,
            "RegulatoryApproval": _approval(released),
        },
        "ModelSummary": {
            "Summary": _summary(released),
            "Keywords": {"Keyword": [str(released["task"]).replace("_", " "), "imaging"]},
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": _sentences(use.get("purpose"), use.get("setting")),
            "PrimaryIntendedUsers": NOT_PROVIDED,
            "HowToUse": _how_to_use(released, pilot),
            "TargetedPatientPopulation": _sentences(use.get("population")),
            "CautionedOutOfScopeSettings": _sentences(use.get("limits")),
        },
        "Warnings": {
            "KnownRisksAndLimitations": _limitations(released),
            "KnownBiasesOrEthicalConsiderations": _biases(released),
            "ClinicalRiskLevel": NOT_PROVIDED,
        },
        "TrustIngredients": _trust(released, not_after),
        "KeyMetrics": {
            "UsefulnessUsabilityEfficacy": _efficacy(released),
            "FairnessEquity": _fairness(released),
            "SafetyReliability": _reliability(released),
        },
        "Resources": {
            "EvaluationReferences": _sentences(
                f"protocol {released['protocol_id']} {released['protocol_version']}, "
                f"{released['digests']['protocol']}",
                f"cohort {released['digests']['cohort_root']}",
            ),
            "PeerReviewedPublications": NOT_PROVIDED,
            "PatientConsentOrDisclosure": NOT_PROVIDED,
        },
        "Bibliography": "",
    }  # fmt: skip


def card_xml(card: Card) -> bytes:
    """The card as an instance document of the schema."""
    ElementTree.register_namespace("mc", NAMESPACE)
    root = ElementTree.Element(f"{{{NAMESPACE}}}AppliedModelCard")
    _append(root, card)
    ElementTree.indent(root)
    found: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return found


def _append(parent: ElementTree.Element, value: Mapping[str, Element]) -> None:
    for name, of in value.items():
        for one in of if isinstance(of, list) else [of]:
            child = ElementTree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
            if isinstance(one, dict):
                _append(child, one)
            else:
                child.text = _plain(str(one))


def _plain(text: str) -> str:
    """Without the control characters that XML 1.0 has no place for."""
    return "".join(c for c in text if c in "\t\n" or ord(c) >= 0x20)


def _sentences(*said: Any) -> str:
    """Each as a sentence, without what is empty; "not provided" where nothing is left."""
    kept = [sentence(str(one).rstrip(".")) for one in said if one not in (None, "")]
    return ". ".join(kept) + "." if kept else NOT_PROVIDED


def _approval(released: Released) -> str:
    needs = [f"a pilot also needs: {of}" for of in released["regulatory_references"]]
    return _sentences("none is stated; this is not a CE mark", *needs)


def _summary(released: Released) -> str:
    overall = OUTCOMES.get(released["verdict"]["overall"], released["verdict"]["overall"])
    return _sentences(
        released["title"],
        f"evaluated by a testing facility on a locked cohort; by its protocol: {overall}",
        released["statement"],
    )


def _how_to_use(released: Released, pilot: str) -> str:
    threshold = released["threshold"]
    return _sentences(
        None if threshold is None else f"a score of {threshold} or more is positive",
        released["indeterminate"],
        pilot,
    )


def _limitations(released: Released) -> str:
    missed = [
        rule_in_words(rule["id"])
        for rule in released["verdict"]["rules"]
        if rule["outcome"] == "fail"
    ]
    return _sentences(
        *released["verdict"]["conditions"],
        *(f"the protocol's limit was missed, without deciding: {name}" for name in missed),
        released["statement"],
        released["disclosure"]["note"],
    )


def _biases(released: Released) -> str:
    """Groups that are behind or not shown, and signs that reverse; nothing of withheld ones."""
    said = []
    for row in released["subgroups"]:
        where = _where(row)
        if row["outcome"] in ("fail", "insufficient_evidence"):
            said.append(f"{where}: {OUTCOMES[row['outcome']]}")
        if row.get("within_sites", {}).get("reversal", "none") != "none":
            said.append(f"{where}: within hospitals the gap has the other sign")
    said += [
        f"the cohort differs from the declared development data in {_plainly(of['attribute'])}"
        for of in released["drift"]
        if of["shifted"]
    ]
    return _sentences(*said)


def _trust(released: Released, not_after: dt.datetime) -> Element:
    sandbox = ", ".join(sorted(released["environment"]["sandbox"]))
    drift = [
        f"{_plainly(of['attribute'])}: {'shifted against' if of['shifted'] else 'no shift from'} "
        "the declared data"
        for of in released["drift"]
    ]
    return {
        "AISystemFacts": {
            "OutcomesAndOutputs": f"{_plainly(released['task'])}: {released['reference_standard']}",
            "ModelType": NOT_PROVIDED,
            "InputDataSource": NOT_PROVIDED,
            "OutputAndInputDataTypes": NOT_PROVIDED,
            "DevelopmentDataCharacterization": _sentences(*drift),
            "BiasMitigationApproaches": NOT_PROVIDED,
            "OngoingMaintenance": f"The certificate ends on {not_after:%Y-%m-%d} at the latest.",
            "Security": _sentences(
                f"run by the facility in a sandbox ({sandbox})" if sandbox else None
            ),
            "Transparency": _sentences(f"model {released['digests']['model']}",
                                       f"numbers computed by {released['digests']['code']}"),
        },
        "TransparencyInformation": {
            "FundingSource": NOT_PROVIDED,
            "ThirdPartyInformation": _sentences(released["attribution"]),
            "StakeholdersConsulted": NOT_PROVIDED,
        },
    }  # fmt: skip


def _efficacy(released: Released) -> Element:
    rows = []
    for found in released["endpoints"]:
        of = found.get("comparison")
        if of is None:
            goal = found.get("band", found["goal"])
            rows.append(_result(metric_in_words(found["metric"]), found, "estimate", goal=goal))
        else:
            label = f"{metric_in_words(found['metric'])} less that of {_plainly(of['name'])}"
            row = {**of, "outcome": found["outcome"]}
            rows.append(_result(label, row, "difference", margin=of["margin"]))
    return _key_metric(released, "the goals that the protocol set beforehand", rows)


def _fairness(released: Released) -> Element:
    rows = [
        _result(
            _where(row), row, "estimate", gap=row["gap"], margin=row["margin"], floor=row["floor"],
        )
        for row in released["subgroups"]
        if row["outcome"] != SUPPRESSED
    ]  # fmt: skip
    return _key_metric(released, "each group against the rest, within the protocol's margin", rows)


def _reliability(released: Released) -> Element:
    rows = [
        _result(
            f"drop of {metric_in_words(drop['metric'])} under "
            f"{perturbation_in_words(run['perturbation'])}",
            drop, "drop", at_most=drop["maximum_drop"],
        )
        for run in released["robustness"]
        for drop in run["drops"]
    ]  # fmt: skip
    rows += [
        _result(
            f"{metric_in_words(row['metric'])} in another hospital like these",
            row, "mean", prediction=_ends(row["prediction"]), floor=row["floor"],
        )
        for row in released["sites"]
    ]  # fmt: skip
    goal = "small drops under disturbance, and a floor in another hospital"
    return _key_metric(released, goal, rows)


def _result(label: str, row: Released, value: str, **more: Any) -> Element:
    shown = {
        value: row[value],
        "interval": _ends(row.get("interval")),
        **more,
        "outcome": row["outcome"],
    }
    kept = {name: of for name, of in shown.items() if of is not None}
    return {"Label": sentence(label), "ValueJson": json.dumps(kept, sort_keys=True)}


def _ends(interval: Released | None) -> list[float] | None:
    return None if interval is None else [interval["low"], interval["high"]]


def _key_metric(released: Released, goal: str, rows: Sequence[Element]) -> Element:
    """One of the three; the schema wants a result also where none was measured or may be shown."""
    none: Element = {"Label": NOT_PROVIDED, "ValueJson": "null"}
    cases = released["cases"]
    counted = None if cases["n"] is None else f"{cases['n']} cases"
    if counted and cases.get("positives") is not None:
        counted += f", {cases['positives']} positive"
    return {
        "MetricGoal": sentence(goal) + "." if rows else NOT_PROVIDED,
        "Results": {"MetricResult": list(rows) or [none]},
        "Interpretation": "Outcomes are those of the protocol's rules." if rows else NOT_PROVIDED,
        "TestType": "Evaluation by a testing facility on a locked cohort; standalone.",
        "TestingDataDescription": _sentences(
            counted, released["sampling"], f"reference standard: {released['reference_standard']}"
        ),
        "ValidationProcessAndJustification": (
            "A facility ran the model itself, by a protocol that was fixed before the first run."
        ),
    }


def _where(row: Released) -> str:
    return f"{metric_in_words(row['metric'])} where {_plainly(row['attribute'])} is {row['group']}"


def _plainly(name: Any) -> str:
    return str(name).replace("_", " ")
