"""Forest plots as SVG text: one row a result, its estimate and interval on a common scale.

    >>> svg = forest_plot(rows, title="Gaps", axis="gap", marks=[Mark(0.1, "margin 0.1")])

The rules are those of `validators.report.drawing`. A row without an interval is drawn as text, so
that a group that can't be judged is seen and not overlooked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from validators.evidence import Outcome

WIDTH, LABEL, VALUES = 700.0, 175.0, 180.0
ROW, TOP, BOTTOM = 23.0, 24.0, 40.0
_LONGEST = 24


@dataclass(frozen=True)
class Row:
    """One result; `goal` draws a tick on this row alone."""

    label: str
    estimate: float | None
    low: float | None
    high: float | None
    outcome: Outcome
    goal: float | None = None
    absent: str = "no interval"


@dataclass(frozen=True)
class Mark:
    """A line through all rows, such as the margin; `side` shades what lies beyond it."""

    value: float
    label: str
    dashed: bool = True


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` with a tick every `step`."""

    low: float
    high: float
    step: float

    def x(self, value: float) -> float:
        """Where a value stands; beyond the ends, at the end."""
        inside = min(max(value, self.low), self.high)
        width = WIDTH - LABEL - VALUES
        return LABEL + (inside - self.low) / (self.high - self.low) * width

    def ticks(self) -> list[float]:
        """Multiples of the step."""
        first, last = round(self.low / self.step), round(self.high / self.step)
        return [index * self.step for index in range(first, last + 1)]


UNIT = Scale(0.0, 1.0, 0.2)


def scale_for(values: Sequence[float]) -> Scale:
    """A scale in tenths that holds all values and zero, with at most about nine ticks."""
    low, high = min([0.0, *values]), max([0.0, *values])
    step = next((s for s in (0.05, 0.1, 0.2, 0.25) if (high - low) / s <= 8), 0.5)
    down, up = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(down * step, max(up, down + 1) * step, step)


def forest_plot(
    rows: Sequence[Row], *, title: str, axis: str, scale: Scale, marks: Sequence[Mark] = ()
) -> str:
    """The rows from top to bottom; a diamond pass, a cross fail, a ring where nothing is shown."""
    height = TOP + ROW * len(rows) + BOTTOM
    bottom = TOP + ROW * len(rows)
    parts = [_axis(scale, bottom, axis)]
    for mark in marks:
        parts.append(_mark(mark, scale, bottom))
    described = []
    for index, row in enumerate(rows):
        parts.append(_row(row, scale, TOP + ROW * (index + 0.5)))
        described.append(f"{row.label}: {_value(row)}, {row.outcome.replace('_', ' ')}")
    return (
        f'<svg class="forest" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape('; '.join(described))}</desc>"
        f"{''.join(parts)}</svg>"
    )


def _row(row: Row, scale: Scale, y: float) -> str:
    short = row.label if len(row.label) <= _LONGEST else row.label[: _LONGEST - 1] + "…"
    parts = [
        f'<text class="name" x="{LABEL - 14:.2f}" y="{y + 4:.2f}" text-anchor="end">'
        f"{escape(short)}<title>{escape(row.label)}</title></text>",
        f'<text class="value" x="{WIDTH - 2:.2f}" y="{y + 4:.2f}" text-anchor="end">'
        f"{escape(_value(row))}</text>",
    ]
    if row.goal is not None:
        x = scale.x(row.goal)
        parts.append(
            f'<line class="goal" x1="{x:.2f}" x2="{x:.2f}" y1="{y - 9:.2f}" y2="{y + 9:.2f}"/>'
        )
    if row.low is not None and row.high is not None:
        parts.append(
            f'<line class="whisker {row.outcome}" x1="{scale.x(row.low):.2f}" '
            f'x2="{scale.x(row.high):.2f}" y1="{y:.2f}" y2="{y:.2f}"/>'
        )
    if row.estimate is not None:
        parts.append(_symbol(row.outcome, scale.x(row.estimate), y))
    return "".join(parts)


def _symbol(outcome: Outcome, x: float, y: float) -> str:
    if outcome == "pass":
        path = f"M{x:.2f} {y - 5.5:.2f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"
    elif outcome == "fail":
        path = f"M{x - 4.5:.2f} {y - 4.5:.2f}l9 9m0 -9l-9 9"
    elif outcome == "insufficient_evidence":
        return f'<circle class="symbol {outcome}" cx="{x:.2f}" cy="{y:.2f}" r="4.5"/>'
    else:
        path = f"M{x - 4:.2f} {y - 4:.2f}h8v8h-8z"
    return f'<path class="symbol {outcome}" d="{path}"/>'


def _value(row: Row) -> str:
    if row.estimate is None:
        return row.absent
    text = f"{_signed(row.estimate)}"
    if row.low is None or row.high is None:
        return f"{text} ({row.absent})"
    return f"{text} ({_signed(row.low)} to {_signed(row.high)})"


def _signed(value: float) -> str:
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def _axis(scale: Scale, bottom: float, label: str) -> str:
    parts = [
        f'<line class="frame" x1="{scale.x(scale.low):.2f}" x2="{scale.x(scale.high):.2f}" '
        f'y1="{bottom:.2f}" y2="{bottom:.2f}"/>'
    ]
    for tick in scale.ticks():
        x = scale.x(tick)
        parts.append(
            f'<line class="grid" x1="{x:.2f}" x2="{x:.2f}" y1="{TOP:.2f}" y2="{bottom:.2f}"/>'
            f'<text class="tick" x="{x:.2f}" y="{bottom + 15:.2f}" text-anchor="middle">'
            f"{escape(f'{tick:.2g}' if abs(tick) > 1e-9 else '0').replace('-', '−')}</text>"
        )
    middle = (scale.x(scale.low) + scale.x(scale.high)) / 2
    parts.append(
        f'<text class="axis" x="{middle:.2f}" y="{bottom + 33:.2f}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )
    return "".join(parts)


def _mark(mark: Mark, scale: Scale, bottom: float) -> str:
    x = scale.x(mark.value)
    kind = "margin" if mark.dashed else "zero"
    return (
        f'<line class="{kind}" x1="{x:.2f}" x2="{x:.2f}" y1="{TOP - 6:.2f}" y2="{bottom:.2f}"/>'
        f'<text class="note" x="{x:.2f}" y="{TOP - 10:.2f}" text-anchor="middle">'
        f"{escape(mark.label)}</text>"
    )
