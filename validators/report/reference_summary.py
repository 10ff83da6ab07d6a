"""What a model saw and said on the locked cohort, as a hospital may know it: shares and no case.

    >>> summary = release(report, "monitoring", protocol.disclosure, others)
    >>> summary["score"]["edges"], summary["score"]["shares"]
    ([0.0, 0.15, 0.4, 1.0], [0.52, 0.31, 0.17])

It lies in a bundle as `reference-summary.json`; a pilot's drift is measured against it.

    schema_id     touchstone/reference-summary/v1
    cases         of the cohort; null where that is withheld
    score         name of the contract's score; `edges` e0 < … < em and the m `shares` of the cases
                  with a prediction in [e0, e1), …, [em-1, em], the last one closed; null where
                  withheld, or where the task has no such score
    prevalence    share of positives in the cohort (not in any population); null where withheld
    attributes    {attribute: {group: share of the cohort's cases}}; "(others)" are the groups that
                  are withheld or were not asked for
    calibration   `edges` as above and in each bin the `observed` share of positives; null as above
    performance   {metric: {"estimate", "interval"}} exactly as in the released report

Rules
-----
1. It is made by `disclosure.release` alone. What is not of the scores is computed from the released
   report, so it says nothing that the report does not.
2. Scores are counted in twentieths of [0, 1]; neighbours are joined until every bin has k cases
   and a thousandth of all. Bins of the calibration are unions of those, with k of each class.
3. Where a class is withheld (`withheld`, rule 2), or 1 to k - 1 cases failed, no score is shown:
   what is missing from the bins would give the few away.
4. Shares have four decimals and add up to 1.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from validators.contract.faults import fault
from validators.contract.schema import Strict
from validators.evidence import Interval, Report
from validators.report.suppression import INTERSECTION
from validators.report.withheld import Hidden

SCHEMA_ID: Literal["touchstone/reference-summary/v1"] = "touchstone/reference-summary/v1"
OTHERS = "(others)"
_SHARE_STEPS = 10_000
_SMALLEST_PART = 1000
Share = Annotated[float, Field(ge=0, le=1)]
Edges = Annotated[tuple[float, ...], Field(min_length=2)]


class ScoreShares(Strict):
    """How the model's scores lay: `shares[i]` of the cases between `edges[i]` and the next."""

    name: str
    edges: Edges
    shares: tuple[Share, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_edges(self.edges, self.shares)
        if abs(math.fsum(self.shares) - 1) > 1e-9:
            raise fault("shares", "they do not add up to 1")
        return self


class Observed(Strict):
    """The share of positives among the cases of each bin of scores."""

    edges: Edges
    observed: tuple[Share, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_edges(self.edges, self.observed)
        return self


class Reached(Strict):
    """One endpoint as released."""

    estimate: float
    interval: Interval | None


class ReferenceSummary(Strict):
    """reference-summary.json."""

    schema_id: Literal["touchstone/reference-summary/v1"] = SCHEMA_ID
    cases: int | None
    score: ScoreShares | None
    prevalence: Share | None
    attributes: dict[str, dict[str, Share]]
    calibration: Observed | None
    performance: dict[str, Reached]


def summary_released(
    report: Report, released: Mapping[str, Any], hidden: Hidden, score: str
) -> dict[str, Any]:
    """The summary of a report, as a JSON object. released: the report as `certified` reads it."""
    counts = None if hidden.classes or hidden.few_failed else _score_counts(report)
    summary = ReferenceSummary(
        cases=released["cases"]["n"],
        score=None if counts is None else _score(score, counts, hidden.k),
        prevalence=_prevalence(released["cases"]),
        attributes=_attributes(released),
        calibration=None if counts is None else _calibration(counts, hidden.k),
        performance={
            of["metric"]: Reached(estimate=of["estimate"], interval=of["interval"])
            for of in released["endpoints"]
            if of["estimate"] is not None
        },
    )
    return summary.model_dump(mode="json")


Counts = list[tuple[float, int, int]]
"""(lower edge, positives, negatives) of each bin of scores, in order; the last edge is 1."""


def _score_counts(report: Report) -> Counts | None:
    """From the figure of scores by class, whose shares are counts over a known number."""
    flow = report.case_flow
    figures = report.curves.figures if report.curves else ()
    drawn = next((of for of in figures if of.name == "scores"), None)
    if drawn is None or flow.positives is None or flow.negatives is None:
        return None
    of_class = {of.label: of.points for of in drawn.series}
    positives, negatives = of_class["positive"], of_class["negative"]
    return [
        (
            number / len(positives),
            round(positives[number][1] * flow.positives),
            round(negatives[number][1] * flow.negatives),
        )
        for number in range(len(positives))
    ]


def _score(name: str, counts: Counts, k: int) -> ScoreShares | None:
    joined = _joined(counts, k)
    if len(joined) < 2:
        return None
    return ScoreShares(
        name=name, edges=_edges(joined), shares=_shares([up + down for _, up, down in joined])
    )


def _calibration(counts: Counts, k: int) -> Observed | None:
    joined = _merged(_joined(counts, k), lambda of: min(of[1], of[2]) >= k)
    if len(joined) < 2:
        return None
    observed = tuple(round(up / (up + down), 4) for _, up, down in joined)
    return Observed(edges=_edges(joined), observed=observed)


def _joined(counts: Counts, k: int) -> Counts:
    least = max(k, sum(up + down for _, up, down in counts) / _SMALLEST_PART)
    return _merged(counts, lambda of: of[1] + of[2] >= least)


def _merged(counts: Counts, enough: Any) -> Counts:
    """Neighbours joined from the left until each has enough; none where all together have not."""
    made: Counts = []
    left, up, down = 0.0, 0, 0
    for number, (_, more, less) in enumerate(counts):
        up, down = up + more, down + less
        if enough((left, up, down)):
            made.append((left, up, down))
            left = counts[number + 1][0] if number + 1 < len(counts) else 1.0
            up = down = 0
    if made and left < 1:
        start, before, beside = made.pop()
        made.append((start, before + up, beside + down))
    return made


def _edges(joined: Counts) -> tuple[float, ...]:
    return (*(left for left, _, _ in joined), 1.0)


def _prevalence(cases: Mapping[str, Any]) -> float | None:
    n, positives = cases["n"], cases.get("positives")
    return None if not n or positives is None else round(positives / n, 4)


def _attributes(released: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Shares of the groups that the report counts, by attribute."""
    n = released["cases"]["n"]
    found: dict[str, dict[str, dict[str, int]]] = {}
    for row in released["subgroups"]:
        sides = found.setdefault(row["attribute"], {}).setdefault(row["group"], {})
        for side in ("n", "positives", "negatives"):
            if row.get(side) is not None:
                sides[side] = row[side]
    made = {}
    for attribute, groups in found.items():
        known = {name: _of(sides) for name, sides in groups.items()}
        counts = {name: count for name, count in known.items() if count is not None}
        rest = (n or 0) - sum(counts.values())
        if not counts or rest < 0 or INTERSECTION in attribute:
            continue
        if rest:
            counts[OTHERS] = rest
        made[attribute] = dict(zip(counts, _shares(list(counts.values())), strict=True))
    return made


def _of(sides: Mapping[str, int]) -> int | None:
    if "n" in sides:
        return sides["n"]
    both = "positives" in sides and "negatives" in sides
    return sides["positives"] + sides["negatives"] if both else None


def _shares(counts: Sequence[int]) -> tuple[float, ...]:
    """Each count's part of all in ten-thousandths, the largest remainders rounded up."""
    total = sum(counts)
    whole = [count * _SHARE_STEPS // total for count in counts]
    rests = sorted(range(len(counts)), key=lambda i: (-(counts[i] * _SHARE_STEPS % total), i))
    for number in rests[: _SHARE_STEPS - sum(whole)]:
        whole[number] += 1
    return tuple(steps / _SHARE_STEPS for steps in whole)


def _check_edges(edges: Sequence[float], values: Sequence[float]) -> None:
    if len(values) != len(edges) - 1 or any(a >= b for a, b in pairwise(edges)):
        raise fault("edges", "they must ascend, and stand one more than there are bins")
