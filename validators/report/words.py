"""The words of the report: rules, outcomes and numbers as people read them."""

from validators.evidence import Interval, Report

OUTCOMES = {
    "pass": "pass",
    "fail": "fail",
    "insufficient_evidence": "insufficient evidence",
    "not_judged": "not judged",
    "conditional": "pass with conditions",
}
METRICS = {
    "auc": "AUC",
    "brier": "Brier score",
    "calibration_slope": "calibration slope",
    "failure_rate": "failure rate",
}


def rule_in_words(rule: str) -> str:
    """'subgroup:sex=female:auc' as 'AUC where sex is female'."""
    kind, _, rest = rule.partition(":")
    if kind == "endpoint":
        return metric_in_words(rest)
    if kind == "subgroup":
        where, _, metric = rest.rpartition(":")
        attribute, _, group = where.partition("=")
        return f"{metric_in_words(metric)} where {attribute.replace('_', ' ')} is {group}"
    return rule.replace("_", " ")


def metric_in_words(metric: str) -> str:
    """'calibration_slope' as 'calibration slope'."""
    return METRICS.get(metric, metric.replace("_", " "))


def reason_in_words(report: Report) -> str:
    """The verdict's reason with each rule's id put in words."""
    reason = report.verdict.reason
    for rule in sorted(report.verdict.rules, key=lambda rule: -len(rule.id)):
        reason = reason.replace(rule.id, rule_in_words(rule.id))
    return reason


def conditions_in_words(report: Report) -> list[str]:
    """The conditions with each rule's id put in words."""
    found = []
    for condition in report.verdict.conditions:
        text = condition
        for rule in sorted(report.verdict.rules, key=lambda rule: -len(rule.id)):
            text = text.replace(rule.id, rule_in_words(rule.id))
        found.append(text)
    return found


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
