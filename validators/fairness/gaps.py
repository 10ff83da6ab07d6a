"""Gaps of a group behind the rest of the cohort, judged by their interval.

Why not max - min over groups: it flags six identical groups every time. Why not "gap >= margin":
a point says nothing about six positives. So each group is set against the rest, and each
question has three answers.

Rules
-----
1. gap = rest - group; positive where the group is worse off.
2. `fail`: the gap is shown to be beyond the margin (its lower bound, at alpha divided by the
   number of groups tested in the attribute: a claim about any of them).
   `pass`: the gap is shown to be inside (its upper bound at alpha; all groups must pass, which
   needs no correction). Otherwise `insufficient_evidence`.
3. A floor is judged the same way, on the group's own value.
4. A group below the rule's minimum is not tested: `insufficient_evidence`, with its numbers.
5. Failed predictions count in the least favourable direction: wrong in the group, right in the
   rest. So silence never narrows a gap.
6. The rest holds every other group. A rest that is itself made of poor groups dilutes a gap; the
   floor is what catches that.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from validators.cases import CaseTable
from validators.evidence import Interval, Outcome, SubgroupEvidence
from validators.intervals.auc import Area, area, logit_interval
from validators.intervals.proportion import Proportion, difference, exact, mover, proportion
from validators.metrics.binary import right
from validators.protocol.schema import Protocol, SubgroupRule

_METHOD = {
    "sensitivity": "Newcombe (hybrid score)",
    "specificity": "Newcombe (hybrid score)",
    "auc": "MOVER over logit intervals",
}


@dataclass(frozen=True)
class _Side:
    """The metric on one side of the gap."""

    estimate: float
    share: Proportion | None
    area: Area | None

    def interval(self, level: float) -> tuple[float, float]:
        """The interval shown, and used for the floor."""
        if self.share is not None:
            return exact(self.share, level)
        assert self.area is not None
        return logit_interval(self.area, level)

    def variance(self) -> float:
        """For the test of no gap."""
        if self.area is not None:
            return self.area.variance
        assert self.share is not None
        p = (self.share.events + 1) / (self.share.effective_n + 2)
        return p * (1 - p) / self.share.effective_n


def subgroup_evidence(
    table: CaseTable, rule: SubgroupRule, protocol: Protocol
) -> list[SubgroupEvidence]:
    """One row a group of the rule's attribute, in the order of the groups' names."""
    column = table.attributes[rule.attribute]
    groups = [str(group) for group in np.unique(column)]
    level = 1 - 2 * protocol.alpha
    tested = [group for group in groups if not _too_few(table, column == group, rule)]
    raw = {group: _p_value(table, column == group, rule, protocol, level) for group in tested}
    adjusted = _holm(raw)
    return [
        _one(table, group, column == group, rule, protocol, len(tested), adjusted.get(group))
        for group in groups
    ]


def _one(
    table: CaseTable, group: str, inside: NDArray[np.bool_], rule: SubgroupRule,
    protocol: Protocol, tested: int, adjusted_p: float | None,
) -> SubgroupEvidence:  # fmt: skip
    level = 1 - 2 * protocol.alpha
    positives = int((inside & table.positive).sum())
    negatives = int((inside & ~table.positive).sum())
    estimate = interval = gap = gap_interval = None
    outcome: Outcome = "insufficient_evidence"
    few = _too_few(table, inside, rule)
    mine = _side(table, inside, rule, protocol, level, failed_is_right=False)
    rest = _side(table, ~inside, rule, protocol, level, failed_is_right=True)
    if mine is not None:
        low, high = mine.interval(level)
        estimate = mine.estimate
        interval = Interval(low=low, high=high, level=level, method="as the endpoint")
    if mine is not None and rest is not None:
        gap = rest.estimate - mine.estimate
        low, high = _gap_interval(rest, mine, level)
        gap_interval = Interval(low=low, high=high, level=level, method=_METHOD[rule.metric])
    reasons: list[str] = []
    outcomes: list[Outcome] = []
    if few:
        outcomes, reasons = ["insufficient_evidence"], [few]
    elif mine is not None:
        if rule.margin is not None and rest is not None and gap_interval is not None:
            shown, why = _judge_gap(rest, mine, rule.margin, protocol.alpha, tested, gap_interval)
            outcomes.append(shown)
            reasons.append(why)
        if rule.floor is not None and interval is not None:
            shown, why = _judge_floor(rule.floor, interval)
            outcomes.append(shown)
            reasons.append(why)
    outcome = worst(outcomes)
    return SubgroupEvidence(
        attribute=rule.attribute, group=group, metric=rule.metric, n=positives + negatives,
        positives=positives, negatives=negatives,
        clusters=None if table.patient is None else len(np.unique(table.patient[inside])),
        estimate=estimate, interval=interval, gap=gap, gap_interval=gap_interval,
        adjusted_p=adjusted_p, margin=rule.margin, floor=rule.floor, rule=rule.rule,
        outcome=outcome, reason="; ".join(reasons) or "nothing is asked of this group",
    )  # fmt: skip


def worst(outcomes: list[Outcome]) -> Outcome:
    """The outcome of several questions that must all be passed."""
    for outcome in ("fail", "insufficient_evidence", "pass"):
        if outcome in outcomes:
            return outcome
    return "not_judged"


def _judge_gap(
    rest: _Side, mine: _Side, margin: float, alpha: float, tested: int, shown: Interval
) -> tuple[Outcome, str]:
    corrected, _ = _gap_interval(rest, mine, 1 - 2 * alpha / max(tested, 1))
    gap = rest.estimate - mine.estimate
    if corrected > margin:
        return "fail", f"the gap of {gap:.3f} is beyond the margin {margin} (bound {corrected:.3f})"
    if shown.high < margin:
        return "pass", f"the gap {gap:.3f} is inside the margin {margin} (bound {shown.high:.3f})"
    return "insufficient_evidence", (
        f"the gap of {gap:.3f} ({shown.low:.3f} to {shown.high:.3f}) is neither shown to be inside "
        f"the margin {margin} nor beyond it"
    )


def _judge_floor(floor: float, interval: Interval) -> tuple[Outcome, str]:
    if interval.low >= floor:
        return "pass", f"at or above the floor {floor} (bound {interval.low:.3f})"
    if interval.high < floor:
        return "fail", f"below the floor {floor} (bound {interval.high:.3f})"
    return "insufficient_evidence", (
        f"{interval.low:.3f} to {interval.high:.3f} holds the floor {floor}"
    )


def _too_few(table: CaseTable, inside: NDArray[np.bool_], rule: SubgroupRule) -> str:
    positives = int((inside & table.positive).sum())
    negatives = int((inside & ~table.positive).sum())
    needed = {
        "sensitivity": [("positives", positives)],
        "specificity": [("negatives", negatives)],
        "auc": [("positives", positives), ("negatives", negatives)],
    }[rule.metric]
    for name, count in needed:
        if count < rule.minimum:
            return f"{count} {name} are too few to judge by (minimum {rule.minimum})"
    return ""


def _side(
    table: CaseTable, inside: NDArray[np.bool_], rule: SubgroupRule, protocol: Protocol,
    level: float, *, failed_is_right: bool,
) -> _Side | None:  # fmt: skip
    """The metric among `inside`, or None where a class that it needs is absent."""
    if rule.metric == "auc":
        if not (inside & table.positive).any() or not (inside & ~table.positive).any():
            return None
        bottom, top = (2.0, -1.0) if failed_is_right else (-1.0, 2.0)
        score = np.where(table.failed, np.where(table.positive, bottom, top), table.score)
        patient = None if table.patient is None else table.patient[inside]
        found = area(score[inside], table.positive[inside], patient)
        return _Side(found.estimate, None, found)
    chosen = inside & (table.positive if rule.metric == "sensitivity" else ~table.positive)
    if not chosen.any():
        return None
    good = right(table, protocol.threshold) | (table.failed & failed_is_right)
    patient = None if table.patient is None else table.patient[chosen]
    share = proportion(good[chosen], patient, level)
    return _Side(share.estimate, share, None)


def _gap_interval(rest: _Side, mine: _Side, level: float) -> tuple[float, float]:
    if rest.share is not None and mine.share is not None:
        return difference(rest.share, mine.share, level)
    return mover(rest.estimate, rest.interval(level), mine.estimate, mine.interval(level))


def _p_value(
    table: CaseTable, inside: NDArray[np.bool_], rule: SubgroupRule, protocol: Protocol,
    level: float,
) -> float:  # fmt: skip
    """One-sided, for a gap of at least nothing: Wald's z with one event added on each side."""
    mine = _side(table, inside, rule, protocol, level, failed_is_right=False)
    rest = _side(table, ~inside, rule, protocol, level, failed_is_right=True)
    if mine is None or rest is None:
        return 1.0
    spread = math.sqrt(mine.variance() + rest.variance())
    gap = rest.estimate - mine.estimate
    if spread == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stats.norm.sf(gap / spread))


def _holm(raw: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment (1979)."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for position, (group, p) in enumerate(sorted(raw.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, p * (len(raw) - position)))
        adjusted[group] = running
    return adjusted
