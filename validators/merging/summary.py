"""What every mergeable summary has: the hospitals in it, and a rule for what may be added.

Rules
-----
1. A summary holds counts and sums of one or more hospitals, never a value of a case. Each shape
   has a schema id.
2. Merging is commutative and associative: who adds first changes nothing (sums of decimals: to
   rounding). What comes out equals the summary of all cases together.
3. A hospital is in a summary once. Merging two that share one is refused, since its cases would
   count twice.
4. A patient belongs to one hospital. Who was seen at two of them counts as two patients: then the
   interval is too narrow, and no summary can show it.
5. `smallest_cell` is the smallest count that tells of people: a class that is absent (0), or the
   smallest count above 0. Whoever releases a summary withholds it where that is below the
   facility's smallest group (`validators.report.suppression`). Finer cells of 0 are not counted:
   most bins of a histogram are empty.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from registry.trust.errors import Invalid
from validators.contract.faults import fault
from validators.contract.schema import Identifier, Strict

Count = Annotated[int, Field(ge=0)]


class Hospitals(Strict):
    """The hospitals that a summary was made of, sorted."""

    hospitals: Annotated[tuple[Identifier, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _sorted_once(self) -> Self:
        if list(self.hospitals) != sorted(set(self.hospitals)):
            raise fault("hospitals", "must be sorted, each of them once")
        return self


def joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """The hospitals of both; raises Invalid where one is in both."""
    twice = sorted(set(first) & set(second))
    if twice:
        raise Invalid(
            f"the hospital {twice[0]} is in both summaries; merge each hospital once, or its cases "
            "would count twice"
        )
    return tuple(sorted((*first, *second)))


def smallest(classes: tuple[int, ...], cells: tuple[int, ...]) -> int:
    """The smallest of `classes`, which may be 0, and of the `cells` above 0."""
    return min(*classes, *(cell for cell in cells if cell > 0), classes[0])


def moved_root(
    lost: float, failed_squares: int, size_times_failed: int, size_squares: int
) -> float:
    """How far failed predictions can move the root of patients' sum of squared deviations.

    A patient with m cases, f of them failed, moves by at most f + `lost` m, where `lost` is the
    share of failed predictions; this is the root of the sum of those squares.
    """
    total = failed_squares + 2 * lost * size_times_failed + lost**2 * size_squares
    return float(total**0.5)
