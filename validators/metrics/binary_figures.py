"""What a binary question wants drawn. Facility-internal: never released.

- ROC curve, and the locked threshold with the intervals of both rates. Failed predictions rank at
  the wrong end.
- Calibration: the flexible curve with its pointwise band, and ten bins with Wilson's intervals (of
  independent cases: they are read, they decide nothing). Failed predictions are left out.
- Decision curve: `validators.metrics.decision_curve`.
- Scores by class: shares of a class in twentieths of [0, 1].
"""

from collections.abc import Sequence

import numpy as np

from validators.cases import CaseTable
from validators.intervals.influence import Floats
from validators.intervals.proportion import wilson
from validators.metrics.binary import roc_curve, share_right
from validators.metrics.calibration import calibration_bins
from validators.metrics.calibration_curve import band, fitted
from validators.metrics.decision_curve import decision_curve
from validators.metrics.figure import Figure, Series

_POINTS = 60
_TWENTIETHS = 20
_UNIT = (0.0, 1.0)


def drawn(
    table: CaseTable, threshold: float, decision_thresholds: Sequence[float], tail: float
) -> tuple[Figure, ...]:
    """All figures of the table; a calibration or decision curve only where there is one."""
    return (
        _roc(table, threshold, tail),
        *_calibration(table, tail),
        *decision_curve(table, decision_thresholds, tail),
        _scores(table),
    )


def _roc(table: CaseTable, threshold: float, tail: float) -> Figure:
    up = share_right(table, threshold, table.positive)
    across = share_right(table, threshold, ~table.positive)
    at = (1 - across.value, up.value)
    low, high = up.gating(tail)
    right, left = (1 - end for end in across.gating(tail))
    return Figure(
        name="roc", title="ROC curve", x_label="1 - specificity", y_label="sensitivity",
        series=(
            Series(label="model", points=roc_curve(table)),
            Series(label="at the locked threshold", points=(at,), low=(low,), high=(high,),
                   style="points"),
            Series(label="", points=((left, at[1]), (right, at[1])), style="whisker"),
        ),
        guide="diagonal", x_range=_UNIT, y_range=_UNIT,
        explanation="The nearer to the upper left corner the better; the diagonal is chance. The "
        "cross is the interval of both rates at the locked threshold. The curve is thinned for "
        "drawing; nothing is computed from it.",
    )  # fmt: skip


def _calibration(table: CaseTable, tail: float) -> tuple[Figure, ...]:
    bins, scored = calibration_bins(table), int((~table.failed).sum())
    if not bins:
        return ()
    limits = [wilson(of.observed * of.n, of.n, tail) for of in bins]
    in_bins = Series(
        label="cases in groups", points=tuple((of.mean_score, of.observed) for of in bins),
        low=tuple(low for low, _ in limits), high=tuple(high for _, high in limits), style="points",
    )  # fmt: skip
    curve = fitted(table)
    series: tuple[Series, ...] = (in_bins,)
    if not isinstance(curve, str):
        at = _places(curve.score)
        points = tuple(zip(at.tolist(), curve.at(at).tolist(), strict=True))
        bounds = band(curve, at, tail)
        low, high = (tuple(of.tolist()) for of in bounds) if bounds else ((), ())
        series = (Series(label="flexible curve", points=points, low=low, high=high), in_bins)
    return (
        Figure(
            name="calibration", title="Calibration", x_label="score", y_label="observed share",
            series=series, guide="diagonal", x_range=_UNIT, y_range=_UNIT,
            explanation="On the diagonal a score is the share of positives; above it the scores "
            f"are too low. {scored} of {table.n} cases, those with a prediction.",
        ),
    )  # fmt: skip


def _places(score: Floats) -> Floats:
    """Evenly spaced between the 1st and 99th percentile: beyond lies too little to draw."""
    low, high = (float(np.quantile(score, q)) for q in (0.01, 0.99))
    return np.asarray(np.linspace(low, high, _POINTS), dtype=np.float64)


def _scores(table: CaseTable) -> Figure:
    edges = np.linspace(0, 1, _TWENTIETHS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    series = []
    for label, chosen in (("positive", table.positive), ("negative", ~table.positive)):
        counts = np.histogram(table.score[chosen & ~table.failed], edges)[0]
        share = counts / int(chosen.sum())
        points = tuple(zip(middle.tolist(), share.tolist(), strict=True))
        series.append(Series(label=label, points=points, style="bars"))
    return Figure(
        name="scores", title="Scores by class", x_label="score", y_label="share of the class",
        series=tuple(series), guide="zero", x_range=_UNIT,
        explanation="The less the two overlap, the better the classes are told apart; what is "
        "missing from 1 in a class are failed predictions.",
    )  # fmt: skip
