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

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.comparators.endpoint import compared
from validators.evidence import (
    CaseFlow,
    CompleteCase,
    Curves,
    EndpointEvidence,
    Evidence,
    Verdict,
)
from validators.fairness.gaps import side_among, subgroup_evidence
from validators.indeterminate import marked, number_of
from validators.leakage.evidence import LeakageEvidence, leakage_evidence, of_implausible_result
from validators.metrics import binary_measures
from validators.metrics.estimate import Estimate, shown
from validators.metrics.figure import Figure, Matrix
from validators.metrics.measure import Cases, Side, Undefined
from validators.metrics.tasks import module_of, side_of
from validators.protocol.schema import Endpoint, Protocol
from validators.robustness.evidence_of import robustness_evidence
from validators.sites.evidence_of import sites_evidence
from validators.table import asked_attributes
from validators.verdict import decide, in_sequence, judge_band, judge_goal, with_enough_patients

_OF_PREDICTIONS = "failure_rate"


class Evaluation(Evidence):
    """Everything that was computed of one run."""

    leakage: LeakageEvidence | None
    verdict: Verdict
    curves: Curves


def evaluate(table: Cases, protocol: Protocol) -> Evaluation:
    """All evidence on `table` by `protocol`; the table is that of the protocol's task type.

    Raises Invalid where the protocol asks for an attribute, patients or a comparator's column that
    the cases lack. Patients are ignored where the protocol does not cluster.
    """
    _check(table, protocol)
    case_flow = _case_flow(table, protocol)
    if not protocol.cluster:
        table = replace(table, patient=None)  # type: ignore[type-var]
    if isinstance(table, CaseTable):
        table = marked(table, protocol)
    endpoints = in_sequence(
        [_endpoint(table, endpoint, protocol) for endpoint in protocol.endpoints]
    )
    evidence = Evidence(
        endpoints=endpoints,
        complete_case=_complete_case(table, protocol),
        subgroups=tuple(subgroup_evidence(table, protocol.subgroups, protocol)),
        sites=sites_evidence(
            table, protocol, lambda chosen, of: _among(table, chosen, of, protocol)
        ),
        robustness=robustness_evidence(table, protocol) if isinstance(table, CaseTable) else (),
        case_flow=case_flow,
    )
    return Evaluation(
        **dict(evidence),
        leakage=_implausible(endpoints, protocol),
        verdict=decide(protocol, evidence),
        curves=_curves(table, protocol),
    )


def _check(table: Cases, protocol: Protocol) -> None:
    missing = sorted(set(asked_attributes(protocol)) - set(table.attributes))
    if missing:
        raise Invalid(
            f"the protocol asks for the attribute {missing[0]!r}, which the cases lack; they have: "
            f"{', '.join(sorted(table.attributes)) or 'none'}"
        )
    if protocol.cluster and table.patient is None:
        raise Invalid("the protocol clusters by patient, and the cases name no patients")
    if not isinstance(table, CaseTable):
        return
    lacking = sorted(set(protocol.further_columns) - set(table.further))
    if lacking:
        raise Invalid(f"the protocol compares with {lacking[0]!r}, which was not read")
    if protocol.sampling and protocol.sampling.weights and table.weight is None:
        raise Invalid("the protocol weights the cases, and they have no weights")


def estimate(table: Cases, metric: str, protocol: Protocol, *, judged: bool = True) -> Estimate:
    """One metric with its interval at the level of one attempt."""
    tail = protocol.each_alpha
    if isinstance(table, CaseTable):
        return binary_measures.estimate(table, metric, protocol.binary, tail, judged=judged)
    settings = protocol.settings
    assert settings is not None, "the protocol's own check"
    return shown(side_of(table, metric, protocol.task, settings), tail, judged=judged)


def _endpoint(table: Cases, endpoint: Endpoint, protocol: Protocol) -> EndpointEvidence:
    judged = endpoint.rule == "gating"
    found = estimate(table, endpoint.metric, protocol, judged=judged)
    measure = protocol.measures[endpoint.metric]
    comparison = None
    if endpoint.comparator is not None and isinstance(table, CaseTable):
        comparison, outcome, reason = compared(
            table, endpoint.metric, endpoint.comparator, protocol
        )
    elif endpoint.band is not None:
        outcome, reason = judge_band(
            measure, found.value, found.interval, endpoint.band, found.note
        )
    else:
        outcome, reason = judge_goal(
            measure, found.value, found.interval, endpoint.goal, found.note
        )
    outcome, reason = with_enough_patients(outcome, reason, found.clusters)
    positives, negatives = _classes(table)
    return EndpointEvidence(
        metric=endpoint.metric, estimate=found.value, interval=found.interval, n=found.n,
        positives=positives, negatives=negatives, clusters=found.clusters,
        goal=endpoint.goal, band=endpoint.band, comparison=comparison, role=endpoint.role,
        rule=endpoint.rule, outcome=outcome, reason=reason,
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
    asked = {of.metric: of.rule == "gating" for of in protocol.endpoints}
    asked.pop(_OF_PREDICTIONS, None)
    found = [(metric, estimate(complete, metric, protocol, judged=judged))
             for metric, judged in asked.items()]  # fmt: skip
    return tuple(
        CompleteCase(metric=metric, estimate=of.value, interval=of.interval, n=of.n)
        for metric, of in found
    )


def _curves(table: Cases, protocol: Protocol) -> Curves:
    if isinstance(table, CaseTable):
        return Curves(figures=binary_measures.figures(table, protocol.binary, protocol.each_alpha))
    others = module_of(protocol.task).figures(table, protocol.settings)
    return Curves(
        figures=tuple(one for one in others if isinstance(one, Figure)),
        matrices=tuple(one for one in others if isinstance(one, Matrix)),
    )


def _among(
    table: Cases, chosen: NDArray[np.bool_], metric: str, protocol: Protocol
) -> Side | Undefined:
    """A metric among the chosen cases."""
    if not chosen.any():
        return Undefined("there is no case", 0, None)
    side = side_among(table, chosen, metric, protocol, failed_is_right=False)
    if side is None:
        return Undefined("these cases lack a class that the metric needs", int(chosen.sum()), None)
    return side


def _implausible(
    endpoints: Sequence[EndpointEvidence], protocol: Protocol
) -> LeakageEvidence | None:
    """Results that are too good; None where the protocol has no ceiling."""
    if protocol.leakage is None:
        return None
    ceilings = {of.metric: of.value for of in protocol.leakage.ceilings}
    found = {of.metric: of for of in endpoints if of.metric in ceilings and of.interval}
    return leakage_evidence(
        tuple(
            of_implausible_result(metric, of.interval.low, ceilings[metric], of.n)
            for metric, of in found.items()
            if of.interval is not None
        )
    )


def _case_flow(table: Cases, protocol: Protocol) -> CaseFlow:
    failed = int(table.failed.sum())
    positives, negatives = _classes(table)
    return CaseFlow(
        sealed=table.n, excluded=dict(table.excluded), scored=table.n - failed,
        failed=failed, failed_by_code=dict(table.failed_by_code), positives=positives,
        negatives=negatives,
        patients=None if table.patient is None else len(np.unique(table.patient)),
        indeterminate=number_of(table, protocol) if isinstance(table, CaseTable) else None,
    )  # fmt: skip
