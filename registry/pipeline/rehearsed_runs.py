"""The runs under perturbation that a protocol asks for, done at home on a look-alike cohort.

    >>> for run in perturbed_runs(files, protocol, cohort, bound_to):
    ...     run.name, run.answered, run.collapsed

Rules
-----
1. As in `pipeline.perturbed_runs`: each in a fresh process, the same cases in the same order and
   batches, and a model that keeps crashing has answered no case of that run.
2. What is added is drawn from the digests of model, protocol and contract: trying again meets the
   same inputs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from registry.trust.canonical import digest_of
from serving.client import predict
from serving.sandbox.explaining import ExplainingSandbox
from serving.sandbox.failures import ModelFailure
from validators.cohort.look_alike import LookAlike
from validators.contract.schema import Contract
from validators.evidence import Report
from validators.protocol.schema import Protocol
from validators.robustness.perturb import perturbed
from validators.robustness.severity import Perturbation


@dataclass(frozen=True)
class PerturbedRun:
    """One run: a score a case as text, empty where it failed; the model's code where it collapsed.

    `reasons` counts what failed calls said, by (code, text).
    """

    name: str
    scores: list[str] = field(repr=False)
    collapsed: str | None
    reasons: Counter[tuple[str, str]] = field(repr=False)

    @property
    def answered(self) -> int:
        """How many cases have a score."""
        return sum(score != "" for score in self.scores)


def perturbed_runs(
    files: dict[str, bytes],
    protocol: Protocol,
    contract: Contract,
    cohort: LookAlike,
    bound_to: Sequence[str | None],
    on_progress: Callable[[int], None] = lambda done: None,
) -> Iterator[PerturbedRun]:
    """Each run in the protocol's order. on_progress is told the cases done over all runs."""
    cases = len(cohort.columns["case"])
    for place, perturbation in enumerate(protocol.perturbations):
        before = place * cases
        tell = partial(_tell, on_progress, before)
        yield _run(files, contract, cohort, perturbation, bound_to, tell)


def _tell(on_progress: Callable[[int], None], before: int, done: int) -> None:
    on_progress(before + done)


def _run(
    files: dict[str, bytes], contract: Contract, cohort: LookAlike, perturbation: Perturbation,
    bound_to: Sequence[str | None], on_progress: Callable[[int], None],
) -> PerturbedRun:  # fmt: skip
    seed = digest_of([*bound_to, perturbation.name])
    shards = perturbed(cohort.shards(), perturbation, contract, seed=seed)
    with ExplainingSandbox.start(allow_unsandboxed=True) as sandbox:
        sandbox.load(files)
        try:
            found = predict(
                sandbox,
                shards,
                contract,
                order_seed=digest_of(list(bound_to)),
                on_progress=on_progress,
            )
        except ModelFailure as failure:
            nothing = [""] * len(cohort.columns["case"])
            return PerturbedRun(perturbation.name, nothing, failure.code, sandbox.reasons)
        scores = ["" if code else repr(float(score))
                  for score, code in zip(found.scores, found.failures, strict=True)]  # fmt: skip
        return PerturbedRun(perturbation.name, scores, None, sandbox.reasons)


def drops_of(report: Report) -> list[dict[str, Any]]:
    """Each drop that was asked for and could be computed, the largest first."""
    found: list[dict[str, Any]] = [
        {
            "perturbation": run.perturbation.name,
            "metric": drop.metric,
            "drop": drop.drop,
            "clean": drop.clean,
            "changed": drop.changed,
            "maximum_drop": drop.maximum_drop,
        }
        for run in report.robustness
        for drop in run.drops
        if drop.drop is not None
    ]
    return sorted(found, key=lambda one: float(one["drop"]), reverse=True)
