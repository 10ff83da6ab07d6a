"""A catalogue's entry as one page, in the report's own style: no script, nothing fetched.

    >>> page = catalogue_page(entry, said, conditions, manifest_digest, access_page)

Every text is escaped; the same entry gives the same bytes.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from validators.cohort.catalogue import Entry, Total
from validators.cohort.catalogue_facts import CohortFacts, Concept

_HERE = Path(__file__).parent


def catalogue_page(
    entry: Entry, said: CohortFacts | None, conditions: Mapping[str, Any], manifest_digest: str,
    access_page: str | None,
) -> str:  # fmt: skip
    """The page of one cohort version; `said` is what the facility says of it, if anything."""
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    templates = Templates(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"count": _count, "total": _total, "labels": _labels}
    return templates.get_template("catalogue.html.j2").render(
        entry=entry,
        said=said,
        conditions=conditions,
        manifest_digest=manifest_digest,
        access_page=access_page,
        style=Markup(style),  # noqa: S704  our own file
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
    )


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _total(total: Total) -> str:
    return f"about {total.about}" if total.about is not None else _count(total.count)


def _labels(concepts: Iterable[Concept]) -> str:
    return ", ".join(concept.label for concept in concepts)
