"""The statistics of a time-to-event question as functions of how often each case was drawn.

Each `…_bounds` gives [2, r] values for weights of [n, r]: one for the lower bound and one for the
upper. They differ only where a failed case has no worst end of its own (calibration).

Rules
-----
1. The censoring distribution is estimated again in every replicate.
2. Weights and comparable pairs depend on times and events alone; so a failed case changes what is
   counted, never what it is counted against.
3. `independent_units` of a design are patients of equal weight (Kish), also by events alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from validators.intervals.bootstrap import Bounds
from validators.intervals.concordance import concordance, meeting
from validators.intervals.follow_up import FollowUp
from validators.intervals.influence import Floats

CLIP = 1e-6
"""Probabilities nearer to 0 or 1 than this are moved here: their logit would be infinite."""
_STEPS = 25
_ARRIVED = 1e-8


def harrell_bounds(seen: FollowUp, risk: Floats, *, failed_is_right: bool) -> Bounds:
    """Harrell's C: the share of comparable pairs that are concordant (Harrell et al. 1982)."""
    pairs = concordance(seen.time, seen.event, risk, failed_is_right=failed_is_right)

    def bounds(weights: Floats) -> Floats:
        return _both(_ratio(pairs.concordant(weights, weights), pairs.comparable(weights, weights)))

    return bounds


def uno_bounds(seen: FollowUp, risk: Floats, until: float, *, failed_is_right: bool) -> Bounds:
    """Uno's C: pairs whose first event is before `until`, by G(T-)^-2 (Uno et al. 2011)."""
    pairs = concordance(seen.time, seen.event, risk, failed_is_right=failed_is_right)

    def bounds(weights: Floats) -> Floats:
        earlier = uno_weights(seen, until, weights)
        return _both(_ratio(pairs.concordant(earlier, weights), pairs.comparable(earlier, weights)))

    return bounds


def uno_weights(seen: FollowUp, until: float, weights: Floats) -> Floats:
    """What the earlier case of a pair weighs in Uno's C; 0 without an event before `until`."""
    rows = np.flatnonzero(seen.event & (seen.time < until))
    chance = seen.uncensored(weights)[seen.before(seen.time[rows])]
    chance[chance == 0] = 1.0
    found = np.zeros_like(weights)
    found[rows] = weights[rows] / chance**2
    return found


def auc_bounds(seen: FollowUp, risk: Floats, horizon: float, *, failed_is_right: bool) -> Bounds:
    """The cumulative/dynamic AUC: events by the horizon against cases free of it then.

    Uno et al. (2007), Hung & Chiang (2010): events weigh 1 / G(T-); those free of it all weigh
    the same.
    """
    failed = np.isnan(risk)
    by, free = _by_status(seen, horizon)
    part, values = np.zeros(len(risk), dtype=np.int64), np.where(failed, 0.0, risk)
    place = np.cumsum(seen.is_known(horizon)) - 1
    usable = meeting(by[~failed[by]], free[~failed[free]], part, values)

    def bounds(weights: Floats) -> Floats:
        known = seen.known_by(horizon, weights)[1]
        of_case = np.zeros_like(weights)
        of_case[by] = known[place[by]]
        won = usable.won(of_case, weights)
        whole = of_case[by].sum(axis=0) * weights[free].sum(axis=0)
        if failed_is_right:
            kept = (of_case[by[~failed[by]]].sum(axis=0), weights[free[~failed[free]]].sum(axis=0))
            won = won + whole - kept[0] * kept[1]
        return _both(_ratio(won, whole))

    return bounds


@dataclass(frozen=True)
class Loss:
    """What the known cases contribute at one horizon, and the share of the horizon in the sum."""

    horizon: float
    if_event: Floats
    if_free: Floats
    share: float = 1.0


def brier_loss(
    probability: Floats, horizon: float, share: float = 1.0, *, failed_is_right: bool
) -> Loss:
    """Squared errors; a failed case has probability 0 where the event came, 1 where it did not."""
    failed, at_failed = np.isnan(probability), 0.0 if failed_is_right else 1.0
    return Loss(
        horizon,
        np.where(failed, at_failed, (1 - probability) ** 2),
        np.where(failed, at_failed, probability**2),
        share,
    )


def mean_bounds(seen: FollowUp, losses: Sequence[Loss]) -> Bounds:
    """The mean of what the cases contribute, known ones standing for all (Graf et al. 1999)."""
    values = []
    for loss in losses:
        known, by = seen.known(loss.horizon), seen.had_event(loss.horizon)
        values.append(loss.share * np.where(by, loss.if_event, loss.if_free)[known])

    def bounds(weights: Floats) -> Floats:
        curve = seen.uncensored(weights)
        found = sum(
            value @ seen.weighted(loss.horizon, weights, curve)
            for loss, value in zip(losses, values, strict=True)
        )
        return _both(found / weights.sum(axis=0))

    return bounds


def observed(seen: FollowUp, horizon: float, weights: Floats) -> Floats:
    """The Kaplan-Meier share with the event by `horizon`, as a sum of weights; [r]."""
    known, of_known = seen.known_by(horizon, weights)
    return np.asarray(seen.had_event(horizon)[known] @ of_known / weights.sum(axis=0))


def ratio_bounds(seen: FollowUp, probability: Floats, horizon: float) -> Bounds:
    """Observed over mean predicted; failed cases have probability 1 below, 0 above."""
    ends = np.stack([np.nan_to_num(probability, nan=end) for end in (1.0, 0.0)])

    def bounds(weights: Floats) -> Floats:
        share = observed(seen, horizon, weights)
        predicted = ends @ weights / weights.sum(axis=0)
        return _ratio(np.stack([share, share]), predicted)

    return bounds


def slope_bounds(
    seen: FollowUp, probability: Floats, horizon: float, start: NDArray[np.float64]
) -> Bounds:
    """The slope of the status at the horizon on the logit of its probability; none may have failed.

    The estimating equation of Uno et al. (2007) for the status at one time, logistic link: a
    logistic recalibration (Cox 1958) in which each known case has its weight. Newton's method for
    all columns at once from `start` (intercept, slope); NaN in a column where it does not arrive.
    """
    known = seen.known(horizon)
    x, status = _logit(probability[known]), seen.had_event(horizon)[known].astype(float)
    powers = np.stack([np.ones_like(x), x, x**2])

    def bounds(weights: Floats) -> Floats:
        of_known = seen.known_by(horizon, weights)[1]
        return _both(_newton(of_known, x, powers, status, start)[1])

    return bounds


def slope(seen: FollowUp, probability: Floats, horizon: float) -> NDArray[np.float64] | str:
    """(intercept, slope) of all cases with a prediction, or why there is no finite one."""
    known, of_known = seen.known_by(horizon, np.ones((len(probability), 1)))
    usable = ~np.isnan(probability[known])
    known, weights = known[usable], of_known[usable]
    x, status = _logit(probability[known]), seen.had_event(horizon)[known]
    of_event, of_free = x[status], x[~status]
    if not len(of_event) or not len(of_free):
        return "the cases whose status is known then are all of one kind"
    if float(np.ptp(x)) < _ARRIVED:
        return "all probabilities are equal"
    if of_event.min() >= of_free.max() or of_free.min() >= of_event.max():
        return "the probabilities separate events from others, so no finite slope fits best"
    powers = np.stack([np.ones_like(x), x, x**2])
    found = _newton(weights, x, powers, status.astype(float), np.zeros(2))[:, 0]
    return found if np.isfinite(found).all() else "no finite slope was found"


def independent_units(
    patient: NDArray[np.int64] | None, weights: Floats, chosen: NDArray[np.bool_] | None = None
) -> float:
    """Patients of equal weight that the weighted (chosen) cases are worth (Kish)."""
    weights = weights if chosen is None else weights * chosen
    of_patient = weights if patient is None else np.bincount(patient, weights)
    squares = float((of_patient**2).sum())
    return float(of_patient.sum()) ** 2 / squares if squares > 0 else 0.0


def _newton(
    weights: Floats, x: Floats, powers: Floats, status: Floats, start: NDArray[np.float64]
) -> Floats:
    """[2, r] of intercepts and slopes."""
    beta = np.repeat(start[:, None], weights.shape[1], axis=1)
    for _ in range(_STEPS):
        fitted = special.expit(beta[0] + x[:, None] * beta[1])
        gradient = powers[:2] @ (weights * (status[:, None] - fitted))
        fitted *= 1 - fitted
        fitted *= weights
        a, b, c = powers @ fitted
        determinant = a * c - b**2
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.stack([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]])
            step = np.clip(step / determinant, -2, 2)
        beta = beta + step
        far = ~(np.abs(step).max(axis=0) < _ARRIVED)
        if not far.any():
            break
    beta[:, far] = np.nan
    return beta


def _logit(probability: Floats) -> Floats:
    return np.asarray(special.logit(np.clip(probability, CLIP, 1 - CLIP)))


def _by_status(seen: FollowUp, horizon: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cases with the event by the horizon, and cases known to be free of it."""
    known, by = seen.known(horizon), seen.had_event(horizon)
    return known[by[known]], known[~by[known]]


def _ratio(part: Floats, whole: Floats) -> Floats:
    found = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _both(values: Floats) -> Floats:
    return np.stack([values, values])
