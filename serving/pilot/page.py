"""The page of a pilot: one HTML file that needs nothing else. For the hospital's own people.

    >>> Path("pilot.html").write_text(pilot_page(summarise(state, certified)))

Rules
-----
1. One file: no script, no font, no image, nothing fetched; the Content-Security-Policy forbids all
   but the page's own style sheet, named by its hash. Every text is escaped.
2. The same summary gives the same bytes: no clock, no random id.
3. An alarm stands first, in words. Nothing is told by colour alone, each table has headers and a
   caption, each picture a text.
4. Evidently's page (`evidently_page`) shows single patients: a file of its own, never sent.
"""

import base64
import hashlib
import html
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from serving.pilot.drift import Shift
from serving.pilot.reading import Pilot
from serving.pilot.sequential import ALPHA
from serving.pilot.summary import Summary
from validators.drift.facility import ROWS, FacilityOnly, evidently_report

_HERE = Path(__file__).parent
_ADVICE = {
    "sensitivity": "positive cases are missed more often than certified. Have the missed cases "
    "read again: is it the scanner, the protocol, another kind of patient?",
    "specificity": "negative cases are called positive more often than certified. Look at what "
    "the false calls have in common.",
    "calibration": "scores say more, or less, disease than there is. Do not read them as "
    "probabilities until it is known why; a changed share of diseased patients does this too.",
    "score": "scores are spread in another way than in the certified cohort. Look for a change of "
    "scanner, reconstruction, referral or software, on the day of the alarm and before.",
}
_ATTRIBUTE = (
    "other patients come here than in the certified cohort. Ask whether the certificate speaks of "
    "them: see the groups' results in its report."
)


def pilot_page(summary: Summary) -> str:
    """The page as text."""
    from markupsafe import Markup

    style = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rendered = (
        _templates()
        .get_template("page.html.j2")
        .render(
            of=summary,
            alpha=ALPHA,
            style=Markup(style),  # noqa: S704  our own file
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'",
            advice=lambda name: _ADVICE.get(name, _ATTRIBUTE),
            shares=lambda shift: Markup(_bars(shift)),  # noqa: S704  it escapes its own
        )
    )
    return str(rendered)


def evidently_page(pilot: Pilot, summary: Summary) -> FacilityOnly:
    """Evidently's report of scores and attributes. It shows single patients: keep it here."""
    of = summary.certified.summary
    before: dict[str, NDArray[Any]] = {}
    after: dict[str, NDArray[Any]] = {}
    if of.score is not None:
        edges = np.asarray(of.score.edges)
        middle = (edges[:-1] + edges[1:]) / 2
        before["score"] = np.repeat(middle, [round(share * ROWS) for share in of.score.shares])
        after["score"] = pilot.answers.score[np.isfinite(pilot.answers.score)]
    for name, groups in of.attributes.items():
        column = pilot.cases.attributes[name]
        if (column != "").any():
            before[name] = np.repeat(
                np.array(list(groups)), [round(share * ROWS) for share in groups.values()]
            )
            after[name] = column[column != ""]
    if not any(len(column) for column in after.values()):
        raise Invalid("there is nothing to compare yet: no score and no attribute of a case")
    return evidently_report(before, after)


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": lambda value: "–" if value is None else f"{value:.3f}",
        "interval": lambda of: "–" if of is None else f"{of.low:.3f} to {of.high:.3f}",
        "seconds": lambda value: f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s",
    }
    return templates


def _bars(of: Shift) -> str:
    """Shares here as filled bars and the certified ones as outlines, with their numbers."""
    total = max(sum(of.here), 1)
    here = [count / total for count in of.here]
    top = max(*here, *of.certified, 1e-9)
    parts, row = [], 26
    told = []
    for number, (label, share, then) in enumerate(
        zip(of.labels, here, of.certified, strict=True)
    ):  # fmt: skip
        y = number * row
        shown = html.escape(label)
        parts.append(
            f'<text x="0" y="{y + 16}">{shown}</text>'
            f'<rect class="here" x="170" y="{y + 5}" width="{420 * share / top:.1f}" height="14"/>'
            f'<rect class="then" x="170" y="{y + 3}" width="{420 * then / top:.1f}" height="18"/>'
            f'<text x="610" y="{y + 16}">{100 * share:.1f} % here, {100 * then:.1f} %</text>'
        )
        told.append(f"{shown}: {100 * share:.1f} % here, {100 * then:.1f} % certified")
    return (
        f'<svg viewBox="0 0 760 {row * len(of.labels)}" role="img" '
        f'aria-label="{"; ".join(told)}">{"".join(parts)}</svg>'
    )
