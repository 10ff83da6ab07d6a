"""How often the intervals of a measurement are wrong, by simulation; prints two tables.

    python -m bench.regression_coverage              # about a minute on one core

`too high` and `too low` are the shares of cohorts whose lower (upper) bound missed the true value:
one-sided errors, nominal .025; a star: above it by more than three standard errors of the
simulation. Diameters are log-normal (median 20 mm, cut off at 100); `even` errors have one spread,
`growing` ones grow with the size. Cases of a patient have errors with correlation .5; a patient
has one case, or 1, 2, 3 or 8.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.coverage import Draw, Random, patients_of, run
from validators.intervals.proportion import Pair
from validators.metrics import regression
from validators.metrics.measure import Undefined
from validators.metrics.regression_table import RegressionTable
from validators.protocol.tasks import RegressionSettings

TAIL = 0.025
SETTINGS = RegressionSettings(unit="mm", lowest=0.0, highest=100.0)
SIZES = {"1 case": (1,), "1 to 8 cases": (1, 2, 3, 8)}
KINDS = ("even", "growing")
_MANY = 1_000_000


def made(rng: Random, patient: NDArray[np.int64], kind: str) -> RegressionTable:
    """Predictions of diameters, 1 mm too large on average."""
    n, patients = len(patient), int(patient[-1]) + 1
    reference = np.clip(np.exp(rng.normal(3, 0.6, n)), 0, 100)
    error = np.sqrt(0.5) * (rng.normal(size=patients)[patient] + rng.normal(size=n))
    spread = 5.0 if kind == "even" else 0.25 * reference
    return RegressionTable(
        reference=reference, prediction=reference + 1 + spread * error, patient=patient
    )


def true_values(kind: str) -> dict[str, float]:
    """The values of one very large cohort of independent cases."""
    table = made(np.random.default_rng(1), np.arange(_MANY), kind)
    x, y = table.reference, np.clip(table.prediction, 0, 100)
    chance = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return {
        "mae": float(np.abs(y - x).mean()),
        "bias": float((y - x).mean()),
        "ccc": 1 - float(((y - x) ** 2).mean() / chance),
        "rmse": float(np.sqrt(((y - x) ** 2).mean())),
        "lower_limit": float((y - x).mean() - 1.959964 * (y - x).std()),
        "upper_limit": float((y - x).mean() + 1.959964 * (y - x).std()),
    }


def draw(metric: str, kind: str, patients: int, sizes: tuple[int, ...]) -> Draw:
    """One cohort's interval."""

    def drawn(rng: Random) -> tuple[Pair, Pair | None] | None:
        table = made(rng, patients_of(rng, patients, sizes), kind)
        found = regression.side(table, metric, SETTINGS)
        return None if isinstance(found, Undefined) else (found.gating(TAIL), None)

    return drawn


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=400)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=110)
    true = {kind: true_values(kind) for kind in KINDS}
    for title, metrics in (
        ("Measurement: bounded means", ("mae", "bias")),
        ("Measurement: patient bootstrap (only ccc decides)", ("ccc", "rmse", "upper_limit")),
    ):
        run(console, title, [
            (f"{metric}, {kind}, {patients} patients of {cases}", true[kind][metric],
             draw(metric, kind, patients, sizes))
            for metric in metrics for kind in KINDS for patients in (30, 100, 400)
            for cases, sizes in SIZES.items()
        ], cohorts, with_plain=False)  # fmt: skip


if __name__ == "__main__":
    main()
