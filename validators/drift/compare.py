"""The cohort's patients against the declared development data, attribute by attribute.

    >>> drift_evidence(declared, {"age": ages, "sex": sexes}, minimum_group=10)

Rules
-----
1. One row a patient. Nothing of a row leaves but counts of groups and measures made of them.
2. Small cells: no cell with 1 to k - 1 patients of the cohort is measured or shown. Categories
   join one pooled cell, bins their smaller neighbour, until all hold k or none. So the measures
   can't be solved for a small count.
3. A category of the cohort that was not declared goes under `not declared`, whatever its name; a
   value beyond the declared edges under `below` or `above`; an empty text, None or NaN
   under `not recorded`.
4. A shift is no fault of the model: a cohort that differs from the development data is what shows
   whether it carries over. This is evidence for people and for the label; it gates nothing.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.drift.distribution import (
    NOT_DECLARED,
    NOT_RECORDED,
    POOLED,
    Categories,
    DevelopmentDistribution,
    Histogram,
)
from validators.drift.evidence import AttributeDrift, DriftCell, DriftEvidence
from validators.drift.measures import (
    index_by_chance,
    jensen_shannon,
    stability_index,
    standardized_difference,
)


def drift_evidence(
    declared: DevelopmentDistribution,
    columns: Mapping[str, NDArray[Any]],
    *,
    minimum_group: int = 10,
    alpha: float = 0.05,
    smallest_index: float = 0.1,
) -> DriftEvidence:
    """Each declared attribute against the cohort's column of that name, one row a patient.

    `alpha`: the chance of any false alarm, divided among the attributes (Bonferroni).
    Raises Invalid where a column is no column, or text where a histogram was declared.
    """
    present = [of for of in declared.attributes if of.attribute in columns]
    each = alpha / max(len(present), 1)
    return DriftEvidence(
        distribution=declared.digest,
        minimum_group=minimum_group,
        alpha=each,
        smallest_index=smallest_index,
        attributes=tuple(
            _compared(of, np.asarray(columns[of.attribute]), minimum_group, each, smallest_index)
            for of in present
        ),
        absent=tuple(of.attribute for of in declared.attributes if of.attribute not in columns),
    )


def _compared(
    declared: Categories | Histogram,
    column: NDArray[Any],
    minimum: int,
    alpha: float,
    smallest_index: float,
) -> AttributeDrift:
    if column.ndim != 1:
        raise Invalid(f"the attribute {declared.attribute} must be one column")
    difference = None
    if isinstance(declared, Categories):
        cells = pooled(_categories(declared, column), minimum)
    else:
        if column.dtype.kind not in "fiu":
            raise Invalid(
                f"the attribute {declared.attribute} was declared as a histogram; its column must "
                f"be numbers, not {column.dtype.name}"
            )
        known = column[np.isfinite(column)].astype(np.float64)
        ordered, unknown = _bins(declared, known, len(column) - len(known))
        cells = pooled([*joined(ordered, minimum), unknown], minimum)
        if len(known) >= minimum:
            difference = standardized_difference(declared.mean, declared.standard_deviation, known)
    counts = [cell.declared for cell in cells], [cell.cohort for cell in cells]
    if len(cells) < 2 or not sum(counts[1]):
        return AttributeDrift(
            attribute=declared.attribute, declared=sum(counts[0]), cohort=sum(counts[1]),
            cells=(), population_stability_index=None, limit=None,
            jensen_shannon_distance=None, standardized_mean_difference=None, shifted=None,
            reason=f"fewer than two groups of {minimum} patients are left to compare",
        )  # fmt: skip
    index = stability_index(*counts)
    limit = max(smallest_index, index_by_chance(*counts, alpha))
    return AttributeDrift(
        attribute=declared.attribute,
        declared=sum(counts[0]),
        cohort=sum(counts[1]),
        cells=tuple(cells),
        population_stability_index=index,
        limit=limit,
        jensen_shannon_distance=jensen_shannon(*counts),
        standardized_mean_difference=difference,
        shifted=index >= limit,
        reason=f"the stability index is {index:.3f}; {limit:.3f} or more is called a shift",
    )


def pooled(cells: list[DriftCell], minimum: int) -> list[DriftCell]:
    """Cells without any of 1 to `minimum` - 1 patients: those go together, with more if need be."""
    small = [cell for cell in cells if 0 < cell.cohort < minimum]
    kept = sorted((cell for cell in cells if cell not in small), key=lambda cell: cell.cohort)
    while small and sum(cell.cohort for cell in small) < minimum and kept:
        small.append(kept.pop(next((i for i, c in enumerate(kept) if c.cohort), 0)))
    shown = [cell for cell in cells if cell in kept and (cell.cohort or cell.declared)]
    if sum(cell.cohort for cell in small) >= minimum:
        shown.append(_together(small, POOLED))
    return shown


def joined(cells: list[DriftCell], minimum: int) -> list[DriftCell]:
    """Neighbouring bins, joined until none holds 1 to `minimum` - 1 patients, or one is left."""
    bins = list(cells)
    while len(bins) > 1:
        place = next((i for i, c in enumerate(bins) if 0 < c.cohort < minimum), None)
        if place is None:
            break
        left = place > 0 and (
            place + 1 == len(bins) or bins[place - 1].cohort <= bins[place + 1].cohort
        )
        start = place - 1 if left else place
        two = bins[start : start + 2]
        ends = two[0].label.split(" to ")[0], two[1].label.split(" to ")[-1]
        bins[start : start + 2] = [_together(two, " to ".join(ends))]
    return bins


def _together(cells: list[DriftCell], label: str) -> DriftCell:
    return DriftCell(
        label=label,
        declared=sum(cell.declared for cell in cells),
        cohort=sum(cell.cohort for cell in cells),
    )


def _categories(declared: Categories, column: NDArray[Any]) -> list[DriftCell]:
    text = ["" if value is None else str(value) for value in column.tolist()]
    names, counts = np.unique(np.array(text, dtype=np.str_), return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    cells = [
        DriftCell(label=name, declared=count, cohort=found.pop(name, 0))
        for name, count in declared.counts.items()
    ]
    missing = found.pop("", 0)
    return [
        *cells,
        DriftCell(label=NOT_DECLARED, declared=0, cohort=sum(found.values())),
        DriftCell(label=NOT_RECORDED, declared=declared.missing, cohort=missing),
    ]


def _bins(
    declared: Histogram, known: NDArray[np.float64], missing: int
) -> tuple[list[DriftCell], DriftCell]:
    """Bins in order with what lies below and above them, and the cell of missing values."""
    edges = np.asarray(declared.edges)
    inside, _ = np.histogram(known, edges)
    below, above = int((known < edges[0]).sum()), int((known > edges[-1]).sum())
    labels = [f"{left:g} to {right:g}" for left, right in pairwise(edges)]
    middle = [
        DriftCell(label=label, declared=count, cohort=int(of))
        for label, count, of in zip(labels, declared.counts, inside, strict=True)
    ]
    return (
        [
            DriftCell(label="below", declared=0, cohort=below),
            *middle,
            DriftCell(label="above", declared=0, cohort=above),
        ],
        DriftCell(label=NOT_RECORDED, declared=declared.missing, cohort=missing),
    )
