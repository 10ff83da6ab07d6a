"""How the goals of demo/protocol.yaml were chosen: from the development half alone.

    python -m demo.goals              # prints every number, and whether the protocol agrees

Rules
-----
1. Every prediction is out of fold: no model has seen the patient it is asked about.
2. The threshold is the highest, in steps of 0.05, at which the yardstick finds 90 % of positives.
   The yardstick is the recipe with both inputs, shape and reading.
3. Future cohorts are drawn by resampling patients of the development half, as many as it has:
   the hash that splits the patients makes the locked half as large, give or take chance.
4. A goal is the strictest, on its grid, that a model as good as the yardstick passes in 95 of 100
   such cohorts, by the very code that judges a submission; a subgroup's, which the cohort can say
   less about and which does not block, in 85 of 100.
5. The ruler, a model that sees the nodule's area and nothing else, is judged beside it: a protocol
   that a ruler passes would ask for nothing.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from demo.development import Development, installed_development
from demo.models import Sme, features, fit
from validators.cases import CaseTable
from validators.evaluate import Evaluation, evaluate
from validators.evidence import Overall
from validators.protocol.read import read_protocol
from validators.protocol.schema import Protocol

PROTOCOL = Path(__file__).parent / "protocol.yaml"
COHORTS = 400
FOLDS = 5
FOUND = 0.90
POWER = 0.95
SUBGROUP_POWER = 0.85
STEP = 0.05
GRID = {"sensitivity": 0.05, "specificity": 0.05, "auc": 0.01, "floor": 0.05, "margin": 0.05}
MODELS = {
    "shape and reading (the yardstick; SME A)": "a",
    "shape alone (SME B)": "b",
    "area alone (the ruler)": "ruler",
}
OVERALL = get_args(Overall)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """One number of the protocol: where it stands, what it is, and what the rules give."""

    rule: str
    locked: float | None
    strictest: float


def out_of_fold(half: Development, model: str, seed: int = 0) -> Scores:
    """The probability of every case by a model that never saw its patient, [n]."""
    from sklearn.model_selection import StratifiedGroupKFold

    sme: Sme = "a" if model == "a" else "b"
    x = features(sme, half.image, half.descriptors)
    if model == "ruler":
        x = x[:, :1]  # the log of the area
    score = np.empty(len(x))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for seen, unseen in folds.split(x, half.reference, half.patient):
        fitted = fit(sme, x[seen], half.reference[seen], half.patient[seen], seed)
        score[unseen] = fitted.of_features(x[unseen])
    return score


def highest_threshold(half: Development, score: Scores) -> float:
    """The highest threshold in steps of 0.05 at which `score` finds 90 % of the positives."""
    steps = [round(STEP * n, 2) for n in range(1, 20)]
    positive = score[half.reference == 1]
    return max(step for step in steps if (positive >= step).mean() >= FOUND)


def table_of(half: Development, score: Scores) -> CaseTable:
    """The development half as the table that evidence is computed from."""
    return CaseTable(half.reference, score, half.patient, half.attributes)


def resampled(table: CaseTable, random: np.random.Generator) -> CaseTable:
    """As many patients, drawn with replacement; one drawn twice is two patients."""
    assert table.patient is not None
    rows_of = [np.flatnonzero(table.patient == one) for one in np.unique(table.patient)]
    drawn = [rows_of[i] for i in random.integers(0, len(rows_of), len(rows_of))]
    rows = np.concatenate(drawn)
    return replace(
        table,
        reference=table.reference[rows],
        score=table.score[rows],
        patient=np.repeat(np.arange(len(drawn)), [len(own) for own in drawn]),
        attributes={name: column[rows] for name, column in table.attributes.items()},
    )


def future(table: CaseTable, protocol: Protocol, cohorts: int = COHORTS) -> list[Evaluation]:
    """What `evaluate` finds in cohorts like this one; the same cohorts for every model."""
    random = np.random.default_rng(0)
    return [evaluate(resampled(table, random), protocol) for _ in range(cohorts)]


def choices(runs: list[Evaluation], protocol: Protocol) -> list[Choice]:
    """For every gating number of the protocol, the strictest that passes in enough of the runs."""
    found = []
    for number, endpoint in enumerate(protocol.endpoints):
        if endpoint.rule == "gating":
            bounds = [run.endpoints[number].interval for run in runs]
            lows = [bound.low if bound else 0.0 for bound in bounds]
            found.append(
                Choice(endpoint.metric, endpoint.goal, _down(lows, GRID[endpoint.metric], POWER))
            )
    for rule in protocol.subgroups:
        mine = [
            [row for row in run.subgroups if (row.attribute, row.metric) ==
             (rule.attribute, rule.metric)]
            for run in runs
        ]  # fmt: skip
        name = f"{rule.attribute} {rule.metric}"
        if rule.floor is not None:
            lows = [min(r.interval.low if r.interval else 0.0 for r in rows) for rows in mine]
            found.append(
                Choice(f"{name} floor", rule.floor, _down(lows, GRID["floor"], SUBGROUP_POWER))
            )
        if rule.margin is not None:
            highs = [
                max(r.gap_interval.high if r.gap_interval else 1.0 for r in rows) for rows in mine
            ]
            grid = GRID["margin"]
            bound = math.ceil(round(float(np.quantile(highs, SUBGROUP_POWER)) / grid, 6)) * grid
            found.append(Choice(f"{name} margin", rule.margin, round(bound, 2)))
    return found


def _down(lows: list[float], grid: float, power: float) -> float:
    """The bound that is reached with this power, rounded down to the grid."""
    bound = float(np.quantile(lows, 1 - power))
    return round(math.floor(round(bound / grid, 6)) * grid, 2)


def main() -> int:
    """Print all of it; 0 if the protocol holds what the rules give."""
    protocol = read_protocol(PROTOCOL)
    half = installed_development()
    positives = int(half.reference.sum())
    print(f"development half: {len(half.reference)} nodules ({positives} positive) of "
          f"{len(np.unique(half.patient))} patients\n")  # fmt: skip
    scores = {name: out_of_fold(half, model) for name, model in MODELS.items()}
    yardstick = next(iter(scores))
    threshold = highest_threshold(half, scores[yardstick])
    agrees = threshold == protocol.threshold
    print(f"threshold: {threshold} (protocol: {protocol.threshold})\n")
    runs = {}
    for name, score in scores.items():
        table = table_of(half, score)
        _print_evaluation(name, evaluate(table, protocol))
        runs[name] = future(table, protocol)
    print(
        f"strictest that the yardstick passes in {POWER:.0%} (subgroups: {SUBGROUP_POWER:.0%}) of "
        f"{COHORTS} cohorts of this size:"
    )
    for choice in choices(runs[yardstick], protocol):
        agrees = agrees and choice.locked == choice.strictest
        print(f"  {choice.rule:45s} {choice.strictest:.2f}   protocol {choice.locked}")
    print("\nverdicts over these cohorts, by the protocol as it stands:")
    for name, of_model in runs.items():
        overall = [run.verdict.overall for run in of_model]
        shares = ", ".join(f"{each} {overall.count(each) / len(overall):.1%}" for each in OVERALL)
        print(f"  {name:45s} {shares}")
    print(f"\nthe protocol {'agrees' if agrees else 'DOES NOT AGREE'} with these rules")
    return 0 if agrees else 1


def _print_evaluation(name: str, found: Evaluation) -> None:
    print(name)
    for row in found.endpoints:
        if row.estimate is not None and row.interval is not None:
            low, high = row.interval.low, row.interval.high
            print(f"  {row.metric:45s} {row.estimate:.3f} ({low:.3f} to {high:.3f})")
    for group in found.subgroups:
        if group.estimate is None or group.interval is None or group.gap_interval is None:
            continue
        print(
            f"  {group.attribute + ' ' + group.group + ': ' + group.metric:45s} "
            f"{group.estimate:.3f} ({group.interval.low:.3f} to {group.interval.high:.3f}), "
            f"behind the rest by {group.gap:.3f} ({group.gap_interval.low:.3f} to "
            f"{group.gap_interval.high:.3f}), {group.positives} positives"
        )
    print()


if __name__ == "__main__":
    sys.exit(main())
