"""How often the gate errs over a family of attempts, and over six groups; by simulation.

    python -m bench.families              # about a minute on one core

First table: K models, one after the other, each exactly at the goal of one endpoint and perfect in
every other: the worst case, for nothing else stands in the way. The next model is independent of
the one before (no dependence passes more often under Bonferroni; a copy passes no more than one).
`undivided` judges each at alpha, `divided` at alpha / K as the protocol does.

Second table: six groups of one attribute by the rule of gaps with a margin of .10, all alike, and
three of them worse by .20; with and without a floor. `max - min` is what a point rule would flag.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from validators.cases import CaseTable
from validators.evaluate import evaluate
from validators.protocol.read import parse_protocol
from validators.protocol.schema import Protocol

GOAL, MARGIN = 0.8, 0.10


def protocol(alpha: float, attempts: int, **more: object) -> Protocol:
    """Sensitivity and specificity with goals; both gate."""
    return parse_protocol(
        {
            "id": "families", "version": "1", "reference_standard": "simulated", "threshold": 0.5,
            "intended_use": {"purpose": "bench", "population": "none", "setting": "none"},
            "alpha": alpha, "attempts": attempts,
            "endpoints": [{"metric": "sensitivity", "goal": GOAL},
                          {"metric": "specificity", "goal": GOAL}],
            **more,
        }
    )  # fmt: skip


def family_passes(rules: Protocol, looks: int, positives: int, rng: np.random.Generator) -> bool:
    """Whether any of `looks` attempts passes; the whole evaluation judges each."""
    positive = np.arange(2 * positives) < positives
    for _ in range(looks):
        found = rng.random(len(positive)) < GOAL
        score = np.where(positive & found, 0.9, 0.1)
        if (
            evaluate(
                CaseTable(reference=positive.astype(np.int8), score=score), rules
            ).verdict.overall
            == "pass"
        ):
            return True
    return False


def families(console: Console, cohorts: int) -> None:
    """The first table."""
    table = Table(title="Share of families that pass wrongly, nominal .025", title_justify="left")
    for name in ("positives", "attempts", "undivided", "divided"):
        table.add_column(name, justify="right")
    for positives in (100, 400):
        for attempts in (1, 3, 5, 10):
            rng = np.random.default_rng([positives, attempts])
            shares = []
            for divided in (1, attempts):
                rules = protocol(0.025, divided)
                passed = [family_passes(rules, attempts, positives, rng) for _ in range(cohorts)]
                shares.append(sum(passed) / cohorts)
            table.add_row(str(positives), str(attempts), *(f"{share:.3f}" for share in shares))
    console.print(table)


def groups(console: Console, cohorts: int) -> None:
    """The second table."""
    table = Table(title=f"Six groups, margin {MARGIN:g}: share of cohorts", title_justify="left")
    for name in ("positives a group", "truth", "floor", "max - min > margin", "fail", "pass",
                 "insufficient"):  # fmt: skip
        table.add_column(name, justify="right")
    truths = {"alike at .80": [0.8] * 6, "three at .70": [0.9] * 3 + [0.7] * 3}
    for positives in (30, 130, 400):
        for truth, values in truths.items():
            for floor in (None, 0.75):
                shares = judged(positives, values, floor, cohorts)
                shown = "-" if floor is None else f"{floor:g}"
                table.add_row(str(positives), truth, shown, *(f"{share:.3f}" for share in shares))
    console.print(table)


def judged(
    positives: int, values: list[float], floor: float | None, cohorts: int
) -> tuple[float, ...]:
    """Shares of cohorts: flagged by max - min, failed, passed, and left open."""
    rule = {"attribute": "g", "metric": "sensitivity", "margin": MARGIN, "floor": floor}
    rules = protocol(0.025, 1, subgroups=[rule])
    rng, names = np.random.default_rng([positives, 6]), np.array(list("abcdef"))
    flagged, counts = 0, dict.fromkeys(("fail", "pass", "insufficient_evidence"), 0)
    for _ in range(cohorts):
        found = rng.binomial(positives, values)
        right = (np.arange(positives) < found[:, None]).ravel()
        cases = CaseTable(
            reference=(np.arange(6 * positives + 6) < 6 * positives).astype(np.int8),
            score=np.append(np.where(right, 0.9, 0.1), np.full(6, 0.1)),
            attributes={"g": np.append(np.repeat(names, positives), names)},
        )
        outcomes = {row.outcome for row in evaluate(cases, rules).subgroups}
        order = ("fail", "insufficient_evidence", "pass")
        counts[next(name for name in order if name in outcomes)] += 1
        flagged += float(np.ptp(found)) / positives > MARGIN
    return tuple(count / cohorts for count in (flagged, *counts.values()))


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cohorts", type=int, default=2000)
    cohorts = arguments.parse_args().cohorts
    console = Console(width=100)
    families(console, cohorts)
    groups(console, max(100, cohorts // 5))


if __name__ == "__main__":
    main()
