"""The certified model as a CycloneDX 1.6 ML-BOM: its files, what it was tried on, how it did.

    >>> bom = ml_bom(released, contract, model=NamedModel("lumen", "nodule-net", 3, files), …)
    >>> bom["metadata"]["component"]["type"]
    'machine-learning-model'

Rules
-----
1. Results are those of the released report, so it can say nothing that was withheld.
2. The locked cohort is what the model was *tried* on, by its Merkle root. What it was trained on is
   the maker's to say; nothing is said of it here.
3. The same arguments give the same bytes; the time is that of issue (`registry.trust.cyclonedx`).
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from registry.trust.canonical import hex_of
from registry.trust.cyclonedx import Json, enveloped, properties, timestamp
from validators.contract.schema import Contract, Tensor
from validators.report.disclosure import SUPPRESSED
from validators.report.words import OUTCOMES, PILOT_MODES, metric_in_words, rule_in_words, sentence

_MODEL, _COHORT = "model", "cohort"
Released = Mapping[str, Any]
_TASKS = {
    "binary": "classification",
    "multiclass": "classification",
    "ordinal": "ordinal classification",
    "detection": "object detection",
    "segmentation": "image segmentation",
    "regression": "regression",
    "time_to_event": "survival analysis",
}


class NamedModel(NamedTuple):
    """Whose model, under which name and version; the digest of each of its files by name."""

    organisation: str
    name: str
    version: int
    files: Mapping[str, str]


class NamedCohort(NamedTuple):
    """What it was run on; the licence in the words of the cohort's manifest, where known."""

    id: str
    version: str
    licence: str


def ml_bom(
    released: Released,
    contract: Contract,
    *,
    model: NamedModel,
    cohort: NamedCohort,
    issued: dt.datetime,
    tool: str,
) -> Json:
    """The ML-BOM of a report released for `certified`. tool: the version of Touchstone."""
    described = _model(released, contract, model)
    body: Json = {
        "metadata": {
            "timestamp": timestamp(issued),
            "tools": {"components": [{"type": "application", "name": "touchstone-tef",
                                      "version": tool}]},
            "component": described,
        },
        "components": [_cohort(released, cohort)],
        "dependencies": [{"ref": _COHORT}, {"ref": _MODEL}],
    }  # fmt: skip
    return enveloped(body)


def _model(released: Released, contract: Contract, model: NamedModel) -> Json:
    overall = str(released["verdict"]["overall"])
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "supplier": {"name": model.organisation},
        "group": model.organisation,
        "name": model.name,
        "version": str(model.version),
        "description": (
            f"{sentence(OUTCOMES.get(overall, overall))} by the protocol "
            f"{released['protocol_id']} {released['protocol_version']}; investigational."
        ),
        "components": [
            {
                "type": "file",
                "bom-ref": f"model/{name}",
                "name": f"model/{name}",
                "hashes": [{"alg": "SHA-256", "content": hex_of(digest)}],
            }
            for name, digest in sorted(model.files.items())
        ],
        "modelCard": {
            "bom-ref": "model-card",
            "modelParameters": {
                "task": _TASKS.get(released["task"], str(released["task"])),
                "datasets": [{"ref": _COHORT}],
                "inputs": [{"format": _format(tensor)} for tensor in contract.inputs],
                "outputs": [{"format": _format(tensor)} for tensor in contract.outputs],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(released))},
            "considerations": _considerations(released),
        },
        "properties": properties(
            {
                "model-digest": released["digests"]["model"],
                "protocol": released["digests"]["protocol"],
                "verdict": overall,
                "threshold": released["threshold"],
            }
        ),
    }


def _format(tensor: Tensor) -> str:
    shape = ", ".join(["N", *map(str, tensor.shape)])
    unit = f", {tensor.unit}" if tensor.unit else ""
    made = f", from {' or '.join(tensor.image.modality)}" if tensor.image else ""
    return f"{tensor.name}: {tensor.dtype} [{shape}]{unit}{made}"


def _metrics(released: Released) -> Iterator[Json]:
    for found in released["endpoints"]:
        if found["estimate"] is not None:
            yield _metric(found, None)
    for found in released["subgroups"]:
        if found["outcome"] != SUPPRESSED and found["estimate"] is not None:
            yield _metric(found, f"{found['attribute']} = {found['group']}")


def _metric(found: Released, part: str | None) -> Json:
    interval = found["interval"]
    return {
        "type": metric_in_words(found["metric"]),
        "value": str(found["estimate"]),
        **({} if part is None else {"slice": part}),
        **(
            {}
            if interval is None
            else {
                "confidenceInterval": {
                    "lowerBound": str(interval["low"]),
                    "upperBound": str(interval["high"]),
                }
            }
        ),
    }


def _considerations(released: Released) -> Json:
    use, verdict = released["intended_use"], released["verdict"]
    mode = str(PILOT_MODES.get(released["pilot_mode"], released["pilot_mode"]))
    limits = [
        use.get("limits"),
        *verdict["conditions"],
        *(
            f"the protocol's limit was missed, without deciding: {rule_in_words(rule['id'])}"
            for rule in verdict["rules"]
            if rule["outcome"] == "fail"
        ),
        released["statement"],
        released["disclosure"]["note"],
    ]
    assessed = [
        {
            "groupAtRisk": f"{found['attribute']} = {found['group']}",
            "harms": f"{metric_in_words(found['metric'])}: {_judged(found)}",
        }
        for found in released["subgroups"]
    ]
    return {
        "users": [f"{use.get('setting')}; {use.get('population')}"],
        "useCases": [str(use.get("purpose")), sentence(mode)],
        "technicalLimitations": [sentence(str(of)) for of in limits if of],
        **({"fairnessAssessments": assessed} if assessed else {}),
    }


def _judged(found: Released) -> str:
    if found["outcome"] == SUPPRESSED:
        return "withheld; the group is too small to be shown"
    outcome = OUTCOMES.get(found["outcome"], str(found["outcome"]))
    return outcome if found["gap"] is None else f"gap {found['gap']}, {outcome}"


def _cohort(released: Released, cohort: NamedCohort) -> Json:
    n = released["cases"]["n"]
    counted = f"{n} cases" if n is not None else "cases whose number is withheld"
    return {
        "type": "data",
        "bom-ref": _COHORT,
        "name": cohort.id,
        "version": cohort.version,
        "description": f"Locked test cohort, {counted}; the model never saw it before the run.",
        **({"licenses": [{"license": {"name": cohort.licence}}]} if cohort.licence else {}),
        "data": [
            {
                "type": "dataset",
                "name": f"{cohort.id} {cohort.version}",
                "contents": {
                    "properties": properties({"cohort-root": released["digests"]["cohort_root"]})
                },
                "classification": "confidential",
                "sensitiveData": ["images and reference standard of patients; none is in here"],
                "description": " ".join(
                    f"{sentence(str(of).rstrip('.'))}."
                    for of in (released["sampling"], released["reference_standard"],
                               released["attribution"])
                    if of
                ),
            }
        ],
    }  # fmt: skip
