"""Pilots in memory whose truth is known, for tests of error rates and for bench/pilot.py."""

from typing import Any

import numpy as np

from serving.pilot.reading import Answers, Cases, Pilot
from tests.serving.pilot.made import EDGES, SHARES

DAY = 86_400_000_000
CUT = 0.5


def pilot(
    rng: np.random.Generator, patients: int, *, sensitivity: float, specificity: float,
    prevalence: float = 0.35, shift: float = 0.0, off: float | None = None, per_day: int = 8,
    cases_each: int = 1, female: float = 0.55,
) -> Pilot:  # fmt: skip
    """Cases on either side of the cut as the rates say, scores within a side as certified.

    shift: share of the lowest bin that moves to the highest. off: where given, scores are drawn as
    certified and outcomes by score + `off`; the rates then follow from the scores.
    """
    patient = np.repeat(np.arange(patients), cases_each)
    n = len(patient)
    shares = np.array(SHARES) + np.array([-shift, 0, 0, shift])
    if off is not None:
        bins = rng.choice(4, n, p=shares)
        score = rng.uniform(np.array(EDGES)[bins], np.array(EDGES)[bins + 1])
        reference = (rng.random(n) < np.clip(score + off, 0, 1)).astype(np.int8)
    else:
        # A patient's cases are alike: right together, or wrong together.
        reference = (rng.random(n) < prevalence).astype(np.int8)
        luck = rng.random(patients)[patient]
        right = luck < np.where(reference == 1, sensitivity, specificity)
        up = right == (reference == 1)
        below = rng.choice(2, n, p=shares[:2] / shares[:2].sum())
        bins = np.where(up, 2 + rng.choice(2, n, p=shares[2:] / shares[2:].sum()), below)
        score = rng.uniform(np.array(EDGES)[bins], np.array(EDGES)[bins + 1])
    moment = (patient // per_day).astype(np.int64) * DAY + np.arange(n)
    arrived = (patient // per_day + 14).astype(np.int64) * DAY
    units = np.array([f"p{of:06d}" for of in patient])
    sex = np.where(rng.random(patients) < female, "F", "M")[patient]
    none: Any = np.zeros(n, dtype=bool)
    return Pilot(
        Answers(moment, np.full(n, 0.02), none, score, units, units, {}),
        Cases(moment, arrived, reference, reference, score, units, {"sex": sex}),
    )
