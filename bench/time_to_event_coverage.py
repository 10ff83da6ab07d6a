"""How often the intervals of time-to-event measures are wrong, by simulation; one table a design.

    python -m bench.time_to_event_coverage                # about a minute on one core
    python -m bench.time_to_event_coverage --cohorts 1000

`too high` is the share of cohorts whose lower bound lies above the true value: the chance that a
model exactly at the goal passes. `too low` is that of the upper bound. Nominal: .025 each; a star
marks more than three standard errors of the simulation above it. `none` is the share of cohorts
without an interval (too few events); those pass nothing and are counted as right. True values are
those of 200,000 patients of the same design, with the same censoring.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import special

from validators.metrics.measure import Undefined
from validators.metrics.time_to_event import side, value_of
from validators.metrics.time_to_event_table import TimeToEventTable
from validators.protocol.tasks import TimeToEventSettings

TAIL = 0.025
HORIZON = 12.0
METRICS = (
    "harrell_c", "uno_c", "auc_at_12", "brier_at_12", "observed_expected_at_12",
    "calibration_slope_at_12", "net_benefit_at_12",
)  # fmt: skip
SETTINGS = TimeToEventSettings(
    unit="months", horizons=(HORIZON,), maximum_follow_up=36, action_threshold=0.3
)
_TRUE_PATIENTS = 200_000


@dataclass(frozen=True)
class Design:
    """Cases a patient, the spread of the log hazard (2.5: a C near .86), and its middle a month."""

    name: str
    cases: int
    spread: float
    hazard: float


DESIGNS = (
    Design("one case a patient, C near .7", 1, 1.0, 0.03),
    Design("one case a patient, C near .86", 1, 2.5, 0.03),
    Design("one case a patient, few events", 1, 1.0, 0.006),
    Design("three alike cases a patient, C near .7", 3, 1.0, 0.03),
)


def cohort(rng: np.random.Generator, design: Design, patients: int) -> TimeToEventTable:
    """A calibrated model; cases of one patient share 60 % of risk and of luck; 6 to 60 months."""
    code = np.repeat(np.arange(patients), design.cases)

    def shared() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        own = rng.normal(size=len(code))
        if design.cases == 1:
            return own
        return np.asarray(math.sqrt(0.6) * rng.normal(size=patients)[code] + math.sqrt(0.4) * own)

    linear = design.spread * shared()
    hazard = design.hazard * np.exp(linear)
    came = -np.log(special.ndtr(shared())) / hazard
    until = rng.uniform(6, 60, len(code))
    return TimeToEventTable(
        time=np.maximum(np.minimum(came, until), 1e-9),
        event=came <= until,
        risk=linear,
        probabilities={HORIZON: -np.expm1(-hazard * HORIZON)},
        patient=None if design.cases == 1 else code,
    )


def row(
    design: Design, patients: int, cohorts: int, true: dict[str, float]
) -> dict[str, tuple[int, int, int, float]]:
    """For each metric: bounds too high, too low, cohorts without an interval, median width."""
    rng = np.random.default_rng([2026, patients, DESIGNS.index(design)])
    missed = {metric: [0, 0, 0] for metric in METRICS}
    widths: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for _ in range(cohorts):
        table = cohort(rng, design, patients)
        for metric in METRICS:
            found = side(table, metric, SETTINGS)
            if isinstance(found, Undefined):
                missed[metric][2] += 1
                continue
            low, high = found.gating(TAIL)
            missed[metric][0] += low > true[metric]
            missed[metric][1] += high < true[metric]
            widths[metric].append(high - low)
    return {
        metric: (over, under, lost, float(np.median(of)) if (of := widths[metric]) else math.nan)
        for metric, (over, under, lost) in missed.items()
    }


def run(console: Console, design: Design, sizes: tuple[tuple[int, int], ...]) -> None:
    """Simulate (patients, cohorts) of one design and print the table."""
    whole = cohort(np.random.default_rng(1), design, _TRUE_PATIENTS)
    true = {metric: value_of(whole, metric, SETTINGS) or math.nan for metric in METRICS}
    table = Table(title=design.name, title_justify="left")
    for name in ("measure", "true", "patients", "too high", "too low", "none", "width"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for patients, cohorts in sizes:
        limit = TAIL + 3 * math.sqrt(TAIL * (1 - TAIL) / cohorts)
        for metric, (high, low, none, width) in row(design, patients, cohorts, true).items():
            cells = [
                f"{of / cohorts:.3f}{'*' if of / cohorts > limit else ' '}" for of in (high, low)
            ]
            table.add_row(metric, f"{true[metric]:.3f}", str(patients), *cells,
                          f"{none / cohorts:.3f}", f"{width:.3f}")  # fmt: skip
    console.print(table)


def main() -> None:
    """Print every table."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=40, help="of 30 and 100 patients")
    cohorts = arguments.parse_args().cohorts
    console = Console(width=100)
    for design in DESIGNS:
        sizes = ((30, cohorts), (100, cohorts), (400, max(1, cohorts // 5)))
        run(console, design, sizes)


if __name__ == "__main__":
    main()
