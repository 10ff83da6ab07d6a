"""Any `Figure` of a task type as SVG text: a pure function of numbers, no drawing library.

    >>> svg = figure_plot(figure)

Rules
-----
1. Each figure carries a title and a description for those who hear the page: of single points
   where they lie, of curves how many points they have.
2. Nothing rests on colour alone: series differ in dash and mark too. Colours are Okabe and Ito's,
   told apart with every kind of colour vision, and in grey on paper.
3. Text is escaped; coordinates have two decimals, so that the same numbers give the same bytes.
4. A figure holds no style of its own: classes are defined once, in the page.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from validators.metrics.figure import Figure, Series

SIDE = 300.0
LEFT, TOP, RIGHT = 52.0, 14.0, 14.0
_MOST_TOLD = 20
_LEGEND, _BOTTOM = 16.0, 46.0
_KINDS = ("curve", "second", "third", "thin")
_ALMOST = 1e-12
Ends = tuple[float, float]


def figure_plot(figure: Figure) -> str:
    """The figure with its axes, guide, bands and series."""
    across = figure.x_range or _range([x for one in figure.series for x, _ in one.points])
    upward = figure.y_range or _range(
        [y for one in figure.series for _, y in one.points]
        + [y for one in figure.series for y in (*one.low, *one.high)]
    )
    body = [_grid(figure, across, upward), _guide(figure, across, upward)]
    named = [one for one in figure.series if one.label]
    for place, one in enumerate(figure.series):
        body.append(_series(one, _KINDS[min(place, len(_KINDS) - 1)], across, upward))
    base = TOP + SIDE + _BOTTOM
    for place, one in enumerate(named if len(named) > 1 else []):
        kind = _KINDS[min(figure.series.index(one), len(_KINDS) - 1)]
        y = base + place * _LEGEND
        if one.style == "points":
            body.append(_dot(one, LEFT + 11, y - 4))
        else:
            body.append(f'<polyline class="{kind}" points="{LEFT},{y - 4} {LEFT + 22},{y - 4}"/>')
        body.append(f'<text class="tick" x="{LEFT + 28}" y="{y}">{escape(one.label)}</text>')
    height = base + (len(named) * _LEGEND if len(named) > 1 else 0)
    described = "; ".join(_told(one) for one in named)
    return (
        f'<svg class="figure" viewBox="0 0 {LEFT + SIDE + RIGHT:.0f} {height:.0f}" role="img">'
        f"<title>{escape(figure.title)}</title><desc>{escape(described or figure.title)}</desc>"
        f"{''.join(body)}</svg>"
    )


def _told(one: Series) -> str:
    """A series in words."""
    if one.style != "points" or len(one.points) > _MOST_TOLD:
        return f"{one.label}: {len(one.points)} points"
    at = [f"{x:.3f}, {y:.3f}" for x, y in one.points]
    if one.low and one.high:
        whiskers = zip(at, one.low, one.high, strict=True)
        at = [f"{place} ({low:.3f} to {high:.3f})" for place, low, high in whiskers]
    return f"{one.label}: {'; '.join(at)}"


def _series(one: Series, kind: str, across: Ends, upward: tuple[float, float]) -> str:
    at = [(_x(x, across), _y(y, upward)) for x, y in one.points]
    parts = []
    if one.style == "points" and one.low and one.high:
        for (x, _), low, high in zip(at, one.low, one.high, strict=True):
            ends = _joined([(x, _y(low, upward)), (x, _y(high, upward))])
            parts.append(f'<polyline class="whisker" points="{ends}"/>')
    elif one.low and one.high:
        edge = [(x, _y(y, upward)) for (x, _), y in zip(at, one.high, strict=True)]
        edge += [(x, _y(y, upward)) for (x, _), y in reversed(list(zip(at, one.low, strict=True)))]
        parts.append(f'<polygon class="band" points="{_joined(edge)}"/>')
    if one.style == "whisker":
        parts.append(f'<polyline class="whisker" points="{_joined(at)}"/>')
    elif one.style == "points":
        parts += [_dot(one, x, y) for x, y in at]
    elif one.style == "bars":
        floor = _y(max(upward[0], 0.0), upward)
        width = max(2.0, 0.7 * SIDE / max(len(at), 1))
        parts += [
            f'<rect class="bar {kind}" x="{x - width / 2:.2f}" y="{min(y, floor):.2f}" '
            f'width="{width:.2f}" height="{abs(floor - y):.2f}"/>'
            for x, y in at
        ]
    else:
        if one.style == "steps":
            at = [p for here, there in pairwise(at) for p in (here, (there[0], here[1]))] + at[-1:]
        parts.append(f'<polyline class="{kind}" points="{_joined(at)}"/>')
    return "".join(parts)


def _dot(one: Series, x: float, y: float) -> str:
    """A single point stands out; of several each is a bin."""
    kind, radius = ("point", 4.5) if len(one.points) == 1 else ("bin", 3.5)
    return f'<circle class="{kind}" cx="{x:.2f}" cy="{y:.2f}" r="{radius}"/>'


def _guide(figure: Figure, across: Ends, upward: Ends) -> str:
    ends = {
        "diagonal": [(max(across[0], upward[0]),) * 2, (min(across[1], upward[1]),) * 2],
        "zero": [(across[0], 0.0), (across[1], 0.0)],
        "one": [(across[0], 1.0), (across[1], 1.0)],
    }.get(figure.guide)
    if ends is None:
        return ""
    points = _joined([(_x(x, across), _y(y, upward)) for x, y in ends])
    return f'<polyline class="chance" points="{points}"/>'


def _grid(figure: Figure, across: Ends, upward: Ends) -> str:
    parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>']
    for step in range(6):
        x, y = LEFT + step / 5 * SIDE, TOP + (1 - step / 5) * SIDE
        shown = (_tick(across, step), _tick(upward, step))
        if 0 < step < 5:
            parts.append(f'<polyline class="grid" points="{x},{TOP} {x},{TOP + SIDE}"/>')
            parts.append(f'<polyline class="grid" points="{LEFT},{y} {LEFT + SIDE},{y}"/>')
        parts.append(
            f'<text class="tick" x="{x:.2f}" y="{TOP + SIDE + 16:.2f}" '
            f'text-anchor="middle">{shown[0]}</text>'
            f'<text class="tick" x="{LEFT - 7:.2f}" y="{y + 3.5:.2f}" '
            f'text-anchor="end">{shown[1]}</text>'
        )
    parts.append(
        f'<text class="axis" x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 36}" '
        f'text-anchor="middle">{escape(figure.x_label)}</text>'
        f'<text class="axis" transform="translate(14 {TOP + SIDE / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(figure.y_label)}</text>'
    )
    return "".join(parts)


def _tick(ends: Ends, step: int) -> str:
    value = ends[0] + step / 5 * (ends[1] - ends[0])
    return f"{0.0 if abs(value) < _ALMOST else value:.3g}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The values' ends, rounded outward to a tenth of their width's power of ten."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low < _ALMOST:
        return low - 0.5, high + 0.5
    step = 10 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _x(value: float, ends: Ends) -> float:
    return LEFT + _inside(value, ends) * SIDE


def _y(value: float, ends: Ends) -> float:
    return TOP + (1 - _inside(value, ends)) * SIDE


def _inside(value: float, ends: Ends) -> float:
    return min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
