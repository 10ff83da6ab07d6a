"""Whether the model still does here what was certified, from the cases whose outcome is known.

    >>> found = performance(pilot.cases, certified)
    >>> found.figures[0].metric, found.figures[0].estimate
    ('sensitivity', Estimate(value=0.91, …))

Rules
-----
1. Metrics and intervals are the facility's own (`validators.metrics`, `validators.intervals`), by
   patient, at the level of the certificate. A failed prediction counts as wrong.
2. They are figures for one look, read as such. What may be looked at every day, with a stated rate
   of false alarms, is `serving.pilot.sequential`.
3. `below` is said of a figure whose whole interval lies beyond the certified one on the worse side.
4. A group is shown where it has `k` patients of the class in question. It is `below` where its
   interval, at a level divided by the number of groups shown, lies below the certified lower bound.
5. The last known outcome of a case counts. `awaited` cases have none yet: whatever follows is of
   those whose outcome came first, often the clear ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.pilot.certified import Certified, Reached
from serving.pilot.reading import Cases
from validators.cases import CaseTable
from validators.intervals.share import Share
from validators.metrics.binary import share_right
from validators.metrics.binary_measures import MEASURES, BinarySettings, estimate
from validators.metrics.calibration import CalibrationBin, calibration_bins
from validators.metrics.estimate import Estimate, shown

METRICS = (
    "sensitivity", "specificity", "auc", "calibration_in_the_large", "calibration_slope", "ici",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One metric here and as certified (None: it has no certified figure)."""

    metric: str
    label: str
    estimate: Estimate
    certified: Reached | None
    below: bool


@dataclass(frozen=True)
class Group:
    """Sensitivity or specificity in one group."""

    attribute: str
    group: str
    metric: str
    estimate: Estimate
    below: bool


@dataclass(frozen=True)
class Performance:
    """What is known of `n` cases; `reason` says why there are no figures."""

    n: int
    positives: int
    awaited: int
    figures: tuple[Figure, ...]
    groups: tuple[Group, ...]
    left_out: int
    """Groups with too few patients."""
    calibration: tuple[CalibrationBin, ...]
    reason: str


def performance(cases: Cases, certified: Certified) -> Performance:
    """All figures of the cases whose outcome is known."""
    known = cases.latest >= 0
    n, positives = int(known.sum()), int((cases.latest[known] == 1).sum())
    counted = (n, positives, cases.n - n)
    if certified.threshold is None:
        return Performance(*counted, (), (), 0, (), "the certified model has no threshold")
    if not 0 < positives < n:
        why = "outcomes of both kinds are needed, positive and negative"
        return Performance(*counted, (), (), 0, (), why)
    _, patient = np.unique(cases.patient[known], return_inverse=True)
    table = CaseTable(
        reference=cases.latest[known].astype(np.int8),
        score=cases.score[known],
        patient=None if len(np.unique(patient)) == n else patient,
    )
    settings = BinarySettings(threshold=certified.threshold)
    figures = tuple(_figure(table, metric, settings, certified) for metric in METRICS)
    groups, left_out = _groups(table, cases, known, certified)
    return Performance(*counted, figures, groups, left_out, calibration_bins(table), "")


def _figure(
    table: CaseTable, metric: str, settings: BinarySettings, certified: Certified
) -> Figure:
    found = estimate(table, metric, settings, certified.alpha)
    known = certified.performance.get(metric)
    below = False
    if found.interval is not None and known is not None and known.interval is not None:
        worse_low = found.interval.high < known.interval.low
        worse_high = found.interval.low > known.interval.high
        direction = MEASURES[metric].direction
        below = (worse_low and direction != "lower") or (worse_high and direction != "higher")
    return Figure(metric, MEASURES[metric].label, found, known, below)


def _groups(
    table: CaseTable, cases: Cases, known: NDArray[np.bool_], certified: Certified
) -> tuple[tuple[Group, ...], int]:
    """(groups that are large enough, how many are not)."""
    found, small = [], 0
    for attribute, group, metric, chosen in _candidates(table, cases, known):
        patients = int(chosen.sum())
        if table.patient is not None:
            patients = len(np.unique(table.patient[chosen]))
        if patients < certified.k:
            small += patients > 0
            continue
        assert certified.threshold is not None, "else there are no figures"
        found.append((attribute, group, metric, share_right(table, certified.threshold, chosen)))
    tail = certified.alpha / max(len(found), 1)
    return tuple(_group(*one, certified, tail) for one in found), small


def _candidates(
    table: CaseTable, cases: Cases, known: NDArray[np.bool_]
) -> Iterator[tuple[str, str, str, NDArray[np.bool_]]]:
    for attribute, column in cases.attributes.items():
        groups = column[known]
        for group in sorted(set(groups.tolist()) - {""}):
            for metric, of in (("sensitivity", table.positive), ("specificity", ~table.positive)):
                yield attribute, group, metric, (groups == group) & of


def _group(
    attribute: str, group: str, metric: str, found: Share, certified: Certified, tail: float
) -> Group:
    low = certified.lower_bound(metric)
    below = low is not None and found.gating(tail)[1] < low
    return Group(attribute, group, metric, shown(found, certified.alpha), below)
