"""What the comparison of a cohort with declared development data showed: aggregates only."""

from validators.contract.schema import Strict


class DriftCell(Strict):
    """One category or bin, after the small-cell rule: patients declared, and in the cohort."""

    label: str
    declared: int
    cohort: int


class AttributeDrift(Strict):
    """One attribute. Measures are None where `reason` says why.

    `shifted` is whether the index reaches `limit`: the larger of the protocol's smallest index
    that matters and the index that two samples of one population exceed with chance `alpha`.
    """

    attribute: str
    declared: int
    cohort: int
    cells: tuple[DriftCell, ...]
    population_stability_index: float | None
    limit: float | None
    jensen_shannon_distance: float | None
    standardized_mean_difference: float | None
    shifted: bool | None
    reason: str


class DriftEvidence(Strict):
    """How far the cohort's patients are from the declared ones. It judges nothing by itself."""

    distribution: str
    """The digest of the declared distribution."""
    minimum_group: int
    alpha: float
    """Chance of a false alarm of one attribute; already divided by their number."""
    smallest_index: float
    attributes: tuple[AttributeDrift, ...]
    absent: tuple[str, ...]
    """Declared attributes that the cohort does not have."""
