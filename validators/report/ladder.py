"""What a submitter reads of a run on the development cohort: the Ladder, metric by metric.

    >>> auc = Measure("auc", "AUC", "higher", 0.0, 1.0, 1.0)
    >>> climb(auc, before=0.70, value=0.74, step=0.05)     # no better by more than a step
    0.7
    >>> climb(auc, before=0.70, value=0.763, step=0.05)
    0.75

A. Blum & M. Hardt (2015), The Ladder: A Reliable Leaderboard for Machine Learning Competitions,
ICML 37: 1006-1014, algorithm 1 (a fixed step).

Rules
-----
1. Each metric of the cohort and of each group is a ladder of its own, with one state in a model
   family: the value that was released last. A value that is better by more than the step is
   released, rounded to the step; else the state is released again. A worse model is told nothing,
   and sensitivity and specificity side by side may be of two models: of a trade-off read the AUC.
2. Better is what the measure says: more, less, or nearer to the ideal value of a band.
3. The step is the largest standard error that a mean of n values on the measure's scale can have,
   width / (2 sqrt(n)), times sqrt(cases / patients), rounded up to the released decimals. n is the
   smallest class that the metric looks at. It is made of released counts alone. Measures that
   belong in a band on an open scale are taken as of width 2 (their standard errors are of that
   order; a convention, not a bound). Other measures on an open scale are withheld.
4. Only what `release` shows to a hospital is looked at: what it withholds moves no ladder. Beyond
   that no interval, gap, outcome or verdict is shown: each tells more of the exact value than the
   Ladder does. Failures are `none` or `some`: how many, over a hundred trials, would tell whose.

What it promises: the paper's bound on the error of the best value holds however the next model is
made of the answers before, for losses that are means over independent cases, and a step of order
(log(k n) / n)^(1/3). At 300 cases and 200 trials that is .33 and says nothing. The step here is the
paper's second algorithm's size (one standard error of the difference), without what it needs: a
loss for each case, which AUC and calibration do not have. Its effect is measured (`bench.ladder`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

from validators.evidence import Report, SubgroupEvidence
from validators.metrics.measure import Measure
from validators.report.build import SIGNIFICANT_DIGITS

NOTICE = "development cohort; it decides nothing"
Key = tuple[str | None, str | None, str]
"""(attribute, group, metric); of the whole cohort the first two are None."""
_KEPT = ("protocol_id", "protocol_version", "title", "reference_standard", "threshold", "digests",
         "attribution")  # fmt: skip


@dataclass(frozen=True)
class Ladder:
    """What the protocol's measures are, and what this family was told before, by `told`."""

    measures: Mapping[str, Measure]
    before: Mapping[Key, float] = field(default_factory=dict)


def climb(measure: Measure, before: float | None, value: float | None, step: float) -> float | None:
    """What is released: `value` rounded to `step` where it is better than `before` by more.

    `before` is None where nothing was released yet, `value` where there is none to release.
    """
    if value is None:
        return before
    given, by = _exact(value), _exact(step)
    if before is not None and _loss(measure, given) >= _loss(measure, _exact(before)) - by:
        return before
    rounded = (given / by).to_integral_value(ROUND_HALF_EVEN) * by
    if measure.low is not None:
        rounded = max(rounded, _exact(measure.low))
    if measure.high is not None:
        rounded = min(rounded, _exact(measure.high))
    return float(rounded) + 0.0


def step_of(measure: Measure, n: int, crowding: float, decimals: int) -> float | None:
    """The step (rule 3); None for a measure on an open scale that belongs in no band.

    n: cases of the smallest class behind it; crowding: cases a patient, at least 1.
    """
    width = measure.width
    if math.isinf(width):
        if measure.direction != "band":
            return None
        width = 2.0
    largest = _exact(width / 2 * math.sqrt(crowding / n))
    return float(largest.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_CEILING))


def tried(
    shown: Mapping[str, Any],
    report: Report,
    ladder: Ladder,
    uses: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """The document for the submitter, made of what a hospital would be shown of `report`.

    shown: that document, rows in the order of the report's. uses: the classes that a metric looks
    at, where not both. The same arguments give the same document.
    """
    cases, decimals = shown["cases"], shown["disclosure"]["decimals"]
    several = cases["n"] is not None and cases["patients"] is not None
    crowding = cases["n"] / cases["patients"] if several else 1.0

    def row(key: Key, estimate: float | None, seen: bool, n: list[int | None]) -> dict[str, Any]:
        measure, before = ladder.measures[key[2]], ladder.before.get(key)
        known = [count for count in n if count]
        step = step_of(measure, min(known), crowding, decimals) if seen and known else None
        value = before if step is None else climb(measure, before, estimate, step)
        return {
            "metric": key[2],
            "value": value,
            "step": step,
            "improved": value != before,
            "direction": measure.direction,
        }

    endpoints = [
        row(
            (None, None, found.metric), found.estimate, of["estimate"] is not None,
            [cases[side] for side in uses.get(found.metric, ("positives", "negatives"))],
        )
        | {name: of[name] for name in ("goal", "band", "role", "rule") if name in of}
        for of, found in zip(shown["endpoints"], report.endpoints, strict=True)
    ]  # fmt: skip
    subgroups = [
        {"attribute": found.attribute, "group": found.group}
        | row(
            (found.attribute, found.group, found.metric), found.estimate,
            of["estimate"] is not None, [of.get("positives"), of.get("negatives")],
        )
        | {n: of[n] for n in ("positives", "negatives", "margin", "floor", "rule") if n in of}
        for of, found in zip(shown["subgroups"], _shown_groups(shown, report), strict=True)
    ]  # fmt: skip
    return {
        "schema_id": "touchstone/released-trial/v1",
        "notice": NOTICE,
        **{name: shown[name] for name in _KEPT},
        "cases": {name: count for name, count in cases.items() if name != "failed"},
        "failures": "some" if report.case_flow.failed else "none",
        "endpoints": endpoints,
        "subgroups": subgroups,
        "disclosure": {
            "minimum_group": shown["disclosure"]["minimum_group"],
            "decimals": decimals,
            "note": (
                "Each value is the best that your family of models reached, told where it was "
                "better by more than a step and rounded to the step (Blum & Hardt 2015). A model "
                "that is no better changes nothing. Two values may be of two models."
            ),
        },
    }


def _shown_groups(shown: Mapping[str, Any], report: Report) -> list[SubgroupEvidence]:
    """The report's groups that have a row in `shown`: those of hospitals have none."""
    there = {(row["attribute"], row["group"], row["metric"]) for row in shown["subgroups"]}
    return [of for of in report.subgroups if (of.attribute, of.group, of.metric) in there]


def told(document: Mapping[str, Any] | None) -> dict[Key, float]:
    """The state of every ladder after `document` was released; empty where none was."""
    if document is None:
        return {}
    return {
        (row.get("attribute"), row.get("group"), row["metric"]): float(row["value"])
        for row in (*document["endpoints"], *document["subgroups"])
        if row["value"] is not None
    }


def _loss(measure: Measure, value: Decimal) -> Decimal:
    if measure.direction == "band":
        return abs(value - _exact(measure.ideal))
    return -value if measure.direction == "higher" else value


def _exact(value: float) -> Decimal:
    return Decimal(f"{value:.{SIGNIFICANT_DIGITS}g}")
