"""What each task type needs to know beforehand, beyond its endpoints. One model a task type."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from validators.contract.faults import fault
from validators.contract.schema import Name, Strict

Task = Literal[
    "binary", "multiclass", "ordinal", "detection", "segmentation", "regression", "time_to_event"
]


class ClassSettings(Strict):
    """Multiclass and ordinal questions. Ordinal classes are given from least to most severe."""

    names: Annotated[tuple[Name, ...], Field(min_length=3, max_length=50)]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise fault("names", "two classes have the same name")
        return self


class DetectionSettings(Strict):
    """Lesions to find in scans. A candidate hits a lesion as the matching rule says."""

    false_positives_per_scan: Annotated[float, Field(gt=0, le=1000)]
    """The rate at which `lesion_sensitivity_at_rate` is read off the FROC curve (exploratory)."""
    threshold: Annotated[float, Field(ge=0, le=1)]
    """Locked: candidates at or above it count for the gating endpoints."""
    maximum_candidates: Annotated[int, Field(ge=1, le=10_000)] = 20
    """A scan with more candidates is a failed prediction; a failed scan has this many false ones,
    all at score 1, and finds nothing. It is the scale of `false_positives_per_scan`: with K
    patients no upper bound lies below 1 - .025^(1/K) of it (20 and 100 patients: .72), for a rare
    scan could have as many. So choose it near what a reader would still look at."""
    matching: Literal["overlap", "centre_distance"] = "overlap"
    minimum_overlap: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Intersection over union."""
    maximum_distance: Annotated[float, Field(gt=0)] | None = None
    """Between centres, in mm; needed where `matching` is `centre_distance`."""

    @model_validator(mode="after")
    def _has_its_distance(self) -> Self:
        if self.matching == "centre_distance" and self.maximum_distance is None:
            raise fault("maximum_distance", "matching by `centre_distance` needs it, in mm")
        return self


class Structure(Strict):
    """One structure to segment: the tolerance of its surface is what two readers agree within."""

    name: Name
    tolerance: Annotated[float, Field(gt=0, le=100)]
    """mm, for the normalised surface distance."""


class SegmentationSettings(Strict):
    """Masks. Distances are capped, so that an empty prediction has a value: the worst."""

    structures: Annotated[tuple[Structure, ...], Field(min_length=1, max_length=50)]
    maximum_distance: Annotated[float, Field(gt=0)]
    """mm; a larger Hausdorff distance counts as this, and so does a missing or surplus mask."""
    maximum_volume_error: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Relative; errors are cut off here at both sides, and a failed prediction has this one."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len({structure.name for structure in self.structures}) != len(self.structures):
            raise fault("structures", "two structures have the same name")
        return self


class RegressionSettings(Strict):
    """A measurement. Values outside the range count as its end."""

    unit: str
    lowest: float
    highest: float

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.lowest >= self.highest:
            raise fault("highest", "it must exceed `lowest`")
        return self


class TimeToEventSettings(Strict):
    """Survival. Scores are risks: higher is worse; probabilities are of the event by a horizon."""

    unit: Literal["days", "months", "years"]
    horizons: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Ascending; the first is the one that endpoints at one horizon speak of."""
    maximum_follow_up: Annotated[float, Field(gt=0)]
    """The truncation time of Uno's C."""
    action_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The probability of the event from which on one would act; the net benefit needs it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if list(self.horizons) != sorted(set(self.horizons)):
            raise fault("horizons", "they must ascend, each once")
        if self.horizons[-1] > self.maximum_follow_up:
            raise fault("horizons", "the last lies beyond `maximum_follow_up`")
        return self


TaskSettings = (
    ClassSettings
    | DetectionSettings
    | SegmentationSettings
    | RegressionSettings
    | TimeToEventSettings
)
