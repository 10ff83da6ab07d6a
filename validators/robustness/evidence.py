"""What a perturbed run showed: numbers about groups only."""

from validators.contract.schema import Strict
from validators.outcome import Interval, Outcome
from validators.robustness.severity import Perturbation


class DropEvidence(Strict):
    """One metric before and after, on the same cases. `n` are the cases that it is about.

    `drop` is clean minus changed; failed predictions count as right before and as wrong after.
    None where the run was not made.
    """

    metric: str
    n: int
    positives: int
    negatives: int
    clusters: int | None
    clean: float | None
    changed: float | None
    drop: float | None
    interval: Interval | None
    maximum_drop: float
    rule: str = "reported"
    outcome: Outcome
    reason: str


class RobustnessEvidence(Strict):
    """One perturbed run: what was done to which input, how many failed, and each metric's drop.

    `failed` is None where the run was not made. What was added is drawn from the digests of
    protocol, model and cohort, which the report holds.
    """

    perturbation: Perturbation
    amount: float
    unit: str
    cases: int
    failed: int | None
    drops: tuple[DropEvidence, ...]
