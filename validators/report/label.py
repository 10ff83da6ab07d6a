"""The model label: one page of plain text that goes with a certified model.

    >>> print(model_label(released, model="lumen/nodule-net 3", conditions=(), not_after=last_day))

Rules
-----
1. It is made of the released report alone, so it can say nothing that was withheld.
2. Conditions stand before numbers. What the certificate does not say stands on it too.
3. Plain UTF-8 text, at most 80 columns, the same bytes for the same inputs.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from validators.report.disclosure import SUPPRESSED

WIDTH = 80


def model_label(
    released: Mapping[str, Any], *, model: str, conditions: Sequence[str], not_after: dt.datetime
) -> str:
    """The label of a report released for `certified`; `not_after` is the certificate's last day."""
    decimals = int(released["disclosure"]["decimals"])
    lines = ["INVESTIGATIONAL: FOR A CLINICAL PILOT IN SHADOW MODE", "=" * WIDTH]
    lines += _field("Model", model)
    lines += _field("Until", f"{not_after:%Y-%m-%d}")
    lines += _field("Protocol", f"{released['protocol_id']} {released['protocol_version']}")
    lines += _field("Threshold", f"a score of {released['threshold']} or more is positive")
    if conditions:
        lines += ["", "CONDITIONS", "-" * WIDTH]
        lines += [line for text in conditions for line in _bullet(text)]
    lines += ["", "INTENDED USE", "-" * WIDTH]
    for name, value in released["intended_use"].items():
        if value not in (None, ""):
            lines += _field(str(name).capitalize(), str(value))
    lines += _field("Reference", released["reference_standard"])
    lines += ["", f"MEASURED ON {_counted(released['cases'])}", "-" * WIDTH]
    lines += [_row("", "value", "interval", "goal", "outcome")]
    lines += [_endpoint(found, decimals) for found in released["endpoints"]]
    for found in released["endpoints"]:
        if "band" in found:
            low, high = found["band"]
            name = found["metric"].replace("_", " ")
            lines += _bullet(f"The band of {name} is {low:g} to {high:g}.")
    lines += ["", "GROUPS AGAINST THE REST (gap: how far the group is behind)", "-" * WIDTH]
    lines += list(_groups(released["subgroups"], decimals))
    lines += ["", "WHAT THIS DOES NOT SAY", "-" * WIDTH]
    lines += _bullet(str(released["statement"]))
    lines += _bullet("It is not a CE mark. In shadow mode no result reaches the care of a patient.")
    lines += _bullet(str(released["disclosure"]["note"]))
    if released["attribution"]:
        lines += ["", "DATA", "-" * WIDTH, *wrap(str(released["attribution"]), WIDTH)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _counted(cases: Mapping[str, Any]) -> str:
    if cases["n"] is None:
        return "A COHORT TOO SMALL TO BE COUNTED HERE"
    patients = f" OF {cases['patients']} PATIENTS" if cases["patients"] else ""
    return f"{cases['n']} CASES{patients}, {cases['positives']} POSITIVE"


def _endpoint(found: Mapping[str, Any], decimals: int) -> str:
    goal = "-" if found["goal"] is None else f"{found['goal']:g}"
    if "band" in found:
        goal = "band"
    return _row(
        found["metric"].replace("_", " "),
        _number(found["estimate"], decimals),
        _interval(found["interval"], decimals),
        goal,
        _outcome(found),
    )


def _groups(rows: Sequence[Mapping[str, Any]], decimals: int) -> Iterator[str]:
    heading = None
    for found in rows:
        if heading != (heading := (found["attribute"], found["metric"])):
            yield _row(f"{heading[0].replace('_', ' ')}: {heading[1]}", "value", "interval",
                       "gap", "outcome")  # fmt: skip
        if found["outcome"] == SUPPRESSED:
            yield _row(f"  {found['group']}", "withheld", "", "", "")
        else:
            yield _row(
                f"  {found['group']}",
                _number(found["estimate"], decimals),
                _interval(found["interval"], decimals),
                _number(found["gap"], decimals),
                _outcome(found),
            )
    if heading is None:
        yield "none were asked for"


def _row(name: str, value: str, interval: str, goal: str, outcome: str) -> str:
    return f"{name[:32]:<33}{value:>8}  {interval:<14}{goal:>6}  {outcome[:15]:<15}"


def _outcome(found: Mapping[str, Any]) -> str:
    return str(found["outcome"]).removesuffix("_evidence").replace("_", " ")


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _interval(interval: Mapping[str, Any] | None, decimals: int) -> str:
    if interval is None:
        return "-"
    return f"{interval['low']:.{decimals}f} to {interval['high']:.{decimals}f}"


def _field(name: str, value: str) -> list[str]:
    body = wrap(value, WIDTH - 16) or [""]
    return [f"{name + ':':<16}{body[0]}", *(" " * 16 + line for line in body[1:])]


def _bullet(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
