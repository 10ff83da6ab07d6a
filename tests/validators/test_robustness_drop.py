"""The drop on the same cases: what it shows, and that silence never makes it look smaller."""

from typing import Any

import numpy as np
import pytest
from scipy import special

from registry.trust.errors import Invalid
from tests.validators.made import table_of
from validators.cases import CaseTable
from validators.intervals.auc import paired_difference
from validators.intervals.proportion import clopper_pearson
from validators.robustness.drop import judge_drop


def judged(clean: CaseTable, changed: CaseTable, metric: str = "sensitivity", **more: Any) -> Any:
    options = {"threshold": 0.5, "maximum_drop": 0.05, "alpha": 0.025} | more
    return judge_drop(clean, changed, metric, **options)  # type: ignore[arg-type]


def decided(right: list[bool], patient: list[int] | None = None) -> CaseTable:
    """Positives that were decided so, and one negative."""
    n = len(right)
    return CaseTable(
        reference=np.append(np.ones(n), 0),
        score=np.append(np.where(right, 0.9, 0.1), 0.1),
        patient=None if patient is None else np.array([*patient, max(patient) + 1]),
    )


def before_and_after(n: int, lost: int, gained: int = 0, wrong: int = 0) -> tuple[Any, Any]:
    before = np.array([True] * (n - wrong - gained) + [False] * (wrong + gained))
    after = before.copy()
    after[:lost] = False
    after[n - gained :] = True if gained else after[n - gained :]
    return decided(list(before)), decided(list(after))


def test_a_drop_has_three_outcomes():
    found = [judged(*before_and_after(400, lost)).outcome for lost in (4, 20, 60)]
    assert found == ["pass", "insufficient_evidence", "fail"]


def test_losses_without_gains_have_the_exact_interval():
    found = judged(*before_and_after(200, 7))
    _, high = clopper_pearson(7, 200, 0.025)
    assert found.drop == pytest.approx(7 / 200)
    assert found.interval.high == pytest.approx(high)
    assert found.interval.low < found.drop
    assert (found.n, found.positives, found.negatives, found.clusters) == (200, 200, 0, None)


def test_a_model_that_changes_nothing_still_has_a_width():
    for metric, most in (("sensitivity", 0.05), ("auc", 0.05)):
        table = table_of(np.random.default_rng(3), 60, prevalence=0.5)
        found = judged(table, table, metric, maximum_drop=most)
        assert found.drop == 0
        assert found.interval.low < 0 < found.interval.high
        assert found.outcome == "insufficient_evidence", "some thirty cases can't show 5 %"


def test_the_pairing_counts_not_the_two_values():
    """The same two sensitivities: by five losses, or by 45 losses and 40 gains."""
    steady = judged(*before_and_after(200, 5, wrong=40))
    restless = judged(*before_and_after(200, 45, gained=40))
    assert steady.clean == restless.clean == 0.8
    assert steady.changed == restless.changed
    assert steady.interval.high < restless.interval.high - 0.03


def test_clusters_of_like_cases_widen_the_interval():
    right, after = [True] * 200, [False] * 8 + [True] * 192
    patient = list(np.repeat(np.arange(50), 4))
    alone = judged(decided(right), decided(after))
    together = judged(decided(right, patient), decided(after, patient))
    assert together.clusters == 50
    assert together.interval.high > alone.interval.high + 0.02


def test_specificity_looks_at_negatives():
    rng = np.random.default_rng(8)
    clean = table_of(rng, 300)
    raised = np.where(clean.positive, clean.score, np.minimum(1, clean.score + 0.3))
    found = judged(clean, CaseTable(clean.reference, raised), "specificity")
    assert found.outcome == "fail"
    assert (found.positives, found.negatives) == (0, int((~clean.positive).sum()))
    assert judged(clean, CaseTable(clean.reference, raised)).drop == 0


def test_the_drop_of_the_auc_is_delong_s_paired_difference():
    rng = np.random.default_rng(4)
    clean = table_of(rng, 400)
    noisy = np.clip(clean.score + 0.2 * rng.normal(size=400), 0, 1)
    found = judged(clean, CaseTable(clean.reference, noisy), "auc")
    gap, p = paired_difference(clean.score, noisy, clean.positive)
    assert found.drop == pytest.approx(gap)
    error = abs(gap / special.ndtri(p / 2))
    assert found.interval.high - found.drop == pytest.approx(1.96 * error, rel=0.15)
    assert found.interval.high - found.drop > 1.96 * error


def test_an_auc_that_collapses_on_few_cases_has_a_longer_side_up():
    rng = np.random.default_rng(4)
    clean = table_of(rng, 400, prevalence=0.5)
    score = clean.score.copy()
    score[np.flatnonzero(clean.positive)[:6]] = 0
    found = judged(clean, CaseTable(clean.reference, score), "auc")
    assert found.interval.high - found.drop > 1.2 * (found.drop - found.interval.low)


@pytest.mark.parametrize("metric", ["sensitivity", "specificity", "auc"])
@pytest.mark.parametrize("clustered", [False, True])
def test_silence_never_lowers_a_bound_of_a_drop(metric, clustered):
    rng = np.random.default_rng(17)
    for _ in range(60):
        clean = table_of(rng, 80, patients=30 if clustered else None, failed=0.03)
        moved = np.clip(clean.score + rng.choice([0.05, 0.3]) * rng.normal(size=80), 0, 1)
        moved[rng.random(80) < 0.03] = np.nan
        before = judged(clean, CaseTable(clean.reference, moved, clean.patient), metric)
        hidden = rng.random(80) < rng.choice([0.02, 0.1])
        first, second = clean.score.copy(), moved.copy()
        (first if rng.random() < 0.5 else second)[hidden] = np.nan
        after = judged(
            CaseTable(clean.reference, first, clean.patient),
            CaseTable(clean.reference, second, clean.patient),
            metric,
        )
        assert after.drop >= before.drop - 1e-12
        assert after.interval.high >= before.interval.high - 1e-12
        assert after.interval.low >= before.interval.low - 1e-12


def test_a_failed_perturbed_prediction_is_wrong():
    clean = decided([True] * 100)
    score = clean.score.copy()
    score[:30] = np.nan
    found = judged(clean, CaseTable(clean.reference, score))
    assert found.drop == pytest.approx(0.3)
    assert found.outcome == "fail"


def test_other_cases_are_invalid():
    rng = np.random.default_rng(1)
    clean = table_of(rng, 50, patients=20)
    with pytest.raises(Invalid, match="same cases"):
        judged(clean, table_of(rng, 50, patients=20))
    with pytest.raises(Invalid, match="same cases"):
        judged(clean, CaseTable(clean.reference, clean.score))
    with pytest.raises(Invalid, match="between 0 and 1"):
        judged(clean, clean, maximum_drop=0.0)
