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
from validators.report.words import PILOT_MODES, metric_in_words, sentence

WIDTH = 80


def model_label(
    released: Mapping[str, Any], *, model: str, conditions: Sequence[str], not_after: dt.datetime
) -> str:
    """The label of a report released for `certified`; `not_after` is the certificate's last day."""
    decimals = int(released["disclosure"]["decimals"])
    mode = str(released["pilot_mode"])
    lines = [f"INVESTIGATIONAL: FOR A CLINICAL PILOT IN {mode.upper()} MODE", "=" * WIDTH]
    lines += _field("Model", model)
    lines += _field("Until", f"{not_after:%Y-%m-%d}")
    lines += _field("Protocol", f"{released['protocol_id']} {released['protocol_version']}")
    if released["threshold"] is not None:
        lines += _field("Threshold", f"a score of {released['threshold']} or more is positive")
    if released["indeterminate"]:
        lines += _field("In between", released["indeterminate"])
    if released["regulatory_references"]:
        lines += _field("A pilot needs", "; ".join(released["regulatory_references"]))
    if conditions:
        lines += ["", "CONDITIONS", "-" * WIDTH]
        lines += [line for text in conditions for line in _bullet(text)]
    lines += ["", "INTENDED USE", "-" * WIDTH]
    for name, value in released["intended_use"].items():
        if value not in (None, ""):
            lines += _field(str(name).capitalize(), str(value))
    lines += _field("Reference", released["reference_standard"])
    if released["sampling"]:
        lines += _field("Sampling", released["sampling"])
    lines += ["", f"MEASURED ON {_counted(released['cases'])}", "-" * WIDTH]
    lines += [_row("", "value", "interval", "goal", "outcome")]
    alone = [found for found in released["endpoints"] if "comparison" not in found]
    lines += [_endpoint(found, decimals) for found in alone]
    for found in alone:
        if "band" in found:
            low, high = found["band"]
            name = metric_in_words(found["metric"])
            lines += _bullet(f"The band of {name} is {low:g} to {high:g}.")
    lines += _against_others(released["endpoints"], decimals)
    lines += _hospitals(released["sites"], decimals)
    lines += _disturbed(released["robustness"], decimals)
    lines += ["", "GROUPS AGAINST THE REST (gap: how far the group is behind)", "-" * WIDTH]
    lines += list(_groups(released["subgroups"], decimals))
    lines += ["", "WHAT THIS DOES NOT SAY", "-" * WIDTH]
    lines += _bullet(str(released["statement"]))
    lines += _bullet(f"It is not a CE mark. {sentence(PILOT_MODES.get(mode, mode))}.")
    lines += _bullet(str(released["disclosure"]["note"]))
    if released["attribution"]:
        lines += ["", "DATA", "-" * WIDTH, *wrap(str(released["attribution"]), WIDTH)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _counted(cases: Mapping[str, Any]) -> str:
    if cases["n"] is None:
        return "A COHORT TOO SMALL TO BE COUNTED HERE"
    patients = f" OF {cases['patients']} PATIENTS" if cases["patients"] else ""
    positive = f", {cases['positives']} POSITIVE" if "positives" in cases else ""
    return f"{cases['n']} CASES{patients}{positive}"


def _endpoint(found: Mapping[str, Any], decimals: int) -> str:
    goal = "-" if found["goal"] is None else f"{found['goal']:g}"
    if "band" in found:
        goal = "band"
    return _row(
        metric_in_words(found["metric"]),
        _number(found["estimate"], decimals),
        _interval(found["interval"], decimals),
        goal,
        _outcome(found),
    )


def _against_others(rows: Sequence[Mapping[str, Any]], decimals: int) -> list[str]:
    compared = [(found, found["comparison"]) for found in rows if "comparison" in found]
    if not compared:
        return []
    lines = ["", "AGAINST OTHERS, ON THE SAME CASES", "-" * WIDTH]
    lines += [_row("", "differs", "interval", "above", "outcome")]
    for found, of in compared:
        name = f"{metric_in_words(found['metric'])} - {of['name'].replace('_', ' ')}"
        lines.append(
            _row(
                name,
                _number(of["difference"], decimals),
                _interval(of["interval"], decimals),
                f"{-of['margin']:g}",
                _outcome(found),
            )
        )
    return lines


def _hospitals(rows: Sequence[Mapping[str, Any]], decimals: int) -> list[str]:
    """What another hospital could expect; without numbers where hospitals can't be counted."""
    if not rows:
        return []
    lines = ["", "IN ANOTHER HOSPITAL LIKE THOSE MEASURED", "-" * WIDTH]
    lines += [_row("", "mean", "could be", "floor", "outcome")]
    for found in rows:
        name = metric_in_words(found["metric"])
        if found["hospitals"] is not None:
            name += f", {found['hospitals']} hospitals"
        floor = "-" if found["floor"] is None else f"{found['floor']:g}"
        lines.append(
            _row(
                name,
                "withheld" if found["mean"] is None else _number(found["mean"], decimals),
                _interval(found["prediction"], decimals),
                floor,
                _outcome(found),
            )
        )
    return lines


def _disturbed(runs: Sequence[Mapping[str, Any]], decimals: int) -> list[str]:
    if not runs:
        return []
    lines = ["", "UNDER DISTURBANCE OF THE INPUTS (drop: before less after)", "-" * WIDTH]
    lines += [_row("", "drop", "interval", "most", "outcome")]
    for run in runs:
        done = f"{run['kind'].replace('_', ' ')}, {run['amount']:g} {run['unit']}"
        for drop in run["drops"]:
            lines.append(
                _row(
                    f"{metric_in_words(drop['metric'])}: {done}",
                    _number(drop["drop"], decimals),
                    _interval(drop["interval"], decimals),
                    f"{drop['maximum_drop']:g}",
                    _outcome(drop),
                )
            )
    return lines


def _groups(rows: Sequence[Mapping[str, Any]], decimals: int) -> Iterator[str]:
    heading = None
    for found in rows:
        if heading != (heading := (found["attribute"], found["metric"])):
            name = f"{heading[0].replace('_', ' ')}: {metric_in_words(heading[1])}"
            yield _row(name, "value", "interval", "gap", "outcome")
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
            if found.get("within_sites", {}).get("reversal", "none") != "none":
                yield "    ! within hospitals the gap has the other sign"
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
