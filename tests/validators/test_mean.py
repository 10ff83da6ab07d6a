"""The bounded mean: exact for shares, monotone in every value, never of zero width."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.intervals.band import band_mean
from validators.intervals.mean import mean
from validators.intervals.proportion import clopper_pearson


@pytest.mark.parametrize("n", [5, 30, 200])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_of_zeros_and_ones_it_is_the_exact_interval(n: int, share: float) -> None:
    events = round(n * share)
    found = mean(np.arange(n) < events, (0.0, 1.0)).gating(0.025)
    assert found == pytest.approx(clopper_pearson(events, n, 0.025), abs=0.2 / n + 0.002)


def test_equal_copies_of_a_case_are_one_case() -> None:
    values = np.random.default_rng(1).beta(5, 2, 40)
    once = mean(values, (0.0, 1.0), np.arange(40))
    thrice = mean(np.repeat(values, 3), (0.0, 1.0), np.repeat(np.arange(40), 3))
    assert thrice.gating(0.025) == pytest.approx(once.gating(0.025))
    assert (once.method, thrice.method) == ("Gaffke", "Gaffke, by patient")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 20), st.floats(0.001, 0.2))
def test_no_bound_falls_when_a_value_rises(seed: int, n: int, patients: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    values, patient = rng.uniform(-2, 5, n), rng.integers(0, patients, n)
    raised = values.copy()
    raised[seed % n] = rng.uniform(raised[seed % n], 5)
    before, after = (mean(of, (-2.0, 5.0), patient).gating(tail) for of in (values, raised))
    assert -2 <= before[0] < before[1] <= 5
    assert after[0] >= before[0] - 1e-12
    assert after[1] >= before[1] - 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_it_moves_with_the_scale_and_mirrors(seed: int, patients: int) -> None:
    rng = np.random.default_rng(seed)
    values, patient = rng.random(30), rng.integers(0, patients, 30)
    low, high = mean(values, (0.0, 1.0), patient).gating(0.025)
    moved = mean(10 - 4 * values, (6.0, 10.0), patient, higher_is_better=False).gating(0.025)
    assert moved == pytest.approx((10 - 4 * high, 10 - 4 * low))


def test_failed_cases_are_at_the_asked_end() -> None:
    values = np.array([0.5, 0.7, np.nan, np.nan])
    assert mean(values, (0.0, 1.0)).value == pytest.approx(0.3)
    assert mean(values, (0.0, 1.0), failed_is_right=True).value == pytest.approx(0.8)
    lower = mean(values, (0.0, 1.0), higher_is_better=False)
    assert lower.value == pytest.approx(0.8)
    band = band_mean(values - 0.6, (-1.0, 1.0))
    assert abs(band.value) == pytest.approx(0.5)
    assert band_mean(values - 0.6, (-1.0, 1.0), failed_is_right=True).value == pytest.approx(0)
    low, high = band.gating(0.025)
    assert low < -0.5 < 0.5 < high


def test_two_thousand_patients_take_no_longer_than_two_seconds() -> None:
    start = time.perf_counter()
    mean(np.random.default_rng(1).random(2000), (0.0, 1.0))
    assert time.perf_counter() - start < 2
