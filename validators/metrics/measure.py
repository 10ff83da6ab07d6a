"""What a metric is, and what every estimate of one offers: the shape all task types share.

    >>> measure = multiclass.MEASURES["quadratic_kappa"]
    >>> found = multiclass.side(table, "quadratic_kappa", settings)
    >>> found.value, found.gating(0.025)

Rules
-----
1. A task type is one module of `validators.metrics` with a table of its own, `MEASURES`, `side`
   and `figures`. Whatever judges (endpoints, groups, sites, comparators) knows only this shape.
2. `side` gives a value with its uncertainty, or `Undefined` with the reason. Never NaN.
3. A failed or withheld prediction counts as the worst that the measure allows; as the best with
   `failed_is_right` (the rest of the cohort, when a group is held against it). A withheld
   prediction never raises a lower bound of a measure where more is better, and never lowers an
   upper bound of one where less is better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from validators.intervals.influence import Box
from validators.intervals.proportion import Pair

Direction = Literal["higher", "lower", "band"]
"""Which way is better; `band`: neither, the value belongs between two limits around `ideal`."""


@dataclass(frozen=True)
class Measure:
    """One metric of one task type.

    `low` and `high` are the ends of its scale (None: open). `ideal` is the perfect value.
    `gates` says whether it may decide; if not, `why_not` says why.
    """

    name: str
    label: str
    direction: Direction
    low: float | None
    high: float | None
    ideal: float
    unit: str = ""
    gates: bool = True
    why_not: str = ""

    @property
    def width(self) -> float:
        """The largest difference of two values."""
        return math.inf if self.low is None or self.high is None else self.high - self.low


@dataclass(frozen=True)
class Undefined:
    """There is no value, or a value without an interval; `reason` is for people."""

    reason: str
    n: int
    clusters: int | None
    value: float | None = None


class Side(Protocol):
    """A value with its uncertainty: a share, an area, a mean, or a resampled statistic."""

    @property
    def value(self) -> float:
        """The estimate, failed cases at the asked end."""

    @property
    def n(self) -> int:
        """Cases behind it (the unit scored)."""

    @property
    def clusters(self) -> int | None:
        """Patients behind it; None where cases are independent."""

    @property
    def influence(self) -> Box | None:
        """What each patient contributes, if two sides may share patients; else None."""

    @property
    def method(self) -> str:
        """The name of the interval."""

    @property
    def gap_method(self) -> str:
        """The name of the interval of a difference of two such sides."""

    def gating(self, tail: float) -> Pair:
        """The interval that a goal is judged by, with error `tail` on each side."""

    def compared(self, tail: float, *, wide: bool) -> Pair:
        """The interval that a difference is built of; `wide`: over what failures leave open."""


class Cases(Protocol):
    """The table of a task type: one row a case, in read-only columns."""

    @property
    def n(self) -> int:
        """Number of cases, failed ones included."""

    @property
    def patient(self) -> NDArray[np.int64] | None:
        """One code 0, 1, … a case, or None where cases are independent."""

    @property
    def attributes(self) -> Mapping[str, NDArray[np.str_]]:
        """Groups of the cases, by attribute."""

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""

    @property
    def failed_by_code(self) -> Mapping[str, int]:
        """Failed predictions by their code."""

    @property
    def excluded(self) -> Mapping[str, int]:
        """Cases left out before sealing, by reason."""

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen cases ([n]), patients recoded; attributes and counts of codes are dropped."""
