"""How often the intervals of lesion detection are wrong, by simulation; prints one table.

    python -m bench.detection_coverage              # about two minutes on one core

`too high` and `too low` are the shares of cohorts whose lower (upper) bound missed the true value:
one-sided errors, nominal .025. A star: above it by more than three standard errors of the
simulation. A patient has 1 to 3 scans of 0 to 3 lesions; patients differ in how hard their lesions
are and in how many false positives they have. True values are those of 400,000 patients.
"""

import argparse

import numpy as np
from rich.console import Console

from bench.coverage import Draw, Random, run
from validators.intervals.froc import average_precision, sensitivity_at
from validators.intervals.proportion import Pair
from validators.metrics import detection
from validators.metrics.detection_table import DetectionTable
from validators.metrics.measure import Undefined
from validators.protocol.tasks import DetectionSettings

TAIL = 0.025
SETTINGS = DetectionSettings(false_positives_per_scan=1.0, threshold=0.5, maximum_candidates=10)
KINDS = {"good": (2.0, 0.5), "fair": (0.9, 1.5)}
"""How far the scores of lesions lie above those of false positives; false positives a scan."""


def cohort(rng: Random, patients: int, kind: str) -> DetectionTable:
    """Scans with candidates."""
    shift, rate = KINDS[kind]
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    scans = len(patient)
    hard, busy = rng.normal(size=patients), rng.gamma(2, 0.5, patients)
    lesion_scan = np.repeat(np.arange(scans), rng.integers(0, 4, scans))
    false_scan = np.repeat(np.arange(scans), np.minimum(rng.poisson(rate * busy[patient]), 5))
    level = np.append(
        shift + 0.7 * hard[patient[lesion_scan]] + 0.7 * rng.normal(size=len(lesion_scan)),
        rng.normal(size=len(false_scan)) - 0.5,
    )
    score = 1 / (1 + np.exp(-level))
    hit = np.append(np.arange(len(lesion_scan)), np.full(len(false_scan), -1))
    seen = score > 0.2  # fainter candidates are not reported
    return DetectionTable(
        failed=np.zeros(scans, bool), lesion_scan=lesion_scan,
        candidate_scan=np.append(lesion_scan, false_scan)[seen], score=score[seen], hit=hit[seen],
        patient=patient,
    )  # fmt: skip


def true_values(kind: str) -> dict[str, float]:
    """Each metric of 400,000 patients."""
    found: dict[str, list[float]] = {name: [] for name in detection.MEASURES}
    once = np.ones((1, 100_000), dtype=np.int64)
    for seed in range(4):
        table = cohort(np.random.default_rng([7, seed]), 100_000, kind)
        for name in ("lesion_sensitivity", "false_positives_per_scan"):
            side = detection.side(table, name, SETTINGS)
            assert not isinstance(side, Undefined)
            found[name].append(side.value)
        ranked = detection.ranking_of(table, SETTINGS)
        rate = np.array([SETTINGS.false_positives_per_scan])
        found["average_precision"].append(float(average_precision(ranked, once)[0]))
        found["lesion_sensitivity_at_rate"].append(float(sensitivity_at(ranked, once, rate)[0, 0]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def draw(metric: str, patients: int, kind: str) -> Draw:
    """One cohort's interval."""

    def drawn(rng: Random) -> tuple[Pair, Pair | None] | None:
        found = detection.side(cohort(rng, patients, kind), metric, SETTINGS)
        return None if isinstance(found, Undefined) else (found.gating(TAIL), None)

    return drawn


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=300)
    arguments.add_argument("--resampled", type=int, default=60, help="cohorts of the bootstrap")
    asked = arguments.parse_args()
    true = {kind: true_values(kind) for kind in KINDS}
    console = Console(width=110)
    for title, names, cohorts in (
        ("Locked threshold: Clopper-Pearson; Gaffke's bounded mean",
         ("lesion_sensitivity", "false_positives_per_scan"), asked.cohorts),
        ("Ranked: patient bootstrap", ("average_precision",), asked.resampled),
    ):  # fmt: skip
        run(console, title, [
            (f"{name}, {kind}, {patients} patients", true[kind][name], draw(name, patients, kind))
            for name in names for kind in KINDS for patients in (30, 100, 400)
        ], cohorts, with_plain=False)  # fmt: skip


if __name__ == "__main__":
    main()
