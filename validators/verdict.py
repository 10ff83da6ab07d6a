"""Rules against evidence: pass, conditional, fail or insufficient evidence, rule by rule.

Rules
-----
1. An endpoint passes if its interval lies on the good side of the goal, fails if it lies on the
   bad side, and is insufficient evidence if it holds the goal. The interval is two-sided at
   1 - 2 alpha, so that each side is a one-sided test at alpha.
2. All gating rules must pass. One fail is a fail, whatever else is missing.
3. Too little evidence blocks, unless the protocol let that rule be conditional beforehand.
4. A reported rule is shown and changes nothing.
"""

from collections.abc import Sequence

from validators.evidence import (
    EndpointEvidence,
    Interval,
    Outcome,
    Overall,
    RuleVerdict,
    SubgroupEvidence,
    Verdict,
)
from validators.protocol.schema import HIGHER_IS_BETTER, Protocol


def judge_goal(metric: str, interval: Interval | None, goal: float | None) -> tuple[Outcome, str]:
    """(outcome, reason) of one endpoint."""
    if goal is None:
        return "not_judged", "reported, no goal was set"
    if interval is None:
        return "insufficient_evidence", "there is no interval to judge by"
    higher = metric in HIGHER_IS_BETTER
    good, bad = (interval.low >= goal, interval.high < goal) if higher else (
        interval.high <= goal, interval.low > goal)  # fmt: skip
    asked = f"at least {goal}" if higher else f"at most {goal}"
    between = f"{interval.low:.3f} to {interval.high:.3f}"
    if good:
        return "pass", f"{asked} was asked, the interval is {between}"
    if bad:
        return "fail", f"{asked} was asked, the interval is {between}"
    return "insufficient_evidence", f"{asked} was asked, and the interval {between} holds both"


def decide(
    protocol: Protocol,
    endpoints: Sequence[EndpointEvidence],
    subgroups: Sequence[SubgroupEvidence],
    failed: int,
    cases: int,
) -> Verdict:
    """The verdict of a run."""
    allowed = {endpoint.metric: endpoint.if_insufficient for endpoint in protocol.endpoints}
    rules = [
        RuleVerdict(
            id=f"endpoint:{found.metric}",
            gating=found.rule == "gating",
            outcome=found.outcome,
            if_insufficient=allowed.get(found.metric, "block"),  # type: ignore[arg-type]
            reason=found.reason,
        )
        for found in endpoints
    ]
    lenient = {(rule.attribute, rule.metric): rule.if_insufficient for rule in protocol.subgroups}
    rules += [
        RuleVerdict(
            id=f"subgroup:{found.attribute}={found.group}:{found.metric}",
            gating=found.rule == "gating",
            outcome=found.outcome,
            if_insufficient=lenient[(found.attribute, found.metric)],  # type: ignore[index]
            reason=found.reason,
        )
        for found in subgroups
    ]
    rules.append(_failures(protocol, failed, cases))
    overall, reason = _overall([rule for rule in rules if rule.gating])
    conditions = tuple(
        f"{rule.id} was not shown: {rule.reason}"
        for rule in rules
        if overall == "conditional" and rule.gating and rule.outcome == "insufficient_evidence"
    )
    return Verdict(overall=overall, reason=reason, rules=tuple(rules), conditions=conditions)


def _failures(protocol: Protocol, failed: int, cases: int) -> RuleVerdict:
    most = protocol.failed_cases.maximum_rate
    return RuleVerdict(
        id="failed_cases",
        gating=True,
        outcome="pass" if failed <= most * cases else "fail",
        if_insufficient="block",
        reason=f"{failed} of {cases} cases without a usable prediction; at most {most:.1%} allowed",
    )


def _overall(gating: Sequence[RuleVerdict]) -> tuple[Overall, str]:
    fails = [rule for rule in gating if rule.outcome == "fail"]
    open_rules = [rule for rule in gating if rule.outcome in ("insufficient_evidence",
                                                              "not_judged")]  # fmt: skip
    blocking = [rule for rule in open_rules if rule.if_insufficient == "block"]
    if fails:
        return "fail", f"{_named(fails)} failed"
    if blocking:
        return "insufficient_evidence", f"{_named(blocking)} could not be judged by this cohort"
    if open_rules:
        return "conditional", f"all others passed; {_named(open_rules)} could not be judged"
    return "pass", f"all {len(gating)} gating rules passed"


def _named(rules: Sequence[RuleVerdict]) -> str:
    return ", ".join(rule.id for rule in rules)
