"""Noise, submitted two hundred times: what it learns in development, and what at the gate."""

from dataclasses import dataclass

import numpy as np
import pytest

from bench.ladder import ATTACKS, family

POSITIVES, FAMILIES = 150, 20


@dataclass(frozen=True)
class Means:
    """Over families whose models are worth an AUC of .5."""

    development: float
    gate: float
    passed: int


def means(attack: str, answers: str) -> Means:
    found = [family(attack, answers, POSITIVES, seed)[0] for seed in range(FAMILIES)]
    return Means(
        float(np.mean([one.development for one in found])),
        float(np.mean([one.gate for one in found])),
        sum(one.passed for one in found),
    )


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_noise_climbs_by_full_numbers_and_hardly_by_the_ladder(attack: str) -> None:
    full, rounded, ladder = (
        means(attack, answers) for answers in ("full numbers", "two decimals", "the Ladder")
    )
    assert full.development > 0.7
    assert rounded.development > 0.62, "rounding alone is no defence"
    assert ladder.development < 0.6
    assert ladder.development < 0.5 + (full.development - 0.5) / 3


def test_what_was_learnt_does_not_touch_the_gate() -> None:
    found = [means(attack, answers) for attack in ATTACKS for answers in ("full numbers",
                                                                         "the Ladder")]  # fmt: skip
    for one in found:  # 20 families of 300 cases: standard error .0075
        assert abs(one.gate - 0.5) < 0.03
    assert sum(one.passed for one in found) <= 9, "3 of 120 are expected at .025; .001 see over 9"
