"""What a binary evaluation costs, beside loops over scikit-learn in the same run.

    python -m bench.speed [--cases 100000] [--rounds 3]

Prints medians of the rounds:

- DeLong's interval of 200,000 scores;
- the AUCs of 2,000 bootstrap replicates, the same draws: a loop over `roc_auc_score` against
  counts of cases that were sorted once (both timed on 20 and multiplied; the numbers are equal);
- what a validation needs instead, one interval: that loop against DeLong's;
- sensitivity, specificity and AUC of 30 groups: fairlearn's MetricFrame, where it is installed
  (it is no dependency), against all groups with their intervals, gaps and outcomes;
- the whole evaluation: every measure, five attributes of six groups, figures, two decision
  thresholds, the ICI's 2,000 replicates; how it grows with the cases, and peak memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import special
from sklearn.metrics import roc_auc_score

from validators.cases import CaseTable
from validators.evaluate import evaluate
from validators.fairness.gaps import subgroup_evidence
from validators.intervals.auc import area
from validators.intervals.bootstrap import draws
from validators.metrics import binary_measures
from validators.metrics.binary_measures import MEASURES, BinarySettings
from validators.protocol.schema import Endpoint, IntendedUse, Protocol, SubgroupRule

THRESHOLDS = (0.2, 0.4)
ATTRIBUTES, GROUPS = 5, 6
_REPLICATES, _TIMED = 2000, 20


def made(cases: int) -> CaseTable:
    """Independent cases, a third of them positive, with five attributes."""
    rng = np.random.default_rng(cases)
    logit = rng.normal(-0.8, 1.3, cases)
    names = np.array([f"group {place}" for place in range(GROUPS)])
    return CaseTable(
        reference=rng.random(cases) < special.expit(logit),
        score=special.expit(logit),
        attributes={
            f"attribute_{place}": names[rng.integers(0, GROUPS, cases)]
            for place in range(ATTRIBUTES)
        },
    )


def asked(*metrics: str) -> Protocol:
    """Every measure, and each group by `metrics`."""
    others = [
        Endpoint(metric=name, role="secondary", rule="reported")
        for name in (*MEASURES, "failure_rate")
        if name != "auc"
    ]
    use = IntendedUse(purpose="bench", population="none", setting="none", prevalence=0.1)
    return Protocol(
        id="speed", version="1", threshold=0.5, reference_standard="simulated",
        intended_use=use,
        endpoints=(Endpoint(metric="auc", goal=0.6), *others), decision_thresholds=THRESHOLDS,
        subgroups=tuple(
            SubgroupRule(attribute=f"attribute_{place}", metric=metric, margin=0.1)
            for place in range(ATTRIBUTES) for metric in metrics
        ),
    )  # fmt: skip


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """The median."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def replicated_areas(positive: NDArray[np.bool_], times: NDArray[np.int64]) -> list[float]:
    """AUCs of replicates ([r, n] counts of cases in ascending order of distinct scores)."""
    found = []
    for drawn in times:
        of_x = drawn * positive
        of_y = drawn - of_x
        below = np.cumsum(of_y)
        found.append(float(of_x @ below) / (int(of_x.sum()) * int(below[-1])))
    return found


def bootstrap_pair(table: CaseTable, rounds: int) -> tuple[float, float]:
    """Seconds for 2,000 replicates by scikit-learn's loop and by counts, of the same draws."""
    order = np.argsort(table.score)
    score, positive = table.score[order], table.positive[order]
    assert len(np.unique(score)) == table.n, "the counts above know no ties"
    times = next(draws(np.zeros(table.n, dtype=np.int64), _TIMED))[:_TIMED]
    picked = [np.repeat(np.arange(table.n), drawn) for drawn in times]

    def loop() -> list[float]:
        return [float(roc_auc_score(positive[of], score[of])) for of in picked]

    assert np.allclose(loop(), replicated_areas(positive, times), atol=1e-12)
    scale = _REPLICATES / len(times)
    return scale * seconds(loop, rounds), scale * seconds(
        lambda: replicated_areas(positive, times), rounds
    )


def frame(table: CaseTable, replicates: int | None) -> Callable[[], Any]:
    """Fairlearn's values of all groups, and of bootstrap replicates if any. Not our dependency."""
    from fairlearn.metrics import (  # type: ignore[import-not-found,unused-ignore]
        MetricFrame,
        true_negative_rate,
        true_positive_rate,
    )

    decided = (table.score >= THRESHOLDS[0]).astype(int)
    rates = {"sensitivity": true_positive_rate, "specificity": true_negative_rate}
    more = {} if replicates is None else {
        "n_boot": replicates, "ci_quantiles": [0.025, 0.975], "random_state": 1,
    }  # fmt: skip

    def work() -> None:
        for name in table.attributes:
            for metrics, given in ((rates, decided), ({"auc": roc_auc_score}, table.score)):
                of = MetricFrame(
                    metrics=metrics, y_true=table.reference, y_pred=given,
                    sensitive_features=table.attributes[name], **more,
                )  # fmt: skip
                assert of.by_group.notna().all().all()

    return work


def high_water() -> float:
    """Peak resident memory in MiB."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Print every pair."""
    arguments = argparse.ArgumentParser(description=__doc__, add_help=True)
    arguments.add_argument("--cases", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    console, rounds = Console(width=110), given.rounds
    rows = Table(title="Seconds, medians of one run", title_justify="left")
    for name in ("what", "cases", "other", "here", "ratio"):
        rows.add_column(name, justify="left" if name == "what" else "right")

    def row(what: str, cases: int, other: float | None, here: float) -> None:
        ratio = "" if other is None else f"{other / here:.0f} x"
        first = "" if other is None else f"{other:.2f}"
        rows.add_row(what, f"{cases:,}", first, f"{here:.3f}", ratio)

    large, table = made(200_000), made(given.cases)
    here = seconds(lambda: area(large.score, large.positive).gating(0.025), rounds)
    row("DeLong's interval", large.n, None, here)
    other, here = bootstrap_pair(table, rounds)
    row("2,000 bootstrap AUCs: loop over roc_auc_score", table.n, other, here)
    here = seconds(lambda: area(table.score, table.positive).gating(0.025), rounds)
    row("an interval of the AUC: that loop, DeLong here", table.n, other, here)
    groups = asked("sensitivity", "specificity", "auc").subgroups
    rule_by_rule = asked("sensitivity", "specificity", "auc")
    here = seconds(
        lambda: [subgroup_evidence(table, [rule], rule_by_rule) for rule in groups], rounds
    )
    try:
        other = seconds(frame(table, None), rounds)
        row("30 groups: MetricFrame's values, all intervals and gaps here", table.n, other, here)
        other = seconds(frame(table, _TIMED), 1) * _REPLICATES / _TIMED
        row("30 groups: MetricFrame with 2,000 replicates", table.n, other, here)
    except ImportError:
        row("30 groups, 3 metrics, all intervals and gaps (fairlearn: absent)", table.n, None, here)
    for cases in (given.cases // 4, given.cases // 2, given.cases):
        of = made(cases)
        here = seconds(lambda of=of: whole(of), 1)  # type: ignore[misc]
        row("the whole evaluation, 30 groups, ICI and figures", cases, None, here)
    console.print(rows)
    console.print(f"peak memory of this process: {high_water():.0f} MiB")


def whole(table: CaseTable) -> None:
    """Evidence, verdict and all figures."""
    evaluate(table, asked("sensitivity", "specificity", "auc", "calibration_slope"))
    binary_measures.figures(table, BinarySettings(0.5, 0.1, THRESHOLDS))


if __name__ == "__main__":
    main()
