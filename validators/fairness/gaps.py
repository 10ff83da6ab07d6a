"""Gaps of a group behind the rest of the cohort, judged by their interval.

Why not max - min over groups: it flags six identical groups every time. Why not "gap >= margin":
a point says nothing about six positives. So each group is set against the rest, and each
question has three answers.

Rules
-----
1. gap = rest - group (group - rest where less is better); positive where the group is worse off.
   Metrics that belong in a band have a signed gap, rest - group, judged on both sides.
2. `fail`: the gap is shown to be beyond the margin: its lower bound, at alpha divided by the
   number of groups tested in the attribute, or in all rules of its named family (Bonferroni: one
   fail condemns the model, so the error that counts is that of any false one). Two groups are one
   test: one is behind by what the other is ahead.
   `pass`: the gap is shown to be inside: its upper bound at alpha. All groups must pass, and the
   chance that a model with one true gap does is at most alpha whatever their number, so nothing
   is corrected (intersection-union, Berger 1982). Otherwise `insufficient_evidence`.
3. A floor is judged the same way, on the group's own value: passes at alpha, fails at alpha divided
   by the number of groups tested.
4. A group below the rule's minimum is not tested: `insufficient_evidence`, with its numbers.
5. Failed predictions count in the least favourable direction: wrong in the group, right in the
   rest, with bounds over what they could have been. So silence never narrows a gap.
6. The interval is built of those of the two sides (`mover`). Patients with cases on both sides
   make the sides alike, which narrows the true spread: taking them as independent errs on the
   safe side. Where the estimates are negatively correlated that correlation is used.
7. The rest holds every other group. A rest that is itself made of poor groups dilutes a gap
   (three of six at .7 against .9 show .12, not .20); a floor is what catches that.

8. Where patients cluster, a side with fewer than 30 of them decides nothing.

`adjusted_p` is Holm's within the attribute, one-sided, for a gap of at least nothing. It is the
tail at which the gap's own interval touches 0, so it never contradicts the interval.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from validators.cases import CaseTable
from validators.evidence import Interval, Outcome, SubgroupEvidence
from validators.fairness.gap import Gap
from validators.fairness.judging import judge_floor, judge_gap, worst
from validators.intervals.auc import area
from validators.intervals.bootstrap import FEWEST_PATIENTS
from validators.intervals.influence import Box, widening_correlation
from validators.intervals.multiplicity import holm
from validators.metrics import binary_measures
from validators.metrics.binary import share_right
from validators.metrics.estimate import interval_of
from validators.metrics.measure import Cases, Side, Undefined
from validators.metrics.tasks import side_of
from validators.protocol.schema import Protocol, SubgroupRule
from validators.sites.evidence import WithinSites
from validators.sites.evidence_of import within


def subgroup_evidence(
    table: Cases, rules: Sequence[SubgroupRule], protocol: Protocol
) -> list[SubgroupEvidence]:
    """One row a group of each rule's attribute, in the order of the rules and the groups' names."""
    asked = [_Asked(table, rule, protocol) for rule in rules]
    sizes: dict[str, int] = {}
    for place, one in enumerate(asked):
        family = one.rule.family or str(place)
        sizes[family] = sizes.get(family, 0) + one.tests
    return [
        row
        for place, one in enumerate(asked)
        for row in one.rows(sizes[one.rule.family or str(place)])
    ]


class _Asked:
    """One rule on one table: its groups, their gaps, and how many tests they are."""

    def __init__(self, table: Cases, rule: SubgroupRule, protocol: Protocol) -> None:
        self.table, self.rule, self.protocol = table, rule, protocol
        names, code = np.unique(_grouping(table, rule), return_inverse=True)
        self.members = {str(name): code == i for i, name in enumerate(names)}
        self.few = {name: _too_few(table, inside, rule) for name, inside in self.members.items()}
        self.gaps = {n: _gap(table, inside, rule, protocol) for n, inside in self.members.items()}
        self.tested = {
            n: gap for n, gap in self.gaps.items() if gap is not None and not self.few[n]
        }

    @property
    def tests(self) -> int:
        """Two groups are one question asked twice: one is behind by what the other is ahead.

        A floor asks each group by itself, and a signed gap has two sides.
        """
        alone = self.rule.floor is None
        one_sided = self.protocol.measures[self.rule.metric].direction != "band"
        if len(self.members) == 2 and len(self.tested) == 2 and alone and one_sided:
            return 1
        return len(self.tested)

    def rows(self, tests: int) -> Iterator[SubgroupEvidence]:
        """The evidence, fails corrected for `tests`."""
        table, rule, protocol = self.table, self.rule, self.protocol
        adjusted = holm({name: gap.p_value() for name, gap in self.tested.items()})
        for name, inside in self.members.items():
            gap = self.gaps[name]
            group = gap.group if gap else side_among(table, inside, rule.metric, protocol)
            judged = _judge(rule, protocol, self.few[name], group, gap, max(tests, 1))
            yield _row(table, inside, rule, protocol, name, group, gap, adjusted.get(name), judged)


def _grouping(table: Cases, rule: SubgroupRule) -> NDArray[np.str_]:
    """The group of each case: a value of the attribute, or of several joined by ' / '."""
    columns = [table.attributes[name] for name in rule.attributes]
    if len(columns) == 1:
        return columns[0]
    return np.asarray([" / ".join(row) for row in zip(*columns, strict=True)])


def _judge(
    rule: SubgroupRule, protocol: Protocol, few: str, group: Side | None,
    gap: Gap | None, tested: int,
) -> tuple[Outcome, str]:  # fmt: skip
    if rule.margin is None and rule.floor is None:
        return "not_judged", "reported; no margin or floor was set"
    if few or group is None:
        return "insufficient_evidence", few or "the group lacks a class that the metric needs"
    for side in (group, gap.rest if gap else None):
        if side is not None and side.clusters is not None and side.clusters < FEWEST_PATIENTS:
            where = "this group" if side is group else "the rest"
            return "insufficient_evidence", (
                f"{where} has {side.clusters} patients; at least {FEWEST_PATIENTS} are needed to "
                "judge by"
            )
    alpha = protocol.each_alpha
    measure = protocol.measures[rule.metric]
    answers: list[tuple[Outcome, str]] = []
    if rule.margin is not None and gap is None:
        answers.append(("insufficient_evidence", "there is no rest to compare this group with"))
    elif rule.margin is not None and gap is not None:
        bounds = gap.low(alpha / tested), gap.low(alpha), gap.high(alpha)
        answers.append(judge_gap(gap.value, bounds, rule.margin, tested))
        if measure.direction == "band":
            mirrored = -gap.high(alpha / tested), -gap.high(alpha), -gap.low(alpha)
            answers.append(judge_gap(-gap.value, mirrored, rule.margin, tested))
    if rule.floor is not None:
        intervals = group.gating(alpha), group.gating(alpha / tested)
        answers.append(judge_floor(measure, group.value, intervals, rule.floor))
    outcome = worst([answer for answer, _ in answers])
    return outcome, "; ".join(reason for _, reason in answers)


def _row(
    table: Cases, inside: NDArray[np.bool_], rule: SubgroupRule, protocol: Protocol, name: str,
    group: Side | None, gap: Gap | None, adjusted_p: float | None,
    judged: tuple[Outcome, str],
) -> SubgroupEvidence:  # fmt: skip
    alpha = protocol.each_alpha
    level = 1 - 2 * alpha
    positives = int((inside & table.positive).sum()) if isinstance(table, CaseTable) else None
    cases = int(inside.sum())
    interval = gap_interval = None
    if group is not None:
        interval = interval_of(group, alpha, judged=rule.rule == "gating")
    if gap is not None:
        gap_interval = Interval(
            low=gap.low(alpha), high=gap.high(alpha), level=level, method=gap.group.gap_method
        )
    return SubgroupEvidence(
        attribute=rule.name, group=name, metric=rule.metric, n=cases,
        positives=positives, negatives=None if positives is None else cases - positives,
        clusters=None if table.patient is None else len(np.unique(table.patient[inside])),
        estimate=None if group is None else group.value, interval=interval,
        gap=None if gap is None else gap.value, gap_interval=gap_interval,
        adjusted_p=adjusted_p, margin=rule.margin, floor=rule.floor, rule=rule.rule,
        outcome=judged[0], reason=judged[1],
        within_sites=_within(table, inside, rule, protocol),
    )  # fmt: skip


def _within(
    table: Cases, inside: NDArray[np.bool_], rule: SubgroupRule, protocol: Protocol
) -> WithinSites | None:
    """The gap within hospitals, unless the hospital is what the groups are made of."""
    if protocol.sites is None or protocol.sites.attribute in rule.attributes:
        return None
    return within(table, inside, rule.metric, protocol) if isinstance(table, CaseTable) else None


def _too_few(table: Cases, inside: NDArray[np.bool_], rule: SubgroupRule) -> str:
    """Why the group is not tested, or nothing."""
    if not isinstance(table, CaseTable):
        cases = int(inside.sum())
        few = f"this group has {cases} cases; the protocol asks for at least {rule.minimum}"
        return few if cases < rule.minimum else ""
    positives = int((inside & table.positive).sum())
    counts = {"positive": positives, "negative": int(inside.sum()) - positives}
    negative = ["negative"]
    asked = {"sensitivity": ["positive"], "specificity": negative, "false_positive_rate": negative}
    for name in asked.get(rule.metric, list(counts)):
        if counts[name] < rule.minimum:
            word = "case" if counts[name] == 1 else "cases"
            return (
                f"this group has {counts[name]} {name} {word}; the protocol asks for at least "
                f"{rule.minimum} to judge by"
            )
    return ""


def _gap(
    table: Cases, inside: NDArray[np.bool_], rule: SubgroupRule, protocol: Protocol
) -> Gap | None:
    """The gap, or None where a side lacks a class that the metric needs."""
    group = side_among(table, inside, rule.metric, protocol)
    rest = side_among(table, ~inside, rule.metric, protocol, failed_is_right=True)
    if group is None or rest is None:
        return None
    alike = widening_correlation(
        _of_all(table, inside, group.influence), _of_all(table, ~inside, rest.influence)
    )
    return Gap(group, rest, alike, protocol.measures[rule.metric])


def _of_all(table: Cases, inside: NDArray[np.bool_], of: Box | None) -> Box | None:
    """`of` by the patients of the whole table: a subset has codes of its own.

    None where cases are independent: two groups then share nothing.
    """
    if of is None or table.patient is None:
        return None
    patients = int(table.patient.max()) + 1
    if len(of.low) == patients:
        return of
    low, high = np.zeros(patients), np.zeros(patients)
    codes = np.unique(table.patient[inside])
    low[codes], high[codes] = of.low, of.high
    return Box(low, high)


def side_among(
    table: Cases, inside: NDArray[np.bool_], metric: str, protocol: Protocol,
    *, failed_is_right: bool = False,
) -> Side | None:  # fmt: skip
    """The metric among `inside`, or None where it has no value or interval there."""
    if not isinstance(table, CaseTable):
        settings = protocol.settings
        if settings is None or not inside.any():
            return None
        found = side_of(
            table.subset(inside), metric, protocol.task, settings,
            failed_is_right=failed_is_right,
        )  # fmt: skip
        return None if isinstance(found, Undefined) else found
    positive, negative = inside & table.positive, inside & ~table.positive
    if metric not in ("sensitivity", "specificity"):
        if not positive.any() or not negative.any():
            return None
        if metric != "auc":
            of_binary = binary_measures.side(
                table.subset(inside), metric, protocol.binary, failed_is_right=failed_is_right
            )
            return None if isinstance(of_binary, Undefined) else of_binary
        return area(
            table.score[inside],
            table.positive[inside],
            None if table.patient is None else table.patient[inside],
            failed_is_right=failed_is_right,
            clusters=None if table.patient is None else int(table.patient.max()) + 1,
        )
    chosen = positive if metric == "sensitivity" else negative
    if not chosen.any():
        return None
    return share_right(table, protocol.binary.threshold, chosen, failed_is_right=failed_is_right)
