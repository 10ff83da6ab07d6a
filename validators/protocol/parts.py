"""What surrounds the endpoints of a protocol: use, cohort, reference standard, failures."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from validators.contract.faults import fault
from validators.contract.schema import Identifier, Name, Strict, Version
from validators.protocol.grown import Grown

Share = Annotated[float, Field(ge=0, le=1)]


class IntendedUse(Strict):
    """For whom, where and what for; prevalence is the one expected at deployment."""

    purpose: str
    population: str
    setting: str
    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    limits: str = ""


class ReferenceStandard(Strict):
    """What is taken as the truth, and how it came about (STARD 2015, items 10 to 13)."""

    method: str
    blinding: str = ""
    """Whether those who made it knew of any index test or model."""
    adjudication: str = ""
    unverified_share: Share | None = None
    """Of the eligible cases, those without a verified reference standard."""
    excluded_share: Share | None = None
    reader_agreement: str = ""

    def in_words(self) -> str:
        """One paragraph for the report."""
        said = [self.method.rstrip(".")]
        said += [f"blinding: {self.blinding}"] if self.blinding else []
        said += [f"adjudication: {self.adjudication}"] if self.adjudication else []
        if self.unverified_share is not None:
            said.append(f"not verified: {self.unverified_share:.1%} of eligible cases")
        if self.excluded_share is not None:
            said.append(f"excluded: {self.excluded_share:.1%}")
        said += [f"reader agreement: {self.reader_agreement}"] if self.reader_agreement else []
        return "; ".join(said)


class Sampling(Grown):
    """How the cohort's cases came in. An enriched cohort has another prevalence than practice, so
    what depends on prevalence (calibration, net benefit) gates on it only with weights."""

    added_later = ("weights",)
    design: Literal["consecutive", "random", "enriched"]
    description: str = ""
    weights: Name | None = None
    """The column of sampling weights: how many cases of the population each case stands for. They
    enter Brier score, calibration and net benefit. Sensitivity, specificity and AUC are those of
    the cohort's own positives and negatives: enrich by the reference standard alone, or say in
    the description what else was."""

    @property
    def shows_prevalence(self) -> bool:
        """Whether what depends on the prevalence speaks of the population."""
        return self.design != "enriched" or self.weights is not None

    def in_words(self) -> str:
        """One sentence for the report."""
        said: list[str] = [self.design]
        said += [self.description.rstrip(".")] if self.description else []
        said += [f"cases weighted by {self.weights}"] if self.weights else []
        return "; ".join(said)


class Indeterminate(Strict):
    """Answers that are neither positive nor negative: scores from `low` to below `high`.

    They are answers, not failures. At the locked threshold they count as `positive` (worked up),
    `negative` (left alone) or `wrong` (neither helps: the strictest; Schuetz et al. 2012). What
    needs no threshold (AUC, Brier score, calibration, net benefit) takes the scores as they are.
    """

    low: Share
    high: Share
    counts_as: Literal["positive", "negative", "wrong"]
    maximum_share: Share
    """Of all cases; more of them fail the model."""

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if self.low >= self.high:
            raise fault("high", "it must exceed `low`")
        return self

    def in_words(self) -> str:
        """One sentence for the report."""
        return (
            f"scores from {self.low:g} to below {self.high:g} are indeterminate; they count as "
            f"{self.counts_as}, and at most {self.maximum_share:.1%} of cases may be so"
        )


class CohortRequirement(Grown):
    """The cohort this protocol was written for, and the counts without which it can't answer."""

    added_later = ("sites",)
    id: Identifier
    version: Version | None = None
    positives: Annotated[int, Field(ge=1)] = 1
    negatives: Annotated[int, Field(ge=1)] = 1
    sites: Annotated[int, Field(ge=1)] | None = None
    """Hospitals with at least one case, by the attribute that `sites` names."""


class Repeatability(Strict):
    """How many cases are answered again, alone and among others, by a fresh process."""

    cases: Annotated[int, Field(ge=1, le=10_000)] = 64


class DevelopmentCohort(Strict):
    """A second, smaller cohort on which innovators iterate. It decides nothing.

    `trials` is how many submissions of a model family may be run on one version of it.
    """

    id: Identifier
    version: Version | None = None
    trials: Annotated[int, Field(ge=1, le=1000)] = 100

    def check(self, gating: CohortRequirement | None) -> None:
        """Raise a fault where it is the cohort that gates, or where none gates."""
        if gating is None:
            raise fault("development_cohort", "it stands beside a `cohort` that gates")
        if gating.id == self.id:
            raise fault(
                "development_cohort.id",
                f"{self.id} is the cohort that gates: what is shown there can't stay a test",
            )


class FailedCases(Strict):
    """What happens to cases without a usable prediction, and how many may be so."""

    policy: Literal["counts_as_wrong"] = "counts_as_wrong"
    maximum_rate: Share = 0.02


class Disclosure(Strict):
    """What may leave the facility once attempts are closed or the model is certified."""

    minimum_group: Annotated[int, Field(ge=10)] = 10
    decimals: Annotated[int, Field(ge=1, le=3)] = 2
