"""What the development cohort tells: the Ladder, and nothing that `release` withholds."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validators.evidence_made import cases, protocol, report
from validators.metrics.measure import Measure
from validators.protocol.schema import Disclosure
from validators.report.disclosure import release
from validators.report.ladder import NOTICE, Ladder, climb, step_of, told

AUC = Measure("auc", "AUC", "higher", 0.0, 1.0, 1.0)
BRIER = Measure("brier", "Brier score", "lower", 0.0, 1.0, 0.0)
SLOPE = Measure("calibration_slope", "slope", "band", None, None, 1.0)
RATIO = Measure("positive_likelihood_ratio", "LR+", "higher", 0.0, None, math.inf)
RULES = protocol()
values = st.floats(0, 1, allow_nan=False)
steps = st.sampled_from([0.01, 0.03, 0.05, 0.06, 0.1])


@pytest.mark.parametrize(
    ("measure", "before", "value", "expected"),
    [
        (AUC, None, 0.637, 0.65),
        (AUC, 0.7, 0.75, 0.7),  # better by a step, and not by more
        (AUC, 0.7, 0.7501, 0.75),
        (AUC, 0.7, 0.3, 0.7),
        (AUC, 0.7, None, 0.7),
        (AUC, None, None, None),
        (BRIER, 0.3, 0.24, 0.25),
        (BRIER, 0.3, 0.26, 0.3),
        (BRIER, 0.3, 0.9, 0.3),
        (SLOPE, 1.3, 0.82, 0.8),  # nearer to 1, from the other side
        (SLOPE, 1.3, 0.72, 1.3),
        (SLOPE, 0.8, 1.02, 1.0),
    ],
)
def test_a_value_is_released_where_it_is_better_by_more_than_the_step(
    measure: Measure, before: float | None, value: float | None, expected: float | None
) -> None:
    assert climb(measure, before, value, 0.05) == expected


def _distance(measure: Measure, value: float) -> float:
    return abs(value - measure.ideal)


@given(st.sampled_from([AUC, BRIER, SLOPE]), st.lists(values, min_size=1, max_size=30), steps)
def test_a_ladder_never_goes_down_and_each_rung_is_a_step_or_half(
    measure: Measure, found: list[float], step: float
) -> None:
    state: float | None = None
    for value in found:
        now = climb(measure, state, value, step)
        assert now is not None
        if state is not None and now != state:
            assert _distance(measure, now) < _distance(measure, state) - step / 2 + 1e-9
            assert abs(now - value) <= step / 2 + 1e-9
        assert climb(measure, now, value, step) == now, "asking again changes nothing"
        state = now


@given(st.sampled_from([AUC, BRIER, SLOPE]), st.lists(values, min_size=1, max_size=30), steps)
def test_there_are_few_answers_whatever_is_sent(
    measure: Measure, found: list[float], step: float
) -> None:
    state, changes = None, 0
    for value in found:
        now = climb(measure, state, value, step)
        changes, state = changes + (now != state), now
    assert changes <= 2 + 2 / step


def test_the_step_is_the_largest_standard_error() -> None:
    assert step_of(AUC, 100, 1.0, 2) == 0.05
    assert step_of(AUC, 300, 1.0, 3) == 0.029
    assert step_of(AUC, 100, 4.0, 2) == 0.1, "four cases a patient"
    assert step_of(SLOPE, 100, 1.0, 2) == 0.1
    assert step_of(RATIO, 100, 1.0, 2) is None
    assert step_of(AUC, 10**6, 1.0, 2) == 0.01


def test_only_the_development_cohort_has_a_ladder() -> None:
    with pytest.raises(ValueError, match="ladder"):
        release(report(), "development", Disclosure())
    for audience in ("innovator_open", "certified"):
        with pytest.raises(ValueError, match="ladder"):
            release(report(), audience, Disclosure(), ladder=Ladder(RULES.measures))


def test_the_document_says_what_it_is_and_holds_no_exact_number() -> None:
    made = report(cases(failed=12), RULES)
    shown = release(made, "development", RULES.disclosure, ladder=Ladder(RULES.measures))
    assert shown["notice"] == NOTICE
    assert shown["failures"] == "some"
    text = json.dumps(shown)
    for word in ("interval", "gap", "outcome", "verdict", "reason", "curve", "predictions",
                 "repeatability", '"failed"'):  # fmt: skip
        assert word not in text, word
    exact = {f"{one.estimate:.6g}" for one in (*made.endpoints, *made.subgroups) if one.estimate}
    assert not [number for number in exact if len(number) > 5 and number in text]
    for row in shown["endpoints"]:
        steps = row["value"] / row["step"]
        assert steps == pytest.approx(round(steps)), row


def test_what_is_withheld_from_a_hospital_moves_no_ladder() -> None:
    rules = RULES.model_copy(update={"disclosure": Disclosure(minimum_group=60)})
    made = report(cases(), rules)
    hospital = release(made, "certified", rules.disclosure)
    shown = release(made, "development", rules.disclosure, ladder=Ladder(rules.measures))
    hidden = [row["estimate"] is None for row in hospital["subgroups"]]
    assert any(hidden)
    assert not all(hidden)
    for of, row in zip(hidden, shown["subgroups"], strict=True):
        assert (row["value"] is None, row["step"] is None) == (of, of)
        counts = [row[side] for side in ("positives", "negatives") if side in row]
        assert all((count is None) == of for count in counts)
    assert len(told(shown)) == len(shown["endpoints"]) + hidden.count(False)


def test_a_small_cohort_shows_nothing() -> None:
    rules = RULES.model_copy(update={"disclosure": Disclosure(minimum_group=300)})
    shown = release(report(cases(), rules), "development", rules.disclosure,
                    ladder=Ladder(rules.measures))  # fmt: skip
    assert told(shown) == {}
    assert shown["cases"]["positives"] is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=5))
def test_told_again_is_told_the_same(seeds: list[int]) -> None:
    before: dict[tuple[str | None, str | None, str], float] = {}
    for seed in seeds:
        made = report(cases(seed=seed), RULES)
        ladder = Ladder(RULES.measures, before)
        shown = release(made, "development", RULES.disclosure, ladder=ladder)
        assert shown == release(made, "development", RULES.disclosure, ladder=ladder)
        after = told(json.loads(json.dumps(shown)))
        climbed = Ladder(RULES.measures, after)
        again = release(made, "development", RULES.disclosure, ladder=climbed)
        assert told(again) == after
        assert not any(row["improved"] for row in (*again["endpoints"], *again["subgroups"]))
        before = after


def test_failed_predictions_move_the_failure_rate_as_a_hospital_would_read_it() -> None:
    few = report(cases(failed=3), RULES)
    shown = release(few, "development", RULES.disclosure, ladder=Ladder(RULES.measures))
    (rate,) = [row for row in shown["endpoints"] if row["metric"] == "failure_rate"]
    assert (rate["value"], rate["step"], shown["failures"]) == (None, None, "some")
