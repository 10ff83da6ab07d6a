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
    SubgroupEvidence,
    Verdict,
)
from validators.fairness.gaps import subgroup_evidence
from validators.metrics import binary
from validators.metrics.calibration import calibration_bins, calibration_slope
from validators.metrics.estimate import Estimate
from validators.protocol.schema import Endpoint, Protocol
from validators.verdict import decide, judge_goal

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


def evaluate(table: CaseTable, protocol: Protocol) -> Evaluation:
    """All evidence on `table` by `protocol`.

    Raises Invalid where the protocol asks for an attribute or patients that the cases lack.
    Patients are ignored where the protocol does not cluster.
    """
    missing = sorted({rule.attribute for rule in protocol.subgroups} - set(table.attributes))
    if missing:
        raise Invalid(
            f"the protocol asks for the attribute {missing[0]!r}, which the cases lack; they have: "
            f"{', '.join(sorted(table.attributes)) or 'none'}"
        )
    if protocol.cluster and table.patient is None:
        raise Invalid("the protocol clusters by patient, and the cases name no patients")
    case_flow = _case_flow(table)
    if not protocol.cluster:
        table = replace(table, patient=None)
    endpoints = tuple(_endpoint(table, endpoint, protocol) for endpoint in protocol.endpoints)
    subgroups = tuple(
        row for rule in protocol.subgroups for row in subgroup_evidence(table, rule, protocol)
    )
    return Evaluation(
        endpoints=endpoints,
        complete_case=_complete_case(table, protocol),
        subgroups=subgroups,
        case_flow=case_flow,
        verdict=decide(protocol, endpoints, subgroups, case_flow.failed, case_flow.sealed),
        curves=Curves(roc=binary.roc_curve(table), calibration=calibration_bins(table)),
    )


def estimate(table: CaseTable, metric: str, protocol: Protocol) -> Estimate:
    """One metric with its interval at 1 - 2 alpha."""
    level = 1 - 2 * protocol.alpha
    if metric == "calibration_slope":
        return calibration_slope(table, level)
    return binary.estimate(table, metric, protocol.threshold, level)


def _endpoint(table: CaseTable, endpoint: Endpoint, protocol: Protocol) -> EndpointEvidence:
    found = estimate(table, endpoint.metric, protocol)
    outcome, reason = judge_goal(
        endpoint.metric, found.value, found.interval, endpoint.goal, found.note
    )
    positives = int(table.positive.sum())
    return EndpointEvidence(
        metric=endpoint.metric, estimate=found.value, interval=found.interval, n=found.n,
        positives=positives, negatives=len(table.score) - positives, clusters=found.clusters,
        goal=endpoint.goal, role=endpoint.role, rule=endpoint.rule, outcome=outcome, reason=reason,
    )  # fmt: skip


def _complete_case(table: CaseTable, protocol: Protocol) -> tuple[CompleteCase, ...]:
    """The endpoints with failed cases left out; none unless some failed and both classes remain.

    The failure rate has no complete-case value: it would be 0 of whatever is left.
    """
    kept = ~table.failed
    if kept.all() or len(np.unique(table.reference[kept])) < 2:
        return ()
    complete = replace(
        table,
        reference=table.reference[kept],
        score=table.score[kept],
        patient=None if table.patient is None else table.patient[kept],
        attributes={},
        failed_by_code={},
    )
    metrics = [of.metric for of in protocol.endpoints if of.metric != _OF_PREDICTIONS]
    found = [(metric, estimate(complete, metric, protocol)) for metric in metrics]
    return tuple(
        CompleteCase(metric=metric, estimate=of.value, interval=of.interval, n=of.n)
        for metric, of in found
    )


def _case_flow(table: CaseTable) -> CaseFlow:
    failed, positives = int(table.failed.sum()), int(table.positive.sum())
    return CaseFlow(
        sealed=len(table.score), excluded=dict(table.excluded), scored=len(table.score) - failed,
        failed=failed, failed_by_code=dict(table.failed_by_code), positives=positives,
        negatives=len(table.score) - positives,
        patients=None if table.patient is None else len(np.unique(table.patient)),
    )  # fmt: skip
