"""How much a metric drops when the inputs are perturbed, judged on the same cases.

    >>> judge_drop(clean, changed, "sensitivity", threshold=0.5, maximum_drop=0.05, alpha=0.025)

Rules
-----
1. drop = clean - perturbed, on the same cases; positive where the model got worse.
2. `pass`: the drop's upper bound lies below the maximum. `fail`: its lower bound lies above.
   Otherwise `insufficient_evidence`. Each bound has the one-sided error alpha.
3. Pairs are kept. Sensitivity and specificity: the drop is the share of cases lost (right before,
   wrong after) less the share gained; each has its exact interval on the effective sample size
   of its patients (`intervals.share`), joined by MOVER with their correlation where it is
   negative. Without one case lost or gained the upper bound is the exact one of no event in n, so
   no interval has zero width. AUC: `intervals.paired`, the perturbed run as the candidate and the
   run itself as the comparator.
4. A model that does not move but on a few patients, where it collapses, has a skewed drop; the
   third moment in `intervals.paired` is for this (without it a simulated model passed with .073
   instead of .025). And the AUC's upper bound is no better than what K patients of whom none
   changed leave open: a share of 1 - alpha^(1/K) that collapse.
5. A failed prediction counts as right before and as wrong after, with bounds over what it could
   have been: silence never lowers a bound of a drop. So `clean` here may exceed the endpoint's
   value, where failures count as wrong.

The patient bootstrap (`intervals.bootstrap`) was not taken: where no case changed, which is what a
robust model looks like, all replicates are equal and nothing but its guard gives a width.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cases import CaseTable
from validators.intervals.auc import area
from validators.intervals.influence import widening_correlation
from validators.intervals.paired import paired_areas
from validators.intervals.proportion import Pair, clopper_pearson, mover
from validators.intervals.share import Share, share
from validators.outcome import Interval, Outcome
from validators.robustness.evidence import DropEvidence

Metric = Literal["sensitivity", "specificity", "auc"]


def judge_drop(
    clean: CaseTable,
    changed: CaseTable,
    metric: Metric,
    *,
    threshold: float,
    maximum_drop: float,
    alpha: float,
) -> DropEvidence:
    """The drop from `clean` to `changed` (the same cases, row by row) and what it shows.

    Unit: the case; clusters: patients. `maximum_drop` lies in (0, 1). Raises Invalid where the two
    tables do not hold the same cases.
    """
    _check(clean, changed, maximum_drop)
    code = np.arange(len(clean.reference)) if clean.patient is None else clean.patient
    if metric == "auc":
        before, after, (low, high), method = _of_areas(clean, changed, code, alpha)
        used = np.ones(len(code), dtype=bool)
    else:
        used = clean.positive if metric == "sensitivity" else ~clean.positive
        before, after, (low, high), method = _of_shares(
            clean, changed, used, code, threshold, alpha
        )
    drop = before - after
    outcome, reason = _judge(metric, drop, (low, high), maximum_drop)
    positives = int((clean.positive & used).sum())
    return DropEvidence(
        metric=metric,
        n=int(used.sum()),
        positives=positives,
        negatives=int(used.sum()) - positives,
        clusters=None if clean.patient is None else len(np.unique(code[used])),
        clean=before,
        changed=after,
        drop=drop,
        interval=Interval(low=low, high=high, level=1 - 2 * alpha, method=method),
        maximum_drop=maximum_drop,
        outcome=outcome,
        reason=reason,
    )


def _of_shares(
    clean: CaseTable, changed: CaseTable, used: NDArray[np.bool_], code: NDArray[np.int64],
    threshold: float, alpha: float,
) -> tuple[float, float, Pair, str]:  # fmt: skip
    """(share before, share after, interval of the drop, its method) among `used` cases."""
    code = np.unique(code[used], return_inverse=True)[1].astype(np.int64)
    silent_before, silent_after = clean.failed[used], changed.failed[used]
    before = _positive(clean, threshold)[used] == clean.positive[used]
    after = _positive(changed, threshold)[used] == clean.positive[used]
    # What a case surely is, and what it could be, over all answers that failures withheld.
    surely_right, surely_wrong = before & ~silent_before, ~before & ~silent_before
    right_after, wrong_after = after & ~silent_after, ~after & ~silent_after
    lost = surely_right & wrong_after
    maybe_lost = ~surely_wrong & ~right_after & ~lost
    gained = surely_wrong & right_after
    maybe_gained = ~surely_right & ~wrong_after & ~gained
    worse = share(lost, maybe_lost, code, failed_is_right=True)
    better = share(gained, maybe_gained, code)
    narrow, wide = widening_correlation(worse.influence, better.influence)[::-1]
    high = _joined(worse, better, alpha, wide, wide=True)[1]
    low = _joined(worse, better, alpha, narrow, wide=False)[0]
    n = int(used.sum())
    share_before = float((before | silent_before).sum()) / n
    share_after = float(right_after.sum()) / n
    return share_before, share_after, (low, high), "paired, MOVER over Clopper-Pearson"


def _joined(worse: Share, better: Share, tail: float, correlation: float, *, wide: bool) -> Pair:
    ends = []
    for side in (worse, better):
        n = side.effective_n(tail, wide=wide)
        ends.append(clopper_pearson(side.value * n, n, tail))
    return mover(worse.value, ends[0], better.value, ends[1], correlation)


def _of_areas(
    clean: CaseTable, changed: CaseTable, code: NDArray[np.int64], alpha: float
) -> tuple[float, float, Pair, str]:
    """(AUC before, AUC after, interval of the drop, its method)."""
    before = area(clean.score, clean.positive, code, failed_is_right=True)
    after = area(changed.score, clean.positive, code)
    gain = paired_areas(changed.score, clean.score, clean.positive, code)
    low, high = (-end for end in reversed(gain.gating(alpha)))
    high = max(high, 1 - alpha ** (1 / gain.units))
    return before.value, after.value, (low, high), gain.method


def _positive(table: CaseTable, threshold: float) -> NDArray[np.bool_]:
    return np.asarray(table.score >= threshold)


def _judge(metric: str, drop: float, interval: Pair, most: float) -> tuple[Outcome, str]:
    name = "AUC" if metric == "auc" else metric
    said = f"{name} drops by {drop:.3f} (interval {interval[0]:.3f} to {interval[1]:.3f})"
    if interval[1] < most:
        return "pass", f"{said}, which is shown to be less than {most:g}"
    if interval[0] > most:
        return "fail", f"{said}, which is shown to be more than {most:g}"
    return "insufficient_evidence", (
        f"{said}: this cohort shows neither that the drop is below {most:g} nor that it is above"
    )


def _check(clean: CaseTable, changed: CaseTable, maximum_drop: float) -> None:
    if not 0 < maximum_drop < 1:
        raise Invalid(f"the maximum drop {maximum_drop:g} must lie between 0 and 1")
    same = np.array_equal(clean.reference, changed.reference)
    both = (clean.patient, changed.patient)
    if same and both[0] is not None and both[1] is not None:
        same = np.array_equal(both[0], both[1])
    if not same or (both[0] is None) != (both[1] is None):
        raise Invalid(
            "the perturbed run does not hold the same cases in the same order as the run itself, "
            "so no drop can be computed; score both against one reference standard"
        )
