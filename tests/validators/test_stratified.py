"""Gaps within hospitals: by hand, by other software, Simpson's reversal, small hospitals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import StratifiedTable

from validators.fairness.gap import Gap
from validators.intervals.influence import widening_correlation
from validators.intervals.proportion import newcombe
from validators.intervals.share import share
from validators.metrics.measure import Undefined
from validators.metrics.tasks import BINARY
from validators.sites.stratified import StratifiedGap, stratified_gap

TAIL = 0.025
Counts = list[tuple[int, int, int, int]]
"""By hospital: right and all of the group, right and all of the rest."""
# Group right 10/20 and 27/30, rest right 48/80 and 57/60.
HAND: Counts = [(10, 20, 48, 80), (27, 30, 57, 60)]


def gap_of(counts: Counts, copies: int = 1, failed: int = 0) -> StratifiedGap | Undefined:
    """The gap of those counts; each case `copies` times in one patient."""
    site, inside, right = [], [], []
    for name, (x, n1, y, n0) in enumerate(counts):
        site += [f"s{name:02}"] * (n1 + n0)
        inside += [True] * n1 + [False] * n0
        right += [True] * x + [False] * (n1 - x) + [True] * y + [False] * (n0 - y)
    columns = [np.repeat(np.array(of), copies) for of in (site, inside, right)]
    patient = np.repeat(np.arange(len(site)), copies)
    unknown = np.zeros(len(patient), dtype=bool)
    unknown[:failed] = True

    def share_of(chosen: np.ndarray, failed_is_right: bool):
        if not chosen.any():
            return Undefined("there is no positive case", 0, None)
        return share(
            (columns[2] & ~unknown)[chosen], unknown[chosen],
            patient[chosen] if copies > 1 else None,
            failed_is_right=failed_is_right, clusters=len(site) if copies > 1 else None,
        )  # fmt: skip

    return stratified_gap(columns[0], columns[1], share_of)


def test_a_gap_by_hand():
    """Weights 20 80 / 100 = 16 and 30 60 / 90 = 20; gaps .1 and .05."""
    found = gap_of(HAND)
    assert [of.weight for of in found.sites] == [16, 20]
    assert [of.value for of in found.sites] == pytest.approx([0.1, 0.05])
    assert found.value == pytest.approx((1.6 + 1.0) / 36)


def test_sato_s_variance_by_hand():
    """P = (n1² y - n0² x + n1 n0 (n0 - n1) / 2) / N², Q = (x (n0 - y) + y (n1 - x)) / 2 N;
    variance (D P + Q) / W² for the difference D of group minus rest."""
    p = (400 * 48 - 6400 * 10 + 1600 * 30) / 10000 + (900 * 57 - 3600 * 27 + 1800 * 15) / 8100
    q = (10 * 32 + 48 * 10) / 200 + (27 * 3 + 57 * 3) / 180
    wanted = math.sqrt((-(2.6 / 36) * p + q) / 36**2)
    assert gap_of(HAND).standard_error(TAIL) == pytest.approx(wanted)


def test_sato_s_variance_is_that_of_greenland_and_robins_in_large_hospitals():
    counts: Counts = [(900, 1000, 2850, 3000), (1400, 2000, 1500, 2000), (480, 500, 3700, 4000)]
    total = robins = 0.0
    for x, n1, y, n0 in counts:
        weight, p1, p0 = n1 * n0 / (n1 + n0), x / n1, y / n0
        total += weight
        robins += weight**2 * (p1 * (1 - p1) / n1 + p0 * (1 - p0) / n0)
    found = gap_of(counts)
    assert found.standard_error(TAIL) == pytest.approx(math.sqrt(robins) / total, rel=0.02)
    half = 1.96 * found.standard_error(TAIL)
    assert found.gating(TAIL) == pytest.approx((found.value - half, found.value + half), abs=1e-3)


def test_the_weighted_gap_is_the_one_that_statsmodels_tests():
    """Cochran & Mantel & Haenszel's statistic is (W gap)² over the hypergeometric variance."""
    tables = [np.array([[x, n1 - x], [y, n0 - y]]) for x, n1, y, n0 in HAND]
    theirs = StratifiedTable(tables).test_null_odds(correction=False).statistic
    variance = 0.0
    for x, n1, y, n0 in HAND:
        n, right = n1 + n0, x + y
        variance += n1 * n0 * right * (n - right) / (n**2 * (n - 1))
    assert (36 * gap_of(HAND).value) ** 2 / variance == pytest.approx(theirs)


def test_at_one_hospital_it_is_newcombe_s_interval_or_wider():
    found = gap_of([(40, 50, 85, 100)])
    low, high = newcombe(85, 100, 40, 50, TAIL)
    assert found.value == found.crude.value == pytest.approx(0.05)
    ours = found.gating(TAIL)
    assert ours[0] <= low + 1e-12
    assert ours[1] >= high - 1e-12
    assert ours == pytest.approx((low, high), abs=0.02)


def test_one_site_is_the_gap_of_the_fairness_rules():
    site = gap_of([(40, 50, 85, 100)], copies=2).sites[0]
    correlation = widening_correlation(site.rest.influence, site.group.influence)
    theirs = Gap(site.group, site.rest, correlation, BINARY["sensitivity"])
    assert site.value == theirs.value
    assert site.gating(TAIL) == (theirs.low(TAIL), theirs.high(TAIL))


def test_cases_copied_within_patients_tell_nothing_new():
    once, copied = gap_of(HAND).gating(TAIL), gap_of(HAND, copies=4).gating(TAIL)
    assert copied[0] <= once[0] + 1e-3
    assert copied[1] >= once[1] - 1e-3
    assert copied == pytest.approx(once, abs=0.04)


def test_simpson_s_reversal_is_shown_only_by_intervals():
    """The group is .05 behind in both hospitals and ahead in all: it is seen at the easy one."""
    large: Counts = [(1800, 2000, 190, 200), (100, 200, 1100, 2000)]
    found = gap_of(large)
    assert found.crude.value < 0 < found.value
    assert found.reversal == "shown"
    assert found.opposite == ("s00", "s01")
    small = gap_of([(18, 20, 19, 20), (2, 4, 11, 20)])
    assert small.crude.value < 0 < small.value
    assert small.reversal == "estimated"
    assert gap_of(HAND).reversal == "none"


def test_a_gap_has_three_outcomes():
    behind = gap_of([(700, 1000, 900, 1000)] * 3)
    level = gap_of([(900, 1000, 900, 1000)] * 3)
    assert behind.judged(0.1, TAIL)[0] == "fail"
    assert level.judged(0.1, TAIL)[0] == "pass"
    outcome, reason = gap_of(HAND).judged(0.1, TAIL)
    assert outcome == "insufficient_evidence"
    assert reason.startswith("within sites ")


def test_hospitals_with_one_side_only_are_named():
    found = gap_of([*HAND, (3, 5, 0, 0), (0, 0, 4, 6)])
    assert found.left_out == ("s02", "s03")
    assert found.value == pytest.approx(gap_of(HAND).value)
    apart = gap_of([(3, 5, 0, 0), (0, 0, 4, 6)])
    assert isinstance(apart, Undefined)
    assert apart.reason == "no site has cases on both sides"
    alone = gap_of([(3, 5, 0, 0)])
    assert "the rest has no value" in alone.reason


def test_failed_predictions_never_narrow_the_gap():
    found, before = gap_of(HAND, failed=3), gap_of(HAND)
    assert found.value > before.value
    assert found.gating(TAIL)[1] > before.gating(TAIL)[1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1)),
        min_size=1, max_size=6,
    ),
    st.sampled_from([1, 2]),
)  # fmt: skip
def test_an_interval_is_never_empty_and_holds_the_gap(rows, copies):
    counts = [(round(n1 * p1), n1, round(n0 * p0), n0) for n1, n0, p1, p0 in rows]
    found = gap_of(counts, copies)
    low, high = found.gating(TAIL)
    assert -1 <= low <= found.value + 1e-12
    assert found.value - 1e-12 <= high <= 1
    assert low < high
    assert math.isfinite(found.standard_error(TAIL))
    swapped = gap_of([(y, n0, x, n1) for x, n1, y, n0 in counts], copies)
    assert swapped.value == pytest.approx(-found.value)
    assert swapped.gating(TAIL) == pytest.approx((-high, -low))
