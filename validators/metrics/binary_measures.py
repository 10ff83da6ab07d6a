"""The measures of a binary question in the shape of all task types: table, sides, figures.

    >>> found = side(table, "sensitivity", BinarySettings(threshold=0.5))
    >>> found.value, found.gating(0.025)

Rules
-----
1. `MEASURES` lists all that `validators.metrics.binary` and `binary_clinical` estimate, and says
   which may decide. Whatever depends on how common the disease is (Brier score, net benefit,
   calibration of the mean, ICI) says nothing of a clinic where the cohort is enriched: it needs
   sampling weights there (`weight` of its function), or it is shown only. The protocol sees to it.
2. `side` has an uncertainty that can be compared between groups: rates, AUC, failure rate, Brier
   score, predictive values, net benefit, calibration of the mean and slope. Likelihood ratios, ICI
   and ECE are Undefined there, with the reason.
3. A failed prediction counts as `validators.metrics.measure` says. Calibration leaves it out of the
   value, and its interval reaches over all that it could have been (`recalibration`,
   `slope_range`); ICI and ECE leave it out, so they decide nothing.
"""

import math
from dataclasses import dataclass, replace

from validators.cases import CaseTable
from validators.intervals.auc import area
from validators.intervals.share import Complement, size_bound_share
from validators.metrics.binary import brier_side, share_right
from validators.metrics.binary_clinical import (
    LIKELIHOOD_RATIOS,
    NEED_PREVALENCE,
    ece,
    likelihood_ratio,
    net_benefit_side,
    rates_side,
)
from validators.metrics.binary_figures import drawn
from validators.metrics.calibration import slope
from validators.metrics.calibration_curve import ici
from validators.metrics.estimate import Estimate, number_of_patients, shown
from validators.metrics.figure import Figure
from validators.metrics.measure import Measure, Side, Undefined
from validators.metrics.recalibration import in_the_large, observed_expected

_FROM_RATES = "it follows from sensitivity and specificity, which can decide"
_PREVALENCE = "it depends on the cohort's prevalence"
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("sensitivity", "sensitivity", "higher", 0.0, 1.0, 1.0),
        Measure("specificity", "specificity", "higher", 0.0, 1.0, 1.0),
        Measure("false_positive_rate", "false positive rate", "lower", 0.0, 1.0, 0.0),
        Measure("auc", "AUC", "higher", 0.0, 1.0, 1.0),
        Measure("ppv", "PPV at the declared prevalence", "higher", 0.0, 1.0, 1.0),
        Measure("npv", "NPV at the declared prevalence", "higher", 0.0, 1.0, 1.0),
        Measure("positive_likelihood_ratio", "positive likelihood ratio", "higher", 0.0, None,
                math.inf, "", False, _FROM_RATES),
        Measure("negative_likelihood_ratio", "negative likelihood ratio", "lower", 0.0, None, 0.0,
                "", False, _FROM_RATES),
        Measure("net_benefit", "net benefit", "higher", None, 1.0, 1.0),
        Measure("brier", "Brier score", "lower", 0.0, 1.0, 0.0, "", False, _PREVALENCE),
        Measure("calibration_in_the_large", "calibration-in-the-large", "band", None, None, 0.0),
        Measure("observed_expected", "observed / expected", "band", 0.0, None, 1.0),
        Measure("calibration_slope", "calibration slope", "band", None, None, 1.0),
        Measure("ici", "integrated calibration index", "lower", 0.0, 1.0, 0.0, "", False,
                "chance alone makes it larger in a small cohort"),
        Measure("ece", "expected calibration error", "lower", 0.0, 1.0, 0.0, "", False,
                "its bins decide its value"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class BinarySettings:
    """What a protocol fixed of a binary question."""

    threshold: float
    prevalence: float | None = None
    """Declared, of the intended use; predictive values are computed at it."""
    decision_thresholds: tuple[float, ...] = ()
    """Of the decision curve; net benefit is computed at the first."""


def measures(settings: BinarySettings) -> dict[str, Measure]:
    """The measures by name; net benefit has a lowest value at its threshold."""
    if not settings.decision_thresholds:
        return dict(MEASURES)
    at = settings.decision_thresholds[0]
    return {**MEASURES, "net_benefit": replace(MEASURES["net_benefit"], low=-at / (1 - at))}


def side(
    table: CaseTable, metric: str, settings: BinarySettings, *, failed_is_right: bool = False
) -> Side | Undefined:
    """One metric with its uncertainty. Raises ValueError for a name that `MEASURES` lacks."""
    if metric == "failure_rate":
        return size_bound_share(table.failed, table.patient)
    if metric not in MEASURES:
        raise ValueError(f"{metric} is no binary metric")
    if metric == "sensitivity":
        return share_right(
            table, settings.threshold, table.positive, failed_is_right=failed_is_right
        )  # fmt: skip
    if metric in ("specificity", "false_positive_rate"):
        of = share_right(
            table, settings.threshold, ~table.positive, failed_is_right=failed_is_right
        )  # fmt: skip
        return of if metric == "specificity" else Complement(of)
    if metric == "auc":
        return area(table.score, table.positive, table.patient, failed_is_right=failed_is_right)
    if metric == "brier":
        return brier_side(table, failed_is_right=failed_is_right)
    if metric == "net_benefit" and settings.decision_thresholds:
        return net_benefit_side(
            table, settings.decision_thresholds[0], failed_is_right=failed_is_right
        )  # fmt: skip
    if metric in NEED_PREVALENCE and settings.prevalence is not None:
        return rates_side(
            table, metric, settings.threshold, settings.prevalence, failed_is_right=failed_is_right
        )
    calibrations = {
        "calibration_in_the_large": in_the_large,
        "observed_expected": observed_expected,
        "calibration_slope": slope,
    }
    if metric in calibrations:
        return calibrations[metric](table)
    why = MEASURES[metric].why_not or "it has no uncertainty that groups could be compared by"
    if metric in NEED_PREVALENCE:
        why = "the protocol's intended use declares no prevalence"
    if metric == "net_benefit":
        why = "the protocol names no decision threshold"
    return Undefined(why, table.n, number_of_patients(table.patient))


def estimate(
    table: CaseTable, metric: str, settings: BinarySettings, tail: float, *, judged: bool = True
) -> Estimate:
    """One metric with the interval that judges it, or with the one that is only shown.

    Error `tail` on each side; no interval leaves the metric's scale.
    """
    if metric == "ece":
        return ece(table)
    if metric == "ici":
        return ici(table, 1 - 2 * tail)
    if metric in LIKELIHOOD_RATIOS:
        return likelihood_ratio(table, metric, settings.threshold, tail)
    found = shown(side(table, metric, settings), tail, judged=judged)
    scale = measures(settings).get(metric)
    if found.interval is None or scale is None:
        return found
    low, high = found.interval.low, found.interval.high
    low = low if scale.low is None else max(low, scale.low)
    high = high if scale.high is None else min(high, scale.high)
    inside = found.interval.model_copy(update={"low": low, "high": high})
    return replace(found, interval=inside)


def figures(table: CaseTable, settings: BinarySettings, tail: float = 0.025) -> tuple[Figure, ...]:
    """ROC curve, calibration, decision curve and the scores by class; bands at 1 - 2 `tail`."""
    return drawn(table, settings.threshold, settings.decision_thresholds, tail)
