"""A new version of a model against the certified one, on the same cases. Descriptive.

    >>> found = against_certified(new, old, protocol, earlier, certified, evaluation.endpoints)
    >>> found.endpoints[0].difference, found.endpoints[0].interval

Rules
-----
1. Unit: the case; clusters: patients, where the new protocol clusters. Both tables hold the same
   cases, row by row, and metrics are asked as the new protocol asks them.
2. Each version decides at the threshold, and with the indeterminate range, of the protocol that it
   was run by. So a change of the threshold alone shows too.
3. Difference: new less certified, in the metric's own unit. Sensitivity, specificity, false
   positive rate and AUC: `validators.metrics.binary_pairs`. Brier score: `paired_losses`. Failure
   rate, Dice, NSD, HD95: Gaffke's bound of the mean of the cases' differences
   (`validators.intervals.mean`), on the scale from one end of the metric to the other. Anything
   else has no difference here, and says so.
4. Intervals are two-sided at .95 whatever the protocol's alpha: they judge nothing.
5. A failed prediction is the worst for the new version and the best for the certified one, so
   silence never flatters the new one. Of the failure rate itself it is what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.comparators.predecessor_evidence import (
    CertifiedVersion,
    ChangedSides,
    PredecessorEvidence,
    VersionDifference,
)
from validators.evaluate import estimate
from validators.evidence import EndpointEvidence
from validators.indeterminate import marked
from validators.intervals.mean import mean
from validators.intervals.paired import paired_losses
from validators.intervals.proportion import Pair
from validators.metrics import binary_measures
from validators.metrics.binary_pairs import paired
from validators.metrics.estimate import number_of_patients
from validators.metrics.measure import Cases, Measure, Side
from validators.metrics.segmentation_table import SegmentationTable
from validators.outcome import Interval
from validators.protocol.schema import Protocol

TAIL = 0.025
_MEANS = ("dice_", "nsd_", "hd95_")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Difference:
    value: float
    ends: Pair
    method: str
    n: int
    clusters: int | None


def against_certified(
    new: Cases,
    old: Cases,
    protocol: Protocol,
    earlier: Protocol,
    certified: CertifiedVersion,
    endpoints: Sequence[EndpointEvidence],
) -> PredecessorEvidence:
    """Both versions on the same cases, for each metric among `endpoints`, which are the new one's.

    `old` are the certified version's predictions of the same cases, `earlier` the protocol that it
    was run by. Raises Invalid where the tables do not hold the same cases.
    """
    if isinstance(new, CaseTable) and isinstance(old, CaseTable):
        new, old = marked(new, protocol), marked(old, earlier)
    if new.n != old.n:
        raise Invalid("the certified version's table does not hold the same cases")
    found = {of.metric: of.estimate for of in reversed(endpoints)}
    named = dict.fromkeys(of.metric for of in endpoints)
    return PredecessorEvidence(
        certified=certified,
        threshold=earlier.decided_at,
        failed=int(old.failed.sum()),
        endpoints=tuple(
            _endpoint(new, old, metric, protocol, earlier, found[metric]) for metric in named
        ),
        changed=_changed(new, old, protocol, earlier),
    )


def _endpoint(
    new: Cases, old: Cases, metric: str, protocol: Protocol, earlier: Protocol, value: float | None
) -> VersionDifference:
    found = _difference(new, old, metric, protocol, earlier)
    of = None if isinstance(found, str) else found
    return VersionDifference(
        metric=metric,
        certified=_value(old, metric, protocol, earlier),
        new=value,
        difference=None if of is None else of.value,
        interval=None
        if of is None
        else Interval(low=of.ends[0], high=of.ends[1], level=1 - 2 * TAIL, method=of.method),
        n=new.n if of is None else of.n,
        clusters=number_of_patients(new.patient) if of is None else of.clusters,
        reason=found if isinstance(found, str) else "",
    )


def _value(old: Cases, metric: str, protocol: Protocol, earlier: Protocol) -> float | None:
    """The certified version's own, at its own threshold."""
    if isinstance(old, CaseTable):
        settings = replace(protocol.binary, threshold=earlier.binary.threshold)
        return binary_measures.estimate(old, metric, settings, TAIL, judged=False).value
    return estimate(old, metric, protocol, judged=False).value


def _difference(
    new: Cases, old: Cases, metric: str, protocol: Protocol, earlier: Protocol
) -> _Difference | str:
    """The paired difference with its interval, or why there is none."""
    if metric == "failure_rate":
        failed = new.failed.astype(np.float64) - old.failed.astype(np.float64)
        return _of(mean(failed, (-1.0, 1.0), new.patient, few_values=True))
    if isinstance(new, CaseTable) and isinstance(old, CaseTable):
        return _of_binary(new, old, metric, protocol, earlier)
    if (
        isinstance(new, SegmentationTable)
        and isinstance(old, SegmentationTable)
        and metric.startswith(_MEANS)
    ):
        first, second = new.values[metric], old.values[metric]
        return _of_means(first, second, protocol.measures[metric], new.patient)
    return "there is no paired interval of this metric"


def _of_binary(
    new: CaseTable, old: CaseTable, metric: str, protocol: Protocol, earlier: Protocol
) -> _Difference | str:
    if metric == "brier":
        first, second = (
            np.where(of.failed, worst, (of.score - of.reference) ** 2)
            for of, worst in ((new, 1.0), (old, 0.0))
        )
        losses = paired_losses(first, second, new.patient, new.weight)
        return losses if isinstance(losses, str) else _of(losses)
    turned = metric == "false_positive_rate"
    asked = "specificity" if turned else metric
    if asked not in ("sensitivity", "specificity", "auc"):
        return "there is no paired interval of this metric"
    at = earlier.binary.threshold
    found = _of(paired(new, old, asked, protocol.binary, comparator_threshold=at))
    if not turned:
        return found
    low, high = found.ends
    return replace(found, value=-found.value + 0.0, ends=(-high + 0.0, -low + 0.0))


def _of_means(
    new: Values, old: Values, measure: Measure, patient: NDArray[np.int64] | None
) -> _Difference:
    """The mean of the cases' differences; both ends of the metric's scale are known."""
    assert measure.low is not None, "a mean is bounded"
    assert measure.high is not None, "a mean is bounded"
    ends = measure.low, measure.high
    worst, best = ends if measure.direction == "higher" else ends[::-1]
    first = np.clip(np.where(np.isnan(new), worst, new), *ends)
    second = np.clip(np.where(np.isnan(old), best, old), *ends)
    reach = measure.width
    return _of(mean(first - second, (-reach, reach), patient))


def _of(side: Side) -> _Difference:
    return _Difference(side.value, side.gating(TAIL), side.method, side.n, side.clusters)


def _changed(
    new: Cases, old: Cases, protocol: Protocol, earlier: Protocol
) -> ChangedSides | None:  # fmt: skip
    """How many cases are on the other side of the threshold, each at its own; None of other tasks.

    Cases that either version failed on, or left undecided, have no side.
    """
    if not (isinstance(new, CaseTable) and isinstance(old, CaseTable)):
        return None
    now, before = new.score >= protocol.binary.threshold, old.score >= earlier.binary.threshold
    both = ~new.failed & ~old.failed
    for of in (new.undecided, old.undecided):
        both = both if of is None else both & ~of
    return ChangedSides(
        cases=int(both.sum()),
        to_positive=int((both & now & ~before).sum()),
        to_negative=int((both & ~now & before).sum()),
    )
