"""Made cohorts of a time-to-event question, and the settings to score them by."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from validators.metrics.time_to_event_table import TimeToEventTable
from validators.protocol.tasks import TimeToEventSettings

SETTINGS = TimeToEventSettings(
    unit="months", horizons=(12, 24), maximum_follow_up=48, action_threshold=0.3
)
RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "survival_values.json").read_text(encoding="utf-8")
)


def cohort(
    seed: int, n: int = 80, *, failed: int = 0, patients: int | None = None, whole: bool = False
) -> TimeToEventTable:
    """Exponential times with uniform censoring and true probabilities; `whole` months tie."""
    rng = np.random.default_rng(seed)
    linear = rng.normal(size=n)
    if whole:
        linear = np.round(linear)
    hazard = 0.03 * np.exp(linear)
    came, until = rng.exponential(1 / hazard), rng.uniform(6, 60, n)
    time = np.minimum(came, until)
    risk = linear.copy()
    risk[rng.permutation(n)[:failed]] = np.nan
    return TimeToEventTable(
        time=np.ceil(time) if whole else time,
        event=came <= until,
        risk=risk,
        probabilities={
            at: np.where(np.isnan(risk), np.nan, 1 - np.exp(-hazard * at)) for at in (12.0, 24.0)
        },
        patient=None if patients is None else rng.permutation(np.arange(n) % patients),
    )


def changed(table: TimeToEventTable, **columns: Any) -> TimeToEventTable:
    """The table with other columns."""
    given = {
        "time": table.time, "event": table.event, "risk": table.risk,
        "probabilities": table.probabilities, "patient": table.patient,
    }  # fmt: skip
    return TimeToEventTable(**{**given, **columns})


def withheld(table: TimeToEventTable, which: Any) -> TimeToEventTable:
    """The table without the predictions of some cases."""
    risk = table.risk.copy()
    risk[which] = np.nan
    probabilities = {
        at: np.where(np.isnan(risk), np.nan, of) for at, of in table.probabilities.items()
    }
    return changed(table, risk=risk, probabilities=probabilities)
