"""The words of the report: rules, metrics, outcomes and numbers as people read them.

A metric is called what its task type calls it (`MEASURES`); there is no second list of names.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from validators.evidence import Interval, Report
from validators.metrics.measure import Measure
from validators.metrics.tasks import BINARY, FAILURE_RATE

OUTCOMES = {
    "pass": "pass",
    "fail": "fail",
    "insufficient_evidence": "insufficient evidence",
    "not_judged": "not judged",
    "conditional": "pass with conditions",
    "clear": "clear",
    "held_for_review": "held for review",
}
PILOT_MODES = {
    "shadow": "in shadow mode: no result reaches the care of a patient",
    "assistive": "assistive: a clinician sees the result and decides",
}
_OTHER_TASKS = ("multiclass", "detection", "segmentation", "regression", "time_to_event")
_PEOPLE = ("Brier", "Dice", "Hausdorff")
_PERTURBED = re.compile(r"(?P<kind>.+?)_(?P<severity>[1-5])_(?P<tensor>.+)")


def rule_in_words(rule: str) -> str:
    """'subgroup:sex=female:auc' as 'AUC where sex is female'."""
    kind, _, rest = rule.partition(":")
    if kind == "endpoint":
        metric, _, comparator = rest.partition(" against ")
        against = f" against {comparator.replace('_', ' ')}" if comparator else ""
        return metric_in_words(metric) + against
    if kind == "subgroup":
        where, _, metric = rest.rpartition(":")
        attribute, _, group = where.partition("=")
        return f"{metric_in_words(metric)} where {attribute.replace('_', ' ')} is {group}"
    if kind == "sites":
        return f"{metric_in_words(rest)} in another hospital like these"
    if kind == "robustness":
        name, _, metric = rest.rpartition(":")
        return f"drop of {metric_in_words(metric)} under {perturbation_in_words(name)}"
    if rule == "indeterminate_share":
        return "share of indeterminate answers"
    return metric_in_words(rule)


def perturbation_in_words(name: str) -> str:
    """'noise_3_image' as 'noise of severity 3 on image'."""
    found = _PERTURBED.fullmatch(name)
    if found is None:
        return name.replace("_", " ")
    kind, tensor = (found[part].replace("_", " ") for part in ("kind", "tensor"))
    return f"{kind} of severity {found['severity']} on {tensor}"


def metric_in_words(metric: str) -> str:
    """'calibration_slope' as 'calibration slope', 'dice_gland' as 'Dice, gland'."""
    labels = _labels()
    if metric in labels:
        return labels[metric]
    kinds = [kind for kind in labels if metric.startswith(f"{kind}_")]
    if not kinds:
        return metric.replace("_", " ")
    kind = max(kinds, key=len)
    rest = metric[len(kind) + 1 :].replace("_", " ")
    return f"{labels[kind]} at {rest}" if kind.endswith("_at") else f"{labels[kind]}, {rest}"


def sentence(text: str) -> str:
    """`text` with its first letter large."""
    return text[:1].upper() + text[1:]


@cache
def _labels() -> Mapping[str, str]:
    """The label of each metric of all task types, a binary question's first."""
    found = {name: of.label for name, of in BINARY.items()}
    found[FAILURE_RATE.name] = FAILURE_RATE.label
    for task in _OTHER_TASKS:
        module: Any = import_module(f"validators.metrics.{task}")
        measures: Mapping[str, Measure] = module.MEASURES
        for name, of in measures.items():
            found.setdefault(name, _within_a_sentence(of.label))
    return found


def _within_a_sentence(label: str) -> str:
    first = label.split(" ", 1)[0]
    named = first in _PEOPLE or first.endswith("'s") or not first[1:].islower()
    return label if named and "-" not in first else label[:1].lower() + label[1:]


def reason_in_words(report: Report) -> str:
    """The verdict's reason with each rule's id put in words."""
    return _worded(report.verdict.reason, report)


def conditions_in_words(report: Report) -> list[str]:
    """The conditions with each rule's id put in words."""
    return [_worded(condition, report) for condition in report.verdict.conditions]


def _worded(text: str, report: Report) -> str:
    for rule in sorted(report.verdict.rules, key=lambda rule: -len(rule.id)):
        text = text.replace(rule.id, rule_in_words(rule.id))
    return text


def predecessor_in_words(section: Mapping[str, Any]) -> list[str]:
    """Two lines on the certified version before, of a report's section or of its released form."""
    of = section["certified"]
    line = f"against the certified version {of['version']}"
    if section["not_compared"]:
        return [f"{line}: {section['not_compared']}"]
    found = [
        f"{metric_in_words(row['metric'])} {number(row['difference'])} "
        f"({number(row['interval']['low'])} to {number(row['interval']['high'])})"
        for row in section["endpoints"]
        if row["interval"] is not None
    ]
    lines = [f"{line}, new less certified: {'; '.join(found) or 'no difference to show'}"]
    changed = section["changed"]
    if changed is not None and changed["to_positive"] is not None:
        lines.append(
            f"changed sides: {changed['to_positive']} to positive, {changed['to_negative']} to "
            "negative; this decides nothing"
        )
    return lines


def number(value: float | None) -> str:
    """Three decimals, or a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def interval(value: Interval | None) -> str:
    """'0.691 to 0.851'."""
    return "–" if value is None else f"{number(value.low)} to {number(value.high)}"


def probability(value: float | None) -> str:
    """A p-value: two digits, never zero."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
