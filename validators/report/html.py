"""`report.html`: the complete report as one file that needs nothing else, on screen and on paper.

    >>> page = report_html(report)

Rules
-----
1. One file: no script, no font, no image, nothing fetched. The Content-Security-Policy forbids
   everything but this page's own style sheet, named by its hash.
2. Every text is escaped (Jinja2 with autoescape); the figures escape their own.
3. The same report gives the same bytes: no clock, no random id.
4. What an assessor must not overlook stands first: an unsandboxed run, a table instead of a run,
   the verdict, its conditions.
5. This is the facility's copy. It holds exact numbers of small groups and never leaves.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from registry.trust.canonical import sha256_bytes
from validators.evidence import EndpointEvidence, Report, SubgroupEvidence
from validators.metrics.figure import Figure
from validators.report import words
from validators.report.build import report_bytes
from validators.report.drawing import figure_plot
from validators.report.flow import flow_diagram
from validators.report.forest import UNIT, Mark, Row, forest_plot, scale_for
from validators.report.plots import OperatingPoint, calibration_plot, roc_plot

_HERE = Path(__file__).parent


def report_html(report: Report, warning: str = "") -> str:
    """The page of a report; `warning` stands above everything."""
    templates = _templates()
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    # The element's whole content is hashed by the browser, byte for byte.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return templates.get_template("report.html.j2").render(
        report=report,
        warning=warning,
        digest=sha256_bytes(report_bytes(report)),
        style=Markup(style),  # noqa: S704  our own file
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
        reason=words.reason_in_words(report),
        conditions=words.conditions_in_words(report),
        unsandboxed=report.digests.model is not None
        and not report.environment.sandbox.get("seccomp"),
        flow=_drawn(flow_diagram(report)),
        endpoints=_drawn(_endpoint_plot(report.endpoints)),
        subgroups=list(_subgroup_tables(report.subgroups)),
        roc=_roc(report),
        calibration=_calibration(report),
        complete=_complete(report),
        figures=[(_drawn(figure_plot(one)), one) for one in _figures(report)],
        matrices=report.curves.matrices if report.curves else (),
    )


@cache
def _templates() -> Templates:
    templates = Templates(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": words.number,
        "interval": words.interval,
        "probability": words.probability,
        "metric": words.metric_in_words,
        "rule": words.rule_in_words,
        "plain": lambda text: str(text).replace("_", " "),
        "outcome": lambda outcome: words.OUTCOMES[outcome],
    }
    return templates


def _drawn(svg: str) -> Markup:
    """A figure of ours: its texts were escaped where it was made."""
    return Markup(svg)  # noqa: S704


def _endpoint_plot(endpoints: Sequence[EndpointEvidence]) -> str:
    """Endpoints between 0 and 1 on one axis; others (a slope, millimetres) are left out."""
    rows = [
        Row(
            label=words.metric_in_words(found.metric),
            estimate=found.estimate,
            low=found.interval.low if found.interval else None,
            high=found.interval.high if found.interval else None,
            outcome=found.outcome,
            goal=found.goal,
        )
        for found in endpoints
        if found.band is None and _on_unit_scale(found)
    ]
    return forest_plot(rows, title="Endpoints", axis="value, with its goal as a bar", scale=UNIT)


def _on_unit_scale(found: EndpointEvidence) -> bool:
    """Whether the estimate, its interval and its goal lie between 0 and 1."""
    shown = [found.estimate, found.goal]
    if found.interval is not None:
        shown += [found.interval.low, found.interval.high]
    return found.metric != "calibration_slope" and all(
        0 <= value <= 1 for value in shown if value is not None
    )


def _subgroup_tables(subgroups: Sequence[SubgroupEvidence]) -> Any:
    """One table and one forest plot an attribute and metric, in the protocol's order."""
    for (attribute, metric), found in groupby(subgroups, key=lambda s: (s.attribute, s.metric)):
        rows = list(found)
        first = rows[0]
        marks = [Mark(0.0, "", dashed=False)]
        if first.margin is not None:
            marks.append(Mark(first.margin, f"margin {first.margin:g}"))
        reach = [edge for row in rows if row.gap_interval is not None
                 for edge in (row.gap_interval.low, row.gap_interval.high)]  # fmt: skip
        plot = forest_plot(
            [
                Row(
                    label=row.group,
                    estimate=row.gap,
                    low=row.gap_interval.low if row.gap_interval else None,
                    high=row.gap_interval.high if row.gap_interval else None,
                    outcome=row.outcome,
                    absent="too few to tell",
                )
                for row in rows
            ],
            title=f"Gap in {words.metric_in_words(metric)} by {attribute}",
            axis=f"how far {words.metric_in_words(metric)} is behind the rest  (worse →)",
            scale=scale_for([*reach, *(mark.value for mark in marks)]),
            marks=marks,
        )
        yield {
            "attribute": attribute,
            "metric": metric,
            "rows": rows,
            "rule": first.rule,
            "margin": first.margin,
            "floor": first.floor,
            "clustered": any(row.clusters is not None for row in rows),
            "plot": _drawn(plot),
        }


def _roc(report: Report) -> Markup | None:
    if report.curves is None or len(report.curves.roc) < 2:
        return None
    found = {endpoint.metric: endpoint for endpoint in report.endpoints}
    up, across = found.get("sensitivity"), found.get("specificity")
    point = None
    locked = report.threshold
    if (
        locked is not None
        and (up and across)
        and up.estimate is not None
        and across.estimate is not None
    ):
        point = OperatingPoint(locked, up.estimate, up.interval, across.estimate, across.interval)
    return _drawn(roc_plot(report.curves.roc, point))


def _figures(report: Report) -> Sequence[Figure]:
    return report.curves.figures if report.curves else ()


def _calibration(report: Report) -> Markup | None:
    if report.curves is None or not report.curves.calibration:
        return None
    return _drawn(calibration_plot(report.curves.calibration))


def _complete(report: Report) -> list[dict[str, Any]]:
    """Endpoint as judged and with failed cases left out, side by side."""
    judged = {endpoint.metric: endpoint for endpoint in report.endpoints}
    return [
        {"judged": judged[row.metric], "complete": row}
        for row in report.complete_case
        if row.metric in judged and row.metric != "failure_rate"
    ]
