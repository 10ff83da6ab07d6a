"""What 200 looks at the development cohort teach a model that knows nothing, by simulation.

    python -m bench.ladder                # under a minute on one core

A family submits 200 models of pure noise, each made of the answers before. Their true AUC is .5, so
whatever is above it on the development cohort is overfitting. Three attacks:

- `boosting` (Blum & Hardt 2015, section 4): 200 random models, added up, each with the sign of what
  its answer said of it. Under the Ladder a model speaks for itself only where it moved the ladder.
- `climbing`: the best model so far, shaken by .3 or 1 of its size; what is told to be better stays.

Answers: `full numbers`, exact to the last digit; `two decimals`, rounded; `the Ladder`, as here.
`AUC` is the last model's, in development. `best seen` is the best single one that was sent:
what luck alone gives whoever combines nothing.

The gate has other cases. There the last model is judged once by the whole evaluation at alpha .025,
against a goal of .50: exactly what it is worth, so that .025 of families may pass. What was learnt
about the cases of the development cohort says nothing about these.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from validators.cases import CaseTable
from validators.evaluate import evaluate
from validators.metrics.binary_measures import MEASURES
from validators.protocol.read import parse_protocol
from validators.report.ladder import climb, step_of

LOOKS = 200
AUC = MEASURES["auc"]
Scores = NDArray[np.float64]
RULES = parse_protocol(
    {
        "id": "noise", "version": "1", "reference_standard": "simulated", "threshold": 0.5,
        "intended_use": {"purpose": "bench", "population": "none", "setting": "none"},
        "endpoints": [{"metric": "auc", "goal": 0.5}],
    }
)  # fmt: skip


class Teller:
    """Answers a family, submission by submission; `moved`: the last answer was another one."""

    def __init__(self, kind: str, positives: int) -> None:
        step = step_of(AUC, positives, 1.0, 2)
        assert step is not None
        self._kind, self._step = kind, step
        self.state: float | None = None
        self.moved = False

    def __call__(self, value: float) -> float:
        before = self.state
        if self._kind == "the Ladder":
            told = climb(AUC, before, value, self._step)
            assert told is not None
        else:
            told = value if self._kind == "full numbers" else round(value, 2)
        self.state, self.moved = told, told != before
        return told


ANSWERS = ("full numbers", "two decimals", "the Ladder")


@dataclass(frozen=True)
class Outcome:
    """The last model's AUC on the development cohort and at the gate, and whether it passed."""

    development: float
    gate: float
    passed: bool


def auc(scores: Scores, positives: int) -> float:
    """Mann-Whitney, without ties; the positives come first."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    negatives = len(scores) - positives
    found = ranks[:positives].sum() - positives * (positives + 1) / 2
    return float(found / (positives * negatives))


def boosting(rng: np.random.Generator, answers: str, positives: int) -> tuple[Scores, float]:
    """The sum of 200 random models of twice 2 * `positives` cases, and the best of them."""
    size = 2 * positives
    models = rng.normal(size=(LOOKS, 2 * size))
    teller, total, best = Teller(answers, positives), np.zeros(2 * size), 0.0
    for model in models:
        value = auc(model[:size], positives)
        told = teller(value)
        best = max(best, value)
        if answers != "the Ladder" or teller.moved:
            total += np.sign(told - 0.5) * model
    return (total if total.any() else models[0]), best


def climbing(
    rng: np.random.Generator, answers: str, positives: int, shake: float
) -> tuple[Scores, float]:
    """The model that is left of 200 shakes; it is the best one too."""
    size = 2 * positives
    kept = rng.normal(size=2 * size)
    teller = Teller(answers, positives)
    highest = teller(auc(kept[:size], positives))
    for _ in range(LOOKS - 1):
        shaken = kept + shake * rng.normal(size=2 * size)
        told = teller(auc(shaken[:size], positives))
        if told > highest:
            kept, highest = shaken, told
    return kept, auc(kept[:size], positives)


ATTACKS: Mapping[str, Callable[[np.random.Generator, str, int], tuple[Scores, float]]] = {
    "boosting": boosting,
    "climbing .3": partial(climbing, shake=0.3),
    "climbing 1": partial(climbing, shake=1.0),
}


def family(attack: str, answers: str, positives: int, seed: int) -> tuple[Outcome, float]:
    """One family's last model, and the AUC of the best single one it saw."""
    rng = np.random.default_rng([seed, positives, sorted(ATTACKS).index(attack)])
    scores, best = ATTACKS[attack](rng, answers, positives)
    size = 2 * positives
    at_gate = 1 / (1 + np.exp(-scores[size:] / scores[size:].std()))
    table = CaseTable(reference=(np.arange(size) < positives).astype(np.int8), score=at_gate)
    verdict = evaluate(table, RULES).verdict.overall
    return Outcome(
        auc(scores[:size], positives), auc(scores[size:], positives), verdict == "pass"
    ), best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=100)
    families = parser.parse_args().families
    table = Table(title=f"{LOOKS} looks, models of true AUC .5, {families} families a row",
                  title_justify="left")  # fmt: skip
    for name in ("cases", "attack", "answers", "AUC", "at the gate", "passed", "best seen"):
        table.add_column(name, justify="right")
    for positives in (50, 150, 500):
        for attack in ATTACKS:
            for answers in ANSWERS:
                runs = [family(attack, answers, positives, seed) for seed in range(families)]
                found = [outcome for outcome, _ in runs]
                table.add_row(
                    f"{2 * positives}", attack, answers,
                    f"{np.mean([one.development for one in found]):.3f}",
                    f"{np.mean([one.gate for one in found]):.3f}",
                    f"{np.mean([one.passed for one in found]):.3f}",
                    f"{np.mean([best for _, best in runs]):.3f}",
                )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
