"""The drops that a protocol asks for, from a table that holds the perturbed runs' scores.

Rules
-----
1. One piece of evidence a perturbed run, one drop for each metric asked of it.
2. A run that is not in the table (`touchstone assess` without its column) is not skipped: each of
   its rules is insufficient evidence, and says so.
3. Sensitivity and specificity are taken at the locked threshold, as for the run itself.
"""

import numpy as np

from validators.cases import CaseTable
from validators.indeterminate import marked
from validators.protocol.questions import RobustnessRule
from validators.protocol.schema import Protocol
from validators.robustness.drop import judge_drop
from validators.robustness.evidence import DropEvidence, RobustnessEvidence
from validators.robustness.severity import Perturbation
from validators.verdict import with_enough_patients


def robustness_evidence(table: CaseTable, protocol: Protocol) -> tuple[RobustnessEvidence, ...]:
    """What the protocol's `robustness` asks for; `table.further` holds scores by perturbation."""
    return tuple(_of_run(table, of, protocol) for of in protocol.perturbations)


def _of_run(table: CaseTable, perturbation: Perturbation, protocol: Protocol) -> RobustnessEvidence:
    rules = [rule for rule in protocol.robustness if rule.perturbation == perturbation]
    scores = table.further.get(perturbation.name)
    if scores is None:
        drops = tuple(_missing(rule) for rule in rules)
    else:
        changed = marked(table.scored_by(scores), protocol)
        drops = tuple(_drop(table, changed, rule, protocol) for rule in rules)
    return RobustnessEvidence(
        perturbation=perturbation,
        amount=perturbation.amount,
        unit=perturbation.unit,
        cases=table.n,
        failed=None if scores is None else int(np.isnan(scores).sum()),
        drops=drops,
    )


def _drop(
    table: CaseTable, changed: CaseTable, rule: RobustnessRule, protocol: Protocol
) -> DropEvidence:
    found = judge_drop(
        table, changed, rule.metric, threshold=protocol.binary.threshold,
        maximum_drop=rule.maximum_drop, alpha=protocol.each_alpha,
    )  # fmt: skip
    outcome, reason = with_enough_patients(found.outcome, found.reason, found.clusters)
    return found.model_copy(update={"rule": rule.rule, "outcome": outcome, "reason": reason})


def _missing(rule: RobustnessRule) -> DropEvidence:
    return DropEvidence(
        metric=rule.metric, n=0, positives=0, negatives=0, clusters=None, clean=None, changed=None,
        drop=None, interval=None, maximum_drop=rule.maximum_drop, rule=rule.rule,
        outcome="insufficient_evidence", reason="this perturbed run was not made",
    )  # fmt: skip
