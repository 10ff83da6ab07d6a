"""How often the intervals of a segmentation are wrong, by simulation; prints one table.

    python -m bench.segmentation_coverage              # about two minutes on one core

`too high` and `too low` are the shares of cohorts whose lower (upper) bound missed the true mean:
one-sided errors, nominal .025. A star: above it by more than three standard errors of the
simulation. `width` is the median width in the measure's own unit. Cases of a patient have a
correlation of about .5; one patient has one to four.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import special

from bench.coverage import Draw, Random, run
from validators.intervals.proportion import Pair
from validators.metrics import segmentation
from validators.metrics.measure import Undefined
from validators.metrics.segmentation_table import SegmentationTable
from validators.protocol.tasks import SegmentationSettings, Structure

TAIL = 0.025
SETTINGS = SegmentationSettings(
    structures=(Structure(name="organ", tolerance=2.0),), maximum_distance=50.0
)
MISSED = (0.0, 0.03, 0.1)
"""The chance that a patient's structure is missed altogether, in all of its cases."""
Shape = dict[str, NDArray[np.float64]]


def shapes(alike: NDArray[np.float64], missed: NDArray[np.bool_]) -> Shape:
    """Values of cases with standard normal `alike`; of missed ones the worst."""
    share = special.ndtr(alike)
    values = {
        "dice": special.betaincinv(16.0, 2.0, share),
        "nsd": special.betaincinv(6.0, 1.0, share),
        "hd95": np.minimum(special.gammaincinv(1.5, 1 - share) * 5, SETTINGS.maximum_distance),
        "volume_error": np.clip(np.exp(0.2 * alike) - 1, -1, 1),
    }
    worst = {"dice": 0.0, "nsd": 0.0, "hd95": SETTINGS.maximum_distance, "volume_error": -1.0}
    return {f"{name}_organ": np.where(missed, worst[name], of) for name, of in values.items()}


def true_means(empty: float) -> dict[str, float]:
    """The means of `shapes`, by a million cases."""
    alike = special.ndtri((np.arange(1_000_000) + 0.5) / 1_000_000)
    good, bad = (shapes(alike, np.full(len(alike), missed)) for missed in (False, True))
    return {
        name: float((1 - empty) * good[name].mean() + empty * bad[name].mean()) for name in good
    }


def draw(metric: str, patients: int, empty: float) -> Draw:
    """One cohort's interval."""

    def drawn(rng: Random) -> tuple[Pair, Pair | None] | None:
        patient = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        own, of_patient = rng.normal(size=len(patient)), rng.normal(size=patients)
        alike = np.sqrt(0.5) * (own + of_patient[patient])
        missed = (rng.random(patients) < empty)[patient]
        table = SegmentationTable(values=shapes(alike, missed), patient=patient)
        found = segmentation.side(table, f"{metric}_organ", SETTINGS)
        return None if isinstance(found, Undefined) else (found.gating(TAIL), None)

    return drawn


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=200)
    cohorts = arguments.parse_args().cohorts
    conditions = []
    for metric in ("dice", "nsd", "hd95", "volume_error"):
        for empty in MISSED:
            true = true_means(empty)[f"{metric}_organ"]
            conditions += [
                (f"{metric}, {100 * empty:g} % missed, {patients} patients", true,
                 draw(metric, patients, empty))
                for patients in (30, 100, 400)
            ]  # fmt: skip
    run(
        Console(width=110),
        "Segmentation: Gaffke's bounded mean",
        conditions,
        cohorts,
        with_plain=False,
    )


if __name__ == "__main__":
    main()
