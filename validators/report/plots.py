"""Figures of the report as SVG text: pure functions of numbers, no drawing library.

    >>> svg = roc_plot(curve, point=OperatingPoint(0.05, 0.78, (0.69, 0.85), 0.68, (0.65, 0.70)))

Rules
-----
1. Each figure carries a title and a description for those who hear the page.
2. Nothing rests on colour alone: outcomes differ in mark and word too. Colours are Okabe and
   Ito's, told apart with every kind of colour vision, and in grey on paper.
3. Text is escaped; coordinates have two decimals, so that the same numbers give the same bytes.
4. The figures hold no style of their own: classes are defined once, in the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from validators.evidence import CalibrationBin, Interval

SIDE = 300.0
LEFT, TOP, RIGHT, BOTTOM = 52.0, 14.0, 14.0, 46.0


@dataclass(frozen=True)
class OperatingPoint:
    """The locked threshold on the ROC curve, with the intervals of both rates."""

    threshold: float
    sensitivity: float
    sensitivity_interval: Interval | None
    specificity: float
    specificity_interval: Interval | None


def roc_plot(curve: Sequence[tuple[float, float]], point: OperatingPoint | None) -> str:
    """The ROC curve of (1 - specificity, sensitivity) and the point of the locked threshold."""
    body = [_grid("1 − specificity", "sensitivity"), _line([(0, 0), (1, 1)], "chance")]
    body.append(_line(curve, "curve"))
    described = f"ROC curve through {len(curve)} points."
    if point is not None:
        x, y = 1 - point.specificity, point.sensitivity
        if (across := point.specificity_interval) is not None:
            body.append(_line([(1 - across.high, y), (1 - across.low, y)], "whisker"))
        if (upward := point.sensitivity_interval) is not None:
            body.append(_line([(x, upward.low), (x, upward.high)], "whisker"))
        body.append(f'<circle class="point" cx="{_x(x)}" cy="{_y(y)}" r="4.5"/>')
        below = y > 0.25
        anchor = "start" if x < 0.55 else "end"
        body.append(
            f'<text class="note" x="{_x(x, 9 if x < 0.55 else -9)}" '
            f'y="{_y(y, 20 if below else -12)}" text-anchor="{anchor}">'
            f"threshold {point.threshold:g}</text>"
        )
        described += (
            f" At the locked threshold {point.threshold:g} sensitivity is "
            f"{point.sensitivity:.3f} and specificity {point.specificity:.3f}."
        )
    return _figure("ROC curve", described, body)


def calibration_plot(bins: Sequence[CalibrationBin]) -> str:
    """Observed share of positives against mean score in bins; the area of a dot follows n."""
    body = [_grid("mean score in the bin", "observed share"), _line([(0, 0), (1, 1)], "chance")]
    body.append(_line([(b.mean_score, b.observed) for b in bins], "thin"))
    largest = max((b.n for b in bins), default=1)
    for b in bins:
        radius = 2.5 + 4.5 * (b.n / largest) ** 0.5
        body.append(
            f'<circle class="bin" cx="{_x(b.mean_score)}" cy="{_y(b.observed)}" r="{radius:.2f}">'
            f"<title>{b.n} cases: mean score {b.mean_score:.3f}, observed {b.observed:.3f}</title>"
            "</circle>"
        )
    described = "; ".join(f"{b.n} cases {b.mean_score:.2f} {b.observed:.2f}" for b in bins)
    return _figure("Calibration", f"Cases, mean score, observed share in bins: {described}", body)


def _figure(title: str, description: str, body: Sequence[str]) -> str:
    width, height = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
    return (
        f'<svg class="figure" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(body)}</svg>"
    )


def _grid(across: str, upward: str) -> str:
    parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>']
    for step in range(6):
        share = step / 5
        if 0 < step < 5:
            parts.append(_line([(share, 0), (share, 1)], "grid"))
            parts.append(_line([(0, share), (1, share)], "grid"))
        parts.append(_text(_x(share), f"{TOP + SIDE + 16:.2f}", f"{share:.1f}", "middle"))
        parts.append(_text(f"{LEFT - 7:.2f}", _y(share, 3.5), f"{share:.1f}", "end"))
    middle, bottom = LEFT + SIDE / 2, TOP + SIDE + 36
    parts.append(
        f'<text class="axis" x="{middle}" y="{bottom}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(14 {TOP + SIDE / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(upward)}</text>'
    )
    return "".join(parts)


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{_x(x)},{_y(y)}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def _text(x: str, y: str, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _x(share: float, offset: float = 0) -> str:
    return f"{LEFT + share * SIDE + offset:.2f}"


def _y(share: float, offset: float = 0) -> str:
    return f"{TOP + (1 - share) * SIDE + offset:.2f}"
