"""Endpoints of finding lesions in scans.

Rules
-----
1. Candidates at or above the locked threshold count for `lesion_sensitivity` (unit: the lesion)
   and `false_positives_per_scan` (unit: the scan). Both are clustered by patient, by scan where
   scans are independent.
2. A failed scan finds nothing and has `maximum_candidates` false positives, all at score 1. This
   is the worst at every threshold, whichever patients are drawn, so a withheld scan never
   improves a bound. With `failed_is_right` it finds all of its lesions at score 1 and has no false
   positive.
3. `average_precision` and the FROC curve rank candidates over all thresholds; intervals are by
   the patient bootstrap, patients with and without lesions drawn apart. The lower bound of the
   average precision is somewhat bold: its one-sided error was .040 to .055 in four of six
   conditions of bench/detection_coverage.py (200 cohorts; nominal .025).
4. `lesion_sensitivity_at_rate` chooses its threshold on the test cases themselves, which
   flatters: it is shown and never decides.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.intervals.bootstrap import FEWEST_PATIENTS, Statistic, draws, resampled
from validators.intervals.froc import Ranking, average_precision, ranking, sensitivity_at
from validators.intervals.mean import mean
from validators.intervals.share import share
from validators.metrics.detection_table import DetectionTable
from validators.metrics.figure import Figure, Matrix, Series
from validators.metrics.measure import Measure, Side, Undefined
from validators.protocol.tasks import DetectionSettings

_RATES = 40
_BAND = 0.025

MEASURES: Mapping[str, Measure] = {
    of.name: of
    for of in (
        Measure("lesion_sensitivity", "Lesion sensitivity", "higher", 0.0, 1.0, 1.0),
        Measure("false_positives_per_scan", "False positives per scan", "lower", 0.0, None, 0.0),
        Measure("average_precision", "Average precision", "higher", 0.0, 1.0, 1.0, gates=False,
                why_not="its bootstrap bound errs in up to .055 of cohorts where .025 is asked; "
                        "the lesion sensitivity can decide"),
        Measure("lesion_sensitivity_at_rate", "Lesion sensitivity at a rate of false positives",
                "higher", 0.0, 1.0, 1.0, gates=False,
                why_not="its threshold is chosen on the test cases, which is optimistic; "
                "lesion_sensitivity at the locked threshold can decide"),
    )
}  # fmt: skip


def measures(settings: DetectionSettings) -> Mapping[str, Measure]:
    """Every metric by name, with the ends of its scale."""
    most = float(settings.maximum_candidates)
    name = "false_positives_per_scan"
    return {**MEASURES, name: replace(MEASURES[name], high=most)}


def side(
    table: DetectionTable,
    metric: str,
    settings: DetectionSettings,
    *,
    failed_is_right: bool = False,
) -> Side | Undefined:
    """One metric with its uncertainty. Raises ValueError for a name that `MEASURES` lacks."""
    if metric not in MEASURES:
        raise ValueError(f"{metric} is no metric of detection")
    _check_candidates(table, settings)
    if metric == "false_positives_per_scan":
        return mean(
            _false_positives(table, settings), (0.0, float(settings.maximum_candidates)),
            table.patient, higher_is_better=False, failed_is_right=failed_is_right,
        )  # fmt: skip
    lesions = len(table.lesion_scan)
    if not lesions:
        return Undefined("none of the scans has a lesion", 0, None)
    if metric == "lesion_sensitivity":
        return share(
            table.best_scores() >= settings.threshold,
            table.failed[table.lesion_scan],
            table.cluster[table.lesion_scan],
            failed_is_right=failed_is_right,
            clusters=int(table.cluster.max()) + 1,
        )
    return _ranked_side(table, metric, settings, failed_is_right=failed_is_right)


def figures(table: DetectionTable, settings: DetectionSettings) -> tuple[Figure | Matrix, ...]:
    """The FROC curve with its pointwise 95 % band (30 patients and more), and the locked threshold.

    It is read at 41 rates, so no single candidate is drawn. None without lesions.
    """
    if not len(table.lesion_scan):
        return ()
    _check_candidates(table, settings)
    ranked = ranking_of(table, settings)
    highest = min(2 * settings.false_positives_per_scan, float(settings.maximum_candidates))
    rates = np.linspace(0.0, highest, _RATES + 1)
    whole = sensitivity_at(ranked, np.ones((1, len(ranked.scans)), dtype=np.int64), rates)[0]
    low, high = _band(ranked, rates)
    found = [side(table, name, settings) for name in list(MEASURES)[:2]]
    at_threshold = tuple(of.value for of in found if not isinstance(of, Undefined))
    return (
        Figure(
            name="froc", title="Free-response ROC", x_label="False positives per scan",
            y_label="Lesion sensitivity",
            series=(
                Series(label="all thresholds", style="steps", low=low, high=high,
                       points=tuple(zip(rates.tolist(), whole.tolist(), strict=True))),
                Series(label="locked threshold", style="points",
                       points=((at_threshold[1], at_threshold[0]),)),
            ),
            x_range=(0.0, highest), y_range=(0.0, 1.0),
            explanation="The share of lesions found when the threshold is lowered until scans have "
            "so many false positives on average; failed scans find nothing.",
        ),
    )  # fmt: skip


def _band(
    ranked: Ranking, rates: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(ranked.scans) < FEWEST_PATIENTS:
        return (), ()
    drawn = np.concatenate([sensitivity_at(ranked, block, rates) for block in
                            draws(_strata(ranked), 500)])  # fmt: skip
    low, high = (np.quantile(drawn, end, axis=0) for end in (_BAND, 1 - _BAND))
    return tuple(low.tolist()), tuple(high.tolist())


def _false_positives(table: DetectionTable, settings: DetectionSettings) -> NDArray[np.float64]:
    """False positives at the locked threshold of each scan, NaN where it failed."""
    false = (table.hit < 0) & (table.score >= settings.threshold)
    counted = np.bincount(table.candidate_scan[false], minlength=table.n)
    return np.where(table.failed, np.nan, counted.astype(np.float64))


def _check_candidates(table: DetectionTable, settings: DetectionSettings) -> None:
    counted = np.bincount(table.candidate_scan, minlength=table.n)
    if over := int((counted > settings.maximum_candidates).sum()):
        raise Invalid(
            f"{over} scans have more than {settings.maximum_candidates} candidates; they are "
            "failed predictions, so give them no candidates and a failure code"
        )


def _ranked_side(
    table: DetectionTable, metric: str, settings: DetectionSettings, *, failed_is_right: bool
) -> Side | Undefined:
    ranked = ranking_of(table, settings, failed_is_right=failed_is_right)
    statistic = statistic_of(ranked, metric, settings)
    patients = len(ranked.scans)
    clusters = None if table.patient is None else patients
    worth = float(ranked.lesions.sum()) ** 2 / float((ranked.lesions**2).sum())
    found = resampled(
        statistic, _strata(ranked), n=len(table.lesion_scan), clusters=clusters,
        scale=(0.0, 1.0), guard="highest", units=worth,
    )  # fmt: skip
    if isinstance(found, str):
        value = float(statistic(np.ones((1, patients), dtype=np.int64))[0])
        return Undefined(found, len(table.lesion_scan), clusters, value)
    return cast(Side, found)


def statistic_of(ranked: Ranking, metric: str, settings: DetectionSettings) -> Statistic:
    """Average precision, or the sensitivity at the settings' rate, in each replicate."""
    if metric == "average_precision":
        return lambda drawn: average_precision(ranked, drawn)
    rates = np.array([settings.false_positives_per_scan])
    return lambda drawn: sensitivity_at(ranked, drawn, rates)[:, 0]


def _strata(ranked: Ranking) -> NDArray[np.int64]:
    return (ranked.lesions > 0).astype(np.int64)


def ranking_of(
    table: DetectionTable, settings: DetectionSettings, *, failed_is_right: bool = False
) -> Ranking:
    """All hits and false positives by score, failed scans at the asked end."""
    cluster = table.cluster
    best, false = table.best_scores(), table.hit < 0
    failed = np.flatnonzero(table.failed)
    lost = cluster[table.lesion_scan[table.failed[table.lesion_scan]]]
    scores = [best[best >= 0], table.score[false]]
    patients = [cluster[table.lesion_scan[best >= 0]], cluster[table.candidate_scan[false]]]
    hits = [np.ones(len(scores[0])), np.zeros(len(scores[1]))]
    misses = [np.zeros(len(scores[0])), np.ones(len(scores[1]))]
    extra = lost if failed_is_right else cluster[failed]
    scores.append(np.ones(len(extra)))
    patients.append(extra)
    hits.append(np.full(len(extra), float(failed_is_right)))
    misses.append(np.full(len(extra), 0.0 if failed_is_right else settings.maximum_candidates))
    total = int(cluster.max()) + 1
    return ranking(
        np.concatenate(scores), np.concatenate(patients), np.concatenate(hits),
        np.concatenate(misses),
        lesions=np.bincount(cluster[table.lesion_scan], minlength=total).astype(np.float64),
        scans=np.bincount(cluster, minlength=total).astype(np.float64),
    )  # fmt: skip
