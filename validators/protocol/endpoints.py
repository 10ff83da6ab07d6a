"""The questions of a protocol: endpoints about the whole cohort, rules about its groups.

What a metric is (its direction, its scale, whether it may gate) the task type says:
`validators.metrics.tasks`. `check` holds a question against that.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from validators.contract.faults import fault
from validators.contract.schema import Name
from validators.metrics.measure import Measure
from validators.protocol.grown import Grown
from validators.protocol.questions import Comparator, IfInsufficient, Rule

SENSITIVE = re.compile(r"\braces?\b|ethnic|racial|religion|sexual orientation|political")
"""Special categories of personal data (Article 9 GDPR): grouping by them needs a legal basis.

Searched in a name's words, so that `raceEthnicity` is one and `tracer` is none."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
Band = tuple[float, float]


class Endpoint(Grown):
    """One question about the whole cohort: a goal, a band or a comparator with a margin.

    Without any of them it is reported only.
    """

    added_later = ("band", "comparator")

    metric: Name
    goal: float | None = None
    band: Band | None = None
    """For metrics that belong between two limits, such as a calibration slope: both limits."""
    comparator: Comparator | None = None
    role: Literal["primary", "secondary"] = "primary"
    rule: Rule = "gating"
    if_insufficient: IfInsufficient = "block"

    @model_validator(mode="after")
    def _role_fits(self) -> Self:
        if self.role == "primary" and self.if_insufficient == "conditional":
            raise fault(
                "if_insufficient", "a primary endpoint can't be conditional on missing evidence"
            )
        return self

    @property
    def key(self) -> str:
        """What tells it from the other endpoints: 'auc', or 'auc against clinic_model'."""
        return endpoint_key(self.metric, self.comparator.name if self.comparator else None)

    def check(self, measure: Measure, task: str, place: str) -> None:
        """Raise a fault where goal, band or comparator do not fit the metric."""
        name = measure.name
        if self.comparator is not None:
            self.comparator.check(name, task, place)
            if self.goal is not None or self.band is not None:
                raise fault(
                    f"{place}.comparator",
                    "it has a margin, so no goal or band; ask for those in an endpoint of its own",
                )
            return
        if self.rule == "gating" and not measure.gates:
            raise fault(
                f"{place}.rule", f"{name} can't gate; it is `reported` only ({measure.why_not})"
            )
        if measure.direction == "band":
            self._check_band(measure, place)
            return
        if self.band is not None:
            raise fault(f"{place}.band", f"{name} has a goal, not a band")
        if self.rule == "gating" and self.goal is None:
            raise fault(f"{place}.goal", f"the gating endpoint {name} has no goal")
        if self.goal is None:
            return
        low = -float("inf") if measure.low is None else measure.low
        high = float("inf") if measure.high is None else measure.high
        if not low < self.goal < high:
            raise fault(
                f"{place}.goal",
                f"the goal {self.goal:g} for {name} can't be met, or can't be missed; "
                f"use one above {low:g} and below {high:g}",
            )
        if "auc" in name.split("_") and self.goal < 0.5:
            raise fault(
                f"{place}.goal",
                f"an AUC of {self.goal:g} is worse than chance; ask for 0.5 or more",
            )

    def _check_band(self, measure: Measure, place: str) -> None:
        if self.goal is not None:
            raise fault(
                f"{place}.goal",
                f"{measure.name} has no goal: both sides of {measure.ideal:g} are wrong",
            )
        if self.rule == "gating" and self.band is None:
            raise fault(f"{place}.band", f"the gating endpoint {measure.name} has no band")
        if self.band is not None and not self.band[0] < measure.ideal < self.band[1]:
            raise fault(
                f"{place}.band",
                f"the band of {measure.name} must hold {measure.ideal:g}, its ideal value",
            )


class SubgroupRule(Grown):
    """One attribute, one metric: each of its groups against the rest of the cohort.

    `margin` is the largest acceptable shortfall of a group behind the rest; `floor` the least
    acceptable value in a group; groups with fewer than `minimum` positives (sensitivity),
    negatives (specificity), either (AUC and others of a binary question) or cases (other tasks)
    are `insufficient_evidence` and not tested. `crossed_with` names further attributes: the
    groups are then their intersections, fixed beforehand.
    """

    added_later = ("crossed_with", "family", "legal_basis")
    attribute: Name
    crossed_with: tuple[Name, ...] = ()
    metric: Name = "sensitivity"
    margin: Annotated[float, Field(gt=0)] | None = None
    floor: float | None = None
    minimum: Annotated[int, Field(ge=2)] = 10
    rule: Rule = "gating"
    if_insufficient: IfInsufficient = "block"
    family: Name | None = None
    """Rules of one name share the correction of their fails, over all groups tested in them;
    without it a rule is a family of its own."""
    legal_basis: str = ""
    """Needed where an attribute is a special category of personal data, such as ethnicity."""

    @model_validator(mode="after")
    def _may_be_asked(self) -> Self:
        for name in self.attributes:
            words = " ".join(_WORDS.findall(name)).lower()
            if SENSITIVE.search(words) and not self.legal_basis.strip():
                raise fault(
                    "legal_basis",
                    f"{name} is a special category of personal data (Article 9 GDPR): name the "
                    "legal basis on which groups are made of it",
                )
        return self

    @model_validator(mode="after")
    def _gates_on_something(self) -> Self:
        if self.rule == "gating" and self.margin is None and self.floor is None:
            raise fault("margin", f"the gating rule on {self.attribute} needs a margin or floor")
        if self.attribute in self.crossed_with:
            raise fault("crossed_with", f"{self.attribute} can't be crossed with itself")
        return self

    @property
    def attributes(self) -> tuple[str, ...]:
        """All attributes it looks at."""
        return (self.attribute, *self.crossed_with)

    @property
    def name(self) -> str:
        """The attribute, or 'sex x age_band' for an intersection."""
        return " x ".join(self.attributes)

    def check(self, measure: Measure, place: str) -> None:
        """Raise a fault where margin or floor do not fit the metric."""
        if measure.name == "failure_rate":  # with a group's size it would tell who failed
            raise fault(f"{place}.metric", "the failure rate is of the whole cohort, not of groups")
        if self.rule == "gating" and not measure.gates:
            raise fault(f"{place}.rule", f"{measure.name} can't gate; it is `reported` only")
        if measure.low is None or measure.high is None:
            return
        if self.margin is not None and not self.margin < measure.high - measure.low:
            raise fault(
                "margin", f"a margin of {self.margin:g} lets every gap of {measure.name} be"
            )
        if self.floor is not None and not measure.low < self.floor < measure.high:
            raise fault(
                f"{place}.floor",
                f"the floor {self.floor:g} for {measure.name} can't be met, or can't be missed",
            )


def endpoint_key(metric: str, comparator: str | None) -> str:
    """The metric, or 'auc against clinic_model'."""
    return metric if comparator is None else f"{metric} against {comparator}"


def measure_named(measures: Mapping[str, Measure], metric: str, task: str, place: str) -> Measure:
    """The measure, or a fault that names the nearest one of this task type."""
    if metric not in measures:
        near = get_close_matches(metric, measures, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(measures))}"
        raise fault(place, f"a {task} question has no metric {metric!r}; {hint}")
    return measures[metric]
