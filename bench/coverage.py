"""How often the intervals that judge are wrong, by simulation; prints one table a method.

    python -m bench.coverage              # about three minutes on one core
    python -m bench.coverage --cohorts 500

Columns: `too high` and `too low` are the shares of cohorts whose lower (upper) bound missed the
true value. Each is a one-sided error: `too high` is the chance that a model exactly at the goal
passes, `too low` that it is failed. Nominal: .025; `cover` is nominal .95. `plain` is the
cover of what is commonly printed: Wilson or DeLong on all cases as if independent. Errors above
.025 by more than three standard errors of the simulation carry a star.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import special

from validators.cases import CaseTable
from validators.fairness.gaps import subgroup_evidence
from validators.intervals.auc import area
from validators.intervals.proportion import Pair, wilson
from validators.intervals.share import share
from validators.protocol.schema import Endpoint, IntendedUse, Protocol, SubgroupRule

TAIL = 0.025
SKEWED = (1, 1, 1, 2, 3, 8)
Random = np.random.Generator
Draw = Callable[[Random], tuple[Pair, Pair | None] | None]


@dataclass
class Tally:
    """Misses of one condition."""

    true: float
    cohorts: int = 0
    above: int = 0
    below: int = 0
    plain: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, judged: Pair, plain: Pair | None) -> None:
        """Count one cohort."""
        self.cohorts += 1
        self.above += judged[0] > self.true + 1e-12
        self.below += judged[1] < self.true - 1e-12
        self.plain += plain is not None and plain[0] <= self.true <= plain[1]
        self.widths.append(judged[1] - judged[0])

    def row(self, *, with_plain: bool) -> list[str]:
        """The cells of the table."""
        limit = TAIL + 3 * math.sqrt(TAIL * (1 - TAIL) / self.cohorts)
        misses = [count / self.cohorts for count in (self.above, self.below)]
        cells = [f"{miss:.3f}{'*' if miss > limit else ' '}" for miss in misses]
        cover = f"{1 - sum(misses):.3f}"
        plain = f"{self.plain / self.cohorts:.3f}" if with_plain else ""
        return [*cells, cover, plain, f"{np.median(self.widths):.3f}"]


def patients_of(rng: Random, patients: int, sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """One code a case."""
    return np.repeat(np.arange(patients), rng.choice(sizes, patients))


def chances(rng: Random, patients: int, alike: float, p: float) -> NDArray[np.float64]:
    """Each patient's chance that a case is decided right: beta with correlation `alike`."""
    if alike == 0:
        return np.full(patients, p)
    if alike == 1:
        return (rng.random(patients) < p).astype(float)
    scale = 1 / alike - 1
    return rng.beta(p * scale, (1 - p) * scale, patients)


def share_draw(patients: int, sizes: tuple[int, ...], alike: float, p: float) -> Draw:
    """A cohort's share of right cases, judged and as if independent."""

    def draw(rng: Random) -> tuple[Pair, Pair | None]:
        code = patients_of(rng, patients, sizes)
        right = rng.random(len(code)) < chances(rng, patients, alike, p)[code]
        found = share(right, np.zeros(len(code), bool), None if sizes == (1,) else code)
        return found.gating(TAIL), wilson(float(right.sum()), len(code), TAIL)

    return draw


def auc_draw(positives: int, negatives: int, auc: float) -> Draw:
    """Binormal scores of independent cases."""
    positive = np.arange(positives + negatives) < positives
    shift = math.sqrt(2) * float(special.ndtri(auc))

    def draw(rng: Random) -> tuple[Pair, Pair | None]:
        found = area(rng.normal(size=len(positive)) + shift * positive, positive)
        return found.gating(TAIL), found.plain(TAIL)

    return draw


def clustered_auc_draw(patients: int, prevalence: float, alike: float, auc: float) -> Draw:
    """Four images a patient, each positive by itself; `alike` is what their scores share."""
    code = np.repeat(np.arange(patients), 4)
    shift = math.sqrt(2) * float(special.ndtri(auc))

    def draw(rng: Random) -> tuple[Pair, Pair | None] | None:
        positive = rng.random(len(code)) < prevalence
        if positive.all() or not positive.any():
            return None
        noise = math.sqrt(alike) * rng.normal(size=patients)[code]
        noise += math.sqrt(1 - alike) * rng.normal(size=len(code))
        score = noise + shift * positive
        return area(score, positive, code).gating(TAIL), area(score, positive).plain(TAIL)

    return draw


def gap_draw(metric: str, n: int, here: float, there: float, alike: float | None) -> Draw:
    """The gap of a (n positives) to the rest (2 n); with `alike`, patients have cases in both."""
    rule = SubgroupRule(attribute="group", metric=metric, margin=0.1)
    asked = Protocol(
        id="coverage", version="1", threshold=0.5, reference_standard="simulated",
        intended_use=IntendedUse(purpose="bench", population="none", setting="none"),
        endpoints=(Endpoint(metric="sensitivity", goal=0.5),), subgroups=(rule,),
        cluster=None if alike is None else "patient",
    )  # fmt: skip
    group = np.tile(np.array(["a", "b", "b"]), n)
    code = np.repeat(np.arange(n), 3)

    def draw(rng: Random) -> tuple[Pair, Pair | None] | None:
        of_patient = chances(rng, n, alike or 0.0, 0.5)[code] - 0.5 if alike else 0.0
        p = np.clip(np.where(group == "a", here, there) + 0.2 * of_patient, 0, 1)
        right = rng.random(3 * n) < p
        table = CaseTable(
            reference=np.append(np.ones(3 * n), np.zeros(3)),
            score=np.append(np.where(right, 0.9, 0.1), [0.1] * 3),
            patient=np.append(code, [0, 0, 0]),
            attributes={"group": np.append(group, ["a", "b", "b"])},
        )
        found = subgroup_evidence(table, [rule], asked)[0].gap_interval
        return ((found.low, found.high), None) if found else None

    return draw


def run(console: Console, title: str, conditions: list[tuple[str, float, Draw]], cohorts: int,
        *, with_plain: bool = True) -> None:  # fmt: skip
    """Simulate each condition and print the table."""
    table = Table(title=title, title_justify="left")
    for name in ("condition", "true", "too high", "too low", "cover", "plain", "width"):
        table.add_column(name, justify="left" if name == "condition" else "right")
    for position, (name, true, draw) in enumerate(conditions):
        rng = np.random.default_rng([2026, position])
        tally = Tally(true)
        for _ in range(cohorts):
            drawn = draw(rng)
            if drawn is not None:
                tally.add(*drawn)
        table.add_row(name, f"{true:.2f}", *tally.row(with_plain=with_plain))
    console.print(table)


def main() -> None:
    """Print every table."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cohorts", type=int, default=2000)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=100)
    run(console, "Sensitivity or specificity, independent cases: Clopper-Pearson", [
        (f"{n} cases", p, share_draw(n, (1,), 0.0, p))
        for n in (25, 100, 400) for p in (0.5, 0.8, 0.95)
    ], cohorts)  # fmt: skip
    run(console, "The same with patients: on the effective sample size", [
        (f"{k} patients, {'4 each' if sizes == (4,) else '1 to 8'}, correlation {alike:g}", p,
         share_draw(k, sizes, alike, p))
        for k in (25, 50, 100, 400) for sizes in ((4,), SKEWED) for alike in (0.0, 0.4, 1.0)
        for p in (0.5, 0.8, 0.9, 0.95)
    ], cohorts)  # fmt: skip
    run(console, "AUC, independent cases: DeLong, logit scale, stabilised", [
        (f"{m} positives, {n} negatives", auc, auc_draw(m, n, auc))
        for m, n in ((10, 200), (20, 80), (50, 50), (50, 200), (100, 1000))
        for auc in (0.7, 0.85, 0.95, 0.98)
    ], cohorts)  # fmt: skip
    run(console, "AUC, four images a patient: Obuchowski, logit scale, stabilised", [
        (f"{k} patients, prevalence {prevalence:g}, correlation {alike:g}", auc,
         clustered_auc_draw(k, prevalence, alike, auc))
        for k, prevalence, alike in
        ((25, 0.5, 0.8), (25, 0.3, 0.4), (50, 0.3, 0.4), (100, 0.1, 0.4))
        for auc in (0.7, 0.85, 0.95)
    ], cohorts)  # fmt: skip
    run(console, "Gap of a group to the rest (rest - group): Newcombe", [
        (f"{n} against {2 * n} positives{' of the same patients' if alike else ''}", there - here,
         gap_draw("sensitivity", n, here, there, alike))
        for n in (20, 60, 130) for here, there in ((0.85, 0.85), (0.8, 0.9))
        for alike in (None, 0.5)
    ], cohorts, with_plain=False)  # fmt: skip


if __name__ == "__main__":
    main()
