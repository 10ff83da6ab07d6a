"""How often the interval of a new version less the certified one is wrong, by simulation.

    python -m bench.versions              # about two minutes on one core
    python -m bench.versions --cohorts 1000

The call is the report's own (`validators.comparators.predecessor.against_certified`). `too high`
and `too low` are the shares of cohorts whose lower (upper) bound missed the true difference,
nominal .025 each; `cover` is nominal .95, `plain` the cover of the normal interval that takes the
cases as independent (of the AUC: DeLong's). A star: above .025 by more than three standard errors
of the simulation. Both versions err in like cases (`alike`), as do the cases of a patient.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import special

from bench.binary_coverage import SIZES, alike_normals
from bench.coverage import TAIL, Draw, Random, patients_of, run
from validators.cases import CaseTable
from validators.comparators.predecessor import against_certified
from validators.comparators.predecessor_evidence import CertifiedVersion
from validators.evaluate import estimate
from validators.evidence import EndpointEvidence
from validators.intervals.paired import paired_areas
from validators.intervals.proportion import Pair
from validators.metrics.segmentation_table import SegmentationTable
from validators.protocol.schema import Endpoint, IntendedUse, Protocol
from validators.protocol.tasks import SegmentationSettings, Structure

BEFORE = CertifiedVersion(version=1, certificate="", model="", protocol="", predictions=None)
Values = NDArray[np.float64]
PREVALENCE = 0.3
SHIFTS = {"alike": (2.0, 2.0), "better": (2.3, 1.8)}
"""How far apart the classes are, of the new and of the certified version."""


def asked(*, task: str = "binary", clustered: bool = True) -> Protocol:
    """A protocol of the task; which metrics are compared, `interval` says."""
    metric = "auc" if task == "binary" else "dice_organ"
    use = IntendedUse(purpose="bench", population="none", setting="none")
    more = {"threshold": 0.5} if task == "binary" else {
        "segmentation": SegmentationSettings(
            structures=(Structure(name="organ", tolerance=2.0),), maximum_distance=50.0
        )
    }  # fmt: skip
    return Protocol.model_validate({
        "id": "versions", "version": "1", "task": task, "intended_use": use,
        "reference_standard": "simulated", "cluster": "patient" if clustered else None,
        "endpoints": (Endpoint(metric=metric, goal=0.5),), **more,
    })  # fmt: skip


def interval(
    new: CaseTable | SegmentationTable,
    old: CaseTable | SegmentationTable,
    metric: str,
    rules: Protocol,
) -> Pair | None:
    """What the report shows."""
    found = estimate(new, metric, rules, judged=False)
    row = EndpointEvidence(
        metric=metric, estimate=found.value, interval=None, n=new.n, positives=None,
        negatives=None, clusters=None, goal=None, role="secondary", rule="reported",
        outcome="not_judged", reason="",
    )  # fmt: skip
    (of,) = against_certified(new, old, rules, rules, BEFORE, (row,)).endpoints
    return None if of.interval is None else (of.interval.low, of.interval.high)


def score_of(shift: float, positive: NDArray[np.bool_], noise: Values) -> Values:
    """A probability whose logit is binormal, even between the classes at .5."""
    return np.asarray(special.expit(noise + shift * (positive - 0.5)))


def true_value(metric: str, shift: float) -> float:
    """Of one version, in an endless cohort."""
    if metric == "auc":
        return float(special.ndtr(shift / math.sqrt(2)))
    if metric in ("sensitivity", "specificity"):
        return float(special.ndtr(shift / 2))
    noise = special.ndtri((np.arange(200_000) + 0.5) / 200_000)
    of = [float(((score_of(shift, np.full(len(noise), y), noise) - y) ** 2).mean())
          for y in (True, False)]  # fmt: skip
    return PREVALENCE * of[0] + (1 - PREVALENCE) * of[1]


def draw(metric: str, patients: int, sizes: tuple[int, ...], shifts: Pair, alike: float) -> Draw:
    """One cohort's interval, and the plain one."""
    rules = asked(clustered=sizes != (1,))

    def drawn(rng: Random) -> tuple[Pair, Pair | None] | None:
        patient = patients_of(rng, patients, sizes)
        positive = rng.random(len(patient)) < PREVALENCE
        if positive.sum() < 2 or (~positive).sum() < 2:
            return None
        shared = alike_normals(rng, patient, 0.4)
        new, old = (
            CaseTable(
                reference=positive.astype(np.int8), patient=None if sizes == (1,) else patient,
                score=score_of(shift, positive, math.sqrt(alike) * shared
                               + math.sqrt(1 - alike) * rng.normal(size=len(patient))),
            )
            for shift in shifts
        )  # fmt: skip
        found = interval(new, old, metric, rules)
        return None if found is None else (found, plain(metric, new, old))

    return drawn


def plain(metric: str, new: CaseTable, old: CaseTable) -> Pair:
    """The normal interval that takes the cases as independent."""
    if metric == "auc":
        found = paired_areas(new.score, old.score, new.positive)
        half = -float(special.ndtri(TAIL)) * found.standard_error
        return found.value - half, found.value + half
    if metric == "brier":
        each = (new.score - new.reference) ** 2 - (old.score - old.reference) ** 2
    else:
        chosen = new.positive if metric == "sensitivity" else ~new.positive
        right = [((of.score >= 0.5) == of.positive)[chosen].astype(float) for of in (new, old)]
        each = right[0] - right[1]
    half = -float(special.ndtri(TAIL)) * float(each.std(ddof=1)) / math.sqrt(len(each))
    return float(each.mean()) - half, float(each.mean()) + half


def dice_draw(patients: int, better: float, missed: float) -> Draw:
    """Dice of two versions; of either, a share `missed` of patients has none of the organ found."""
    rules = asked(task="segmentation")

    def drawn(rng: Random) -> tuple[Pair, Pair | None] | None:
        patient = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        shared = alike_normals(rng, patient, 0.5)
        new, old = (
            SegmentationTable(values=dice_values(
                math.sqrt(0.8) * shared + math.sqrt(0.2) * rng.normal(size=len(patient)) + by,
                (rng.random(patients) < missed)[patient],
            ), patient=patient)
            for by in (better, 0.0)
        )  # fmt: skip
        found = interval(new, old, "dice_organ", rules)
        return None if found is None else (found, None)

    return drawn


def dice_values(alike: Values, missed: NDArray[np.bool_]) -> dict[str, Values]:
    """Beta-like values of standard normals."""
    dice = np.where(missed, 0.0, special.betaincinv(16.0, 2.0, special.ndtr(alike)))
    other = {"nsd_organ": dice, "hd95_organ": 50 * (1 - dice), "volume_error_organ": dice - 1}
    return {"dice_organ": dice, **other}


def true_dice(by: float, missed: float) -> float:
    """The mean of `dice_values`."""
    normal = special.ndtri((np.arange(200_000) + 0.5) / 200_000)
    share = special.ndtr(normal + by)
    return float((1 - missed) * special.betaincinv(16.0, 2.0, share).mean())


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=300)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=110)
    for metric in ("sensitivity", "auc", "brier"):
        run(console, f"{metric}: new less certified", [
            (f"{kind}, {k} patients of {cases}, alike {alike:g}",
             true_value(metric, shifts[0]) - true_value(metric, shifts[1]),
             draw(metric, k, sizes, shifts, alike))
            for kind, shifts in SHIFTS.items() for k in (60, 200)
            for cases, sizes in SIZES.items() for alike in (0.5, 0.95)
        ], cohorts)  # fmt: skip
    run(console, "Dice: new less certified", [
        (f"{k} patients of 1 to 4 cases, by {better:g}, {missed:.0%} missed",
         true_dice(better, missed) - true_dice(0.0, missed), dice_draw(k, better, missed))
        for k in (30, 100) for better in (0.0, 0.5) for missed in (0.0, 0.03)
    ], cohorts)  # fmt: skip


if __name__ == "__main__":
    main()
