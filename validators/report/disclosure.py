"""What of a report leaves the facility, and for whom: the one function that releases.

    >>> release(report, "innovator_open", protocol.disclosure)["outcome"]
    'not_pass'
    >>> release(report, "certified", protocol.disclosure)["endpoints"][0]["interval"]
    {'high': 0.86, 'level': 0.95, 'low': 0.69, 'method': 'Clopper-Pearson'}

Rules
-----
1. `innovator_open`, while attempts are open: protocol, model digest and one bit. On pure noise 200
   looks at full scores lift the AUC of 300 cases to .68; pass or not pass leaves it at .50.
2. `certified`: estimates rounded to `decimals`, intervals rounded outward, so that rounding never
   makes a result look better than it is.
3. Counts of groups below `minimum_group` are withheld, and as many more as keep subtraction from
   giving them away (`validators.report.suppression`). With a count go the rate, the interval and
   the gap that were computed on it, and what was decided on it: rate and interval give n away.
4. Failures are one number under one code; 1 to k - 1 are withheld, and so is the failure rate.
   Where any case failed no gap is shown: gaps count failures against the model on both sides, so
   gap plus rate would give them away.
5. Never: curves, p-values, complete-case results, counts of patients per group, the predictions'
   digest, the repeatability run's numbers, free-text reasons (they quote exact numbers).
6. Errors of a group that is shown (rate times n) are not protected when few: "2 of 110 missed" is
   what a hospital must know, and it says nothing of who is in the cohort.
7. `development`, the submitter of a run on the development cohort: of what rule 2 to 5 let through,
   what the Ladder tells (`validators.report.ladder`).
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

from validators.evidence import EndpointEvidence, Interval, Report, SubgroupEvidence
from validators.protocol.schema import Disclosure
from validators.report.build import SIGNIFICANT_DIGITS
from validators.report.ladder import Ladder, tried
from validators.report.suppression import Cell, Class, Withheld, withheld
from validators.report.words import rule_in_words

Audience = Literal["innovator_open", "certified", "development"]
SUPPRESSED = "suppressed"
_USES: dict[str, tuple[Class, ...]] = {
    "sensitivity": ("positives",),
    "specificity": ("negatives",),
}


def release(
    report: Report, audience: Audience, disclosure: Disclosure, ladder: Ladder | None = None
) -> dict[str, Any]:
    """The part of `report` that `audience` may read, as a JSON object.

    `ladder` is what the audience `development` was told before; it needs one, and no other has one.
    """
    if (audience == "development") != (ladder is not None):
        raise ValueError("the development cohort's submitter, and nobody else, has a ladder")
    if ladder is not None:
        return tried(release(report, "certified", disclosure), report, ladder, _USES)
    if audience == "innovator_open":
        return {
            "schema_id": "touchstone/released-outcome/v1",
            "protocol_id": report.protocol_id,
            "protocol_version": report.protocol_version,
            "model": report.digests.model,
            "outcome": "pass" if report.verdict.overall in ("pass", "conditional") else "not_pass",
        }
    if audience != "certified":
        raise ValueError(f"there is no audience {audience!r}")
    k, decimals = disclosure.minimum_group, disclosure.decimals
    flow = report.case_flow
    if flow.positives is None or flow.negatives is None:
        raise ValueError(f"the release of a {report.task} question is not defined yet")
    if min(flow.positives, flow.negatives) < k:
        hidden: Withheld | None = None
    else:
        hidden = withheld(_cells(report), k)
    failures = 0 < flow.failed < k
    return {
        "schema_id": "touchstone/released-report/v1",
        "protocol_id": report.protocol_id,
        "protocol_version": report.protocol_version,
        "title": report.title,
        "intended_use": report.intended_use,
        "reference_standard": report.reference_standard,
        "threshold": report.threshold,
        "alpha": report.alpha,
        "digests": report.digests.model_dump(mode="json", exclude={"predictions"}),
        "cases": _cases(report, k, hidden is None),
        "endpoints": [
            _endpoint(found, decimals, hidden is None or (failures and _counts_failures(found)))
            for found in report.endpoints
        ],
        "subgroups": [
            _subgroup(found, decimals, hidden, gaps=flow.failed == 0) for found in report.subgroups
        ],
        "verdict": _verdict(report, hidden),
        "environment": report.environment.model_dump(mode="json", exclude={"repeatability"}),
        "attribution": report.attribution,
        "statement": report.statement,
        "disclosure": {
            "minimum_group": k,
            "decimals": decimals,
            "note": (
                f"Groups of fewer than {k}, and those that would give them away, are withheld. "
                "Intervals are rounded outward."
            ),
        },
    }


def _cells(report: Report) -> dict[str, dict[str, Cell]]:
    cells: dict[str, dict[str, Cell]] = {}
    for found in report.subgroups:
        cell = Cell(found.positives or 0, found.negatives or 0)
        cells.setdefault(found.attribute, {})[found.group] = cell
    return cells


def _cases(report: Report, k: int, all_hidden: bool) -> dict[str, Any]:
    flow = report.case_flow
    # Patients beyond the first case of each are a count too: 200 cases of 197 patients.
    several = flow.patients is not None and flow.sealed - flow.patients >= k
    return {
        "n": flow.sealed if not all_hidden and flow.sealed >= k else None,
        "positives": None if all_hidden else flow.positives,
        "negatives": None if all_hidden else flow.negatives,
        "patients": flow.patients if several and (flow.patients or 0) >= k else None,
        "failed": None if 0 < flow.failed < k else flow.failed,
        "excluded": {
            reason: count if count >= k else None for reason, count in flow.excluded.items()
        },
    }


def _counts_failures(found: EndpointEvidence) -> bool:
    return found.metric == "failure_rate"


def _endpoint(found: EndpointEvidence, decimals: int, hide: bool) -> dict[str, Any]:
    return {
        "metric": found.metric,
        "estimate": None if hide else _nearest(found.estimate, decimals),
        "interval": None if hide else _outward(found.interval, decimals),
        "goal": found.goal,
        **({} if found.band is None else {"band": list(found.band)}),
        "role": found.role,
        "rule": found.rule,
        "outcome": found.outcome,
    }


def _subgroup(
    found: SubgroupEvidence, decimals: int, hidden: Withheld | None, *, gaps: bool
) -> dict[str, Any]:
    hide = _is_hidden(found, hidden)
    used = _USES.get(found.metric, ("positives", "negatives"))
    gap = None if hide or not gaps else _nearest(found.gap, decimals)
    return {
        "attribute": found.attribute,
        "group": found.group,
        "metric": found.metric,
        **{side: None if hide else getattr(found, side) for side in used},
        "estimate": None if hide else _nearest(found.estimate, decimals),
        "interval": None if hide else _outward(found.interval, decimals),
        "gap": gap,
        "gap_interval": None if hide or not gaps else _outward(found.gap_interval, decimals),
        "margin": found.margin,
        "floor": found.floor,
        "rule": found.rule,
        "outcome": SUPPRESSED if hide else found.outcome,
    }


def _is_hidden(found: SubgroupEvidence, hidden: Withheld | None) -> bool:
    used = _USES.get(found.metric, ("positives", "negatives"))
    return hidden is None or any((found.attribute, found.group, side) in hidden for side in used)


def _verdict(report: Report, hidden: Withheld | None) -> dict[str, Any]:
    """The verdict with its rules, in words without exact numbers.

    A conditional certificate must name what was not shown, also for a group whose numbers are
    withheld. That says "insufficient evidence" and not why: too few cases or too wide an interval.
    """
    secret = {
        _rule_id(found) for found in report.subgroups if _is_hidden(found, hidden)
    }  # fmt: skip
    rules = [
        {
            "id": rule.id,
            "gating": rule.gating,
            "outcome": SUPPRESSED if rule.id in secret else rule.outcome,
        }
        for rule in report.verdict.rules
    ]
    conditional = report.verdict.overall == "conditional"
    conditions = [
        f"{rule_in_words(rule.id)}: not shown; the evidence is insufficient"
        for rule in report.verdict.rules
        if conditional and rule.gating and rule.outcome == "insufficient_evidence"
    ]
    return {"overall": report.verdict.overall, "rules": rules, "conditions": conditions}


def _rule_id(found: SubgroupEvidence) -> str:
    return f"subgroup:{found.attribute}={found.group}:{found.metric}"


def _outward(interval: Interval | None, decimals: int) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {
        "low": _quantized(interval.low, decimals, ROUND_FLOOR),
        "high": _quantized(interval.high, decimals, ROUND_CEILING),
        "level": interval.level,
        "method": interval.method,
    }


def _nearest(value: float | None, decimals: int) -> float | None:
    return None if value is None else _quantized(value, decimals, ROUND_HALF_EVEN)


def _quantized(value: float, decimals: int, rounding: str) -> float:
    """`value` at `decimals`; noise beyond the report's own precision does not round outward."""
    exact = Decimal(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return float(exact.quantize(Decimal(1).scaleb(-decimals), rounding=rounding)) + 0.0
