"""`report.html`: the complete report as one file that needs nothing else, on screen and on paper.

    >>> page = report_html(report)

Rules
-----
1. One file: no script, no font, no image, no link but within the page, nothing fetched. The
   Content-Security-Policy forbids everything but this page's own style sheet, named by its hash.
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
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from registry.trust.canonical import sha256_bytes
from validators.evidence import Report
from validators.metrics.figure import Figure
from validators.report import words
from validators.report.build import report_bytes
from validators.report.drawing import figure_plot
from validators.report.flow import flow_diagram
from validators.report.forests import (
    comparison_plot,
    drawn,
    drop_plot,
    endpoint_plot,
    hospital_plot,
    subgroup_tables,
)
from validators.report.standards import NOT_ASSESSED, mapped

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
        flow=drawn(flow_diagram(report)),
        endpoints=endpoint_plot(report.endpoints),
        compared=[found for found in report.endpoints if found.comparison is not None],
        comparisons=comparison_plot(report.endpoints),
        subgroups=list(subgroup_tables(report.subgroups)),
        within=[found for found in report.subgroups if found.within_sites is not None],
        hospitals=[(found, hospital_plot(found)) for found in report.sites],
        drops=drop_plot(report.robustness),
        pilot=words.PILOT_MODES.get(report.pilot_mode, report.pilot_mode),
        complete=_complete(report),
        standards=mapped(report),
        not_assessed=NOT_ASSESSED,
        figures=[(drawn(figure_plot(one)), one) for one in _figures(report)],
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
        "sentence": words.sentence,
        "outcome": lambda outcome: words.OUTCOMES[outcome],
    }
    return templates


def _figures(report: Report) -> Sequence[Figure]:
    return report.curves.figures if report.curves else ()


def _complete(report: Report) -> list[dict[str, Any]]:
    """Endpoint as judged and with failed cases left out, side by side."""
    judged = {of.metric: of for of in report.endpoints if of.comparison is None}
    return [
        {"judged": judged[row.metric], "complete": row}
        for row in report.complete_case
        if row.metric in judged and row.metric != "failure_rate"
    ]
