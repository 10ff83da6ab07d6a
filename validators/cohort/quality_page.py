"""The quality report as one page of HTML, without a script and without anything from elsewhere."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{border-bottom:1px solid #bbb;padding:.25rem .75rem;text-align:left}"
    "td+td,th+th{text-align:right}"
)


def quality_page(title: str, report: Mapping[str, Any]) -> str:
    """The page of a quality report. A case with a mask is positive where it is not empty."""
    parts = [
        f"<h1>Quality of staged cases</h1><p>{escape(title)}: {report['cases']} cases of "
        f"{report['patients']} patients, {report['positives']} positive and "
        f"{report['negatives']} negative.</p>",
        _counts("To be looked at before sealing", "reason", report["review"],
                "nothing; the cases can be sealed"),
        _counts("Outside the allow-list: sealing is refused", "attribute",
                report["outside_the_allow_list"], "nothing"),
        _counts("Left out", "reason", report["left_out"], "nothing"),
        _counts("Noted", "what", report["noted"], "nothing"),
    ]  # fmt: skip
    if "masks" in report:
        parts.append(_counts("Reference masks", "structure in so many cases", report["masks"], ""))
    if report["duplicates"] is not None:
        words = {name.replace("_", " "): n for name, n in report["duplicates"].items()}
        parts.append(_counts("Twice in this cohort", "what", words, ""))
    parts.append(_seen(report["seen_before"]))
    for name, attribute in report["attributes"].items():
        rows = [
            (group, of["cases"], of["positives"], of["negatives"], "small" if of["small"] else "")
            for group, of in attribute["groups"].items()
        ]
        parts.append(
            f"<h2>{escape(name)}</h2><p>known for {attribute['known']} cases, unknown for "
            f"{attribute['unknown']}</p>"
            + _table(("group", "cases", "positive", "negative", ""), rows)
        )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Quality of staged cases</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _seen(seen: Mapping[str, Any] | None) -> str:
    title = "<h2>In cohorts that this facility has sealed</h2>"
    if seen is None:
        return f"{title}<p>not compared: this was not ingested on the facility's machine</p>"
    names = ("patients", "cases", "same_pixels", "pairs_that_look_alike")
    rows = [
        (f"{of['cohort']} {of['version']}", of["use"], *(of[name] for name in names))
        for of in seen["versions"]
    ]
    found = f"<p>nothing, in {seen['compared']} versions</p>"
    if rows:
        header = ("cohort", "use", *(name.replace("_", " ") for name in names))
        found = _table(header, rows) + "<p>seen_before.csv names them, for the facility alone</p>"
    missed = "".join(
        f"<p>not compared with {escape(of['cohort'])} {escape(of['version'])}: "
        f"{escape(of['reason'])}</p>"
        for of in seen["not_compared"]
    )
    return title + found + missed


def _counts(title: str, of: str, counts: Mapping[str, int], none: str) -> str:
    shown = {name: count for name, count in counts.items() if count}
    body = _table((of, "number"), shown.items()) if shown else f"<p>{escape(none)}</p>"
    return f"<h2>{escape(title)}</h2>{body}"


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
