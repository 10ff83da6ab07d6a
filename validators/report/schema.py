"""The published JSON Schema of `report.json`, made of the model that writes it.

    $ python -m validators.report.schema        # writes validators/report/report.schema.json

Rules
-----
1. The file beside this module is the published one; a test fails when it is not current.
2. `$id` changes when the shape changes in a way that a reader could trip over.
3. Nothing but the fields listed may stand in a report.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from validators import evidence
from validators.evidence import Report

SCHEMA_ID = "urn:touchstone:report:v1"
SCHEMA_FILE = Path(__file__).parent / "report.schema.json"

DESCRIPTIONS: dict[str, dict[str, str]] = {
    "Report": {
        "schema_id": "The shape of this document.",
        "protocol_id": "The protocol that the run was judged by.",
        "protocol_version": "Its version; the digest is its identity.",
        "title": "The protocol's title.",
        "intended_use": "Purpose, population, setting, expected prevalence and limits.",
        "reference_standard": "What was taken as the truth, in the protocol's words.",
        "sampling": "How the cohort's cases came in, in the protocol's words.",
        "indeterminate": "How answers that are neither positive nor negative count, in words.",
        "pilot_mode": "How a certified model may be piloted: shadow or assistive.",
        "regulatory_references": "What a pilot needs beside the certificate.",
        "sites": "One entry for each metric that is asked across hospitals.",
        "robustness": "One entry for each perturbed run.",
        "drift": "How the cohort differs from the declared development data; null if not asked.",
        "leakage": "Whether a result is too good to be believed; null if not asked.",
        "predecessor": "Against the certified version of the same model; absent where none was in "
        "force. It judges nothing.",
        "goals_rationale": "Why these goals, as written down before the first run.",
        "task": "Binary, multiclass, ordinal, detection, segmentation, regression or "
        "time_to_event.",
        "threshold": "A score at or above it is positive; null where there is none.",
        "alpha": "Of each gating rule in this attempt, one-sided; intervals are at 1 - 2 alpha.",
        "digests": "Everything that the report was computed from, by name.",
        "case_flow": "From what was sealed to what was scored.",
        "endpoints": "One entry for each question about the whole cohort.",
        "complete_case": "The endpoints with failed cases left out: shown beside, never judged.",
        "subgroups": "One entry for each group, attribute and metric.",
        "verdict": "Computed, never edited.",
        "curves": "What the plots draw; null where nothing could be drawn. Never released.",
        "environment": "Where the predictions were made.",
        "attribution": "Citation and licence of the data, where its licence asks for it.",
        "statement": "What kind of evidence this is.",
    },
    "EndpointEvidence": {
        "metric": "A metric of the task type, or failure_rate.",
        "estimate": "The point estimate; null where it can't be computed.",
        "interval": "Two-sided interval; null where it can't be computed.",
        "n": "Cases.",
        "positives": "Cases that are positive by the reference; null where there is no such.",
        "negatives": "Cases that are negative by the reference; null where there is no such.",
        "clusters": "Patients, where the protocol clusters by patient.",
        "goal": "What had to be reached; null where the endpoint is only reported.",
        "band": "Both limits of a metric that belongs between two; null for any other.",
        "comparison": "Against another model or readers; null where there is no comparator.",
        "role": "primary or secondary.",
        "rule": "gating or reported.",
        "outcome": "What the rule says of the evidence.",
        "reason": "The outcome in words.",
    },
    "SubgroupEvidence": {
        "gap": "Rest of the cohort minus group: positive where the group is worse off.",
        "gap_interval": "Interval of the gap.",
        "adjusted_p": "One-sided p of a gap of at least nothing, Holm within the attribute.",
        "margin": "Largest acceptable gap.",
        "floor": "Lowest acceptable value in the group.",
    },
    "PredecessorEvidence": {
        "certified": "Which version held a certificate when this one was assessed.",
        "not_compared": "Why nothing was compared, in one sentence; empty where something was.",
        "threshold": "Of the certified version; null where the question has none.",
        "failed": "Predictions of the certified version that failed.",
        "endpoints": "One entry for each metric among the endpoints.",
        "changed": "Cases that changed sides at the threshold; null where there is none.",
        "statement": "What kind of comparison this is.",
    },
    "Digests": {
        "model": "The model's files; null where a table was scored.",
        "protocol": "The protocol's canonical JSON.",
        "cohort_root": "The cohort's Merkle root; null where a table was scored.",
        "predictions": "The file of predictions that was scored.",
        "code": "The sources of the validators that computed the numbers.",
        "environment": "The environment, as given below.",
    },
}


def report_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `report.json`."""
    schema = Report.model_json_schema(mode="serialization")
    for name, definition in (("Report", schema), *schema.get("$defs", {}).items()):
        model = getattr(evidence, name, None)
        if isinstance(model, type) and issubclass(model, BaseModel):
            definition["description"] = inspect.getdoc(model)
        for field, text in DESCRIPTIONS.get(name, {}).items():
            definition["properties"][field]["description"] = text
    schema["required"] = sorted(set(schema["properties"]) - set(Report.added_later))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "Touchstone validation report",
    }


def schema_text() -> str:
    """The schema as the published file holds it."""
    return json.dumps(report_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
