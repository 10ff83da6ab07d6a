"""Further questions of a protocol: against others, across hospitals, under disturbance.

Rules
-----
1. An endpoint may have a comparator with a margin in place of a goal: another model on the same
   cases (paired), or readers who read the same cases. A margin of 0 asks for superiority.
2. Hospitals: each estimate is shown, and from five on what another hospital could expect. A floor
   is judged by that prediction interval.
3. Disturbance: a metric's largest acceptable drop when the inputs are perturbed, on the same cases.
4. Development data: declared by the model's maker and held against the cohort. It decides nothing.
5. An implausibly good result fails nobody: it holds the model for review, and who certifies it
   writes down what was looked at.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from validators.contract.faults import fault
from validators.contract.schema import Name, Strict
from validators.metrics.measure import Measure
from validators.robustness.severity import Perturbation

COMPARED = ("sensitivity", "specificity", "auc")
"""Metrics of a binary question that have a paired difference."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Rule = Literal["gating", "reported"]
IfInsufficient = Literal["block", "conditional"]


class Comparator(Strict):
    """Whom the model is held against, and the largest acceptable shortfall behind them.

    `name` is what the report calls it; of a model also the column of its scores in a table. On a
    locked cohort a model is one that was run there, by its digest.
    """

    name: Name
    kind: Literal["model", "readers"]
    margin: Annotated[float, Field(ge=0, lt=1)]
    threshold: float | None = None
    """Of the other model, where it is not the protocol's; of readers, from which rating on they
    called a case positive (needed for sensitivity and specificity)."""
    model: Digest | None = None
    readers: tuple[Name, ...] = ()
    """The columns of the readers' ratings, one each."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.kind == "readers") != bool(self.readers):
            raise fault("readers", "they are named where `kind` is readers, and only there")
        if self.kind == "readers" and len(set(self.readers)) < 3:
            raise fault("readers", "fewer than three say too little of how readers differ")
        if self.model is not None and self.kind == "readers":
            raise fault("model", "readers have no digest")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of scores or ratings that it needs beside the model's."""
        return self.readers or (self.name,)

    def check(self, metric: str, task: str, place: str) -> None:
        """Raise a fault where the metric has no paired difference."""
        if task != "binary" or metric not in COMPARED:
            raise fault(
                f"{place}.comparator",
                f"{metric} of a {task} question has no comparison yet; a binary question has "
                f"{', '.join(COMPARED)}",
            )
        if self.kind == "readers" and metric != "auc" and self.threshold is None:
            raise fault(
                f"{place}.comparator.threshold",
                f"{metric} of readers needs the rating from which on they called a case positive",
            )


class SiteRule(Strict):
    """One metric by hospital. `floor`: what another hospital like these must be shown to reach."""

    metric: Name
    floor: float | None = None
    rule: Rule = "reported"
    if_insufficient: IfInsufficient = "block"

    def check(self, measure: Measure, place: str) -> None:
        """Raise a fault where a floor does not fit the metric."""
        if self.rule == "gating" and self.floor is None:
            raise fault(f"{place}.floor", f"the gating rule on {self.metric} needs a floor")
        if self.floor is None:
            return
        if measure.direction != "higher" or not measure.gates:
            raise fault(f"{place}.floor", f"{measure.name} has no floor across hospitals")
        low = -float("inf") if measure.low is None else measure.low
        high = float("inf") if measure.high is None else measure.high
        if not low < self.floor < high:
            raise fault(f"{place}.floor", f"the floor {self.floor:g} can't be met, or missed")


class Sites(Strict):
    """Hospitals: the attribute that names them, and what is asked of each metric across them."""

    attribute: Name = "site"
    metrics: Annotated[tuple[SiteRule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [rule.metric for rule in self.metrics]
        if len(set(names)) != len(names):
            raise fault("metrics", "two of them ask for the same metric")
        return self


class RobustnessRule(Strict):
    """The largest acceptable drop of a metric under one perturbation of one input."""

    perturbation: Perturbation
    metric: Literal["sensitivity", "specificity", "auc"]
    maximum_drop: Annotated[float, Field(gt=0, lt=1)]
    rule: Rule = "gating"
    if_insufficient: IfInsufficient = "block"


class Drift(Strict):
    """How the cohort is held against the declared development data."""

    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.05
    """Chance of any false alarm, divided among the attributes."""
    smallest_index: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Population stability index below which a difference does not matter."""


class Ceiling(Strict):
    """A result too good to be believed: its lower bound lies above `value`."""

    metric: Name
    value: float


class Leakage(Strict):
    """What holds a model for review."""

    ceilings: Annotated[tuple[Ceiling, ...], Field(min_length=1)]
