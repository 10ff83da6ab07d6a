"""A validation protocol: everything that was fixed before the first run.

    >>> protocol = Protocol.model_validate(yaml.safe_load(path.read_text()))
    >>> protocol.digest
    'sha256:…'

Rules
-----
1. Unknown fields are refused (`validators.protocol.read` names the nearest known one).
2. All gating primary endpoints must pass (intersection-union: no correction for their number).
3. A rule is `gating` or `reported`. A reported rule never changes the verdict.
4. `if_insufficient` says what too little evidence does: `block`, or `conditional` for rules
   that are not primary endpoints and were listed here beforehand.
5. A score at or above the threshold is positive.
6. A failed or withheld prediction counts as wrong: negative where the reference is positive and
   the other way round, and at the bottom (top) of the ranking.
"""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from registry.trust.canonical import digest_of
from validators.contract.faults import fault
from validators.contract.schema import Contract, Identifier, Name, Strict, Version

Metric = Literal["sensitivity", "specificity", "auc", "brier", "calibration_slope", "failure_rate"]
REPORTED_ONLY: frozenset[str] = frozenset({"brier", "calibration_slope"})
HIGHER_IS_BETTER: frozenset[str] = frozenset({"sensitivity", "specificity", "auc"})
Share = Annotated[float, Field(ge=0, le=1)]


class IntendedUse(Strict):
    """For whom, where and what for; prevalence is the one expected at deployment."""

    purpose: str
    population: str
    setting: str
    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    limits: str = ""


class CohortRequirement(Strict):
    """The cohort this protocol was written for, and the counts without which it can't answer."""

    id: Identifier
    version: Version | None = None
    positives: Annotated[int, Field(ge=1)] = 1
    negatives: Annotated[int, Field(ge=1)] = 1


class Endpoint(Strict):
    """One question about the whole cohort. Without a goal it is reported and judges nothing."""

    metric: Metric
    goal: float | None = None
    role: Literal["primary", "secondary"] = "primary"
    rule: Literal["gating", "reported"] = "gating"
    if_insufficient: Literal["block", "conditional"] = "block"

    @model_validator(mode="after")
    def _goal_fits(self) -> Self:
        if self.metric in REPORTED_ONLY and self.rule == "gating":
            raise fault("rule", f"{self.metric} can't gate; it is `reported` only")
        if self.rule == "gating" and self.goal is None:
            raise fault("goal", f"the gating endpoint {self.metric} has no goal")
        if self.metric == "calibration_slope" and self.goal is not None:
            raise fault("goal", "calibration_slope has no goal: both sides of 1 are wrong")
        if self.goal is not None and not 0 < self.goal < 1:
            raise fault(
                "goal",
                f"the goal {self.goal:g} for {self.metric} can't be met, or can't be missed; "
                "use one above 0 and below 1",
            )
        if self.metric == "auc" and self.goal is not None and self.goal < 0.5:
            raise fault(
                "goal", f"an AUC of {self.goal:g} is worse than chance; ask for 0.5 or more"
            )
        if self.role == "primary" and self.if_insufficient == "conditional":
            raise fault(
                "if_insufficient", "a primary endpoint can't be conditional on missing evidence"
            )
        return self


class SubgroupRule(Strict):
    """One attribute, one metric: each of its groups against the rest of the cohort.

    `margin` is the largest acceptable shortfall of a group behind the rest; `floor` the lowest
    acceptable value in a group; groups with fewer than `minimum` positives (sensitivity),
    negatives (specificity) or either (AUC) are `insufficient_evidence` and not tested.
    """

    attribute: Name
    metric: Literal["sensitivity", "specificity", "auc"] = "sensitivity"
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    floor: Annotated[float, Field(gt=0, lt=1)] | None = None
    minimum: Annotated[int, Field(ge=2)] = 10
    rule: Literal["gating", "reported"] = "gating"
    if_insufficient: Literal["block", "conditional"] = "block"

    @model_validator(mode="after")
    def _gates_on_something(self) -> Self:
        if self.rule == "gating" and self.margin is None and self.floor is None:
            raise fault("margin", f"the gating rule on {self.attribute} needs a margin or floor")
        return self


class FailedCases(Strict):
    """What happens to cases without a usable prediction, and how many may be so."""

    policy: Literal["counts_as_wrong"] = "counts_as_wrong"
    maximum_rate: Share = 0.02


class Disclosure(Strict):
    """What may leave the facility once attempts are closed or the model is certified."""

    minimum_group: Annotated[int, Field(ge=10)] = 10
    decimals: Annotated[int, Field(ge=1, le=3)] = 2


class Protocol(Strict):
    """A validation protocol for one binary question. Its identity is its digest."""

    id: Identifier
    version: Version
    title: str = ""
    task: Literal["binary"] = "binary"
    intended_use: IntendedUse
    reference_standard: str
    contract: Contract | None = None
    cohort: CohortRequirement | None = None
    cluster: Literal["patient"] | None = None
    threshold: Share
    alpha: Annotated[float, Field(gt=0, le=0.1)] = 0.025
    """One-sided error of each gating rule; intervals are shown at level 1 - 2 alpha."""
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    subgroups: tuple[SubgroupRule, ...] = ()
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    failed_cases: FailedCases = FailedCases()
    disclosure: Disclosure = Disclosure()
    validity_days: Annotated[int, Field(ge=1, le=1826)] = 365
    conditions_days: Annotated[int, Field(ge=1, le=366)] | None = None
    """When the conditions of a conditional certificate are due; 90 days where it is left out."""
    minimum_landlock_abi: Annotated[int, Field(ge=0, le=10)] = 0
    goals_rationale: str = ""

    @model_validator(mode="after")
    def _one_rule_each(self) -> Self:
        metrics = [endpoint.metric for endpoint in self.endpoints]
        if len(set(metrics)) != len(metrics):
            raise fault("endpoints", "two of them ask for the same metric")
        pairs = [(rule.attribute, rule.metric) for rule in self.subgroups]
        if len(set(pairs)) != len(pairs):
            raise fault("subgroups", "two of them ask for the same attribute and metric")
        if not any(e.role == "primary" and e.rule == "gating" for e in self.endpoints):
            raise fault("endpoints", "none is primary and gating: that would pass every model")
        return self

    @model_serializer(mode="wrap")
    def _as_locked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was left out of protocols that were locked before the field existed."""
        value: dict[str, Any] = handler(self)
        if self.conditions_days is None:
            value.pop("conditions_days", None)
        return value

    @cached_property
    def digest(self) -> str:
        """The digest of the protocol's canonical JSON: its identity."""
        return digest_of(self.model_dump(mode="json"))
