"""How the PDF writes a number, an interval and an outcome of the released report."""

from collections.abc import Mapping
from typing import Any

from validators.report.disclosure import SUPPRESSED
from validators.report.words import OUTCOMES

Released = Mapping[str, Any]
Json = dict[str, Any]
_KINDS = {"pass": "pass", "fail": "fail", "insufficient_evidence": "open", "conditional": "open"}


def outcome_cells(outcome: str) -> Json:
    """The last cell of a row, in words and with its colour's name."""
    if outcome == SUPPRESSED:
        return {"outcome": "withheld", "kind": "plain"}
    return {"outcome": OUTCOMES.get(outcome, outcome), "kind": kind_of(outcome)}


def kind_of(outcome: str) -> str:
    """The colour's name of an outcome."""
    return _KINDS.get(outcome, "plain")


def number_text(value: float | None, decimals: int) -> str:
    """With the protocol's decimals, or a dash where there is none."""
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def interval_text(interval: Released | None, decimals: int) -> str:
    """'0.69 to 0.86', or a dash."""
    if interval is None:
        return "–"
    return f"{number_text(interval['low'], decimals)} to {number_text(interval['high'], decimals)}"
