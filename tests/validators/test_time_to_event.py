"""Endpoints of a time-to-event question: against other software, by their laws, on bad input."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tests.validators.survival_made import RECORDED, SETTINGS, changed, cohort, withheld
from validators.intervals.follow_up import follow_up, kaplan_meier
from validators.metrics.measure import Side, Undefined
from validators.metrics.time_to_event import MEASURES, figures, measures, side
from validators.metrics.time_to_event_table import TimeToEventTable, written
from validators.protocol.tasks import TimeToEventSettings

TAIL = 0.025
NAMES = tuple(measures(SETTINGS))
DIRECTED = tuple(name for name, of in measures(SETTINGS).items() if of.direction != "band")
seeds = st.integers(0, 10_000)
fast = settings(max_examples=25, deadline=None)


def _value(table: TimeToEventTable, metric: str, asked: TimeToEventSettings = SETTINGS) -> float:
    value = side(table, metric, asked).value
    assert value is not None
    return value


def _found(table: TimeToEventTable, metric: str, *, failed_is_right: bool = False) -> Side:
    found = side(table, metric, SETTINGS, failed_is_right=failed_is_right)
    assert not isinstance(found, Undefined), found.reason
    return found


def _refused(table: TimeToEventTable, metric: str) -> Undefined:
    found = side(table, metric, SETTINGS)
    assert isinstance(found, Undefined)
    assert found.reason
    return found


def _recorded(name: str, number: int | None = None) -> tuple[dict, TimeToEventTable]:
    of = RECORDED[name] if number is None else RECORDED[name][number]
    probabilities = dict(zip(of.get("horizons", ()), of.get("probability", ()), strict=True))
    return of, TimeToEventTable(
        time=np.array(of["time"]), event=np.array(of["event"]), risk=np.array(of["risk"]),
        probabilities={at: np.array(given) for at, given in probabilities.items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [("gbsg2", None), ("made", None), ("tied", 0), ("tied", 1), ("tied", 2)]
)
def test_harrell_s_c_is_that_of_lifelines(name: str, number: int | None) -> None:
    of, table = _recorded(name, number)
    assert _value(table, "harrell_c") == pytest.approx(of["harrell_c"], abs=1e-12)


def test_the_c_of_the_breast_cancer_study_is_the_known_one() -> None:
    assert RECORDED["gbsg2"]["of_the_model"] == pytest.approx(0.687928, abs=1e-6)
    assert _value(_recorded("gbsg2")[1], "harrell_c") == pytest.approx(0.6879, abs=1e-4)


def test_the_survival_curve_is_that_of_lifelines() -> None:
    of, table = _recorded("gbsg2")
    at, survival, _ = kaplan_meier(table.time, table.event)
    for time, expected in zip(of["survival_at"], of["survival"], strict=True):
        assert survival[np.searchsorted(at, time, "right") - 1] == pytest.approx(expected)


def test_weighted_measures_are_those_of_scikit_survival() -> None:
    of, table = _recorded("made")
    for until, expected in zip(of["until"], of["uno_c"], strict=True):
        asked = TimeToEventSettings(unit="months", horizons=(6,), maximum_follow_up=until)
        assert _value(table, "uno_c", asked) == pytest.approx(expected, abs=1e-12)
    asked = TimeToEventSettings(unit="months", horizons=of["horizons"], maximum_follow_up=50)
    for position, at in enumerate(of["horizons"]):
        for kind in ("auc", "brier"):
            found = _value(table, f"{kind}_at_{written(at)}", asked)
            assert found == pytest.approx(of[kind][position], abs=1e-12)
    found = _value(table, "integrated_brier", asked)
    assert found == pytest.approx(of["integrated_brier"], abs=1e-12)


def _pairs(table: TimeToEventTable) -> tuple[float, float]:
    """(concordant, comparable) pairs, one by one."""
    won = whole = 0.0
    for i in np.flatnonzero(table.event):
        for j in range(table.n):
            later = table.time[j] > table.time[i]
            if later or (table.time[j] == table.time[i] and not table.event[j]):
                whole += 1
                if not (table.failed[i] or table.failed[j]):
                    gap = table.risk[i] - table.risk[j]
                    won += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
    return won, whole


@fast
@given(seeds, st.integers(0, 20), st.booleans())
def test_pairs_are_counted_as_one_would_by_hand(seed: int, failed: int, whole: bool) -> None:
    table = cohort(seed, 50, failed=failed, whole=whole)
    won, pairs = _pairs(table)
    assert _value(table, "harrell_c") == pytest.approx(won / pairs, abs=1e-12)
    best = side(table, "harrell_c", SETTINGS, failed_is_right=True).value
    known_won, known = _pairs(table.subset(~table.failed))
    assert best == pytest.approx((known_won + pairs - known) / pairs, abs=1e-12)


@fast
@given(seeds)
def test_observed_is_one_minus_the_kaplan_meier_curve(seed: int) -> None:
    table = cohort(seed, whole=True)
    at, survival, _ = kaplan_meier(table.time, table.event)
    expected = 1 - survival[np.searchsorted(at, 12, "right") - 1]
    mean = float(table.probabilities[12].mean())
    assert _value(table, "observed_expected_at_12") == pytest.approx(expected / mean)


@fast
@given(seeds)
def test_the_known_cases_stand_for_all_in_every_weighting(seed: int) -> None:
    table = cohort(seed, whole=True)
    drawn = np.random.default_rng(seed).integers(0, 4, (table.n, 7)).astype(float)
    found = follow_up(table.time, table.event).known_by(12, drawn)[1]
    assert found.sum(axis=0) == pytest.approx(drawn.sum(axis=0))
    assert (found >= 0).all()


def test_the_slope_is_that_of_a_weighted_logistic_regression() -> None:
    table = cohort(3, 300)
    seen = follow_up(table.time, table.event)
    known, weights = seen.known_by(12, np.ones((table.n, 1)))
    probability = table.probabilities[12][known]
    logit = np.log(probability / (1 - probability))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        logit, seen.had_event(12)[known], sample_weight=weights[:, 0]
    )
    assert _value(table, "calibration_slope_at_12") == pytest.approx(fitted.coef_[0, 0], rel=1e-4)


def test_without_censoring_before_the_horizon_all_is_as_for_a_binary_question() -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    table = cohort(5, 120)
    came = np.where(table.event, table.time, 100.0)
    table = changed(table, time=came)
    status, p = came <= 12, table.probabilities[12]
    assert _value(table, "auc_at_12") == pytest.approx(roc_auc_score(status, table.risk))
    assert _value(table, "brier_at_12") == pytest.approx(brier_score_loss(status, p))
    assert _value(table, "observed_expected_at_12") == pytest.approx(status.mean() / p.mean())
    acted = p >= 0.3
    benefit = (acted & status).mean() - 0.3 / 0.7 * (acted & ~status).mean()
    assert _value(table, "net_benefit_at_12") == pytest.approx(benefit)


def test_who_is_censored_at_the_horizon_is_free_of_the_event_then() -> None:
    table = cohort(6, 200)
    stopped = changed(
        table, time=np.minimum(table.time, 24), event=table.event & (table.time <= 24)
    )
    for metric in ("auc_at_24", "brier_at_24", "observed_expected_at_24"):
        assert _value(stopped, metric) == pytest.approx(_value(table, metric))


@fast
@given(seeds, st.sampled_from(NAMES), st.integers(0, 8))
def test_the_order_of_cases_does_not_matter(seed: int, metric: str, failed: int) -> None:
    table = cohort(seed, failed=failed, patients=60)
    order = np.random.default_rng(seed).permutation(table.n)
    turned = changed(
        table, time=table.time[order], event=table.event[order], risk=table.risk[order],
        probabilities={at: of[order] for at, of in table.probabilities.items()},
        patient=table.patient[order],  # type: ignore[index]
    )  # fmt: skip
    one, two = (side(of, metric, SETTINGS) for of in (table, turned))
    assert one.value == pytest.approx(two.value)
    if not isinstance(one, Undefined) and not isinstance(two, Undefined):
        assert one.gating(TAIL) == pytest.approx(two.gating(TAIL))


@fast
@given(seeds, st.sampled_from(NAMES))
def test_every_case_twice_is_the_same_value(seed: int, metric: str) -> None:
    """Of the same patients: pairs of patients are counted otherwise than pairs of cases."""
    table = cohort(seed, failed=3)
    table = replace(table, patient=np.arange(table.n))
    twice = TimeToEventTable(
        time=np.tile(table.time, 2), event=np.tile(table.event, 2), risk=np.tile(table.risk, 2),
        probabilities={at: np.tile(of, 2) for at, of in table.probabilities.items()},
        patient=np.tile(np.arange(table.n), 2),
    )  # fmt: skip
    one, two = side(table, metric, SETTINGS), side(twice, metric, SETTINGS)
    assert one.value == pytest.approx(two.value)
    if not isinstance(one, Undefined) and not isinstance(two, Undefined):
        assert one.gating(TAIL) == pytest.approx(two.gating(TAIL))


@fast
@given(seeds, st.sampled_from(["harrell_c", "uno_c", "auc_at_12"]))
def test_only_the_order_of_risks_matters(seed: int, metric: str) -> None:
    table = cohort(seed, failed=4, whole=True)
    other = changed(table, risk=np.exp(table.risk) * 1e6 - 5)
    assert _found(table, metric).gating(TAIL) == _found(other, metric).gating(TAIL)


@fast
@given(seeds, st.sampled_from(NAMES), st.integers(0, 30), st.booleans())
def test_bounds_hold_the_value_and_stay_on_the_scale(
    seed: int, metric: str, failed: int, right: bool
) -> None:
    table = cohort(seed, failed=failed)
    found = side(table, metric, SETTINGS, failed_is_right=right)
    if isinstance(found, Undefined):
        return
    of = measures(SETTINGS)[metric]
    for tail in (0.025, 0.005):
        low, high = found.gating(tail)
        assert np.isfinite([low, found.value, high]).all()
        assert low <= found.value <= high
        assert low < high
        assert of.low is None or of.low <= low
        assert of.high is None or high <= of.high


@fast
@given(seeds, st.sampled_from(DIRECTED), st.integers(1, 40), st.booleans())
def test_silence_never_improves_a_bound(
    seed: int, metric: str, silent: int, one_less: bool
) -> None:
    table = cohort(seed, failed=2, whole=True, patients=50)
    order = np.random.default_rng(seed).permutation(table.n)
    more = withheld(table, order[:silent])
    if one_less:
        table, more = more, withheld(more, order[: silent + 1])
    before, after = side(table, metric, SETTINGS), side(more, metric, SETTINGS)
    if isinstance(before, Undefined):
        assert isinstance(after, Undefined)
        return
    assert not isinstance(after, Undefined)
    was, became = before.gating(TAIL), after.gating(TAIL)
    if measures(SETTINGS)[metric].direction == "higher":
        assert became[0] <= was[0] + 1e-12
        assert after.value <= before.value + 1e-12
    else:
        assert became[1] >= was[1] - 1e-12
        assert after.value >= before.value - 1e-12


@fast
@given(seeds, st.integers(1, 40))
def test_silence_only_widens_the_interval_of_observed_over_expected(seed: int, silent: int) -> None:
    table = cohort(seed, failed=2, whole=True)
    order = np.random.default_rng(seed).permutation(table.n)
    was = _found(table, "observed_expected_at_12").gating(TAIL)
    after = side(withheld(table, order[:silent]), "observed_expected_at_12", SETTINGS)
    if not isinstance(after, Undefined):
        became = after.gating(TAIL)
        assert became[0] <= was[0] + 1e-12
        assert became[1] >= was[1] - 1e-12


def test_a_slope_with_a_failed_case_has_a_value_and_no_interval() -> None:
    table = cohort(9, 150)
    known = np.flatnonzero(table.event & (table.time <= 12))
    found = _refused(withheld(table, known[:1]), "calibration_slope_at_12")
    assert "1 predictions failed" in found.reason
    assert found.value == pytest.approx(_value(table, "calibration_slope_at_12"), abs=0.3)


def test_a_failed_case_whose_status_is_not_known_leaves_the_slope_as_it_is() -> None:
    table = cohort(9, 150)
    unknown = np.flatnonzero(~table.event & (table.time < 12))
    one = _found(table, "calibration_slope_at_12")
    two = _found(withheld(table, unknown[:2]), "calibration_slope_at_12")
    assert one.value == pytest.approx(two.value)
    assert one.gating(TAIL) == pytest.approx(two.gating(TAIL))


@pytest.mark.parametrize("metric", DIRECTED)
def test_failed_counts_as_the_worst_or_as_the_best(metric: str) -> None:
    table = cohort(10, failed=15)
    worst, best = (_found(table, metric, failed_is_right=right).value for right in (False, True))
    assert worst < best if measures(SETTINGS)[metric].direction == "higher" else worst > best


def test_all_failed_is_the_worst_there_is() -> None:
    table = withheld(cohort(11), slice(None))
    for metric, worst in [("harrell_c", 0.0), ("auc_at_12", 0.0), ("uno_c", 0.0)]:
        assert _found(table, metric).value == worst
        assert _found(table, metric).gating(TAIL)[1] > 0
    assert _found(table, "brier_at_12").value == pytest.approx(1.0)
    assert "no case has a probability above 0" in _refused(table, "observed_expected_at_12").reason
    _refused(table, "calibration_slope_at_12")


def test_tied_risks_are_chance_with_an_interval_of_some_width() -> None:
    table = changed(cohort(12), risk=np.zeros(80))
    for metric in ("harrell_c", "uno_c", "auc_at_12"):
        found = _found(table, metric)
        low, high = found.gating(TAIL)
        assert found.value == pytest.approx(0.5)
        assert low < 0.5 < high
    even = changed(table, probabilities={12.0: np.full(80, 0.3)})
    assert "all probabilities are equal" in _refused(even, "calibration_slope_at_12").reason


def test_perfect_order_is_not_certain() -> None:
    table = cohort(13)
    sorted_right = changed(table, time=np.sort(table.time), risk=-np.arange(80.0))
    for metric in ("harrell_c", "uno_c", "auc_at_12"):
        found = _found(sorted_right, metric)
        low, high = found.gating(TAIL)
        assert (found.value, high) == pytest.approx((1.0, 1.0))
        assert 0.8 < low < 0.97


def test_everything_censored() -> None:
    table = changed(cohort(14), event=np.zeros(80, bool))
    assert "no two cases can be compared" in _refused(table, "harrell_c").reason
    assert "no two cases can be compared" in _refused(table, "uno_c").reason
    assert "no case has the event by 12 months" in _refused(table, "auc_at_12").reason
    assert "all of one kind" in _refused(table, "calibration_slope_at_12").reason
    low, high = _found(table, "observed_expected_at_12").gating(TAIL)
    assert low == 0
    assert 0 < high < 1


def test_no_event_before_a_horizon() -> None:
    table = changed(cohort(15), time=cohort(15).time + 12)
    assert "no case has the event by 12 months" in _refused(table, "auc_at_12").reason
    assert _found(table, "observed_expected_at_12").value == 0


def test_nobody_followed_up_to_the_horizon() -> None:
    table = cohort(16)
    short = changed(table, time=table.time / 10, event=table.event & (table.time < 40))
    assert float(short.time.max()) < 12
    for metric in ("brier_at_12", "observed_expected_at_12", "net_benefit_at_12"):
        assert _refused(short, metric).reason == "nobody is followed up to 12 months"
    assert "free of the event at 12 months" in _refused(short, "auc_at_12").reason
    assert _refused(short, "integrated_brier").value is None


def test_no_censoring_at_all() -> None:
    table = changed(cohort(17, 120), event=np.ones(120, bool))
    for metric in NAMES:
        assert _found(table, metric).value is not None
    assert _found(table, "uno_c").value == pytest.approx(
        _value(changed(table, event=table.time < 48), "harrell_c")
    )


def test_few_patients_have_a_value_and_no_interval() -> None:
    few = _refused(cohort(18, 80, patients=29), "harrell_c")
    assert "29 patients are too few" in few.reason
    assert few.value is not None
    assert few.clusters == 29
    rare = changed(cohort(19), event=np.arange(80) < 2)
    assert "bootstrap draws it has no value" in _refused(rare, "harrell_c").reason


def test_one_case_a_patient_is_as_without_patients() -> None:
    table = cohort(20)
    named = changed(table, patient=np.arange(80))
    for metric in NAMES:
        assert _found(table, metric).gating(TAIL) == pytest.approx(
            _found(named, metric).gating(TAIL)
        )


def test_a_missing_probability_column_says_so() -> None:
    table = changed(cohort(21), probabilities={12.0: cohort(21).probabilities[12.0]})
    assert _found(table, "brier_at_12").value < 0.3
    for metric in ("brier_at_24", "integrated_brier", "observed_expected_at_24"):
        assert _refused(table, metric).reason == "the cases have no probability_24"


def test_metrics_are_named_by_their_horizon() -> None:
    asked = TimeToEventSettings(unit="years", horizons=(0.5,), maximum_follow_up=5)
    found = measures(asked)
    assert found["auc_at_0.5"].label == "0.5-year AUC"
    assert "integrated_brier" not in found
    assert "net_benefit_at_0.5" not in found
    assert all(name == of.name for name, of in found.items())
    assert set(MEASURES) >= {name.rsplit("_0.5", 1)[0] for name in found}
    with pytest.raises(ValueError, match="no metric"):
        side(cohort(0), "auc_at_12", asked)


def test_figures_show_no_single_patient() -> None:
    table = cohort(22, 300, failed=20)
    drawn = {one.name: one for one in figures(table, SETTINGS)}
    assert set(drawn) == {"calibration", "auc_over_time", "survival_by_risk"}
    assert len(drawn["survival_by_risk"].series) == 3
    times = {x for one in drawn["survival_by_risk"].series for x, _ in one.points}
    assert not times & set(table.time.tolist())
    ends = [one.points[20][1] for one in drawn["survival_by_risk"].series]
    assert ends == sorted(ends, reverse=True)
    for low, high, (_, observed) in zip(
        drawn["calibration"].series[0].low, drawn["calibration"].series[0].high,
        drawn["calibration"].series[0].points, strict=True,
    ):  # fmt: skip
        assert 0 <= low <= observed <= high <= 1


@pytest.mark.parametrize("n", [1, 5, 12, 40])
def test_figures_of_few_or_equal_or_silent_cases(n: int) -> None:
    for table in (
        cohort(23, n),
        changed(cohort(23, n), risk=np.zeros(n)),
        withheld(cohort(23, n), slice(None)),
        changed(cohort(23, n), event=np.zeros(n, bool)),
    ):
        for one in figures(table, SETTINGS):
            assert all(len(of.points) for of in one.series)
