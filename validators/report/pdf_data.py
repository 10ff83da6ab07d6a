"""What `report.typ` prints: the released report as texts in the order in which people read them.

    >>> pdf_data(released, NamedRun("lumen/nodule-net 3", "Test facility"), not_after)["title"]
    'Validation report: lumen/nodule-net 3'

Numbers are texts already, with the protocol's decimals; only what a forest plot draws is a number.
"""

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from validators.report.disclosure import SUPPRESSED
from validators.report.pdf_further import further_parts
from validators.report.pdf_words import (
    Json,
    Released,
    interval_text,
    kind_of,
    number_text,
    outcome_cells,
)
from validators.report.words import PILOT_MODES, metric_in_words, rule_in_words, sentence

_VERDICTS = {
    "pass": ("Passed", "Every rule that decides was met."),
    "conditional": ("Passed with conditions", "No rule that decides was missed; some stay open."),
    "fail": ("Failed", "At least one rule that decides was missed."),
    "insufficient_evidence": ("Insufficient evidence", "The cases do not decide the rules."),
}
_MOST_TICKS = 6


class NamedRun(NamedTuple):
    """Which model it is about, and who ran it."""

    model: str
    facility: str


def pdf_data(released: Released, run: NamedRun, not_after: dt.datetime) -> Json:
    """All that the document says, as JSON values."""
    decimals = int(released["disclosure"]["decimals"])
    overall, mode = str(released["verdict"]["overall"]), str(released["pilot_mode"])
    pilot = PILOT_MODES.get(mode, mode)
    verdict, explanation = _VERDICTS[overall]
    return {
        "title": f"Validation report: {run.model}",
        "model": run.model,
        "facility": run.facility,
        "keywords": ["validation", "investigational", str(released["protocol_id"])],
        "banner": f"INVESTIGATIONAL. For a clinical pilot {pilot}. Not a CE mark.",
        "banner-short": "investigational",
        "footer": f"{released['protocol_id']} {released['protocol_version']}, until "
        f"{not_after:%Y-%m-%d}",
        "verdict": {"sentence": verdict, "explanation": explanation, "kind": kind_of(overall)},
        "facts": list(_facts(released, run, not_after)),
        "conditions": [sentence(of) for of in released["verdict"]["conditions"]],
        "use": list(_use(released)),
        "rules-note": "Fixed before the first run. Gating rules decide; reported ones are shown.",
        "rules": [_rule(of) for of in released["verdict"]["rules"]],
        "counted": _counted(released),
        "interval-head": _interval_head(released),
        "endpoints": [_endpoint(of, decimals) for of in released["endpoints"]],
        "endpoint-plot": _endpoint_plot(released["endpoints"], decimals),
        "further": list(further_parts(released, decimals)),
        "groups-note": "The gap is how far a group is behind the rest of the cohort; an interval "
        "that reaches zero leaves open whether it is behind at all. "
        f"{released['disclosure']['note']}",
        "groups": list(_groups(released["subgroups"], decimals)),
        "limits": list(_limits(released, pilot)),
        "digests": _digests(released),
    }


def _facts(released: Released, run: NamedRun, not_after: dt.datetime) -> Iterator[Json]:
    yield _fact("Model", run.model)
    yield _fact("Facility", run.facility)
    yield _fact("Certified until", f"{not_after:%Y-%m-%d}, if not suspended or revoked before")
    name = f"{released['protocol_id']} {released['protocol_version']}"
    title = f" ({released['title']})" if released["title"] else ""
    yield _fact("Protocol", name + title)
    yield _fact("Question", str(released["task"]).replace("_", " "))
    if released["threshold"] is not None:
        yield _fact("Threshold", f"a score of {released['threshold']:g} or more is positive")
    if released["indeterminate"]:
        yield _fact("In between", released["indeterminate"])


def _use(released: Released) -> Iterator[Json]:
    for name, value in released["intended_use"].items():
        if value not in (None, ""):
            yield _fact(sentence(str(name).replace("_", " ")), str(value))
    yield _fact("Reference standard", released["reference_standard"])
    if released["sampling"]:
        yield _fact("Sampling", released["sampling"])
    if released["regulatory_references"]:
        yield _fact("A pilot needs", "; ".join(released["regulatory_references"]))


def _rule(rule: Released) -> Json:
    return {
        "rule": sentence(rule_in_words(rule["id"])),
        "part": "gating" if rule["gating"] else "reported",
        **outcome_cells(rule["outcome"]),
    }


def _counted(released: Released) -> str:
    cases = released["cases"]
    said = ["the number of cases is withheld" if cases["n"] is None else f"{cases['n']} cases"]
    if cases.get("positives") is not None and cases.get("negatives") is not None:
        said.append(f"{cases['positives']} positive and {cases['negatives']} negative")
    if cases["patients"] is not None:
        said.append(f"{cases['patients']} patients")
    if cases["failed"] is not None:
        said.append(f"{cases['failed']} failed predictions, which count against the model")
    return sentence("; ".join(said)) + "."


def _interval_head(released: Released) -> str:
    rows = [*released["endpoints"], *released["subgroups"]]
    levels = {of["interval"]["level"] for of in rows if of["interval"] is not None}
    return f"{min(levels) * 100:.4g} % interval" if len(levels) == 1 else "interval"


def _endpoint(found: Released, decimals: int) -> Json:
    of = found.get("comparison")
    measure = metric_in_words(found["metric"])
    if of is not None:
        return {
            "measure": sentence(f"{measure}, less that of {str(of['name']).replace('_', ' ')}"),
            "value": number_text(of["difference"], decimals),
            "interval": interval_text(of["interval"], decimals),
            "goal": f"-{of['margin']:g} or more".replace("-", "−"),
            **outcome_cells(found["outcome"]),
        }
    goal = "–" if found["goal"] is None else f"{found['goal']:g}"
    if "band" in found:
        goal = f"{found['band'][0]:g} to {found['band'][1]:g}"
    return {
        "measure": sentence(measure),
        "value": number_text(found["estimate"], decimals),
        "interval": interval_text(found["interval"], decimals),
        "goal": goal,
        **outcome_cells(found["outcome"]),
    }


def _endpoint_plot(endpoints: Sequence[Released], decimals: int) -> Json | None:
    """Endpoints between 0 and 1 on one axis; others (a slope, millimetres) stand in the table."""
    rows = [
        _drawn(metric_in_words(of["metric"]), of["estimate"], of["interval"], of)
        | {"limit": of["goal"]}
        for of in endpoints
        if "comparison" not in of and "band" not in of and of["estimate"] is not None
    ]
    rows = [row for row in rows if all(0 <= value <= 1 for value in _values(row))]
    if not rows:
        return None
    said = "; ".join(_aloud(row, decimals) for row in rows)
    return {
        "rows": rows,
        "low": 0.0,
        "high": 1.0,
        "zero": False,
        "ticks": [{"at": at / 5, "label": f"{at / 5:g}"} for at in range(6)],
        "axis": "value with its interval; the black bar is the goal",
        "alt": f"Endpoints with their intervals. {said}.",
    }


def _groups(rows: Sequence[Released], decimals: int) -> Iterator[Json]:
    for (attribute, metric), found in groupby(rows, key=lambda of: (of["attribute"], of["metric"])):
        of_groups = list(found)
        measure, first = metric_in_words(metric), of_groups[0]
        limits = []
        if first["margin"] is not None:
            limits.append(f"margin {first['margin']:g}")
        if first["floor"] is not None:
            limits.append(f"floor {first['floor']:g}")
        name = f"{sentence(measure)} by {str(attribute).replace('_', ' ')}"
        yield {
            "title": name + (f" ({', '.join(limits)})" if limits else ""),
            "rows": [_group(of, decimals) for of in of_groups],
            "plot": _gap_plot(of_groups, name, decimals),
        }


def _group(found: Released, decimals: int) -> Json:
    shown = found["outcome"] != SUPPRESSED
    reversed_within = found.get("within_sites", {}).get("reversal", "none") != "none"
    note = " (within hospitals the gap has the other sign)" if reversed_within else ""
    return {
        "group": str(found["group"]) + note,
        "value": number_text(found["estimate"], decimals) if shown else "withheld",
        "interval": interval_text(found["interval"], decimals),
        "gap": number_text(found["gap"], decimals),
        "gap-interval": interval_text(found["gap_interval"], decimals),
        **outcome_cells(found["outcome"]),
    }


def _gap_plot(rows: Sequence[Released], name: str, decimals: int) -> Json | None:
    """Gaps on an axis of their own, with the margin marked; None where none is shown."""
    drawn = [
        _drawn(str(of["group"]), of["gap"], of["gap_interval"], of) | {"limit": of["margin"]}
        for of in rows
        if of["gap"] is not None
    ]
    if not drawn:
        return None
    ticks = _ticks([0.0, *(value for row in drawn for value in _values(row))])
    return {
        "rows": drawn,
        "low": ticks[0],
        "high": ticks[-1],
        "zero": True,
        "ticks": [{"at": at, "label": f"{at:g}".replace("-", "−")} for at in ticks],
        "axis": "gap: how far the group is behind the rest (worse to the right); the black bar "
        "is the margin",
        "alt": f"Gaps. {name}. {'; '.join(_aloud(row, decimals) for row in drawn)}.",
    }


def _drawn(label: str, estimate: float, interval: Released | None, found: Released) -> Json:
    return {
        "label": label,
        "estimate": estimate,
        "low": None if interval is None else interval["low"],
        "high": None if interval is None else interval["high"],
        "kind": kind_of(found["outcome"]),
        "absent": "withheld",
    }


def _values(row: Json) -> list[float]:
    names = ("estimate", "low", "high", "limit")
    return [row[name] for name in names if row[name] is not None]


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around all of `values`, at most _MOST_TICKS steps apart."""
    low, high = min(values), max(values)
    step = 0.01
    for step in (m * 10.0**e for e in range(-2, 12) for m in (1, 2, 5)):
        if math.ceil(high / step) - math.floor(low / step) <= _MOST_TICKS:
            break
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) + 0.0 for number in range(first, max(last, first + 1) + 1)]


def _aloud(row: Json, decimals: int) -> str:
    said = f"{row['label']} {number_text(row['estimate'], decimals)}"
    if row["low"] is None:
        return said
    return f"{said}, {row['low']:.{decimals}f} to {row['high']:.{decimals}f}".replace("-", "−")


def _limits(released: Released, pilot: str) -> Iterator[str]:
    yield str(released["statement"])
    yield f"It is not a CE mark. It holds for a clinical pilot {pilot}."
    for rule in released["verdict"]["rules"]:
        if rule["outcome"] == "fail":
            yield f"The protocol's limit was missed, without deciding: {rule_in_words(rule['id'])}."
    yield str(released["disclosure"]["note"])
    if released["attribution"]:
        yield f"Data: {released['attribution']}"


def _digests(released: Released) -> list[Json]:
    made = {
        name.replace("_", " "): str(value)
        for name, value in released["digests"].items()
        if value is not None
    }
    environment = released["environment"]
    versions = ", ".join(f"{name} {of}" for name, of in sorted(environment["versions"].items()))
    ran = {"software": versions, "provider": ", ".join(environment["providers"])}
    return [_fact(sentence(name), value) for name, value in (made | ran).items() if value]


def _fact(name: str, value: str) -> Json:
    return {"name": name, "value": value}
