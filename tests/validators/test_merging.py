"""Summaries of hospitals: what merges equals what is counted together, in any order."""

import math
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.trust.canonical import digest_of
from registry.trust.errors import Invalid
from validators.intervals.auc import area
from validators.intervals.mean import mean
from validators.intervals.share import Share, share
from validators.merging.confusion import Confusion, ShareCounts, confusion
from validators.merging.histogram import ScoreHistogram, score_histogram
from validators.merging.moments import Moments, moments
from validators.merging.pooling import averaged, merged, pooled
from validators.metrics.measure import Undefined

TAIL = 0.025
THRESHOLD = 0.5


class Hospital:
    """Cases of one hospital: reference, score (NaN where it failed), patient, a value in [0, 1]."""

    def __init__(self, name: str, seed: int, n: int, *, failing: bool, clustered: bool) -> None:
        rng = np.random.default_rng([seed, n])
        self.name = name
        self.positive = rng.random(n) < 0.5
        self.score = np.clip(rng.normal(0.4 + 0.2 * self.positive, 0.25), 0, 1)
        self.score[rng.random(n) < (0.2 if failing else 0)] = np.nan
        self.patient = rng.integers(0, max(n // 3, 1), n) if clustered else np.arange(n)
        self.value = np.where(np.isnan(self.score), np.nan, rng.beta(5, 2, n))

    @property
    def failed(self) -> np.ndarray:
        return np.isnan(self.score)

    @property
    def right(self) -> np.ndarray:
        return ~self.failed & ((self.score >= THRESHOLD) == self.positive)

    def confusion(self) -> Confusion:
        return confusion(self.name, self.positive, self.right, self.failed, self.patient, THRESHOLD)

    def moments(self) -> Moments:
        return moments(self.name, "dice", self.value, (0.0, 1.0), self.patient)

    def histogram(self) -> ScoreHistogram:
        return score_histogram(self.name, self.score, self.positive, self.patient, bins=20)


@st.composite
def hospitals(draw, failing: bool = True, at_least: int = 1) -> list[Hospital]:
    sizes = draw(st.lists(st.integers(at_least, 40), min_size=3, max_size=3))
    seed, clustered = draw(st.integers(0, 10_000)), draw(st.booleans())
    return [
        Hospital(f"h{i}", seed + i, n, failing=failing, clustered=clustered)
        for i, n in enumerate(sizes)
    ]


def together(of: list[Hospital], column: str) -> np.ndarray:
    if column != "patient":
        return np.concatenate([getattr(one, column) for one in of])
    return np.concatenate([one.patient + 1000 * i for i, one in enumerate(of)])


@settings(max_examples=60, deadline=None)
@given(hospitals())
def test_counts_merge_in_any_order_to_those_of_all_cases(of):
    for summary in (Hospital.confusion, Hospital.histogram):
        a, b, c = map(summary, of)
        assert a.merge(b) == b.merge(a)
        assert a.merge(b).merge(c) == a.merge(b.merge(c)) == merged([c, a, b])
    whole = confusion("all", *(together(of, name) for name in
                               ("positive", "right", "failed", "patient")), THRESHOLD)  # fmt: skip
    both = merged([one.confusion() for one in of])
    assert (both.positives, both.negatives) == (whole.positives, whole.negatives)
    binned = score_histogram("all", together(of, "score"), together(of, "positive"),
                             together(of, "patient"), bins=20)  # fmt: skip
    assert merged([one.histogram() for one in of]) == binned.model_copy(
        update={"hospitals": ("h0", "h1", "h2")}
    )


@settings(max_examples=60, deadline=None)
@given(hospitals())
def test_moments_merge_in_any_order_to_those_of_all_cases_but_for_rounding(of):
    a, b, c = (one.moments() for one in of)
    whole = moments("all", "dice", together(of, "value"), (0.0, 1.0), together(of, "patient"))
    for found in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(b).merge(a)):
        for name in Moments.model_fields:
            if name != "hospitals":
                wanted = getattr(whole, name)
                close = pytest.approx(wanted, abs=1e-9) if isinstance(wanted, float) else wanted
                assert getattr(found, name) == close
    assert a.merge(b) == b.merge(a)


@settings(max_examples=100, deadline=None)
@given(hospitals(failing=False))
def test_a_share_out_of_sums_is_the_one_out_of_cases(of):
    both = merged([one.confusion() for one in of])
    positive, patient = together(of, "positive"), together(of, "patient")
    for side, chosen in ((both.positives, positive), (both.negatives, ~positive)):
        found = side.share()
        if not chosen.any():
            assert isinstance(found, Undefined)
            continue
        right, failed = together(of, "right")[chosen], together(of, "failed")[chosen]
        wanted = share(right, failed, patient[chosen], clusters=int(patient.max()) + 1)
        assert (found.value, found.n, found.clusters) == (wanted.value, wanted.n, wanted.clusters)
        assert found.design_effect == pytest.approx(wanted.design_effect, rel=1e-9)
        assert found.gating(TAIL) == pytest.approx(wanted.gating(TAIL), rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 4), st.data())
def test_withheld_predictions_never_raise_the_lower_bound_of_a_merged_share(seed, n, lost, data):
    rng = np.random.default_rng(seed)
    right, patient = rng.random(n) < 0.7, rng.integers(0, max(n // 2, 1), n)
    at = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=lost))
    failed = np.zeros(n, dtype=bool)
    failed[at] = True
    everybody = np.ones(n, dtype=bool)
    before = confusion("a", everybody, right, failed & False, patient, THRESHOLD).positives.share()
    after = confusion("a", everybody, right & ~failed, failed, patient, THRESHOLD).positives.share()
    assert isinstance(before, Share)
    assert isinstance(after, Share)
    assert after.gating(TAIL)[0] <= before.gating(TAIL)[0] + 1e-12
    assert after.design_effect[0] <= before.design_effect[0] + 1e-12
    assert after.design_effect[1] >= before.design_effect[1] - 1e-12


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.data())
def test_the_variance_of_moments_holds_every_completion(seed, n, data):
    rng = np.random.default_rng(seed)
    values, patient = rng.random(n), rng.integers(0, max(n // 2, 1), n)
    at = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
    whole = moments("a", "dice", values, (0.0, 1.0), patient)
    values = values.copy()
    values[at] = np.nan
    found = moments("a", "dice", values, (0.0, 1.0), patient)
    assert found.variance[0] <= whole.variance[0] + 1e-12
    assert found.variance[1] >= whole.variance[1] - 1e-12
    assert found.mean <= whole.mean + 1e-12
    less = moments("a", "error", values, (0.0, 1.0), patient, higher_is_better=False)
    assert less.mean >= whole.mean - 1e-12


def test_the_mean_and_variance_are_those_of_the_cases():
    rng = np.random.default_rng(12)
    values, patient = rng.random(90), np.sort(rng.integers(0, 40, 90))
    code = np.unique(patient, return_inverse=True)[1]
    of = mean(values, (0.0, 1.0), code)
    cut = int(np.searchsorted(patient, 20))
    found = merged([
        moments("a", "dice", values[:cut], (0.0, 1.0), patient[:cut]),
        moments("b", "dice", values[cut:], (0.0, 1.0), patient[cut:]),
    ])  # fmt: skip
    assert found.mean == pytest.approx(of.value)
    assert found.variance[0] == pytest.approx(float((of.influence.low**2).sum()))
    assert found.variance[0] == pytest.approx(found.variance[1])
    low, high = found.shown(TAIL)
    judged = of.gating(TAIL)  # needs the values themselves, and minds what was not seen
    assert judged[0] < low < high < judged[1]


def test_moments_keep_their_digits_far_from_zero():
    values = 1e6 + np.random.default_rng(1).random(200)
    parts = [moments(f"h{i}", "volume", values[i::4], (0.0, 1e7)) for i in range(4)]
    found = merged(parts)
    assert found.deviation_squares == pytest.approx(float(((values - values.mean()) ** 2).sum()))


def test_the_auc_of_binned_scores_is_exact_and_near_the_unbinned():
    of = [Hospital(f"h{i}", i, 150, failing=True, clustered=False) for i in range(3)]
    score, positive = together(of, "score"), together(of, "positive")
    found = merged([one.histogram() for one in of]).area()
    binned = np.minimum(np.floor(score * 20), 19)
    wanted = area(binned, positive)
    assert found.value == pytest.approx(wanted.value, abs=1e-12)
    assert found.gating(TAIL) == pytest.approx(wanted.gating(TAIL), abs=1e-12)
    assert found.value == pytest.approx(area(score, positive).value, abs=0.01)


def test_a_histogram_of_several_cases_a_patient_has_a_value_and_no_interval():
    of = Hospital("a", 1, 90, failing=False, clustered=True)
    found = of.histogram().area()
    assert isinstance(found, Undefined)
    assert found.value is not None
    assert "several cases" in found.reason
    single = Hospital("b", 2, 90, failing=False, clustered=False).histogram()
    assert isinstance(single.merge(of.histogram()).area(), Undefined)


def test_all_cases_together_and_hospitals_alike_are_two_questions():
    """90 of 100 at the large hospital, 5 of 10 at the small one: .864 or .700."""

    def of(name: str, right: int, n: int) -> Confusion:
        yes = np.arange(n) < right
        return confusion(name, yes | True, yes, yes & False, None, THRESHOLD)

    both = [of("large", 90, 100), of("small", 5, 10)]
    cases, sites = pooled(both, "sensitivity"), averaged(both, "sensitivity")
    assert (cases.question, cases.value) == ("a case drawn from all cases", pytest.approx(95 / 110))
    assert sites.question == "a hospital drawn from all hospitals"
    assert sites.value == pytest.approx(0.7)
    assert cases.hospitals == sites.hospitals == 2
    assert pooled(both, "specificity").reason == "there is no case of this class"
    assert averaged(both, "specificity").reason == "no hospital has a case of this class"


def test_what_does_not_belong_together_is_refused():
    a, b = (Hospital(name, 1, 20, failing=False, clustered=False) for name in "ab")
    for summary in (Hospital.confusion, Hospital.histogram, Hospital.moments):
        with pytest.raises(Invalid, match="the hospital a is in both"):
            summary(a).merge(summary(b)).merge(summary(a))
    with pytest.raises(Invalid, match=r"thresholds 0\.5 and 0\.4 differ"):
        a.confusion().merge(b.confusion().model_copy(update={"threshold": 0.4}))
    with pytest.raises(Invalid, match="20 bins, the other 10"):
        a.histogram().merge(score_histogram("b", b.score, b.positive, bins=10))
    with pytest.raises(Invalid, match="differ in metric"):
        a.moments().merge(moments("b", "hd95", b.value, (0.0, 1.0)))
    with pytest.raises(Invalid, match="no summary to merge"):
        merged([])
    with pytest.raises(Invalid, match="already merged"):
        averaged([a.confusion().merge(b.confusion())], "sensitivity")
    with pytest.raises(Invalid, match="no case of dice"):
        moments("a", "dice", np.zeros(0), (0.0, 1.0))


def test_a_summary_travels_and_forged_sums_do_not():
    of = [Hospital(f"h{i}", i, 60, failing=True, clustered=True) for i in range(2)]
    for summary in (Hospital.confusion, Hospital.histogram, Hospital.moments):
        both = reduce(lambda x, y: x.merge(y), map(summary, of))
        again = type(both).model_validate_json(both.model_dump_json())
        assert again == both
        assert digest_of(both.model_dump(mode="json")) == digest_of(again.model_dump(mode="json"))
        with pytest.raises(ValidationError):
            type(both).model_validate({**both.model_dump(), "score": 0.5})
    counts = of[0].confusion().positives.model_dump()
    for change in (
        {"right": counts["cases"] + 1}, {"patients": 0}, {"size_squares": 1},
        {"size_times_right": 10**6}, {"several_alike": Fraction(-1)}, {"several_cases": 0},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            ShareCounts.model_validate({**counts, **change})
    for change in ({"mean": 2.0}, {"scale": (1.0, 0.0)}, {"size_squares": 1}, {"mean": math.nan}):
        with pytest.raises(ValidationError):
            Moments.model_validate({**of[0].moments().model_dump(), **change})
    with pytest.raises(ValidationError):
        Confusion.model_validate({**of[0].confusion().model_dump(), "hospitals": ("b", "a")})


def test_the_smallest_cell_is_the_smallest_count_of_people():
    yes = np.arange(50) < 30
    right = np.arange(50) >= 3
    of = confusion("a", yes, right, yes & False, None, THRESHOLD)
    assert of.smallest_cell == 3  # three false negatives; no false positive does not count
    none = confusion("a", yes | True, right, yes & False, None, THRESHOLD)
    assert none.smallest_cell == 0  # no negative case at all does
    three = confusion("a", yes, right, yes & False, np.repeat(np.arange(10), 5), THRESHOLD)
    assert three.smallest_cell == 3
    assert moments("a", "dice", np.full(30, 0.5), (0.0, 1.0), np.arange(30) // 5).smallest_cell == 6
    scores = np.where(yes, 0.9, 0.1)
    scores[0] = 0.5
    assert score_histogram("a", scores, yes).smallest_cell == 1


def test_means_without_spread_or_patients_have_reasons():
    alike = moments("a", "dice", np.full(9, 0.5), (0.0, 1.0))
    assert "do not vary" in alike.shown(TAIL).reason
    one = moments("a", "dice", np.array([0.1, 0.9]), (0.0, 1.0), np.zeros(2, dtype=np.int64))
    assert one.shown(TAIL).reason == "one patient gives no interval"
    empty = score_histogram("a", np.array([0.2]), np.array([True]))
    assert empty.area().reason == "there is no negative case"
