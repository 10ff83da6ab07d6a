"""How far a locked cohort has been used up by the answers that it gave: a warning level.

    >>> exposure([Use("sme-a/nodules", attempts=3, passes=1, each_alpha=0.025)]).level
    'fresh'

Every attempt tells somebody pass or not pass. Two things grow with that, and each has a limit that
follows from what it means; `level` is the worse of the two.

Rules
-----
1. Expected false passes. One attempt passes a model that misses its goal with at most `each_alpha`
   (the protocol's alpha over its attempts; a family together at most alpha, Bonferroni). So over a
   cohort's life at most E = sum of each_alpha over all attempts are expected, and the chance of
   any is at most E. From E = 1/2 on the cohort can no longer promise that it has more likely than
   not let no bad model through (`watch`); at E = 1 one is to be expected (`rotate`).
2. What the answers tell. Suppose the worst: every family knows all earlier answers and chooses the
   next model by them. Then the next model is one of as many as there were possible answers. After
   m attempts with k passes that is N = sum of C(m, j), j = 0 to k: a failure that everybody
   expects tells little, a pass tells log2 of where it may have come (the counting of the Ladder:
   Blum & Hardt, ICML 2015; for any bounded description of answers: Dwork, Feldman, Hardt, Pitassi,
   Reingold & Roth, "The reusable holdout", Science 349, 2015). By the union bound over those N
   models a rate over n cases lies, with error delta, within sqrt(ln(2 N / delta) / (2 n)) of the
   truth, in place of sqrt(ln(2 / delta) / (2 n)). So the use made so far is worth a factor
   F = 1 + ln N / ln(2 / delta) of the cases. At F = 2 half the cohort is gone (`watch`); at F = 4
   intervals would have to be twice as wide (`rotate`). delta is 0.05.
3. An attempt that was given back told nobody anything, and is not counted.

What this can't see: reports that were released after the last attempt (rounded numbers tell more
than one bit; those who read them have no attempt left on this cohort, so it needs somebody to pass
them on), and trials on a development cohort, where nothing is decided.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["fresh", "watch", "rotate"]
WATCH_FALSE_PASSES = 0.5
ROTATE_FALSE_PASSES = 1.0
WATCH_FACTOR = 2.0
ROTATE_FACTOR = 4.0
DELTA = 0.05
_ADVICE: dict[Level, str] = {
    "fresh": "No action is needed.",
    "watch": "Begin to collect the next version of this cohort, and lock no further protocol on "
    "this one.",
    "rotate": "Lock a new version with new cases, and take no further submission on this one.",
}


@dataclass(frozen=True)
class Use:
    """What one family did under one protocol: attempts that count, passes, error of each."""

    family: str
    attempts: int
    passes: int
    each_alpha: float


@dataclass(frozen=True)
class Exposure:
    """How far a cohort is used up. `bits` is log2 N, `cases_factor` F (rules 1 and 2)."""

    expected_false_passes: float
    bits: float
    cases_factor: float
    level: Level
    because: str
    advice: str


def exposure(uses: Sequence[Use]) -> Exposure:
    """The exposure of a cohort version after `uses`."""
    expected = math.fsum(use.attempts * use.each_alpha for use in uses)
    attempts, passes = sum(use.attempts for use in uses), sum(use.passes for use in uses)
    models = sum(math.comb(attempts, j) for j in range(min(passes, attempts) + 1))
    factor = 1.0 + math.log(models) / math.log(2.0 / DELTA)
    by_passes = _level(expected, WATCH_FALSE_PASSES, ROTATE_FALSE_PASSES)
    by_answers = _level(factor, WATCH_FACTOR, ROTATE_FACTOR)
    level = max(by_passes, by_answers, key=list(_ADVICE).index)
    because = []
    if level != "fresh" and by_passes == level:
        because.append(f"up to {expected:.2g} false passes are to be expected")
    if level != "fresh" and by_answers == level:
        because.append(f"the answers told so far are worth {factor:.2g} times the cases")
    said = "; ".join(because)
    return Exposure(
        expected_false_passes=expected,
        bits=math.log2(models),
        cases_factor=factor,
        level=level,
        because=said,
        advice=_ADVICE[level] if not said else f"{said[0].upper()}{said[1:]}. {_ADVICE[level]}",
    )


def _level(value: float, watch: float, rotate: float) -> Level:
    # Sums of alphas such as 20 x 0.025 must not miss the limit by a rounding.
    for level, limit in (("rotate", rotate), ("watch", watch)):
        if value >= limit or math.isclose(value, limit, rel_tol=1e-9):
            return "rotate" if level == "rotate" else "watch"
    return "fresh"
