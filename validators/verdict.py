"""Rules against evidence: pass, conditional, fail or insufficient evidence, rule by rule.

Rules
-----
1. An endpoint passes if its interval lies on the good side of the goal, fails if it lies on the
   bad side, and is insufficient evidence if it holds the goal. The interval is two-sided at
   1 - 2 alpha, so that each side is a one-sided test at alpha (the alpha of one attempt).
2. All gating rules must pass. One fail is a fail, whatever else is missing.
3. Too little evidence blocks, unless the protocol let that rule be conditional beforehand.
4. A reported rule is shown and changes nothing.
5. The share of failed predictions is a gating rule of every protocol (`failure_rate`): it is
   counted, not estimated, so it is judged by the count. So is the share of indeterminate answers
   where the protocol knows them.
6. A floor across hospitals and a largest drop under a perturbation are rules like the others.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from validators.evidence import (
    EndpointEvidence,
    Evidence,
    RuleVerdict,
    SubgroupEvidence,
    Verdict,
)
from validators.intervals.bootstrap import FEWEST_PATIENTS
from validators.metrics.measure import Measure
from validators.outcome import Interval, Outcome, Overall
from validators.protocol.endpoints import Band, endpoint_key
from validators.protocol.questions import IfInsufficient
from validators.protocol.schema import Protocol
from validators.robustness.evidence import DropEvidence
from validators.sites.evidence import SitesEvidence


def judge_goal(
    measure: Measure, value: float | None, interval: Interval | None, goal: float | None,
    note: str = "",
) -> tuple[Outcome, str]:  # fmt: skip
    """(outcome, reason) of one endpoint; `note` says why there is no value or interval."""
    name = measure.label
    if value is None or interval is None:
        why = f"{name} has no {'value' if value is None else 'interval'}: {note or 'unknown'}"
        return ("not_judged" if goal is None else "insufficient_evidence"), why
    percent = f"{100 * interval.level:.4g} %"
    if goal is None:
        between = f"{interval.low:.3f} to {interval.high:.3f}"
        return "not_judged", f"{name} {value:.3f} ({percent} interval {between}); no goal was set"
    low, high = apart(interval.low, goal), apart(interval.high, goal)
    said = f"{name} {apart(value, goal)} ({percent} interval {low} to {high})"
    higher = measure.direction == "higher"
    asked = f"{'at least' if higher else 'at most'} {goal:g}"
    good = interval.low >= goal if higher else interval.high <= goal
    bad = interval.high < goal if higher else interval.low > goal
    if good:
        return "pass", f"{said} is shown to be {asked}, as was asked"
    if bad:
        side = "below" if higher else "above"
        return "fail", f"{said} is shown to be {side} {goal:g}; {asked} was asked"
    return "insufficient_evidence", (
        f"{said} holds the goal, {asked}: this cohort shows neither that it is reached nor that "
        "it is missed"
    )


def judge_band(
    measure: Measure, value: float | None, interval: Interval | None, band: Band, note: str = ""
) -> tuple[Outcome, str]:
    """The same for a metric that belongs between two limits."""
    asked = f"between {band[0]:g} and {band[1]:g}"
    if value is None or interval is None:
        why = f"{measure.label} has no {'value' if value is None else 'interval'}: {note}"
        return "insufficient_evidence", why
    ends = f"{apart(interval.low, band[0])} to {apart(interval.high, band[1])}"
    said = f"{measure.label} {value:.3f} ({100 * interval.level:.4g} % interval {ends})"
    if band[0] <= interval.low and interval.high <= band[1]:
        return "pass", f"{said} is shown to lie {asked}, as was asked"
    if interval.high < band[0] or interval.low > band[1]:
        return "fail", f"{said} is shown to lie outside; {asked} was asked"
    return "insufficient_evidence", f"{said} is shown to lie neither inside nor outside; {asked}"


def in_sequence(endpoints: Sequence[EndpointEvidence]) -> tuple[EndpointEvidence, ...]:
    """Secondary endpoints with a goal after the first that did not pass: not claimed.

    Fixed sequence: all are at the same alpha because each is looked at only if those before it
    passed. What was computed stays to be read.
    """
    kept: list[EndpointEvidence] = []
    stopped = ""
    for found in endpoints:
        judged = found.role == "secondary" and found.outcome != "not_judged"
        if judged and stopped:
            reason = f"not claimed: {stopped} before it in the sequence did not pass"
            found = found.model_copy(update={"outcome": "not_judged", "reason": reason})
        elif judged and found.outcome != "pass":
            stopped = found.metric
        kept.append(found)
    return tuple(kept)


def with_enough_patients(
    outcome: Outcome, reason: str, clusters: int | None
) -> tuple[Outcome, str]:
    """The outcome, or insufficient evidence where fewer than 30 patients stand behind it."""
    if clusters is None or clusters >= FEWEST_PATIENTS or outcome == "not_judged":
        return outcome, reason
    return "insufficient_evidence", (
        f"it stands on {clusters} of the at least {FEWEST_PATIENTS} patients that are needed to "
        f"judge by; {reason}"
    )


def apart(value: float, goal: float) -> str:
    """`value` with three decimals, or as many as tell it from `goal`."""
    for decimals in range(3, 9):
        text = f"{value:.{decimals}f}"
        if float(text) != float(f"{goal:.{decimals}f}"):
            break
    return text if value != goal else f"{value:.3f}"


def decide(protocol: Protocol, evidence: Evidence) -> Verdict:
    """The verdict on everything that was found."""
    flow = evidence.case_flow
    rules = [*_endpoint_rules(protocol, evidence), *_further_rules(protocol, evidence)]
    rules.append(_failure_rule(protocol.failed_cases.maximum_rate, flow.failed, flow.sealed))
    if protocol.indeterminate is not None:
        most, found = protocol.indeterminate.maximum_share, flow.indeterminate or 0
        rules.append(_indeterminate_rule(most, found, flow.sealed))
    gating = [rule for rule in rules if rule.gating]
    overall, reason = _overall(gating)
    missing = [rule for rule in gating if rule.outcome == "insufficient_evidence"]
    conditions = tuple(
        f"{rule.id} was not shown: {rule.reason}" for rule in missing if overall == "conditional"
    )
    return Verdict(overall=overall, reason=reason, rules=tuple(rules), conditions=conditions)


def _endpoint_rules(protocol: Protocol, evidence: Evidence) -> Iterator[RuleVerdict]:
    lenient = {endpoint.key: endpoint.if_insufficient for endpoint in protocol.endpoints}
    for found in evidence.endpoints:
        key = endpoint_key(found.metric, found.comparison.name if found.comparison else None)
        yield _rule(f"endpoint:{key}", found, lenient[key])
    of_group = {(rule.name, rule.metric): rule.if_insufficient for rule in protocol.subgroups}
    for group in evidence.subgroups:
        name = f"subgroup:{group.attribute}={group.group}:{group.metric}"
        yield _rule(name, group, of_group[(group.attribute, group.metric)])


def _further_rules(protocol: Protocol, evidence: Evidence) -> Iterator[RuleVerdict]:
    asked = protocol.sites.metrics if protocol.sites else ()
    across = {rule.metric: rule.if_insufficient for rule in asked}
    for found in evidence.sites:
        yield _rule(f"sites:{found.metric}", found, across[found.metric])
    drops: dict[tuple[str, str], IfInsufficient] = {
        (rule.perturbation.name, rule.metric): rule.if_insufficient
        for rule in protocol.robustness
    }  # fmt: skip
    for run in evidence.robustness:
        for drop in run.drops:
            name = run.perturbation.name
            yield _rule(f"robustness:{name}:{drop.metric}", drop, drops[(name, drop.metric)])


def _rule(
    name: str,
    found: EndpointEvidence | SubgroupEvidence | SitesEvidence | DropEvidence,
    if_insufficient: Literal["block", "conditional"],
) -> RuleVerdict:
    return RuleVerdict(
        id=name,
        gating=found.rule == "gating",
        outcome=found.outcome,
        if_insufficient=if_insufficient,
        reason=found.reason,
    )


def _failure_rule(most: float, failed: int, cases: int) -> RuleVerdict:
    good = failed <= most * cases * (1 + 1e-12)  # .07 * 100 is 7.000000000000001, .57 * 100 less
    return RuleVerdict(
        id="failure_rate",
        gating=True,
        outcome="pass" if good else "fail",
        if_insufficient="block",
        reason=(
            f"{failed} of {cases} cases ({failed / cases:.2%}) have no usable prediction; at most "
            f"{most:.2%} may be so, and each counts as wrong"
        ),
    )


def _indeterminate_rule(most: float, found: int, cases: int) -> RuleVerdict:
    good = found <= most * cases * (1 + 1e-12)
    return RuleVerdict(
        id="indeterminate_share",
        gating=True,
        outcome="pass" if good else "fail",
        if_insufficient="block",
        reason=(
            f"{found} of {cases} answers ({found / cases:.2%}) are indeterminate; at most "
            f"{most:.2%} may be so"
        ),
    )


def _overall(gating: Sequence[RuleVerdict]) -> tuple[Overall, str]:
    fails = [rule for rule in gating if rule.outcome == "fail"]
    unshown = [rule for rule in gating if rule.outcome not in ("fail", "pass")]
    blocking = [rule for rule in unshown if rule.if_insufficient == "block"]
    of = f"of {len(gating)} gating rules"
    if fails:
        return "fail", f"{len(fails)} {of} failed: {_named(fails)}"
    if blocking:
        return "insufficient_evidence", (
            f"none {of} failed, but this cohort can't decide {len(blocking)}: {_named(blocking)}"
        )
    if unshown:
        return "conditional", (
            f"{len(gating) - len(unshown)} {of} passed; the protocol lets the others be open, and "
            f"they become conditions: {_named(unshown)}"
        )
    return "pass", f"all {len(gating)} gating rules passed"


def _named(rules: Sequence[RuleVerdict]) -> str:
    return ", ".join(rule.id for rule in rules)
