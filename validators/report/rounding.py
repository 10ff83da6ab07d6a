"""Rounding of what is released: values to the nearest, intervals outward."""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

from validators.evidence import Interval
from validators.report.build import SIGNIFICANT_DIGITS


def outward(interval: Interval | None, decimals: int) -> dict[str, Any] | None:
    """The interval with both ends rounded away from its middle."""
    if interval is None:
        return None
    return {
        "low": _quantized(interval.low, decimals, ROUND_FLOOR),
        "high": _quantized(interval.high, decimals, ROUND_CEILING),
        "level": interval.level,
        "method": interval.method,
    }


def nearest(value: float | None, decimals: int) -> float | None:
    """The value, rounded half to even."""
    return None if value is None else _quantized(value, decimals, ROUND_HALF_EVEN)


def _quantized(value: float, decimals: int, rounding: str) -> float:
    """`value` at `decimals`; noise beyond the report's own precision does not round outward."""
    exact = Decimal(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return float(exact.quantize(Decimal(1).scaleb(-decimals), rounding=rounding)) + 0.0
