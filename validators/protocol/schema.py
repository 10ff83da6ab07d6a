"""A validation protocol: everything that was fixed before the first run.

    >>> protocol = Protocol.model_validate(yaml.safe_load(path.read_text()))
    >>> protocol.digest
    'sha256:…'

Rules
-----
1. Unknown fields are refused (`validators.protocol.read` names the nearest known one).
2. All gating primary endpoints must pass (intersection-union: no correction for their number).
   Secondary ones are looked at in the order given; after the first that does not pass, none of
   the following is claimed (fixed sequence; Maurer, Hothorn & Lehmacher 1995).
3. A rule is `gating` or `reported`. A reported rule never changes the verdict.
4. `if_insufficient` says what too little evidence does: `block`, or `conditional` for rules
   that are not primary endpoints and were listed here beforehand.
5. A score at or above the threshold is positive.
6. A failed or withheld prediction counts as wrong: negative where the reference is positive and
   the other way round, and at the bottom (top) of the ranking; the worst value of other metrics.
7. `alpha` is the one-sided error over all attempts of a model family; each attempt is judged at
   alpha / attempts (Bonferroni: the family passes wrongly with at most alpha, however the next
   attempt depends on the answers before).
8. What depends on the cohort's prevalence gates only where the sampling is stated, and is not
   enriched or has weights.
9. An answer between the limits of `indeterminate` is an answer, not a failure; the block says how
   it counts and how many may be so.
10. A new field is left out of the digest while it holds its default (`added_later`).
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from registry.trust.canonical import digest_of
from validators.contract.faults import fault
from validators.contract.schema import Contract, Identifier, Version
from validators.metrics.binary_clinical import NEED_PREVALENCE
from validators.metrics.binary_measures import BinarySettings
from validators.metrics.measure import Measure
from validators.metrics.tasks import NEEDS_PREVALENCE, measures_of
from validators.protocol.endpoints import Endpoint, SubgroupRule, measure_named
from validators.protocol.grown import Grown
from validators.protocol.parts import (
    CohortRequirement,
    DevelopmentCohort,
    Disclosure,
    FailedCases,
    Indeterminate,
    IntendedUse,
    ReferenceStandard,
    Repeatability,
    Sampling,
    Share,
)
from validators.protocol.questions import Drift, Leakage, RobustnessRule, Sites
from validators.protocol.tasks import (
    ClassSettings,
    DetectionSettings,
    RegressionSettings,
    SegmentationSettings,
    Task,
    TaskSettings,
    TimeToEventSettings,
)
from validators.protocol.whole import check_further
from validators.robustness.severity import Perturbation

__all__ = [
    "CohortRequirement", "Disclosure", "Endpoint", "FailedCases", "IntendedUse", "Protocol",
    "ReferenceStandard", "Sampling", "SubgroupRule",
]  # fmt: skip

_SETTINGS_OF: Mapping[str, str] = {
    "multiclass": "classes",
    "ordinal": "classes",
    "detection": "detection",
    "segmentation": "segmentation",
    "regression": "regression",
    "time_to_event": "time_to_event",
}


class Protocol(Grown):
    """A validation protocol for one question. Its identity is its digest."""

    added_later = (
        "conditions_days", "sampling", "classes", "detection", "segmentation", "regression",
        "time_to_event", "decision_thresholds", "indeterminate", "sites", "robustness",
        "repeatability", "drift", "leakage", "pilot_mode", "regulatory_references",
        "development_cohort", "compute",
    )  # fmt: skip

    id: Identifier
    version: Version
    title: str = ""
    task: Task = "binary"
    intended_use: IntendedUse
    sampling: Sampling | None = None
    reference_standard: str | ReferenceStandard
    contract: Contract | None = None
    cohort: CohortRequirement | None = None
    development_cohort: DevelopmentCohort | None = None
    cluster: Literal["patient"] | None = None
    threshold: Share | None = None
    """Of a binary question; locked."""
    indeterminate: Indeterminate | None = None
    """Of a binary question: answers that are neither positive nor negative."""
    classes: ClassSettings | None = None
    detection: DetectionSettings | None = None
    segmentation: SegmentationSettings | None = None
    regression: RegressionSettings | None = None
    time_to_event: TimeToEventSettings | None = None
    alpha: Annotated[float, Field(gt=0, le=0.1)] = 0.025
    """One-sided error over all attempts; intervals are shown at level 1 - 2 alpha / attempts."""
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    subgroups: tuple[SubgroupRule, ...] = ()
    decision_thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Thresholds of the decision curve (net benefit), binary questions."""
    sites: Sites | None = None
    robustness: tuple[RobustnessRule, ...] = ()
    repeatability: Repeatability = Repeatability()
    drift: Drift | None = None
    leakage: Leakage | None = None
    attempts: Annotated[int, Field(ge=1, le=10)] = 1
    failed_cases: FailedCases = FailedCases()
    disclosure: Disclosure = Disclosure()
    validity_days: Annotated[int, Field(ge=1, le=1826)] = 365
    conditions_days: Annotated[int, Field(ge=1, le=366)] | None = None
    """When the conditions of a conditional certificate are due; 90 days where it is left out."""
    pilot_mode: Literal["shadow", "assistive"] = "shadow"
    """How a certified model may be piloted. Shadow: no result reaches the care of a patient."""
    regulatory_references: tuple[str, ...] = ()
    """What a pilot needs beside the certificate, such as an approval by an ethics committee: the
    maker's declaration answers each, and they stand on the report and the label."""
    compute: Literal["cpu", "gpu"] = "cpu"
    """Whose workers run it: `gpu` where the models are too slow without a graphics processor."""
    minimum_landlock_abi: Annotated[int, Field(ge=0, le=10)] = 0
    goals_rationale: str = ""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        wanted = _SETTINGS_OF.get(self.task)
        for name in sorted(set(_SETTINGS_OF.values())):
            given = getattr(self, name) is not None
            if given != (name == wanted):
                raise fault(
                    name,
                    f"a {self.task} question {'needs this block' if not given else 'has none'}",
                )
        if (self.threshold is not None) != (self.task == "binary"):
            raise fault(
                "threshold",
                "a binary question has one locked threshold"
                if self.task == "binary"
                else f"a {self.task} question has no threshold of this kind",
            )
        return self

    @model_validator(mode="after")
    def _development_fits(self) -> Self:
        if self.development_cohort is not None:
            self.development_cohort.check(self.cohort)
        return self

    @model_validator(mode="after")
    def _one_rule_each(self) -> Self:
        keys = [endpoint.key for endpoint in self.endpoints]
        if len(set(keys)) != len(keys):
            raise fault("endpoints", "two of them ask for the same metric")
        pairs = [(rule.name, rule.metric) for rule in self.subgroups]
        if len(set(pairs)) != len(pairs):
            raise fault("subgroups", "two of them ask for the same attribute and metric")
        if not any(e.role == "primary" and e.rule == "gating" for e in self.endpoints):
            raise fault("endpoints", "none is primary and gating: that would pass every model")
        return self

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        known = self.measures
        for place, endpoint in enumerate(self.endpoints):
            where = f"endpoints[{place}]"
            measure = measure_named(known, endpoint.metric, self.task, f"{where}.metric")
            endpoint.check(measure, self.task, where)
            if endpoint.metric in NEED_PREVALENCE and self.intended_use.prevalence is None:
                raise fault(
                    "intended_use.prevalence", f"{endpoint.metric} is computed at a prevalence"
                )
            if endpoint.metric == "net_benefit" and not self.decision_thresholds:
                raise fault("decision_thresholds", "net_benefit is computed at the first of them")
            known_prevalence = self.sampling is not None and self.sampling.shows_prevalence
            gating = endpoint.rule == "gating"
            if gating and not known_prevalence and endpoint.metric.startswith(NEEDS_PREVALENCE):
                raise fault(
                    f"{where}.rule",
                    f"{endpoint.metric} depends on the cohort's prevalence: it gates only where "
                    "`sampling` says that the cohort is consecutive or random, or names weights",
                )
        for place, rule in enumerate(self.subgroups):
            where = f"subgroups[{place}]"
            rule.check(measure_named(known, rule.metric, self.task, f"{where}.metric"), where)
        return self

    @model_validator(mode="after")
    def _further_fits(self) -> Self:
        check_further(self)
        return self

    @cached_property
    def measures(self) -> Mapping[str, Measure]:
        """What may be asked of this task type, by name."""
        return measures_of(self.task, self.settings)

    @property
    def settings(self) -> TaskSettings | None:
        """The block of the task type; None for a binary question."""
        name = _SETTINGS_OF.get(self.task)
        return getattr(self, name) if name else None

    @property
    def decided_at(self) -> float | None:
        """The score from which on a case counts as positive: the threshold, or where answers are
        indeterminate the end of that range that the block says."""
        if self.indeterminate is None or self.indeterminate.counts_as == "wrong":
            return self.threshold
        low = self.indeterminate.counts_as == "positive"
        return self.indeterminate.low if low else self.indeterminate.high

    @property
    def binary(self) -> BinarySettings:
        """What is fixed of a binary question."""
        return BinarySettings(
            self.decided_at or 0.0, self.intended_use.prevalence, self.decision_thresholds
        )

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Columns of other models' scores and of readers' ratings, each once, in order."""
        of = [e.comparator.columns for e in self.endpoints if e.comparator is not None]
        return tuple(dict.fromkeys(name for names in of for name in names))

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """What the model is run under again, each once."""
        return tuple(
            {rule.perturbation.name: rule.perturbation for rule in self.robustness}.values()
        )

    @property
    def each_alpha(self) -> float:
        """The one-sided error that one attempt is judged at."""
        return self.alpha / self.attempts

    @property
    def reference_in_words(self) -> str:
        """What was taken as the truth."""
        given = self.reference_standard
        return given if isinstance(given, str) else given.in_words()

    def for_development(self) -> Self:
        """What is asked on the development cohort: all but comparators, which are of the locked
        one, and its number of hospitals. For evaluating alone: its identity is none."""
        cohort = self.cohort and self.cohort.model_copy(update={"sites": None})
        kept = tuple(endpoint for endpoint in self.endpoints if endpoint.comparator is None)
        return self.model_copy(update={"endpoints": kept, "cohort": cohort})

    @cached_property
    def digest(self) -> str:
        """The digest of the protocol's canonical JSON: its identity."""
        return digest_of(self.model_dump(mode="json"))
