"""Whether a certificate judges by the protocol's rules: each of them, with its own limit.

    >>> check_rules(predicate.results, protocol)

Rules
-----
1. Every gating rule of protocol.json stands among the certificate's results, with the limits and
   the leniency that were fixed beforehand; and no other gating rule stands there.
2. Groups are named by the data, so a rule about an attribute is found by what it asks. Groups of
   hospitals go by no name; their limits are compared all the same.
3. The protocol is read as plain JSON. What its metrics mean is not asked: whether a goal is a least
   or a most, the certificate says, and its signers answer for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.trust.errors import Tampered
from registry.trust.verdict_rules import Limits, Result

HOSPITALS = "subgroup:hospitals:"


@dataclass(frozen=True)
class _Asked:
    """A gating rule of the protocol: how its results are called, and its limits."""

    begins: str
    ends: str
    limits: frozenset[float]
    if_insufficient: str

    def is_of(self, name: str) -> bool:
        exact = self.begins == name and not self.ends
        return exact or bool(
            self.ends and name.startswith(self.begins) and name.endswith(self.ends)
        )


def check_rules(results: Sequence[Result], protocol: Mapping[str, Any]) -> None:
    """Raise Tampered (rules_mismatch) unless the gating results are the protocol's rules."""
    try:
        asked = tuple(_asked(protocol))
    except (KeyError, TypeError, AttributeError) as error:
        raise _mismatch("protocol.json states its rules in no known form") from error
    gating = [result for result in results if result.rule == "gating"]
    for result in gating:
        if not any(_fits(rule, result) for rule in asked):
            raise _mismatch(f"{result.id} is no rule of protocol.json with these limits")
    for rule in asked:
        if not any(_fits(rule, result) for result in gating):
            raise _mismatch(f"{rule.begins}{rule.ends} of protocol.json is not judged")


def _fits(rule: _Asked, result: Result) -> bool:
    if result.id.startswith(HOSPITALS):
        metric = result.id.removeprefix(HOSPITALS).rpartition(":")[0]
        return (
            rule.ends == f":{metric}"
            and rule.if_insufficient == result.if_insufficient
            and rule.limits <= _limits(result.asked)
        )
    return (
        rule.is_of(result.id)
        and rule.if_insufficient == result.if_insufficient
        and rule.limits == _limits(result.asked)
    )


def _limits(asked: Sequence[Limits]) -> frozenset[float]:
    return frozenset(
        abs(end) if one.about == "gap" else end
        for one in asked
        for end in (one.least, one.most)
        if end is not None
    )


def _asked(protocol: Mapping[str, Any]) -> Iterator[_Asked]:
    for rule in protocol["endpoints"]:
        if rule["rule"] == "gating":
            other = rule.get("comparator")
            against = f" against {other['name']}" if other else ""
            limits = [-other["margin"]] if other else rule.get("band") or [rule["goal"]]
            yield _rule(f"endpoint:{rule['metric']}{against}", "", limits, rule)
    for rule in protocol["subgroups"]:
        if rule["rule"] == "gating":
            name = " x ".join([rule["attribute"], *rule.get("crossed_with", ())])
            limits = [rule["margin"], rule["floor"]]
            yield _rule(f"subgroup:{name}=", f":{rule['metric']}", limits, rule)
    for rule in (protocol.get("sites") or {}).get("metrics", ()):
        if rule["rule"] == "gating":
            yield _rule(f"sites:{rule['metric']}", "", [rule["floor"]], rule)
    for rule in protocol.get("robustness", ()):
        if rule["rule"] == "gating":
            yield _rule("robustness:", f":{rule['metric']}", [rule["maximum_drop"]], rule)
    block = {"if_insufficient": "block"}
    yield _rule("failure_rate", "", [protocol["failed_cases"]["maximum_rate"]], block)
    if of := protocol.get("indeterminate"):
        yield _rule("indeterminate_share", "", [of["maximum_share"]], block)


def _rule(
    begins: str, ends: str, limits: Sequence[float | None], rule: Mapping[str, Any]
) -> _Asked:
    return _Asked(
        begins,
        ends,
        frozenset(float(limit) + 0.0 for limit in limits if limit is not None),
        rule["if_insufficient"],
    )


def _mismatch(reason: str) -> Tampered:
    return Tampered(
        f"the certificate does not judge by the protocol that was fixed: {reason}. Don't use the "
        "model, and tell the facility",
        code="rules_mismatch",
    )
