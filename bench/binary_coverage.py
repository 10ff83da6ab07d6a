"""How often the intervals of a binary question are wrong, by simulation; one table a method.

    python -m bench.binary_coverage              # about a minute and a half
    python -m bench.binary_coverage --cohorts 2000

Columns as in `bench.coverage`: `too high` and `too low` are the shares of cohorts whose lower
(upper) bound missed the true value, nominal .025. `plain` is the cover, nominal .95, of what is
commonly printed: the logit interval of a predictive value (Mercaldo, Lau & Zhou 2007), all cases
as if independent of a calibration, Newcombe's method 10 of a paired difference, DeLong unmodified.
Cohorts without a finite slope give no interval and are left out.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import special

from bench.coverage import SKEWED, TAIL, Draw, Random, patients_of, run
from validators.cases import CaseTable
from validators.intervals.estimated import Estimated
from validators.intervals.paired import newcombe_paired, paired_areas, paired_shares
from validators.intervals.proportion import Pair
from validators.metrics.binary_clinical import rates_side
from validators.metrics.calibration import slope
from validators.metrics.measure import Undefined
from validators.metrics.of_rates import logit_interval, of_rates
from validators.metrics.recalibration import in_the_large, observed_expected

SIZES = {"1 case": (1,), "1 to 8 cases": SKEWED}
Calibration = Callable[[CaseTable], Estimated | Undefined]


def alike_normals(rng: Random, patient: NDArray[np.int64], alike: float) -> NDArray[np.float64]:
    """Standard normals, of one patient with correlation `alike`."""
    shared = rng.normal(size=int(patient[-1]) + 1)[patient]
    own = rng.normal(size=len(patient))
    return np.asarray(math.sqrt(alike) * shared + math.sqrt(1 - alike) * own)


def predictive_draw(
    metric: str, positives: int, rates: Pair, prevalence: float, alike: float
) -> Draw:
    """A predictive value of a cohort with twice as many negatives; patients of four if alike."""
    n = 3 * positives
    positive = np.arange(n) % 3 == 0
    patient = np.arange(n) // 4 if alike else np.arange(n)

    def draw(rng: Random) -> tuple[Pair, Pair | None] | None:
        normal = alike_normals(rng, patient, alike)
        right = normal < special.ndtri(np.where(positive, *rates))
        table = CaseTable(
            reference=positive, score=np.where(right == positive, 0.9, 0.1),
            patient=patient if alike else None,
        )  # fmt: skip
        found = rates_side(table, metric, 0.5, prevalence)
        if isinstance(found, Undefined):
            return None
        seen = found.sensitivity.value, found.specificity.value
        sizes = float(positives), float(n - positives)
        return found.gating(TAIL), logit_interval(metric, seen, sizes, prevalence, TAIL)

    return draw


def calibration_draw(
    find: Calibration, patients: int, sizes: tuple[int, ...], centre: float, off: float
) -> Draw:
    """Scores whose true logit is `off` higher; the outcomes of a patient are alike."""

    def draw(rng: Random) -> tuple[Pair, Pair | None] | None:
        patient = patients_of(rng, patients, sizes)
        logit = centre + 1.2 * alike_normals(rng, patient, 0.5)
        chance = special.ndtr(alike_normals(rng, patient, 0.4))
        y = chance < special.expit(logit + off)
        if y.all() or not y.any():
            return None
        score = special.expit(logit)
        found = find(CaseTable(reference=y, score=score, patient=patient))
        plain = find(CaseTable(reference=y, score=score))
        if isinstance(found, Undefined) or isinstance(plain, Undefined):
            return None
        return found.gating(TAIL), plain.gating(TAIL)

    return draw


def paired_share_draw(patients: int, sizes: tuple[int, ...], rates: Pair, alike: float) -> Draw:
    """Two models' right cases; `alike` is the correlation of their errors behind the threshold."""

    def draw(rng: Random) -> tuple[Pair, Pair | None]:
        patient = patients_of(rng, patients, sizes)
        shared = alike_normals(rng, patient, 0.4)
        first, second = (
            math.sqrt(alike) * shared
            + math.sqrt(1 - alike) * rng.normal(size=len(patient))
            < special.ndtri(rate)
            for rate in rates
        )  # fmt: skip
        found = paired_shares(first, second, None if sizes == (1,) else patient)
        return found.gating(TAIL), newcombe_paired(first, second, TAIL)

    return draw


def paired_area_draw(
    patients: int, sizes: tuple[int, ...], areas: Pair, alike: float, prevalence: float
) -> Draw:
    """Two binormal scores of the same cases."""
    shifts = [math.sqrt(2) * float(special.ndtri(of)) for of in areas]

    def draw(rng: Random) -> tuple[Pair, Pair | None] | None:
        patient = patients_of(rng, patients, sizes)
        positive = rng.random(len(patient)) < prevalence
        if positive.sum() < 2 or (~positive).sum() < 2:
            return None
        shared = alike_normals(rng, patient, 0.4)
        scores = [
            math.sqrt(alike) * shared
            + math.sqrt(1 - alike) * rng.normal(size=len(patient))
            + shift * positive
            for shift in shifts
        ]
        code = None if sizes == (1,) else patient
        new, old = scores
        found, plain = paired_areas(new, old, positive, code), paired_areas(new, old, positive)
        half = -float(special.ndtri(TAIL)) * plain.standard_error
        return found.gating(TAIL), (plain.value - half, plain.value + half)

    return draw


def _calibrations(find: Calibration, ideal: float, offs: tuple[float, ...]) -> list[
    tuple[str, float, Draw]
]:  # fmt: skip
    return [
        (f"{find.__name__}, {k} patients of {cases}, {'rare' if centre < -2 else 'even'} classes",
         ideal + off, calibration_draw(find, k, sizes, centre, off))
        for centre in (-0.8, -2.5) for off in offs for k in (30, 100, 400)
        for cases, sizes in SIZES.items()
    ]  # fmt: skip


def main() -> None:
    """Print every table."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=500)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=110)
    run(console, "PPV and NPV at a declared prevalence: rectangle of both rates", [
        (f"{metric}, {m} positives, {'4 cases a patient' if alike else 'independent'}, "
         f"prevalence {prevalence:g}", of_rates(metric, *rates, prevalence) or 0.0,
         predictive_draw(metric, m, rates, prevalence, alike))
        for metric in ("ppv", "npv") for m in (60, 400) for rates in ((0.95, 0.9), (0.8, 0.97))
        for prevalence in (0.05, 0.3) for alike in (0.0, 0.4)
    ], cohorts)  # fmt: skip
    run(console, "Calibration: cluster-robust t", [
        *_calibrations(in_the_large, 0.0, (0.0, 0.5)),
        *_calibrations(observed_expected, 1.0, (0.0,)), *_calibrations(slope, 1.0, (0.0,)),
    ], cohorts)  # fmt: skip
    run(console, "Difference of two models' shares on the same cases: Gaffke", [
        (f"{k} patients of {cases}, correlation {alike:g}", rates[0] - rates[1],
         paired_share_draw(k, sizes, rates, alike))
        for rates in ((0.9, 0.9), (0.85, 0.9), (0.97, 0.95)) for k in (30, 100, 400)
        for cases, sizes in SIZES.items() for alike in (0.3, 0.95)
    ], cohorts)  # fmt: skip
    run(console, "Difference of two models' AUCs on the same cases: paired DeLong, Obuchowski", [
        (f"AUC {areas[0]:g}, {k} patients of {cases}, correlation {alike:g}", areas[0] - areas[1],
         paired_area_draw(k, sizes, areas, alike, 0.3))
        for areas in ((0.85, 0.85), (0.95, 0.9), (0.9, 0.95)) for k in (30, 100, 400)
        for cases, sizes in SIZES.items() for alike in (0.3, 0.9)
    ], cohorts)  # fmt: skip


if __name__ == "__main__":
    main()
