"""How far the scores and patients seen here lie from the certified cohort's: what the page shows.

    >>> [found.name for found in drift(pilot, certified) if found.shifted]

Rules
-----
1. The unit is the patient: its first score, its first known group. Counts of the certified cohort
   are its shares times its size.
2. The population stability index and the Jensen-Shannon distance are `validators.drift.measures`. A
   shift is an index at or above `limit`: the larger of .1 and what two samples of one population
   exceed with probability .05 / (number of distributions). That rate holds for one look. The alarm
   that may be looked at every day is `serving.pilot.sequential`; this says how large a shift is.
3. Input summaries have no certified counterpart (nothing of the locked cohort's inputs leaves).
   They are compared with the first 100 answers of the pilot itself: standardized difference.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving.pilot.certified import Certified
from serving.pilot.reading import Answers, Cases, Pilot
from serving.pilot.sequential import binned, coded
from validators.drift.measures import (
    index_by_chance,
    jensen_shannon,
    stability_index,
    standardized_difference,
)

ALPHA = 0.05
SMALLEST_INDEX = 0.1
FEWEST = 30
FIRST = 100


@dataclass(frozen=True)
class Shift:
    """One distribution, certified and here. Measures are None where `reason` says why."""

    name: str
    labels: tuple[str, ...]
    certified: tuple[float, ...]
    here: tuple[int, ...]
    index: float | None
    limit: float | None
    distance: float | None
    shifted: bool | None
    reason: str


@dataclass(frozen=True)
class InputShift:
    """A number about the inputs: its mean in the first answers and after, and how far apart."""

    name: str
    first: float
    later: float
    difference: float | None
    n: int


def drift(pilot: Pilot, certified: Certified) -> tuple[Shift, ...]:
    """The scores, then each attribute. Empty where the certified summary has no counts."""
    summary = certified.summary
    if not summary.cases:
        return ()
    counted: list[tuple[str, list[str], list[float], list[int]]] = []
    if summary.score is not None:
        edges = summary.score.edges
        labels = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
        codes = binned(_first_scores(pilot.answers), edges)
        here = np.bincount(codes, minlength=len(labels)).tolist()
        counted.append(("score", labels, list(summary.score.shares), here))
    for name, shares in summary.attributes.items():
        codes = coded(_first_groups(pilot.cases, name), list(shares))
        labels, certified_shares = list(shares), list(shares.values())
        if (codes >= len(labels)).any():
            labels, certified_shares = [*labels, "(others)"], [*certified_shares, 0.0]
        here = np.bincount(codes, minlength=len(labels)).tolist()
        counted.append((name, labels, certified_shares, here))
    alpha = ALPHA / max(len(counted), 1)
    return tuple(_shift(*one, summary.cases, alpha) for one in counted)


def input_drift(answers: Answers) -> tuple[InputShift, ...]:
    """Each input summary: the first `FIRST` answers that have it against all later ones."""
    found = []
    for name, column in answers.inputs.items():
        values = column[np.isfinite(column)]
        before, after = values[:FIRST], values[FIRST:]
        if len(before) < FIRST or len(after) < FEWEST:
            continue
        spread = float(before.std(ddof=1))
        difference = None
        if spread > 0:
            difference = standardized_difference(float(before.mean()), spread, after)
        mean = float(before.mean()), float(after.mean())
        found.append(InputShift(name, *mean, difference, len(after)))
    return tuple(found)


def _shift(
    name: str, labels: list[str], shares: list[float], here: list[int], cases: int, alpha: float
) -> Shift:
    shown = name, tuple(labels), tuple(shares), tuple(here)
    total = sum(here)
    if total < FEWEST or len(labels) < 2:
        why = f"{total} patients are too few to compare; at least {FEWEST} are needed"
        return Shift(*shown, None, None, None, None, why)
    counts = [round(share * cases) for share in shares], here
    index = stability_index(*counts)
    limit = max(SMALLEST_INDEX, index_by_chance(*counts, alpha))
    why = f"the stability index is {index:.3f}; {limit:.3f} or more is called a shift"
    return Shift(*shown, index, limit, jensen_shannon(*counts), index >= limit, why)


def _first_scores(answers: Answers) -> NDArray[np.float64]:
    places = np.flatnonzero(np.isfinite(answers.score))
    _, first = np.unique(answers.patient[places], return_index=True)
    return np.asarray(answers.score[places[first]])


def _first_groups(cases: Cases, name: str) -> NDArray[np.str_]:
    groups = cases.attributes[name]
    places = np.flatnonzero(groups != "")
    _, first = np.unique(cases.patient[places], return_index=True)
    return np.asarray(groups[places[first]])
