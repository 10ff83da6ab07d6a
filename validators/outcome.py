"""The words and the interval that every piece of evidence is made of."""

from typing import Literal

from validators.contract.schema import Strict

Outcome = Literal["pass", "fail", "insufficient_evidence", "not_judged"]
Overall = Literal["pass", "conditional", "fail", "insufficient_evidence"]
"""`conditional`: every gating rule passed but for insufficient ones that the protocol lets be."""


class Interval(Strict):
    """A two-sided interval at `level` (1 - 2 alpha) and the method that made it."""

    low: float
    high: float
    level: float
    method: str
