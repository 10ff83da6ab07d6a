"""How many cases a protocol's goals need, checked by simulation, before anyone locks it.

    >>> for need in plan(protocol, {"sensitivity": 0.9, "auc": 0.95}, power=0.9):
    ...     print(need.question, need.count, need.of, need.simulated_power)

Rules
-----
1. What the model's true values are is the user's expectation, and must be better than the goals.
2. Sensitivity, specificity, floors: exact binomial sums (`validators.protocol.power`). AUC: equal
   binormal scores, negatives in the ratio of the protocol's cohort. Margins: a group without any
   true gap against a rest that holds the positives (negatives) that the endpoint needs; the
   smallest number is found by bisection over simulated cohorts.
3. Every number is then checked: `simulated_power` is the share of 1,000 fresh simulated cohorts
   of that size that pass by the functions that judge. Its standard error is at most .016.
4. Independent cases. On clustered data counts are multiplied by the expected design effect,
   1 + (mean cases a patient - 1) x correlation; the check is made without clusters.
5. Each question alone has the power asked for; all of q together have at least 1 - q (1 - power).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from registry.trust.errors import Invalid
from validators.intervals.auc import area
from validators.intervals.proportion import mover
from validators.intervals.share import Share
from validators.protocol.power import required_counts
from validators.protocol.schema import Endpoint, Protocol, SubgroupRule

_SEARCH, _CHECK, _MOST = 400, 1000, 100_000
_CLASS = {"sensitivity": "positives", "specificity": "negatives"}
Draw = Callable[[int, np.random.Generator], bool]


@dataclass(frozen=True)
class Need:
    """One question and the cases with which it is answered by `pass` with the power asked for."""

    question: str
    expected: float
    count: int
    of: str
    """positives or negatives; of AUC: positives, with negatives in the cohort's ratio."""
    simulated_power: float


def plan(
    protocol: Protocol,
    expected: Mapping[str, float],
    *,
    power: float = 0.9,
    design_effect: float = 1.0,
) -> tuple[Need, ...]:
    """The needs of every gating question on sensitivity, specificity or AUC, endpoints first.

    Raises Invalid for a task that is not binary, an expectation that is missing or no better than
    its goal, or where a hundred thousand cases would not do.
    """
    if protocol.task != "binary":
        raise Invalid(
            f"power is computed for binary questions; for a {protocol.task} question simulate its "
            "metric from a development cohort"
        )
    if not 0.5 <= power < 1 or design_effect < 1:
        raise Invalid("--power must lie in [0.5, 1), and --design-effect be 1 or more")
    needs: list[Need] = []
    for endpoint in protocol.endpoints:
        if _is_planned(endpoint):
            needs.append(_endpoint(protocol, endpoint, _expected(expected, endpoint.metric), power))
    for rule in protocol.subgroups:
        if rule.rule == "gating" and rule.metric in _CLASS:
            needs += _rule(protocol, rule, _expected(expected, rule.metric), power, needs)
    return tuple(
        Need(of.question, of.expected, math.ceil(of.count * design_effect), of.of,
             of.simulated_power)
        for of in needs
    )  # fmt: skip


def unplanned(protocol: Protocol) -> tuple[str, ...]:
    """Gating questions that `plan` says nothing of: simulate them from development data."""
    found = [f"endpoint {of.key}" for of in protocol.endpoints
             if of.rule == "gating" and not _is_planned(of)]  # fmt: skip
    found += [f"groups of {of.name}: {of.metric}" for of in protocol.subgroups
              if of.rule == "gating" and of.metric not in _CLASS]  # fmt: skip
    asked = protocol.sites.metrics if protocol.sites else ()
    found += [f"another hospital: {of.metric}" for of in asked if of.rule == "gating"]
    found += [f"{of.perturbation.name}: {of.metric}" for of in protocol.robustness
              if of.rule == "gating"]  # fmt: skip
    return tuple(found)


def _is_planned(endpoint: Endpoint) -> bool:
    known = endpoint.metric in (*_CLASS, "auc") and endpoint.goal is not None
    return endpoint.rule == "gating" and known


def _expected(expected: Mapping[str, float], metric: str) -> float:
    if metric not in expected:
        raise Invalid(
            f"the protocol has a goal for {metric}; say what the model's true value is expected "
            f"to be with --expect {metric}=VALUE"
        )
    return expected[metric]


def _endpoint(protocol: Protocol, endpoint: Endpoint, expected: float, power: float) -> Need:
    goal, alpha, name = endpoint.goal or 0.0, protocol.each_alpha, endpoint.metric
    if name in _CLASS:
        count = required_counts(goal, expected, alpha, power).lasting
        return _need(f"endpoint {name} {goal:g}", expected, count, _CLASS[name],
                     _share_passes(expected, goal, alpha))  # fmt: skip
    if not goal < expected < 1:
        raise Invalid(f"an AUC of {expected:g} can't be shown to reach the goal {goal:g}")
    cohort = protocol.cohort
    ratio = cohort.negatives / cohort.positives if cohort else 1.0
    passes = _auc_passes(expected, goal, alpha, ratio)
    return _need(f"endpoint auc {goal:g}", expected, _smallest(passes, power), "positives", passes)


def _rule(
    protocol: Protocol, rule: SubgroupRule, expected: float, power: float, known: list[Need]
) -> list[Need]:
    alpha, kind = protocol.each_alpha, _CLASS[rule.metric]
    found = []
    if rule.floor is not None:
        count = required_counts(rule.floor, expected, alpha, power).lasting
        found.append(
            _need(f"each group of {rule.name}: {rule.metric} floor {rule.floor:g}", expected, count,
                  kind, _share_passes(expected, rule.floor, alpha))
        )  # fmt: skip
    if rule.margin is not None:
        rest = max([need.count for need in known if need.of == kind], default=1000)
        passes = _gap_passes(expected, rule.margin, alpha, rest)
        found.append(
            _need(f"each group of {rule.name}: {rule.metric} margin {rule.margin:g}", expected,
                  _smallest(passes, power), kind, passes)
        )  # fmt: skip
    return found


def _need(question: str, expected: float, count: int, of: str, passes: Draw) -> Need:
    return Need(question, expected, count, of, _share_of(passes, count, _CHECK, seed=1))


def _smallest(passes: Draw, power: float) -> int:
    """The smallest number with the power, by doubling and bisection."""
    high = 16
    while _share_of(passes, high, _SEARCH, seed=0) < power:
        high *= 2
        if high > _MOST:
            raise Invalid(f"more than {_MOST} cases would be needed; expect more, or ask for less")
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        enough = _share_of(passes, middle, _SEARCH, seed=0) >= power
        low, high = (low, middle) if enough else (middle, high)
    while _share_of(passes, high, _CHECK, seed=1) < power:  # the search was lucky: go on
        high = math.ceil(high * 1.03)
    return high


def _share_of(passes: Draw, count: int, cohorts: int, seed: int) -> float:
    rng = np.random.default_rng([seed, count])
    return sum(passes(count, rng) for _ in range(cohorts)) / cohorts


def _share_passes(true: float, goal: float, alpha: float) -> Draw:
    def passes(n: int, rng: np.random.Generator) -> bool:
        right = int(rng.binomial(n, true))
        return Share(right / n, n, None).gating(alpha)[0] >= goal

    return passes


def _auc_passes(true: float, goal: float, alpha: float, ratio: float) -> Draw:
    shift = math.sqrt(2) * float(special.ndtri(true))

    def passes(n: int, rng: np.random.Generator) -> bool:
        positive: NDArray[np.bool_] = np.arange(n + max(2, round(n * ratio))) < n
        score = rng.normal(size=len(positive)) + shift * positive
        return area(score, positive).gating(alpha)[0] >= goal

    return passes


def _gap_passes(true: float, margin: float, alpha: float, rest: int) -> Draw:
    def passes(n: int, rng: np.random.Generator) -> bool:
        sides = [Share(int(rng.binomial(size, true)) / size, size, None) for size in (rest, n)]
        bounds = [side.compared(alpha, wide=True) for side in sides]
        return mover(sides[0].value, bounds[0], sides[1].value, bounds[1])[1] < margin

    return passes
