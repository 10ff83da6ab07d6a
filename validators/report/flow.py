"""The flow of cases as SVG text, as STARD 2015 (item 19) asks: from considered to judged.

>>> svg = flow_diagram(report)
"""

import re
from collections.abc import Sequence
from html import escape
from textwrap import wrap

from validators.evidence import EndpointEvidence, Report

WIDTH = 700.0
_LINE, _PAD, _GAP = 17.0, 9.0, 26.0
_MAIN, _ASIDE = (150.0, 260.0), (460.0, 238.0)
_MOST_LINES = 8
_WIDEST = 34  # characters that fit into a box at the side
Box = tuple[float, float, float, float]


def flow_diagram(report: Report) -> str:
    """Excluded, sealed, failed, and each class above and below the threshold."""
    flow = report.case_flow
    excluded, top = sum(flow.excluded.values()), 4.0
    parts: list[str] = []
    if excluded:
        box = _box(_MAIN, top, [f"{flow.sealed + excluded} cases considered"], parts)
        below = _aside(box, [f"{excluded} excluded", *_listed(flow.excluded)], parts)
        top = max(box[1] + box[3], below) + _GAP
        _arrow_down(box, top, parts)
    kind = "sealed in the cohort" if report.digests.cohort_root else "in the table"
    lines = [f"{flow.sealed} cases {kind}"]
    if flow.patients is not None:
        lines.append(f"of {flow.patients} patients")
    box = _box(_MAIN, top, lines, parts)
    below = box[1] + box[3]
    if flow.failed:
        aside = [f"{flow.failed} without a usable prediction", *_listed(flow.failed_by_code)]
        below = max(below, _aside(box, [*aside, "kept, and counted as wrong"], parts))
    if flow.indeterminate is not None:
        aside = [f"{flow.indeterminate} indeterminate answers", *_counted_as(report)]
        next_to = below + _PAD if flow.failed else box[1]
        below = max(below, _aside(box, aside, parts, next_to))
    last = max(box[1] + box[3], below) + _GAP
    bottoms = []
    for left, lines in _classes(report):
        made = _box((left, 250.0), last, lines, parts)
        _elbow(box, made, parts)
        bottoms.append(made[1] + made[3])
    height = max(bottoms) + 4
    described = f"{flow.sealed} cases, {flow.failed} failed"
    if flow.positives is not None:
        described += f", {flow.positives} positive"
    return (
        f'<svg class="flow" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img">'
        f"<title>Flow of cases</title><desc>{escape(described)}</desc>{''.join(parts)}</svg>"
    )


def _classes(report: Report) -> list[tuple[float, list[str]]]:
    """What stands below: both classes of a binary question, the scored cases of any other."""
    flow = report.case_flow
    if flow.positives is None or flow.negatives is None:
        return [(155.0, [f"{flow.scored} with a prediction"])]
    return [
        (20.0, _positive(report, flow.positives)),
        (290.0, _negative(report, flow.negatives)),
    ]


def _positive(report: Report, n: int) -> list[str]:
    lines = [f"{n} positive by the reference"]
    right = _right(report.endpoints, "sensitivity", n)
    if right is not None:
        lines += [f"{right} found", f"{n - right} missed"]
    return lines


def _negative(report: Report, n: int) -> list[str]:
    lines = [f"{n} negative by the reference"]
    right = _right(report.endpoints, "specificity", n)
    if right is not None:
        lines += [f"{right} cleared", f"{n - right} flagged in vain"]
    return lines


def _right(endpoints: Sequence[EndpointEvidence], metric: str, n: int) -> int | None:
    for found in endpoints:
        if found.metric == metric and found.estimate is not None:
            return round(found.estimate * n)
    return None


def _counted_as(report: Report) -> list[str]:
    """How they count, from the protocol's sentence; they stay among the classes below."""
    found = re.search(r"count as (positive|negative|wrong)", report.indeterminate)
    return [found[0].replace("count", "counted")] if found else []


def _listed(counts: dict[str, int]) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{count} {reason.replace('_', ' ')}" for reason, count in ordered[:_MOST_LINES]]
    rest = sum(count for _, count in ordered[_MOST_LINES:])
    if rest:
        lines.append(f"{rest} for other reasons")
    return [part for line in lines for part in wrap(line, _WIDEST)]


def _box(place: tuple[float, float], top: float, lines: Sequence[str], parts: list[str]) -> Box:
    left, width = place
    height = 2 * _PAD + _LINE * len(lines)
    parts.append(
        f'<rect class="box" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" rx="4"/>'
    )
    for index, line in enumerate(lines):
        kind = "strong" if index == 0 else "name"
        short = line if len(line) <= 38 else line[:37] + "…"
        parts.append(
            f'<text class="{kind}" x="{left + 12:.0f}" '
            f'y="{top + _PAD + _LINE * (index + 1) - 5:.0f}">'
            f"{escape(short)}<title>{escape(line)}</title></text>"
        )
    return (left, top, width, height)


def _aside(box: Box, lines: Sequence[str], parts: list[str], top: float | None = None) -> float:
    """A box to the right of `box`, joined to it; returns where it ends. `top`: below another."""
    made = _box(_ASIDE, box[1] if top is None else top, lines, parts)
    y = made[1] + min(box[3], made[3]) / 2
    end = box[0] + box[2]
    if y < box[1] + box[3]:
        parts.append(_path(f"M{end:.0f} {y:.0f}H{made[0] - 1:.0f}"))
    else:
        parts.append(_path(f"M{end - 20:.0f} {box[1] + box[3]:.0f}V{y:.0f}H{made[0] - 1:.0f}"))
    return made[1] + made[3]


def _arrow_down(box: Box, to: float, parts: list[str]) -> None:
    x = box[0] + box[2] / 2
    parts.append(_path(f"M{x:.0f} {box[1] + box[3]:.0f}V{to - 1:.0f}"))


def _elbow(upper: Box, lower: Box, parts: list[str]) -> None:
    x, to = upper[0] + upper[2] / 2, lower[0] + lower[2] / 2
    middle = lower[1] - _GAP / 2
    parts.append(
        _path(f"M{x:.0f} {upper[1] + upper[3]:.0f}V{middle:.0f}H{to:.0f}V{lower[1] - 1:.0f}")
    )


def _path(data: str) -> str:
    return f'<path class="arrow" d="{data}" marker-end="url(#tip)"/>'
