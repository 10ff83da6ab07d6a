"""An amendment after exposure: the same question, asked no more loosely.

    >>> looser(earlier, later)
    ('endpoints sensitivity: the goal 0.75 is looser than 0.8',)

Once a model has been run on the locked cohort under a protocol, whoever writes its next version may
know what would pass. So a new version of an exposed protocol (same id, new digest; it shares the
attempts) is locked only if nothing in it is looser. Stricter, more rules, and other words are free.

Compared: task, contract, cluster, thresholds, prevalence and the task's settings (unchanged:
another threshold is another question); alpha of an attempt, attempts, failed cases, counts of the
cohort; indeterminate answers, weights, repeatability, pilot mode; each gating rule, also across
hospitals and under perturbations: still there, still gating, goal, band, comparator, margin, floor,
minimum, what too little evidence does; ceilings that hold for review; the order of secondary
endpoints; disclosure.
"""

from collections.abc import Iterator

from validators.metrics.measure import Measure
from validators.protocol.amended_further import looser_further
from validators.protocol.endpoints import Endpoint, SubgroupRule
from validators.protocol.questions import Comparator
from validators.protocol.schema import Protocol

_SAME = (
    "task", "cluster", "threshold", "classes", "detection", "segmentation", "regression",
    "time_to_event",
)  # fmt: skip


def looser(earlier: Protocol, later: Protocol) -> tuple[str, ...]:
    """What `later` asks more loosely than `earlier`, in words; empty where nothing is."""
    return tuple(_looser(earlier, later))


def _looser(earlier: Protocol, later: Protocol) -> Iterator[str]:
    for name in _SAME:
        if getattr(earlier, name) != getattr(later, name):
            yield f"{name} is another one: that is another question, give it another id"
    if earlier.decision_thresholds[:1] != later.decision_thresholds[:1]:
        yield "the first of decision_thresholds is another one: net benefit is judged at it"
    if earlier.intended_use.prevalence != later.intended_use.prevalence:
        yield "intended_use.prevalence is another one: predictive values are judged at it"
    if earlier.indeterminate != later.indeterminate:
        yield "indeterminate is another one: decisions are counted by it"
    weights = [of.sampling.weights if of.sampling else None for of in (earlier, later)]
    if weights[0] != weights[1]:
        yield "sampling.weights is another one: weighted metrics are judged by it"
    if later.repeatability.cases < earlier.repeatability.cases:
        yield "repeatability.cases is lower"
    if earlier.pilot_mode == "shadow" and later.pilot_mode != "shadow":
        yield "pilot_mode is no longer shadow"
    if _contract(earlier) != _contract(later):
        yield "the contract is another one: that is another question, give it another id"
    if later.each_alpha > earlier.each_alpha:
        yield f"alpha of an attempt {later.each_alpha:g} exceeds {earlier.each_alpha:g}"
    if later.attempts > earlier.attempts:
        yield f"{later.attempts} attempts are more than {earlier.attempts}"
    if later.failed_cases.maximum_rate > earlier.failed_cases.maximum_rate:
        yield "failed_cases.maximum_rate is higher"
    if later.disclosure.minimum_group < earlier.disclosure.minimum_group:
        yield "disclosure.minimum_group is lower"
    if later.disclosure.decimals > earlier.disclosure.decimals:
        yield "disclosure.decimals is higher"
    for name in ("positives", "negatives", "sites") if earlier.cohort else ():
        before, after = getattr(earlier.cohort, name), getattr(later.cohort, name, None)
        if before is not None and (after is None or after < before):
            yield f"cohort.{name} is lower"
    if earlier.task == later.task:
        yield from _rules(earlier, later)


def _rules(earlier: Protocol, later: Protocol) -> Iterator[str]:
    endpoints = {endpoint.key: endpoint for endpoint in later.endpoints}
    for old in earlier.endpoints:
        if old.rule == "gating":
            found = _endpoint(old, endpoints.get(old.key), earlier.measures[old.metric])
            yield from (f"endpoints {old.key}: {why}" for why in found)
    rules = {(rule.name, rule.metric): rule for rule in later.subgroups}
    for group in earlier.subgroups:
        if group.rule == "gating":
            where = f"subgroups {group.name} {group.metric}"
            measure, now = earlier.measures[group.metric], rules.get((group.name, group.metric))
            yield from (f"{where}: {why}" for why in _subgroup(group, now, measure))
    yield from looser_further(earlier, later)
    orders = [[e.key for e in p.endpoints if e.role == "secondary" and e.rule == "gating"]
              for p in (earlier, later)]  # fmt: skip
    if [key for key in orders[1] if key in orders[0]] != orders[0]:
        yield "endpoints: the order of the secondary ones is another one"


def _endpoint(old: Endpoint, new: Endpoint | None, measure: Measure) -> Iterator[str]:
    if new is None or new.rule != "gating":
        yield "it decides no more"
        return
    if old.role == "primary" and new.role != "primary":
        yield "it is primary no more"
    if old.if_insufficient == "block" and new.if_insufficient != "block":
        yield "too little evidence blocks no more"
    if old.goal is not None and new.goal is not None and _eased(old.goal, new.goal, measure):
        yield f"the goal {new.goal:g} is looser than {old.goal:g}"
    if old.comparator and new.comparator:
        yield from _comparator(old.comparator, new.comparator)
    if old.band and new.band and (new.band[0] < old.band[0] or new.band[1] > old.band[1]):
        yield "the band is wider"


def _comparator(old: Comparator, new: Comparator) -> Iterator[str]:
    if new.margin > old.margin:
        yield f"the margin {new.margin:g} is wider than {old.margin:g}"
    unlike = [
        n for n in ("kind", "model", "readers", "threshold") if getattr(old, n) != getattr(new, n)
    ]
    if unlike:
        yield f"{', '.join(unlike)} of the comparator is another one"


def _subgroup(old: SubgroupRule, new: SubgroupRule | None, measure: Measure) -> Iterator[str]:
    if new is None or new.rule != "gating":
        yield "it decides no more"
        return
    if old.if_insufficient == "block" and new.if_insufficient != "block":
        yield "too little evidence blocks no more"
    if old.margin is not None and (new.margin is None or new.margin > old.margin):
        yield "the margin is wider or gone"
    if old.floor is not None and (new.floor is None or _eased(old.floor, new.floor, measure)):
        yield "the floor is looser or gone"
    if new.minimum < old.minimum:
        yield "the minimum of a group is lower"
    if new.family != old.family:
        yield "the family of rules is another one"


def _eased(old: float, new: float, measure: Measure) -> bool:
    return new > old if measure.direction == "lower" else new < old


def _contract(protocol: Protocol) -> str | None:
    return protocol.contract.digest if protocol.contract else None
