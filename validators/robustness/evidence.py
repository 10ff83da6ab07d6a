"""What a perturbed run showed: numbers about groups only."""

from validators.contract.schema import Strict
from validators.evidence import Interval, Outcome
from validators.robustness.severity import Perturbation


class DropEvidence(Strict):
    """One metric before and after, on the same cases. `n` are the cases that it is about.

    `drop` is clean minus changed; failed predictions count as right before and as wrong after.
    """

    metric: str
    n: int
    positives: int
    negatives: int
    clusters: int | None
    clean: float
    changed: float
    drop: float
    interval: Interval
    maximum_drop: float
    outcome: Outcome
    reason: str


class RobustnessEvidence(Strict):
    """One perturbed run: what was done to which input, how many failed, and each metric's drop."""

    perturbation: Perturbation
    amount: float
    unit: str
    seed: str
    """The digest that the added noise was drawn from."""
    cases: int
    failed: int
    failed_by_code: dict[str, int]
    drops: tuple[DropEvidence, ...]


def robustness_evidence(
    perturbation: Perturbation,
    seed: str,
    cases: int,
    failed_by_code: dict[str, int],
    drops: tuple[DropEvidence, ...],
) -> RobustnessEvidence:
    """The evidence of one perturbed run of `cases` cases."""
    return RobustnessEvidence(
        perturbation=perturbation,
        amount=perturbation.amount,
        unit=perturbation.unit,
        seed=seed,
        cases=cases,
        failed=sum(failed_by_code.values()),
        failed_by_code=dict(sorted(failed_by_code.items())),
        drops=drops,
    )
