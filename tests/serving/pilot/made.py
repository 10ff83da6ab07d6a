"""A certified summary in a bundle, and a pilot whose truth is known."""

import base64
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np

from registry.trust.canonical import canonical, sha256_bytes
from serving.pilot.certified import Certified, read_certified
from serving.pilot.prediction import Prediction

START = dt.datetime(2026, 11, 2, 8, tzinfo=dt.UTC)
EDGES = (0.0, 0.2, 0.5, 0.8, 1.0)
SHARES = (0.4, 0.25, 0.2, 0.15)


def interval(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "level": 0.95, "method": "made"}


TRUE = {
    "sensitivity": {"estimate": 0.68, "interval": interval(0.58, 0.76)},
    "specificity": {"estimate": 0.86, "interval": interval(0.8, 0.9)},
    "auc": {"estimate": 0.85, "interval": interval(0.8, 0.9)},
    "calibration_in_the_large": {"estimate": 0.0, "interval": interval(-0.2, 0.2)},
}
"""What `scores` reach."""


def summary(**other: Any) -> dict[str, Any]:
    return {
        "schema_id": "touchstone/reference-summary/v1",
        "cases": 400,
        "score": {"name": "malignant", "edges": list(EDGES), "shares": list(SHARES)},
        "prevalence": 0.35,
        "attributes": {"sex": {"F": 0.55, "M": 0.45}},
        "calibration": None,
        "performance": {
            "sensitivity": {"estimate": 0.9, "interval": interval(0.82, 0.95)},
            "specificity": {"estimate": 0.8, "interval": interval(0.74, 0.86)},
            "auc": {"estimate": 0.9, "interval": interval(0.86, 0.93)},
            "calibration_in_the_large": {"estimate": 0.0, "interval": interval(-0.2, 0.2)},
        },
        **other,
    }


def bundle(folder: Path, **other: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "reference-summary.json": summary(**other),
        "report.json": {"threshold": 0.5, "alpha": 0.025, "disclosure": {"minimum_group": 10}},
    }
    subjects = []
    for name, value in files.items():
        data = canonical(value)
        (folder / name).write_bytes(data)
        subjects.append({"name": name, "digest": {"sha256": sha256_bytes(data)[7:]}})
    statement = canonical(
        {"subject": subjects, "predicate": {"model": {"name": "nodule-net", "version": 3}}}
    )
    envelope = {"payload": base64.b64encode(statement).decode(), "payloadType": "x",
                "signatures": []}  # fmt: skip
    (folder / "certificate.json").write_text(json.dumps(envelope))
    return folder


def certified(folder: Path, **other: Any) -> Certified:
    return read_certified(bundle(folder, **other))


def scores(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """(score, reference) of cases that are calibrated and have the certified shares."""
    bins = rng.choice(4, n, p=SHARES)
    score = rng.uniform(np.array(EDGES)[bins], np.array(EDGES)[bins + 1])
    return score, (rng.random(n) < score).astype(int)


def prediction(of: Certified, number: int, score: float, **other: Any) -> Prediction:
    values: dict[str, Any] = {
        "certificate": of.certificate,
        "moment": START + dt.timedelta(minutes=30 * number),
        "scores": {"malignant": score},
        "seconds": 0.02,
        "case": f"ACC-{number:05d}",
        "inputs": {"mean": 0.1 + 0.001 * number},
        **other,
    }
    return Prediction(**values)
