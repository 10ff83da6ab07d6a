"""Case tables and protocols for the tests of the science."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from validators.cases import CaseTable
from validators.protocol.schema import Endpoint, IntendedUse, Protocol, SubgroupRule

GENTLE = {"rule": "reported", "role": "secondary"}


def protocol(*rules: SubgroupRule, **fields: Any) -> Protocol:
    """Sensitivity .7, specificity .6 and AUC .7 gate; the rest is reported."""
    values: dict[str, Any] = {
        "id": "made",
        "version": "1",
        "intended_use": IntendedUse(purpose="test", population="made", setting="test"),
        "reference_standard": "made",
        "threshold": 0.5,
        "endpoints": (
            Endpoint(metric="sensitivity", goal=0.7),
            Endpoint(metric="specificity", goal=0.6),
            Endpoint(metric="auc", goal=0.7),
            Endpoint(metric="brier", **GENTLE),
            Endpoint(metric="calibration_slope", **GENTLE),
            Endpoint(metric="failure_rate", **GENTLE),
        ),
        "subgroups": rules,
    }
    return Protocol(**{**values, **fields})


def table_of(
    rng: np.random.Generator, n: int = 200, *, prevalence: float = 0.4, auc: float = 0.9,
    failed: float = 0.0, patients: int | None = None, groups: int = 3, alike: float = 0.5,
) -> CaseTable:  # fmt: skip
    """Binormal scores; `alike` is the part of their variance that a patient has in common."""
    from scipy import special

    reference = (rng.random(n) < prevalence).astype(int)
    reference[:2] = (0, 1)
    patient = None if patients is None else rng.integers(0, patients, n)
    shift = np.sqrt(2) * special.ndtri(auc)
    noise = rng.normal(size=n)
    if patient is not None:
        noise = np.sqrt(alike) * rng.normal(size=patients)[patient] + np.sqrt(1 - alike) * noise
    score: NDArray[np.float64] = special.ndtr(noise + shift * (reference - 0.5))
    score[rng.random(n) < failed] = np.nan
    names = np.array([f"g{i}" for i in range(groups)])
    return CaseTable(
        reference=reference,
        score=score,
        patient=patient,
        attributes={"site": names[rng.integers(0, groups, n)]},
    )
