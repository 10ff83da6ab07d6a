"""The flexible calibration curve and its mean distance from the diagonal (ICI).

    >>> curve = fitted(table)
    >>> ici(table, level=0.95).value

Rules
-----
1. The curve is a logistic regression of the reference standard on a restricted cubic spline of the
   logit of the score (Harrell 2015, 2.4.5) with four knots at its quantiles .05, .35, .65 and .95.
   Why not loess, as in Austin & Steyerberg (2019): a likelihood has one answer, stays in (0, 1),
   knows sampling weights, is linear beyond the outer knots, and takes n and not n^2 steps. Fewer
   distinct quantiles give fewer knots; one or two a line; one score the share of positives.
2. ICI: the mean over cases of |curve at the score - score| (Austin & Steyerberg 2019). It is never
   negative, so chance alone makes it larger in small cohorts: it is shown and decides nothing.
3. Failed predictions are left out; the caller says so.
4. Band and interval: patient bootstrap (`validators.intervals.bootstrap`). A replicate is one
   Newton step from the whole cohort's curve, with the replicate's own score and information: off by
   the order of 1 / n, and 2,000 take seconds where as many fits of 100,000 cases would take
   minutes. Above 1,000 distinct scores a replicate's ICI sums over 1,000 groups of neighbours.
   The band of more than 10,000 patients is the robust one of the same step on the logit scale
   (White 1982): there the two agree within a few hundredths of its width, and it takes no draws.
5. The ICI's interval has the guard `mirror`: percentiles alone would count the upward bias twice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from validators.cases import CaseTable
from validators.intervals.bootstrap import Statistic, expanded_tail, resampled
from validators.intervals.estimated import by_patient
from validators.intervals.influence import Floats
from validators.metrics.calibration import CLIP, no_slope
from validators.metrics.estimate import Estimate, checked_weight, number_of_patients
from validators.outcome import Interval

KNOTS = (0.05, 0.35, 0.65, 0.95)
_CELLS = 1000
_MANY = 10_000
_STEPS, _ARRIVED = 60, 1e-9
_METHOD = "patient bootstrap, one-step"


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """The spline and all that a replicate needs: sums by patient, cases by cell."""

    knots: Floats
    beta: Floats
    patients: NDArray[np.int64]
    """Codes 0, 1, … of the cases with a prediction."""
    score: Floats
    weight: Floats
    gradient: Floats
    """[patients, p]: the score of the likelihood at `beta`."""
    information: Floats
    """[patients, p * p]: its information."""

    def at(self, score: Floats, beta: Floats | None = None) -> Floats:
        """The share of positives at each score ([m]); [m], or [m, r] for `beta` of [p, r]."""
        linear = _basis(_logit(score), self.knots) @ (self.beta if beta is None else beta)
        return np.asarray(special.expit(linear), dtype=np.float64)

    def stepped(self, drawn: NDArray[np.int64]) -> Floats:
        """`beta` of each replicate: [r, patients] of multiplicities -> [p, r], NaN if singular."""
        p = len(self.beta)
        times = drawn.astype(np.float64)
        gradient = times @ self.gradient
        information = (times @ self.information).reshape(-1, p, p)
        step = np.full((len(drawn), p), np.nan)
        usable = np.linalg.cond(information) < 1e12
        step[usable] = np.linalg.solve(information[usable], gradient[usable, :, None])[..., 0]
        return np.asarray(self.beta[:, None] + step.T)


def fitted(table: CaseTable, weight: Floats | None = None) -> CalibrationCurve | str:
    """The curve over the cases with a prediction, or why there is none; `weight` is [n]."""
    kept = ~table.failed
    score, y = table.score[kept], table.reference[kept].astype(np.float64)
    of_case = checked_weight(table, weight)[kept]
    x = _logit(score)
    why = no_slope(x, y)
    if why and (len(y) == 0 or y.min() == y.max() or np.ptp(x) > _ARRIVED):
        return why
    code = np.arange(len(y)) if table.patient is None else table.patient[kept]
    code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    knots = _knots(x)
    basis = _basis(x, knots)
    beta = _newton(basis, y, of_case)
    if beta is None:
        return "no finite curve fits best: the scores all but separate the classes"
    share = special.expit(basis @ beta)
    count, p = int(code.max()) + 1, len(beta)
    residual, spread = of_case * (y - share), of_case * share * (1 - share)
    columns = [by_patient(residual * column, code, count) for column in basis.T]
    products = [by_patient(spread * basis[:, i] * basis[:, j], code, count)
                for i in range(p) for j in range(p)]  # fmt: skip
    return CalibrationCurve(
        knots, beta, code, score, of_case, np.stack(columns, axis=1), np.stack(products, axis=1)
    )


def ici(table: CaseTable, level: float, weight: Floats | None = None) -> Estimate:
    """The integrated calibration index, or why there is none."""
    curve = fitted(table, weight)
    n, kept = int((~table.failed).sum()), ~table.failed
    clusters = number_of_patients(None if table.patient is None else table.patient[kept])
    if isinstance(curve, str):
        return Estimate(None, None, n, clusters, curve)
    value = float(curve.weight @ np.abs(curve.at(curve.score) - curve.score) / curve.weight.sum())
    found = resampled(
        _replicated(curve), _strata(curve), n=n, clusters=clusters, scale=None, guard="mirror",
        value=value,
    )  # fmt: skip
    if isinstance(found, str):
        return Estimate(value, None, n, clusters, found)
    low, high = found.gating((1 - level) / 2)
    interval = Interval(low=max(0.0, low), high=min(1.0, high), level=level, method=_METHOD)
    return Estimate(value, interval, n, clusters, _left_out(table))


def band(curve: CalibrationCurve, score: Floats, tail: float) -> tuple[Floats, Floats] | None:
    """Pointwise bounds of the curve at each score ([m]); None for fewer than 30 patients."""
    if len(curve.gradient) > _MANY:
        return robust_band(curve, score, tail)
    return drawn_band(curve, score, tail)


def robust_band(
    curve: CalibrationCurve, score: Floats, tail: float
) -> tuple[Floats, Floats] | None:
    """The band from the spread of the patients' gradients: no draws."""
    p, basis = len(curve.beta), _basis(_logit(score), curve.knots)
    information = curve.information.sum(axis=0).reshape(p, p)
    if np.linalg.cond(information) >= 1e12:
        return None
    influence = np.linalg.solve(information, curve.gradient.T)
    half = -special.ndtri(tail) * np.sqrt(((basis @ influence) ** 2).sum(axis=1))
    linear = basis @ curve.beta
    return np.asarray(special.expit(linear - half)), np.asarray(special.expit(linear + half))


def drawn_band(curve: CalibrationCurve, score: Floats, tail: float) -> tuple[Floats, Floats] | None:
    """The band from the bootstrap."""
    found: list[Floats] = []
    statistic = _stored(curve, found)
    if isinstance(
        resampled(statistic, _strata(curve), n=len(curve.score), clusters=None, scale=None,
                  guard="none"), str
    ):  # fmt: skip
        return None
    shares = curve.at(score, np.concatenate(found[1:], axis=1))
    outer = expanded_tail(tail, float(len(curve.gradient)))
    low, high = np.quantile(shares, (outer, 1 - outer), axis=1)
    return np.asarray(low), np.asarray(high)


def _stored(curve: CalibrationCurve, into: list[Floats]) -> Statistic:
    """A statistic that keeps the replicates of the curve: the first call is the whole cohort."""

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        into.append(curve.stepped(drawn))
        return np.asarray(into[-1][0])

    return statistic


def _replicated(curve: CalibrationCurve) -> Statistic:
    """The ICI by how often each patient was drawn."""
    cell, count = _cells(curve.score)
    weights = np.bincount(cell, curve.weight, count)
    middle = np.bincount(cell, curve.weight * curve.score, count) / weights
    basis = _basis(_logit(middle), curve.knots)
    of_patient = sparse.csr_array(
        (curve.weight, (curve.patients, cell)), shape=(len(curve.gradient), count)
    )

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        apart = np.abs(special.expit(basis @ curve.stepped(drawn)) - middle[:, None]).T
        held = drawn.astype(np.float64) @ of_patient
        return np.asarray((held * apart).sum(axis=1) / held.sum(axis=1))

    return statistic


def _left_out(table: CaseTable) -> str:
    failed = int(table.failed.sum())
    return f"{failed} failed predictions are left out of it" if failed else ""


def _strata(curve: CalibrationCurve) -> NDArray[np.int64]:
    return np.zeros(len(curve.gradient), dtype=np.int64)


def _cells(score: Floats) -> tuple[NDArray[np.int64], int]:
    """A number for each case: of its score, or of its group where there are too many scores."""
    values, cell = np.unique(score, return_inverse=True)
    if len(values) > _CELLS:
        cell = cell * _CELLS // len(values)
    return cell.astype(np.int64), int(cell.max()) + 1


def _logit(score: Floats) -> Floats:
    return np.asarray(special.logit(np.clip(score, CLIP, 1 - CLIP)))


def _knots(x: Floats) -> Floats:
    """Values that occur, so that there are no more columns than distinct scores."""
    if np.ptp(x) < _ARRIVED:
        return x[:1]
    knots = np.unique(np.quantile(x, KNOTS, method="inverted_cdf"))
    return knots if len(knots) > 1 else np.array([x.min(), x.max()])


def _basis(x: Floats, knots: Floats) -> Floats:
    """[n, 1 to 4] columns: 1, x, and a restricted cubic for each knot beyond two."""
    if len(knots) == 1:
        return np.ones((len(x), 1))
    columns = [np.ones_like(x), x]
    *before, late, last = knots
    cube: Callable[[float], Floats] = lambda at: np.maximum(x - at, 0.0) ** 3  # noqa: E731
    for knot in before:
        bend = cube(knot) - cube(late) * (last - knot) / (last - late)
        bend += cube(last) * (late - knot) / (last - late)
        columns.append(bend / (last - knots[0]) ** 2)
    return np.stack(columns, axis=1)


def _newton(basis: Floats, y: Floats, weight: Floats) -> Floats | None:
    """The most likely coefficients; None where the likelihood has no peak."""
    beta, likelihood = np.zeros(basis.shape[1]), -math.inf
    for _ in range(_STEPS):
        linear = basis @ beta
        share = special.expit(linear)
        information = basis.T @ (basis * (weight * share * (1 - share))[:, None])
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e13:
            return None
        step = np.linalg.solve(information, basis.T @ (weight * (y - share)))
        if float(np.abs(step).max()) < _ARRIVED * (1 + float(np.abs(beta).max())):
            return beta
        likelihood = _likelihood(linear, y, weight)
        while _likelihood(basis @ (beta + step), y, weight) < likelihood - 1e-9 * abs(likelihood):
            step = step / 2
        beta = beta + step
    return None


def _likelihood(linear: Floats, y: Floats, weight: Floats) -> float:
    return float(weight @ (y * linear - np.logaddexp(0, linear)))
