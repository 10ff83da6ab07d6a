"""Examples of the OpenAPI description that are too long to stand beside their routes."""

from typing import Any

PROTOCOL: dict[str, Any] = {
    "id": "nodule-malignancy",
    "version": "1",
    "title": "Malignancy of lung nodules on CT",
    "intended_use": {
        "purpose": "To tell likely malignant from likely benign nodules, as a second reading",
        "population": "Adults with lung nodules of 3 to 30 mm on chest CT",
        "setting": "Radiology departments",
        "prevalence": 0.3,
    },
    "reference_standard": "Median malignancy rating of up to four radiologists",
    "cohort": {"id": "lidc-nodules", "positives": 200, "negatives": 400},
    "cluster": "patient",
    "threshold": 0.3,
    "endpoints": [{"metric": "sensitivity", "goal": 0.8}, {"metric": "specificity", "goal": 0.85}],
    "attempts": 3,
    "contract": {
        "id": "lidc-nodule",
        "version": "1",
        "inputs": [{"name": "descriptors", "dtype": "float32", "shape": [8]}],
        "outputs": [{"name": "probability", "dtype": "float32", "shape": [1]}],
        "score": "probability",
    },
}

SUBMISSION: dict[str, Any] = {
    "id": "7f1d2c1e-4b7e-4a53-9b8d-2c8f0f6f9f10",
    "organisation": "sme-a",
    "model": {"name": "nodule-net", "version": 3, "digest": "sha256:" + "a" * 64},
    "protocol": {"id": "nodule-malignancy", "version": "1", "digest": "sha256:" + "b" * 64},
    "cohort": {"id": "lidc-nodules", "version": "1"},
    "declaration": None,
    "state": "in_review",
    "meaning": "two assessors are reviewing",
    "development": False,
    "deadline": "2026-12-08T12:00:00Z",
    "overdue": False,
    "outcome": "pass",
    "failure": None,
    "attempts": {"allowed": 3, "spent": 1},
    "trials": None,
    "created_at": "2026-11-20T09:00:00Z",
    "changed_at": "2026-11-20T09:04:10Z",
}

DECISION: dict[str, Any] = {
    "envelope": {
        "payload": "eyJkZWNpc2lvbiI6ICLigKYifQ==",
        "payloadType": "application/vnd.touchstone.decision.v1+json",
        "signatures": [{"keyid": "sha256:" + "d" * 64, "sig": "MEUCIQ=="}],
    },
    "statement_signature": {"keyid": "sha256:" + "d" * 64, "sig": "MEUCIQ=="},
}
