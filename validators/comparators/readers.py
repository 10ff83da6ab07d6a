"""The model against the average of readers who read the same cases.

    >>> found = against_readers(positive, score, ratings, patient, metric="auc", tail=0.025)
    >>> judge_comparison(found.comparison.difference, found.comparison.interval, margin=0.05)

The readers stand for all readers like them, and the cases for all cases: both are random. So the
model of Obuchowski & Rockette (1995) with the degrees of freedom of Hillis (2007), in the form
for one treatment: the model is fixed, and each reader's figure is its difference to the model's
on the same cases (standalone performance against readers; Chakraborty 2017, ch. 22). A bootstrap
of cases takes these very readers as the only ones: at a nominal .025 its lower bound errs in .023
to .136 of studies, this one's in .009 to .039 (bench/comparators.py).

Rules
-----
1. `auc` takes scores and ratings on any ordered scale; `sensitivity` and `specificity` take
   decisions, 1 or 0. Ties count half. Each reader must have read each case.
2. Covariances by the jackknife that leaves out one patient (one case where they are independent);
   with it the method equals that of Dorfman, Berbaum & Metz (1992), but for rules 4, 6 and 7.
3. A failed prediction of the model is wrong. The lower bound takes the largest error that any
   answers in place of the failed ones could have had (`validators.comparators.withheld`), so one
   that is withheld never raises it. As a function of the covariance that readers share the error
   first falls, by its degrees of freedom, and then rises: the largest is at an end of the range.
4. No lower bound is better than K perfect decisions of the model allow, tail^(1/K) minus the
   readers' mean; no upper bound worse than K wrong ones do.
5. Fewer than three readers, readers who do not differ at all, or a class without cases: no
   interval, with the reason. (With two, a model as good as they are was failed in .055 of studies
   instead of .025.)
6. Readers who agree more than the noise of their cases would let equally good ones do: their mean
   square counts as no less than that noise. Here the textbook's would be smaller.
7. No more degrees of freedom than the patients of the smaller class less one: Hillis' take the
   cases' covariance as known, which 25 positives do not make it.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from registry.trust.errors import Invalid
from validators.comparators.figures import Figures, figures_of
from validators.comparators.model import Comparison
from validators.comparators.withheld import shared_range
from validators.evidence import Interval
from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair
from validators.metrics.measure import Undefined

FigureOfMerit = Literal["auc", "sensitivity", "specificity"]
FEWEST_READERS = 3
_NOTHING = 1e-24


@dataclass(frozen=True)
class Spread:
    """The uncertainty of the mean of several readers' figures.

    `between` is the readers' mean square, `within` their average variance over cases, `shared`
    the average covariance of two readers over cases.
    """

    between: float
    within: float
    shared: float
    standard_error: float
    freedom: float


@dataclass(frozen=True)
class ReaderComparison:
    """The comparison with what it is made of; `readers` are the readers' own figures."""

    comparison: Comparison
    model: float
    readers: tuple[float, ...]
    spread: Spread

    @property
    def readers_mean(self) -> float:
        """The average of the readers."""
        return sum(self.readers) / len(self.readers)


def against_readers(
    positive: NDArray[np.bool_],
    model: Floats,
    readers: Floats,
    patient: NDArray[np.int64] | None = None,
    *,
    metric: FigureOfMerit,
    tail: float,
) -> ReaderComparison | Undefined:
    """The model's figure less the readers' average, with error `tail` on each side.

    `positive` is [n], `model` [n] (NaN where the prediction failed), `readers` [n, readers].
    `patient` holds whole-number codes. Raises Invalid where the columns do not fit each other.
    """
    n = len(positive)
    _check(n, model, readers, patient, metric)
    if n == 0:
        return Undefined("there is no case", 0, None)
    code = np.arange(n) if patient is None else np.unique(patient, return_inverse=True)[1]
    clusters = None if patient is None else int(code.max()) + 1
    reason = _why_not(positive, readers, metric)
    if reason:
        return Undefined(reason, n, clusters)
    failed = np.isnan(model)
    worst = np.where(failed, np.where(positive, -np.inf, np.inf), model)
    wrong = figures_of(metric, positive, np.column_stack([worst, readers]), code)
    if wrong is None:
        return Undefined("one patient holds all cases of a class", n, clusters)
    spread = _of_differences(wrong)
    difference = float(wrong.whole[0] - wrong.whole[1:].mean())
    if isinstance(spread, str):
        return Undefined(spread, n, clusters, difference)
    low, high = _bounds(wrong, spread, tail)
    if failed.any():
        for shared in shared_range(metric, positive, failed, code, wrong, spread.shared):
            within = spread.within + shared - spread.shared
            ranged = _spread(spread.between, within, shared, readers.shape[1])
            low = min(low, _bounds(wrong, ranged, tail)[0])
    interval = Interval(
        low=low,
        high=high,
        level=1 - 2 * tail,
        method=f"Obuchowski-Rockette, Hillis' degrees of freedom, {readers.shape[1]} readers, "
        f"jackknife by {'case' if clusters is None else 'patient'}",
    )
    return ReaderComparison(
        Comparison(difference, interval, n, clusters),
        float(wrong.whole[0]),
        tuple(float(one) for one in wrong.whole[1:]),
        spread,
    )


def spread_of_mean(figures: Floats, covariance: Floats) -> Spread | str:
    """The uncertainty of the mean of `figures` ([readers]) over readers and cases, or why none.

    `covariance` is that over cases ([readers, readers]). Obuchowski & Rockette (1995) for one
    treatment; degrees of freedom of Hillis (2007). The readers' mean square is taken as no less
    than `within` - `shared`, which is its expectation for readers who are equally good.
    """
    count = len(figures)
    if count < FEWEST_READERS:
        who = "1 reader says" if count == 1 else f"{count} readers say"
        return f"{who} too little of how readers differ; at least {FEWEST_READERS} are needed"
    between = float(figures.var(ddof=1))
    within = float(np.trace(covariance)) / count
    shared = (float(covariance.sum()) - within * count) / (count * (count - 1))
    if between < _NOTHING:
        return "the readers do not differ at all, so what other readers would do can't be estimated"
    return _spread(between, within, shared, count)


def _spread(between: float, within: float, shared: float, count: int) -> Spread:
    taken = max(between, within - shared)
    inner = taken + count * max(shared, 0.0)
    freedom = (count - 1) * (inner / taken) ** 2
    return Spread(between, within, shared, sqrt(inner / count), freedom)


def _of_differences(figures: Figures) -> Spread | str:
    """The spread of the readers' differences to the model."""
    without = figures.without[:, :1] - figures.without[:, 1:]
    deviation = without - without.mean(axis=0)
    patients = len(without)
    covariance = (patients - 1) / patients * deviation.T @ deviation
    return spread_of_mean(figures.whole[0] - figures.whole[1:], covariance)


def _bounds(figures: Figures, spread: Spread, tail: float) -> Pair:
    mean = float(figures.whole[1:].mean())
    difference = float(figures.whole[0]) - mean
    freedom = min(spread.freedom, max(figures.units - 1, 1.0))
    half = -float(special.stdtrit(freedom, tail)) * spread.standard_error
    perfect = float(tail ** (1 / figures.units))
    low = min(difference - half, perfect - mean)
    high = max(difference + half, 1 - perfect - mean)
    return max(-1.0, min(low, difference)), min(1.0, max(high, difference))


def _check(
    n: int, model: Floats, readers: Floats, patient: NDArray[np.int64] | None, metric: FigureOfMerit
) -> None:
    if readers.ndim != 2 or len(readers) != n or len(model) != n:
        raise Invalid(
            f"the reference standard has {n} cases; the model's and the readers' columns must have "
            "as many, with one column a reader"
        )
    if patient is not None and len(patient) != n:
        raise Invalid(f"the column patient has {len(patient)} rows, the reference standard has {n}")
    for who, values in (("model's", model), ("readers'", readers)):
        known = values[~np.isnan(values)]
        if metric != "auc" and not np.isin(known, (0, 1)).all():
            raise Invalid(f"the {who} decisions for {metric} must be 0 or 1")
        if np.isinf(known).any():
            raise Invalid(f"the {who} scores must be finite numbers")


def _why_not(positive: NDArray[np.bool_], readers: Floats, metric: FigureOfMerit) -> str:
    """Why there is no figure of merit, or nothing."""
    if readers.shape[1] == 0:
        return "there is no reader"
    unread = int(np.isnan(readers).any(axis=1).sum())
    if unread:
        return f"{unread} of {len(positive)} cases were not read by every reader"
    counts = {"positive": int(positive.sum()), "negative": int((~positive).sum())}
    asked = {"sensitivity": ("positive",), "specificity": ("negative",)}
    missing = [name for name in asked.get(metric, tuple(counts)) if counts[name] == 0]
    return f"there is no {missing[0]} case" if missing else ""
