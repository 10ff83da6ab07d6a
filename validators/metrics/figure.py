"""What a task type wants drawn, as data: the report draws every figure by one function.

A figure may show curves and binned values. It is facility-internal and never released.
"""

from typing import Literal

from validators.contract.schema import Strict


class Series(Strict):
    """Points in the order they are drawn in; `low` and `high` a band around them, if any.

    Of single points they are whiskers; a `whisker` is one that lies across.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    style: Literal["line", "steps", "points", "bars", "whisker"] = "line"


class Figure(Strict):
    """Axes with series. `guide` is the line that a reader compares with."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    guide: Literal["none", "diagonal", "zero", "one"] = "none"
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    explanation: str = ""
    """One sentence: how to read it."""


class Matrix(Strict):
    """Counts by two classifications: rows are the reference standard, columns the prediction."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    explanation: str = ""
