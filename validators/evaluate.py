"""From a table of cases and a protocol to all evidence and the verdict. Pure and deterministic.

    >>> evaluation = evaluate(table, protocol)
    >>> evaluation.verdict.overall
    'pass'

Rules
-----
1. The same table and protocol give the same evaluation, bit by bit; the order of cases does not
   matter beyond rounding.
2. No number is NaN or infinite: what can't be computed is None, and its reason says why.
3. A failed prediction never improves an outcome.
4. Where patients cluster and fewer than 30 are behind a number, it decides nothing.
"""

from dataclasses import dataclass, replace

import numpy as np

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.evidence import (
    CaseFlow,
    CompleteCase,
    Curves,
    EndpointEvidence,
    Interval,
    SubgroupEvidence,
    Verdict,
)
from validators.fairness.gaps import subgroup_evidence
from validators.intervals.bootstrap import FEWEST_PATIENTS
from validators.metrics import binary, binary_clinical
from validators.metrics.calibration import calibration_bins, calibration_slope
from validators.metrics.decision_curve import decision_curve
from validators.metrics.estimate import Estimate
from validators.metrics.figure import Figure, Matrix
from validators.metrics.measure import Cases, Undefined
from validators.metrics.tasks import module_of, side_of
from validators.protocol.schema import Endpoint, Protocol
from validators.verdict import decide, in_sequence, judge_band, judge_goal

_OF_PREDICTIONS = "failure_rate"


@dataclass(frozen=True)
class Evaluation:
    """Everything that was computed of one run."""

    endpoints: tuple[EndpointEvidence, ...]
    complete_case: tuple[CompleteCase, ...]
    subgroups: tuple[SubgroupEvidence, ...]
    case_flow: CaseFlow
    verdict: Verdict
    curves: Curves


def evaluate(table: Cases, protocol: Protocol) -> Evaluation:
    """All evidence on `table` by `protocol`; the table is that of the protocol's task type.

    Raises Invalid where the protocol asks for an attribute or patients that the cases lack.
    Patients are ignored where the protocol does not cluster.
    """
    asked = {name for rule in protocol.subgroups for name in rule.attributes}
    missing = sorted(asked - set(table.attributes))
    if missing:
        raise Invalid(
            f"the protocol asks for the attribute {missing[0]!r}, which the cases lack; they have: "
            f"{', '.join(sorted(table.attributes)) or 'none'}"
        )
    if protocol.cluster and table.patient is None:
        raise Invalid("the protocol clusters by patient, and the cases name no patients")
    case_flow = _case_flow(table)
    if not protocol.cluster:
        table = replace(table, patient=None)  # type: ignore[type-var]
    endpoints = in_sequence(
        [_endpoint(table, endpoint, protocol) for endpoint in protocol.endpoints]
    )
    subgroups = tuple(
        row for rule in protocol.subgroups for row in subgroup_evidence(table, rule, protocol)
    )
    return Evaluation(
        endpoints=endpoints,
        complete_case=_complete_case(table, protocol),
        subgroups=subgroups,
        case_flow=case_flow,
        verdict=decide(protocol, endpoints, subgroups, case_flow.failed, case_flow.sealed),
        curves=_curves(table, protocol),
    )


def estimate(table: Cases, metric: str, protocol: Protocol) -> Estimate:
    """One metric with its interval at the level of one attempt."""
    level = 1 - 2 * protocol.each_alpha
    if isinstance(table, CaseTable):
        if metric == "calibration_slope":
            return calibration_slope(table, level)
        if metric in binary_clinical.MEASURES:
            return binary_clinical.estimate(
                table, metric, threshold=protocol.threshold or 0.0, level=level,
                prevalence=protocol.intended_use.prevalence,
                decision_threshold=next(iter(protocol.decision_thresholds), None),
            )  # fmt: skip
        return binary.estimate(table, metric, protocol.threshold or 0.0, level)
    settings = protocol.settings
    assert settings is not None, "the protocol's own check"
    found = side_of(table, metric, protocol.task, settings)
    if isinstance(found, Undefined):
        return Estimate(found.value, None, found.n, found.clusters, found.reason)
    low, high = found.gating(protocol.each_alpha)
    interval = Interval(low=low, high=high, level=level, method=found.method)
    return Estimate(found.value, interval, found.n, found.clusters)


def _endpoint(table: Cases, endpoint: Endpoint, protocol: Protocol) -> EndpointEvidence:
    found = estimate(table, endpoint.metric, protocol)
    measure = protocol.measures[endpoint.metric]
    if endpoint.band is not None:
        outcome, reason = judge_band(
            measure, found.value, found.interval, endpoint.band, found.note
        )
    else:
        outcome, reason = judge_goal(
            measure, found.value, found.interval, endpoint.goal, found.note
        )
    if found.clusters is not None and found.clusters < FEWEST_PATIENTS and outcome != "not_judged":
        reason = (
            f"it stands on {found.clusters} of the at least {FEWEST_PATIENTS} patients that are "
            f"needed to judge by; {reason}"
        )
        outcome = "insufficient_evidence"
    positives, negatives = _classes(table)
    return EndpointEvidence(
        metric=endpoint.metric, estimate=found.value, interval=found.interval, n=found.n,
        positives=positives, negatives=negatives, clusters=found.clusters,
        goal=endpoint.goal, band=endpoint.band, role=endpoint.role, rule=endpoint.rule,
        outcome=outcome, reason=reason,
    )  # fmt: skip


def _classes(table: Cases) -> tuple[int | None, int | None]:
    """Positives and negatives of a binary question."""
    if not isinstance(table, CaseTable):
        return None, None
    positives = int(table.positive.sum())
    return positives, len(table.score) - positives


def _complete_case(table: Cases, protocol: Protocol) -> tuple[CompleteCase, ...]:
    """The endpoints with failed cases left out; none unless some failed and enough remains.

    The failure rate has no complete-case value: it would be 0 of whatever is left.
    """
    kept = ~table.failed
    if kept.all() or not kept.any():
        return ()
    if isinstance(table, CaseTable) and len(np.unique(table.reference[kept])) < 2:
        return ()
    complete = table.subset(kept)
    metrics = [of.metric for of in protocol.endpoints if of.metric != _OF_PREDICTIONS]
    found = [(metric, estimate(complete, metric, protocol)) for metric in metrics]
    return tuple(
        CompleteCase(metric=metric, estimate=of.value, interval=of.interval, n=of.n)
        for metric, of in found
    )


def _curves(table: Cases, protocol: Protocol) -> Curves:
    if isinstance(table, CaseTable):
        drawn = decision_curve(table, protocol.decision_thresholds, protocol.each_alpha)
        return Curves(
            roc=binary.roc_curve(table), calibration=calibration_bins(table), figures=drawn
        )
    others = module_of(protocol.task).figures(table, protocol.settings)
    return Curves(
        figures=tuple(one for one in others if isinstance(one, Figure)),
        matrices=tuple(one for one in others if isinstance(one, Matrix)),
    )


def _case_flow(table: Cases) -> CaseFlow:
    failed = int(table.failed.sum())
    positives, negatives = _classes(table)
    return CaseFlow(
        sealed=table.n, excluded=dict(table.excluded), scored=table.n - failed,
        failed=failed, failed_by_code=dict(table.failed_by_code), positives=positives,
        negatives=negatives,
        patients=None if table.patient is None else len(np.unique(table.patient)),
    )  # fmt: skip
