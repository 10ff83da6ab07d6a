"""How often the intervals of classes are wrong, by simulation; prints two tables.

    python -m bench.multiclass_coverage              # about a minute on one core

`too high` and `too low` are the shares of cohorts whose lower (upper) bound missed the true value:
one-sided errors, nominal .025; a star: above it by more than three standard errors of the
simulation. Cases of a patient have errors with correlation .5; a patient has one case, or 1, 2, 3
or 8. `even` classes are equally frequent; `rare` ones are .6, .25, .1 and .05. Cohorts in which a
class does not occur give no mean AUC and are left out.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import special

from bench.coverage import Draw, Random, patients_of, run
from validators.intervals.proportion import Pair
from validators.metrics import multiclass
from validators.metrics.measure import Undefined
from validators.metrics.multiclass_table import MulticlassTable, decided
from validators.protocol.tasks import ClassSettings

TAIL = 0.025
SETTINGS = ClassSettings(names=("first", "second", "third", "fourth"))
FREQUENT = {"even": (0.25, 0.25, 0.25, 0.25), "rare": (0.6, 0.25, 0.1, 0.05)}
SIZES = {"1 case": (1,), "1 to 8 cases": (1, 2, 3, 8)}
_MANY = 200_000


def nominal(rng: Random, patient: NDArray[np.int64], kind: str, skill: float) -> MulticlassTable:
    """Probabilities by softmax of normal logits, the right class `skill` higher."""
    n, patients = len(patient), int(patient[-1]) + 1
    reference = rng.choice(4, n, p=FREQUENT[kind])
    logits = np.sqrt(0.5) * (rng.normal(size=(patients, 4))[patient] + rng.normal(size=(n, 4)))
    logits[np.arange(n), reference] += skill
    share = special.softmax(logits, axis=1)
    return MulticlassTable(
        names=SETTINGS.names, reference=reference, prediction=decided(share), probability=share,
        patient=patient,
    )  # fmt: skip


def ordinal(rng: Random, patient: NDArray[np.int64], kind: str, noise: float) -> MulticlassTable:
    """Decisions are the class plus a rounded normal error."""
    n, patients = len(patient), int(patient[-1]) + 1
    reference = rng.choice(4, n, p=FREQUENT[kind])
    error = np.sqrt(0.5) * (rng.normal(size=patients)[patient] + rng.normal(size=n))
    decision = np.clip(np.round(reference + noise * error), 0, 3).astype(np.int64)
    return MulticlassTable(
        names=SETTINGS.names, reference=reference, prediction=decision, patient=patient
    )


MADE = {"macro_auc": nominal, "sensitivity_second": nominal, "quadratic_kappa": ordinal}


def draw(metric: str, kind: str, value: float, patients: int, sizes: tuple[int, ...]) -> Draw:
    """One cohort's interval."""

    def drawn(rng: Random) -> tuple[Pair, Pair | None] | None:
        table = MADE[metric](rng, patients_of(rng, patients, sizes), kind, value)
        found = multiclass.side(table, metric, SETTINGS)
        return None if isinstance(found, Undefined) else (found.gating(TAIL), None)

    return drawn


def true_value(metric: str, kind: str, value: float) -> float:
    """The value of one very large cohort of independent cases."""
    table = MADE[metric](np.random.default_rng(1), np.arange(_MANY), kind, value)
    if metric == "quadratic_kappa":
        x, y = table.reference, table.prediction
        chance = x.var() + y.var() + (x.mean() - y.mean()) ** 2
        return 1 - float(((x - y) ** 2).mean() / chance)
    found = multiclass.side(table, metric, SETTINGS)
    assert found.value is not None
    return found.value


def conditions(metric: str, values: tuple[float, ...]) -> list[tuple[str, float, Draw]]:
    """Every condition of a metric: mix of classes, skill, patients, cases a patient."""
    return [
        (f"{metric}, {kind}, {patients} patients of {cases}", true_value(metric, kind, value),
         draw(metric, kind, value, patients, sizes))
        for kind in FREQUENT for value in values for patients in (30, 100, 400)
        for cases, sizes in SIZES.items()
    ]  # fmt: skip


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=400)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=110)
    run(console, "Classes: formulas", [
        *conditions("macro_auc", (1.0, 2.5)), *conditions("sensitivity_second", (1.5,)),
    ], cohorts, with_plain=False)  # fmt: skip
    run(console, "Classes: patient bootstrap", conditions("quadratic_kappa", (0.5, 1.0)), cohorts,
        with_plain=False)  # fmt: skip


if __name__ == "__main__":
    main()
