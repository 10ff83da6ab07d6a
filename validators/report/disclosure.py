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
   giving them away, within the cohort and from another version of it
   (`validators.report.suppression`). With a count go the rate, the interval and the gap that were
   computed on it, and what was decided on it: rate and interval give n away.
4. Failures are one number under one code; 1 to k - 1 are withheld, and so is the failure rate.
   Where any case failed no gap is shown, also not within hospitals: gaps count failures against
   the model on both sides, so gap plus rate would give them away. Of perturbed runs the drop's
   interval goes where the run, or the one before it, had 1 to k - 1 failures.
5. Hospitals hold the data: no row of a hospital leaves, no group that is made of hospitals, no
   rule that names one. What they share leaves where each of at least five has k of each class.
6. Of drift one bit an attribute, where all cells can be counted. Of the search for leakage nothing.
   Indeterminate answers are counted by rule 3.
7. Never: curves, p-values, complete-case results, counts of patients per group, the predictions'
   digest, the repeatability run's numbers, free-text reasons (they quote exact numbers).
8. Errors of a group that is shown (rate times n) are not protected when few: "2 of 110 missed" is
   what a hospital must know, and it says nothing of who is in the cohort.
9. A question without two classes is counted by cases (`validators.report.withheld`, rule 3).
10. `development`, the submitter of a run on the development cohort: of what these rules let
    through, what the Ladder tells (`validators.report.ladder`).
11. `monitoring`, a hospital that pilots the model: the shares that drift is measured against
    (`validators.report.reference_summary`), of scores in bins of k cases, and of groups as above.
12. Against the certified version before: whose they are; values by rules 2 and 3; the difference
    where the certified version failed nowhere, and the new one not 1 to k - 1 times; changed sides
    where neither direction, nor the unchanged, has 1 to k - 1 cases.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from validators.evidence import EndpointEvidence, Report, RuleVerdict, SubgroupEvidence
from validators.protocol.schema import Disclosure
from validators.report.disclosed_parts import (
    comparison_released,
    drift_released,
    predecessor_released,
    run_released,
    sites_released,
    within_released,
)
from validators.report.ladder import Ladder, tried
from validators.report.reference_summary import summary_released
from validators.report.rounding import nearest, outward
from validators.report.withheld import USES, CountTable, Hidden, is_binary
from validators.report.words import metric_in_words, rule_in_words

Audience = Literal["innovator_open", "certified", "development", "monitoring"]
SUPPRESSED = "suppressed"


def release(
    report: Report,
    audience: Audience,
    disclosure: Disclosure,
    others: Sequence[CountTable] = (),
    ladder: Ladder | None = None,
    score: str = "score",
) -> dict[str, Any]:
    """The part of `report` that `audience` may read, as a JSON object.

    `others` are the manifests of the other locked versions of the same cohort. `ladder` is what the
    audience `development` was told before; it needs one, and no other has one. `score` is what the
    contract calls the score, for `monitoring`.
    """
    if (audience == "development") != (ladder is not None):
        raise ValueError("the development cohort's submitter, and nobody else, has a ladder")
    if ladder is not None:
        return tried(release(report, "certified", disclosure, others), report, ladder, USES)
    if audience == "innovator_open":
        return {
            "schema_id": "touchstone/released-outcome/v1",
            "protocol_id": report.protocol_id,
            "protocol_version": report.protocol_version,
            "model": report.digests.model,
            "outcome": "pass" if report.verdict.overall in ("pass", "conditional") else "not_pass",
        }
    hidden = Hidden.of(report, disclosure, others)
    if audience not in ("certified", "monitoring"):
        raise ValueError(f"there is no audience {audience!r}")
    certified = _certified(report, hidden, disclosure.decimals)
    if audience == "monitoring":
        return summary_released(report, certified, hidden, score)
    return certified


def _certified(report: Report, hidden: Hidden, decimals: int) -> dict[str, Any]:
    cases, before = _cases(report, hidden), report.predecessor
    return {
        "schema_id": "touchstone/released-report/v1",
        "protocol_id": report.protocol_id,
        "protocol_version": report.protocol_version,
        "title": report.title,
        "task": report.task,
        "intended_use": report.intended_use,
        "reference_standard": report.reference_standard,
        "sampling": report.sampling,
        "indeterminate": report.indeterminate,
        "pilot_mode": report.pilot_mode,
        "regulatory_references": list(report.regulatory_references),
        "threshold": report.threshold,
        "alpha": report.alpha,
        "digests": report.digests.model_dump(mode="json", exclude={"predictions"}),
        "cases": cases,
        "endpoints": [_endpoint(found, decimals, hidden) for found in report.endpoints],
        "subgroups": [
            _subgroup(found, decimals, hidden)
            for found in report.subgroups
            if not hidden.is_of_hospitals(found.attribute)
        ],
        "sites": [sites_released(found, hidden, decimals) for found in report.sites],
        "robustness": [run_released(run, hidden, decimals) for run in report.robustness],
        "drift": drift_released(hidden),
        **(
            {}
            if before is None
            else {"predecessor": predecessor_released(before, cases, hidden, decimals)}
        ),
        "verdict": _verdict(report, hidden),
        "environment": report.environment.model_dump(mode="json", exclude={"repeatability"}),
        "attribution": report.attribution,
        "statement": report.statement,
        "disclosure": {
            "minimum_group": hidden.k,
            "decimals": decimals,
            "note": (
                f"Groups of fewer than {hidden.k}, and those that would give them away, are "
                "withheld. Intervals are rounded outward."
            ),
        },
    }


def _cases(report: Report, hidden: Hidden) -> dict[str, Any]:
    flow, k = report.case_flow, hidden.k
    # Patients beyond the first case of each are a count too: 200 cases of 197 patients.
    several = flow.patients is not None and flow.sealed - flow.patients >= k
    counted = several and (flow.patients or 0) >= k and not hidden.patients
    classes = {
        side: None if side in hidden.classes else getattr(flow, side)
        for side in ("positives", "negatives")
        if is_binary(report)
    }
    return {
        "n": None if hidden.classes else flow.sealed,
        **classes,
        "patients": flow.patients if counted else None,
        "failed": None if hidden.few_failed else flow.failed,
        **_indeterminate(flow.indeterminate, flow.sealed, hidden),
        "excluded": {
            reason: count if count >= k else None for reason, count in flow.excluded.items()
        },
    }


def _indeterminate(count: int | None, n: int, hidden: Hidden) -> dict[str, int | None]:
    """Nothing where the protocol knows no such answers; few, or all but few, are withheld."""
    if count is None:
        return {}
    return {"indeterminate": None if hidden.few(count) or hidden.few(n - count) else count}


def _endpoint(found: EndpointEvidence, decimals: int, hidden: Hidden) -> dict[str, Any]:
    hide = hidden.hides_endpoint(found)
    compared = found.comparison
    return {
        "metric": found.metric,
        "estimate": None if hide else nearest(found.estimate, decimals),
        "interval": None if hide else outward(found.interval, decimals),
        "goal": found.goal,
        **({} if found.band is None else {"band": list(found.band)}),
        **(
            {}
            if compared is None
            else {"comparison": comparison_released(compared, decimals, hide=hide)}
        ),
        "role": found.role,
        "rule": found.rule,
        "outcome": found.outcome,
    }


def _subgroup(found: SubgroupEvidence, decimals: int, hidden: Hidden) -> dict[str, Any]:
    hide = hidden.hides_group(found)
    gaps = not hide and hidden.report.case_flow.failed == 0
    within = within_released(found, decimals) if gaps else None
    counts = hidden.uses(found.metric) if is_binary(hidden.report) else ("n",)
    return {
        "attribute": found.attribute,
        "group": found.group,
        "metric": found.metric,
        **{count: None if hide else getattr(found, count) for count in counts},
        "estimate": None if hide else nearest(found.estimate, decimals),
        "interval": None if hide else outward(found.interval, decimals),
        "gap": nearest(found.gap, decimals) if gaps else None,
        "gap_interval": outward(found.gap_interval, decimals) if gaps else None,
        **({} if within is None else {"within_sites": within}),
        "margin": found.margin,
        "floor": found.floor,
        "rule": found.rule,
        "outcome": SUPPRESSED if hide else found.outcome,
    }


def _verdict(report: Report, hidden: Hidden) -> dict[str, Any]:
    """The verdict with its rules, in words without exact numbers.

    A conditional certificate must name what was not shown, also for a group whose numbers are
    withheld. That says "insufficient evidence" and not why: too few cases or too wide an interval.
    """
    groups = {_rule_id(found): found for found in report.subgroups}
    of_hospitals = {
        name for name, found in groups.items() if hidden.is_of_hospitals(found.attribute)
    }
    secret = {name for name, found in groups.items() if hidden.hides_group(found)}
    rules = [
        {
            "id": rule.id,
            "gating": rule.gating,
            "outcome": SUPPRESSED if rule.id in secret else rule.outcome,
        }
        for rule in report.verdict.rules
        if rule.id not in of_hospitals
    ]
    conditions = dict.fromkeys(
        f"{in_words}: not shown; the evidence is insufficient"
        for in_words in _open_rules(report, of_hospitals)
    )
    return {"overall": report.verdict.overall, "rules": rules, "conditions": list(conditions)}


def _open_rules(report: Report, of_hospitals: set[str]) -> Iterator[str]:
    """The gating rules that a conditional verdict leaves open, none of which names a hospital."""
    if report.verdict.overall != "conditional":
        return
    for rule in report.verdict.rules:
        if rule.gating and rule.outcome == "insufficient_evidence":
            yield _of_a_hospital(rule) if rule.id in of_hospitals else rule_in_words(rule.id)


def _of_a_hospital(rule: RuleVerdict) -> str:
    return f"{metric_in_words(rule.id.rpartition(':')[2])} within single hospitals"


def _rule_id(found: SubgroupEvidence) -> str:
    return f"subgroup:{found.attribute}={found.group}:{found.metric}"
