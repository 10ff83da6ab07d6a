"""Calibration of the mean: the recalibration intercept, and observed over expected cases.

    >>> found = in_the_large(table)
    >>> found.value, found.gating(0.025)

Rules
-----
1. Calibration-in-the-large: the intercept of the reference standard on the logit of the score with
   its slope held at 1 (Cox 1958; Steyerberg 2019, 15.3). 0 is calibrated; above 0 the scores are
   too low. Observed / expected: the share of positives over the mean score.
2. Variance: sandwich over patients' sums of residuals (Liang & Zeger 1986); Student's t on the
   patients of the rarer class less one.
3. The value leaves failed predictions out: they have no probability to calibrate. The interval
   does not. It reaches over every probability that could have stood there: its ends are the value
   with all of them at the highest and at the lowest probability, its standard error is at least
   that of any completion (residuals as ranges, information of the known cases only). So withholding
   never narrows it, and what did not pass its band does not pass for having been withheld. A few
   failures cost little: one in 400 cases moves an end by some .02.
4. `weight` ([n], above 0) are sampling weights: cases stand for that many of the population.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.cases import CaseTable
from validators.intervals.estimated import Estimated, by_patient, robust_error, within
from validators.intervals.falling_root import falling_root
from validators.intervals.influence import Box, Floats
from validators.intervals.proportion import Pair
from validators.metrics.calibration import CLIP, freedom_of
from validators.metrics.estimate import checked_weight, number_of_patients
from validators.metrics.measure import Undefined

_ARRIVED, _FARTHEST = 1e-12, 60.0
_FEWEST = 3


@dataclass(frozen=True, eq=False)
class _Known:
    """The cases with a prediction, and the codes of all."""

    y: Floats
    weight: Floats
    of_all: Floats
    failed: NDArray[np.bool_]
    code: NDArray[np.int64]
    patients: int

    def boxed(self, low: Floats, high: Floats, positive: NDArray[np.bool_]) -> Box:
        """Patients' sums of residuals: known ones' ranges, and failed ones' full ones."""
        kept, failed = self.code[~self.failed], self.failed
        spare = self.of_all * failed
        return Box(
            by_patient(self.weight * low, kept, self.patients)
            - by_patient(spare * ~positive, self.code, self.patients),
            by_patient(self.weight * high, kept, self.patients)
            + by_patient(spare * positive, self.code, self.patients),
        )


def in_the_large(table: CaseTable, weight: Floats | None = None) -> Estimated | Undefined:
    """The recalibration intercept, or why there is none."""
    known, why = _known(table, weight)
    if why:
        return _without(table, why)
    offset = special.logit(np.clip(table.score[~table.failed], CLIP, 1 - CLIP))
    value = _intercept(offset, known.y, known.weight)
    ends = value, value
    if known.failed.any():
        ends = _ends(table, known, offset)
    fitted = [special.expit(offset + end) for end in ends]
    parts = known.boxed(known.y - fitted[1], known.y - fitted[0], table.positive)
    # p (1 - p) is least at an end of its range; what failed adds none for certain.
    information = known.weight @ np.minimum(
        fitted[0] * (1 - fitted[0]), fitted[1] * (1 - fitted[1])
    )
    parts = parts.scaled(1 / float(information))
    return _estimated(table, known, within(value, ends), ends, parts, ratio=False)


def observed_expected(table: CaseTable, weight: Floats | None = None) -> Estimated | Undefined:
    """Positives over the sum of the scores, or why there is none."""
    known, why = _known(table, weight)
    if why:
        return _without(table, why)
    score = table.score[~table.failed]
    expected = float(known.weight @ score)
    if expected < _ARRIVED:
        return _without(table, "all scores are 0, so nothing is expected")
    silent = float(known.of_all @ known.failed)
    observed = float(known.of_all @ table.positive)
    ends = observed / (expected + silent), observed / expected
    of_y = by_patient(known.of_all * table.positive, known.code, known.patients) / observed
    of_score = by_patient(known.weight * score, known.code[~known.failed], known.patients)
    of_silent = by_patient(known.of_all * known.failed, known.code, known.patients)
    parts = Box(
        of_y - (of_score + of_silent) / expected, of_y - of_score / (expected + silent)
    )  # fmt: skip
    value = float(known.weight @ known.y) / expected
    return _estimated(table, known, within(value, ends), ends, parts, ratio=True)


def _estimated(
    table: CaseTable, known: _Known, value: float, ends: Pair, parts: Box, *, ratio: bool
) -> Estimated | Undefined:
    n, clusters = table.n, number_of_patients(table.patient)
    if known.patients < _FEWEST:
        return Undefined("too few patients to judge by", n, clusters, value)
    error = robust_error(parts)
    if error < _ARRIVED:
        return Undefined("no residual varies, so it has no interval", n, clusters, value)
    factor = math.sqrt(known.patients / (known.patients - 1))
    # For a logarithm the delta method takes the influence back to the value's own scale.
    influence = parts.scaled(factor * (value if ratio else 1.0))
    return Estimated(value, n, clusters, ends, error, freedom_of(table), ratio, influence)


def _known(table: CaseTable, weight: Floats | None) -> tuple[_Known, str]:
    of_all = checked_weight(table, weight)
    kept = ~table.failed
    y = table.reference[kept].astype(np.float64)
    code = np.arange(table.n) if table.patient is None else table.patient
    known = _Known(y, of_all[kept], of_all, table.failed, code, int(code.max()) + 1)
    return known, "" if 0 < y.sum() < len(y) else "the cases with a prediction are of one class"


def _ends(table: CaseTable, known: _Known, offset: Floats) -> tuple[float, float]:
    """The intercept with all failed scores at the highest, and at the lowest."""
    far = float(special.logit(1 - CLIP))
    y = np.concatenate([known.y, table.reference[known.failed].astype(np.float64)])
    weight = np.concatenate([known.weight, known.of_all[known.failed]])
    silent = np.full(int(known.failed.sum()), far)
    high, low = (_intercept(np.concatenate([offset, s * silent]), y, weight) for s in (-1, 1))
    return low, high


def _intercept(offset: Floats, y: Floats, weight: Floats) -> float:
    """The root of sum w (y - expit(a + offset)), which falls in a."""

    def excess(a: float) -> tuple[float, float]:
        fitted = special.expit(offset + a)
        return float(weight @ (y - fitted)), float(weight @ (fitted * (1 - fitted)))

    return falling_root(excess, _FARTHEST)


def _without(table: CaseTable, why: str) -> Undefined:
    return Undefined(why, table.n, number_of_patients(table.patient))
