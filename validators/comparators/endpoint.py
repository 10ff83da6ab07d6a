"""An endpoint with a comparator: the model against another model or readers, and what it shows.

Rules
-----
1. Another model: the paired difference of `validators.metrics.binary_pairs`, judged at the alpha of
   an attempt, both at their own locked thresholds.
2. Readers: `validators.comparators.readers`. For sensitivity and specificity a rating at or above
   the comparator's threshold is a positive call.
3. Fewer than 30 patients decide nothing, as everywhere.
"""

import numpy as np
from numpy.typing import NDArray

from validators.cases import CaseTable
from validators.comparators.model import judge_comparison
from validators.comparators.readers import FigureOfMerit, ReaderComparison, against_readers
from validators.evidence import Comparison
from validators.intervals.influence import Floats
from validators.metrics.binary import right
from validators.metrics.binary_measures import BinarySettings, estimate
from validators.metrics.binary_pairs import paired
from validators.metrics.measure import Undefined
from validators.outcome import Interval, Outcome
from validators.protocol.questions import Comparator
from validators.protocol.schema import Protocol


def compared(
    table: CaseTable, metric: str, comparator: Comparator, protocol: Protocol
) -> tuple[Comparison, Outcome, str]:
    """The comparison, its outcome and the reason.

    Unit: the case, clustered by patient as the table is; `table.further` holds the comparator's
    columns.
    """
    if comparator.kind == "readers":
        return _with_readers(table, metric, comparator, protocol)
    return _with_model(table, metric, comparator, protocol)


def _with_model(
    table: CaseTable, metric: str, comparator: Comparator, protocol: Protocol
) -> tuple[Comparison, Outcome, str]:
    alpha, threshold = protocol.each_alpha, protocol.binary.threshold
    other = table.scored_by(table.further[comparator.name])
    own = threshold if comparator.threshold is None else comparator.threshold
    found = paired(table, other, metric, protocol.binary, comparator_threshold=own)
    low, high = found.gating(alpha)
    interval = Interval(low=low, high=high, level=1 - 2 * alpha, method=found.method)
    value = estimate(other, metric, BinarySettings(own), alpha).value
    return _judged(comparator, value, found.value, interval, "")


def _with_readers(
    table: CaseTable, metric: str, comparator: Comparator, protocol: Protocol
) -> tuple[Comparison, Outcome, str]:
    ratings = np.column_stack([table.further[name] for name in comparator.readers])
    model: Floats = table.score
    if metric != "auc":
        at = comparator.threshold or 0.0
        ratings = np.where(np.isnan(ratings), np.nan, ratings >= at)
        model = _called(table, protocol)
    figure: FigureOfMerit = metric  # type: ignore[assignment]
    found = against_readers(
        table.positive, model, ratings, table.patient, metric=figure, tail=protocol.each_alpha
    )
    if isinstance(found, ReaderComparison):
        of = found.comparison
        return _judged(comparator, found.readers_mean, of.difference, of.interval, "")
    assert isinstance(found, Undefined)
    return _judged(comparator, None, found.value, None, found.reason)


def _called(table: CaseTable, protocol: Protocol) -> NDArray[np.float64]:
    """The model's decisions: 1, 0, or NaN where the prediction failed; undecided ones are wrong."""
    correct = right(table, protocol.binary.threshold)
    called = np.where(correct, table.positive, ~table.positive).astype(np.float64)
    return np.where(table.failed, np.nan, called)


def _judged(
    comparator: Comparator, value: float | None, difference: float | None,
    interval: Interval | None, note: str,
) -> tuple[Comparison, Outcome, str]:  # fmt: skip
    outcome, reason = judge_comparison(difference, interval, comparator.margin, note)
    comparison = Comparison(
        name=comparator.name, kind=comparator.kind, margin=comparator.margin, value=value,
        readers=len(comparator.readers) or None, difference=difference, interval=interval,
    )  # fmt: skip
    return comparison, outcome, f"against {comparator.name}: {reason}"
