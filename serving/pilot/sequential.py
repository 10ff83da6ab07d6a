"""The questions that a pilot is asked every day, with one false-alarm rate for all of it.

    >>> for found in watch(pilot, certified):
    ...     print(found.name, found.units, found.alarm)

| question | claim that is bet against | unit, in the order of |
|---|---|---|
| sensitivity, specificity | at least the certified lower bound | patient, outcomes' arrival |
| calibration | mean of outcome - score within ± .05 | patient, outcomes' arrival |
| score | the share of each bin lies in its band | patient, predictions |
| each attribute | the share of each category lies in its band | patient, outcomes' arrival |

Rules
-----
1. `ALPHA` = .05 is the chance that a pilot in which every claim holds ever gives any alarm. It is
   divided evenly among the questions, which follow from the certified summary alone, not from what
   was seen.
2. The unit is the patient: its value is the mean over its cases that came with its first outcome.
   Later cases of it are left out, so that values are of different patients. Where cases have no
   patient each case is taken as one.
3. Assumed: patients come as a sequence in which the claim holds for each next one given those
   before (not: that they are alike). Which cases get an outcome must not depend on the outcome: if
   only positive calls are followed up, sensitivity can't be watched, and this does not notice.
4. A band is the certified share, less and more what the cohort's size leaves open of it
   (Clopper-Pearson over all bins together, at half of the question's alpha; the other half is
   bet), and `SLACK` = .05 beyond: a smaller shift is no alarm. The cohort's cases are taken as
   independent.
5. Calibration is asked where the certificate has a figure of it: not every score is a probability.
6. An alarm stays: wealth that falls again takes nothing back.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.pilot.betting import Floats, log_wealth
from serving.pilot.certified import Certified
from serving.pilot.outcomes import OTHERS
from serving.pilot.reading import Cases, Pilot
from validators.intervals.proportion import clopper_pearson

ALPHA = 0.05
SLACK = 0.05
_CALIBRATIONS = ("calibration_in_the_large", "observed_expected", "calibration_slope")
Claims = tuple[Floats, list[float], NDArray[np.int64]]
"""(values [n, claims], their least means, moments [n])."""


@dataclass(frozen=True)
class Carried:
    """Where a question stood when what came before was deleted (`serving.pilot.retention`)."""

    units: int
    highest: float
    alarm: str | None
    state: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Watched:
    """Where a question stands. alarm: the day of the alarm in UTC, None where there is none.

    highest: the largest log wealth so far; limit: the one at which there is an alarm. claim: what
    is bet against, in words.
    """

    name: str
    claim: str
    units: int
    highest: float
    limit: float
    alarm: str | None
    state: tuple[tuple[float, ...], ...]


def watch(
    pilot: Pilot, certified: Certified, carried: Mapping[str, Carried] | None = None
) -> tuple[Watched, ...]:
    """Every question that the certified summary allows, in a fixed order."""
    asked = list(_questions(certified))
    limit = math.log(len(asked) / ALPHA) if asked else math.inf
    alpha = ALPHA / max(len(asked), 1)
    found = []
    for name, claim in asked:
        # A band uses half of alpha for what the cohort's size leaves open of it.
        banded = name == "score" or name.startswith("attribute ")
        highest_allowed = limit + math.log(2) if banded else limit
        values, least, moments = _claims(name, pilot, certified, alpha / 2)
        before = (carried or {}).get(name)
        found.append(_watched(name, claim, values, least, moments, highest_allowed, before))
    return tuple(found)


def _watched(
    name: str, claim: str, values: Floats, least: list[float], moments: NDArray[np.int64],
    limit: float, before: Carried | None,
) -> Watched:  # fmt: skip
    start = None if before is None else np.array(before.state, dtype=np.float64)
    path, state = log_wealth(values, least, start)
    reached = np.flatnonzero(path >= limit)
    alarm = before.alarm if before is not None else None
    if alarm is None and len(reached):
        alarm = str(np.datetime64(int(moments[reached[0]]), "us").astype("datetime64[D]"))
    highest = max(0.0 if before is None else before.highest, *path.tolist(), 0.0)
    return Watched(
        name=name,
        claim=claim,
        units=len(values) + (0 if before is None else before.units),
        highest=highest,
        limit=limit,
        alarm=alarm,
        state=tuple(tuple(row) for row in state.tolist()),
    )


def _questions(certified: Certified) -> Iterator[tuple[str, str]]:
    summary = certified.summary
    for metric in ("sensitivity", "specificity"):
        low = certified.lower_bound(metric)
        if low is not None and certified.threshold is not None:
            yield metric, f"{metric} is at least {low:g}, its certified lower bound"
    if summary.score is not None and any(of in certified.performance for of in _CALIBRATIONS):
        yield "calibration", f"outcomes and scores differ by at most {SLACK:g} on average"
    if summary.cases:
        if summary.score is not None:
            yield "score", "scores are spread as in the certified cohort"
        for attribute, shares in summary.attributes.items():
            if len(shares) > 1:
                yield f"attribute {attribute}", f"{attribute} is spread as in the certified cohort"


def _claims(name: str, pilot: Pilot, certified: Certified, alpha: float) -> Claims:
    if name == "score":
        return _score_claims(pilot, certified, alpha)
    if name.startswith("attribute "):
        return _attribute_claims(name.removeprefix("attribute "), pilot.cases, certified, alpha)
    cases = pilot.cases
    known = cases.arrived >= 0
    if name == "calibration":
        chosen = known & np.isfinite(cases.score)
        off = (1 + cases.earliest - np.where(chosen, cases.score, 0.0)) / 2
        means, moments = _by_patient(cases, off, chosen)
        return np.column_stack([means, 1 - means]), [(1 - SLACK) / 2] * 2, moments
    low = certified.lower_bound(name)
    assert low is not None, "else it is not asked"
    assert certified.threshold is not None, "else it is not asked"
    wanted = 1 if name == "sensitivity" else 0
    right = (cases.score >= certified.threshold) == (wanted == 1)
    right &= np.isfinite(cases.score)  # a failed prediction is wrong
    means, moments = _by_patient(cases, right.astype(float), known & (cases.earliest == wanted))
    return means[:, None], [low], moments


def _by_patient(
    cases: Cases, values: Floats, chosen: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.int64]]:
    """(mean of each patient's chosen cases that came first and together, their moments)."""
    patient, arrived, value = cases.patient[chosen], cases.arrived[chosen], values[chosen]
    if not len(patient):
        return np.empty(0), np.empty(0, dtype=np.int64)
    _, first, code = np.unique(patient, return_index=True, return_inverse=True)
    together = arrived == arrived[first][code]
    count = np.bincount(code[together], minlength=len(first))
    total = np.bincount(code[together], value[together], len(first))
    order = np.argsort(first, kind="stable")
    return np.asarray(total / count)[order], arrived[first][order]


def _score_claims(pilot: Pilot, certified: Certified, alpha: float) -> Claims:
    score, size = certified.summary.score, certified.summary.cases
    assert score is not None, "else it is not asked"
    assert size is not None, "else it is not asked"
    answers = pilot.answers
    places = np.flatnonzero(np.isfinite(answers.score))
    _, first = np.unique(answers.unit[places], return_index=True)
    places = places[np.sort(first)]
    bins = binned(answers.score[places], score.edges)
    return _band_claims(
        bins, score.shares, size, alpha, answers.moment[places]
    )  # fmt: skip


def _attribute_claims(name: str, cases: Cases, certified: Certified, alpha: float) -> Claims:
    shares = certified.summary.attributes[name]
    assert certified.summary.cases, "else it is not asked"
    groups = cases.attributes[name]
    places = np.flatnonzero((groups != "") & (cases.arrived >= 0))
    _, first = np.unique(cases.patient[places], return_index=True)
    places = places[np.sort(first)]
    code = coded(groups[places], list(shares))
    return _band_claims(
        code, list(shares.values()), certified.summary.cases, alpha, cases.arrived[places]
    )


def binned(score: Floats, edges: Sequence[float]) -> NDArray[np.int64]:
    """The bin of each score; what lies outside counts in the nearest one."""
    inside = np.searchsorted(np.asarray(edges), score, side="right") - 1
    return np.asarray(np.clip(inside, 0, len(edges) - 2), dtype=np.int64)


def coded(groups: NDArray[np.str_], categories: Sequence[str]) -> NDArray[np.int64]:
    """The place of each group among the categories; `(others)`, or one beyond, for the rest."""
    place = {name: number for number, name in enumerate(categories)}
    other = place.get(OTHERS, len(categories))
    return np.array([place.get(of, other) for of in groups.tolist()], dtype=np.int64)


def _band_claims(
    codes: NDArray[np.int64], shares: Sequence[float], n: int, alpha: float,
    moments: NDArray[np.int64],
) -> Claims:  # fmt: skip
    """For each share two claims: at least its band's lower end, and at most its upper one."""
    columns, least = [], []
    tail = alpha / (2 * len(shares))
    for number, share in enumerate(shares):
        low, high = clopper_pearson(share * n, n, tail)
        here = (codes == number).astype(float)
        for values, claimed in ((here, low - SLACK), (1 - here, 1 - high - SLACK)):
            if 0 < claimed < 1:
                columns.append(values)
                least.append(claimed)
    if not columns:  # a cohort too small to say anything
        return np.empty((0, 1)), [0.5], np.empty(0, dtype=np.int64)
    return np.column_stack(columns), least, moments
