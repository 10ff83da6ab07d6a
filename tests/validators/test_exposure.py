"""The level of a cohort's exposure follows from two stated limits."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validators.cohort.exposure import DELTA, Use, exposure

uses = st.lists(
    st.builds(
        lambda a, p, e: Use("f", a, min(p, a), e),
        st.integers(0, 10), st.integers(0, 3), st.floats(0.001, 0.1),
    ),
    max_size=12,
)  # fmt: skip


def family(attempts: int, passes: int = 0, each: float = 0.025) -> Use:
    return Use("sme-a/x", attempts, passes, each)


def test_nothing_asked_is_nothing_told():
    found = exposure([])
    assert (found.expected_false_passes, found.bits, found.cases_factor) == (0.0, 0.0, 1.0)
    assert found.level == "fresh"


@pytest.mark.parametrize(
    ("attempts", "level"), [(19, "fresh"), (20, "watch"), (39, "watch"), (40, "rotate")]
)
def test_the_expected_false_passes_alone_raise_the_level_at_a_half_and_at_one(attempts, level):
    found = exposure([family(1) for _ in range(attempts)])
    assert found.bits == 0.0
    assert found.level == level
    assert ("false passes" in found.advice) == (level != "fresh")


def test_answers_alone_raise_the_level_when_they_are_worth_two_and_four_times_the_cases():
    levels = {}
    for passes in range(12):
        found = exposure([family(12, passes, each=1e-6)])
        levels[passes] = found.level
        models = sum(math.comb(12, j) for j in range(passes + 1))
        assert found.cases_factor == pytest.approx(1 + math.log(models) / math.log(2 / DELTA))
        assert ("times the cases" in found.advice) == (found.level != "fresh")
    assert levels[0] == levels[1] == "fresh"  # 1 and 13 possible answers, of 40 that are half
    assert levels[2] == "watch"
    assert exposure([family(60, 5, each=1e-6)]).level == "rotate"


def test_the_number_of_possible_answers_is_that_of_a_tree_walked_to_its_end():
    for attempts, passes in ((5, 2), (6, 0), (7, 7)):
        tree = [w for w in itertools.product((0, 1), repeat=attempts) if sum(w) <= passes]
        assert 2 ** exposure([family(attempts, passes)]).bits == pytest.approx(len(tree))


@given(uses, uses)
def test_more_use_never_lowers_anything(before, more):
    order = ["fresh", "watch", "rotate"]
    first, second = exposure(before), exposure([*before, *more])
    assert second.expected_false_passes >= first.expected_false_passes
    assert second.bits >= first.bits
    assert order.index(second.level) >= order.index(first.level)


@given(uses)
def test_how_uses_are_cut_into_families_does_not_matter(given_uses):
    whole = exposure(given_uses)
    split = exposure([
        Use(f"{n}", 1, int(k < use.passes), use.each_alpha)
        for n, use in enumerate(given_uses) for k in range(use.attempts)
    ])  # fmt: skip
    assert split.expected_false_passes == pytest.approx(whole.expected_false_passes)
    assert split.bits == pytest.approx(whole.bits)


def test_pure_noise_passes_no_more_often_than_the_rule_expects():
    """Models exactly at the goal, judged at each_alpha: E bounds the mean of false passes."""
    random = np.random.default_rng(5)
    n, goal, each, families, attempts = 200, 0.8, 0.025, 10, 2
    scores = random.binomial(n, goal, size=(4000, families, attempts))
    from validators.intervals.proportion import clopper_pearson

    limit = next(k for k in range(n + 1) if clopper_pearson(k, n, each)[0] >= goal)
    passes = (scores >= limit).any(axis=2).sum(axis=1).mean()
    expected = exposure([family(attempts, each=each) for _ in range(families)])
    assert passes <= expected.expected_false_passes
    assert passes > expected.expected_false_passes / 3
