"""From a table of cases and a protocol to all evidence and the verdict. Pure and deterministic.

>>> evaluation = evaluate(table, protocol)
>>> evaluation.verdict.overall
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

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
from validators.protocol.schema import Endpoint, Protocol
from validators.verdict import decide, judge_goal


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
    """All evidence on `table` by `protocol`; raises Invalid where an asked attribute is missing."""
    missing = sorted({rule.attribute for rule in protocol.subgroups} - set(table.attributes))
    if missing:
        raise Invalid(
            f"the protocol asks for the attribute {missing[0]}, which the cases lack; they have: "
            f"{', '.join(sorted(table.attributes)) or 'none'}"
        )
    if protocol.cluster and table.patient is None:
        raise Invalid("the protocol clusters by patient, and the cases name none")
    endpoints = tuple(_endpoint(table, endpoint, protocol) for endpoint in protocol.endpoints)
    subgroups = tuple(
        row for rule in protocol.subgroups for row in subgroup_evidence(table, rule, protocol)
    )
    failed = int(table.failed.sum())
    return Evaluation(
        endpoints=endpoints,
        complete_case=_complete_case(table, protocol) if failed else (),
        subgroups=subgroups,
        case_flow=_case_flow(table, failed),
        verdict=decide(protocol, endpoints, subgroups, failed, len(table.score)),
        curves=Curves(roc=binary.roc_curve(table), calibration=binary.calibration_bins(table)),
    )


def estimate(table: CaseTable, metric: str, protocol: Protocol) -> binary.Estimate:
    """One metric with its interval at 1 - 2 alpha."""
    level = 1 - 2 * protocol.alpha
    by_name: dict[str, Callable[[], binary.Estimate]] = {
        "sensitivity": partial(
            binary.share_right, table, protocol.threshold, level, of_positives=True
        ),
        "specificity": partial(
            binary.share_right, table, protocol.threshold, level, of_positives=False
        ),
        "auc": partial(binary.auc, table, level),
        "brier": partial(binary.brier, table, level),
        "calibration_slope": partial(binary.calibration_slope, table, level),
        "failure_rate": partial(binary.failure_rate, table, level),
    }
    return by_name[metric]()


def _endpoint(table: CaseTable, endpoint: Endpoint, protocol: Protocol) -> EndpointEvidence:
    found = estimate(table, endpoint.metric, protocol)
    outcome, reason = judge_goal(endpoint.metric, found.interval, endpoint.goal)
    positives = int(table.positive.sum())
    return EndpointEvidence(
        metric=endpoint.metric, estimate=found.value, interval=found.interval, n=found.n,
        positives=positives, negatives=len(table.score) - positives, clusters=found.clusters,
        goal=endpoint.goal, role=endpoint.role, rule=endpoint.rule, outcome=outcome,
        reason=f"{reason} ({found.note})" if found.note else reason,
    )  # fmt: skip


def _complete_case(table: CaseTable, protocol: Protocol) -> tuple[CompleteCase, ...]:
    """The endpoints with failed cases left out; none where a class would be empty."""
    kept = ~table.failed
    if len(np.unique(table.reference[kept])) < 2:
        return ()
    complete = replace(
        table,
        reference=table.reference[kept],
        score=table.score[kept],
        patient=None if table.patient is None else table.patient[kept],
        attributes={name: column[kept] for name, column in table.attributes.items()},
    )
    rows = []
    for endpoint in protocol.endpoints:
        found = estimate(complete, endpoint.metric, protocol)
        rows.append(CompleteCase(metric=endpoint.metric, estimate=found.value,
                                 interval=found.interval, n=found.n))  # fmt: skip
    return tuple(rows)


def _case_flow(table: CaseTable, failed: int) -> CaseFlow:
    positives = int(table.positive.sum())
    return CaseFlow(
        sealed=len(table.score), excluded=dict(table.excluded), scored=len(table.score) - failed,
        failed=failed, failed_by_code=dict(table.failed_by_code), positives=positives,
        negatives=len(table.score) - positives,
        patients=None if table.patient is None else len(np.unique(table.patient)),
    )  # fmt: skip
