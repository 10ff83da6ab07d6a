"""Whether an amendment asks the further questions more loosely; see `amendment`."""

from collections.abc import Iterator

from validators.protocol.questions import RobustnessRule, SiteRule
from validators.protocol.schema import Protocol


def looser_further(earlier: Protocol, later: Protocol) -> Iterator[str]:
    """What `later` asks more loosely across hospitals, under perturbations, or for review."""
    yield from _sites(earlier, later)
    drops = {(rule.perturbation.name, rule.metric): rule for rule in later.robustness}
    for old in earlier.robustness:
        if old.rule == "gating":
            name = f"{old.perturbation.name} {old.metric}"
            found = _drop(old, drops.get((old.perturbation.name, old.metric)))
            yield from (f"robustness {name}: {why}" for why in found)
    ceilings = {of.metric: of.value for of in later.leakage.ceilings} if later.leakage else {}
    for of in earlier.leakage.ceilings if earlier.leakage else ():
        if of.metric not in ceilings or ceilings[of.metric] > of.value:
            yield f"leakage: the ceiling of {of.metric} is higher or gone"


def _sites(earlier: Protocol, later: Protocol) -> Iterator[str]:
    if earlier.sites is None:
        return
    rules = {rule.metric: rule for rule in later.sites.metrics} if later.sites else {}
    gating = [rule for rule in earlier.sites.metrics if rule.rule == "gating"]
    if gating and later.sites and later.sites.attribute != earlier.sites.attribute:
        yield "sites.attribute is another one"
    for old in gating:
        found = _floor(old, rules.get(old.metric))
        yield from (f"sites {old.metric}: {why}" for why in found)


def _floor(old: SiteRule, new: SiteRule | None) -> Iterator[str]:
    if new is None or new.rule != "gating":
        yield "it decides no more"
    elif old.floor is not None and (new.floor is None or new.floor < old.floor):
        yield "the floor is lower"
    elif old.if_insufficient == "block" and new.if_insufficient != "block":
        yield "too little evidence blocks no more"


def _drop(old: RobustnessRule, new: RobustnessRule | None) -> Iterator[str]:
    if new is None or new.rule != "gating":
        yield "it decides no more"
        return
    if new.perturbation != old.perturbation:
        yield "the perturbation is another one"
    if new.maximum_drop > old.maximum_drop:
        yield f"the largest drop {new.maximum_drop:g} is wider than {old.maximum_drop:g}"
    if old.if_insufficient == "block" and new.if_insufficient != "block":
        yield "too little evidence blocks no more"
