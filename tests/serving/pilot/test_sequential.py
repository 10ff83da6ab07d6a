"""The tests of a pilot: their formula, their false alarms over a whole pilot, and their delay."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from serving.pilot.betting import GAMBLERS, alternatives, log_wealth
from serving.pilot.reading import Cases, Pilot
from serving.pilot.sequential import ALPHA, Carried, watch
from tests.serving.pilot import made, simulated


def test_wealth_is_walds_likelihood_ratio_averaged_over_the_alternatives() -> None:
    x = np.random.default_rng(1).random(40) < 0.7
    found, _ = log_wealth(x[:, None].astype(float), [0.8])
    p = alternatives(np.array([0.8]))[0]
    for n in (1, 17, 40):
        s = int(x[:n].sum())
        ratio = (p / 0.8) ** s * ((1 - p) / 0.2) ** (n - s)
        assert found[n - 1] == pytest.approx(math.log(ratio.mean()))


def test_the_grid_is_near_its_integral_in_closed_form() -> None:
    # p = m u with u ~ Beta(1, 1/2), so by Euler's integral (DLMF 15.6.1) the wealth of s successes
    # and r failures is B(s+1, 1/2) / B(1, 1/2) * 2F1(-r, s+1; s+3/2; m) / (1-m)^r.
    m, s, r = 0.82, 61, 22
    exact = (
        special.betaln(s + 1, 0.5) - special.betaln(1, 0.5)
        + math.log(special.hyp2f1(-r, s + 1, s + 1.5, m)) - r * math.log(1 - m)
    )  # fmt: skip
    x = np.repeat([1.0, 0.0], [s, r])
    found, _ = log_wealth(x[:, None], [m])
    assert found[-1] == pytest.approx(exact, abs=0.02)
    assert GAMBLERS == 30


def test_wealth_is_fair_on_the_border_of_a_claim() -> None:
    """Its expectation is exactly 1: all 2^10 sequences, weighted by their chances."""
    m, n = 0.8, 10
    total = 0.0
    for code in range(2**n):
        x = np.array([(code >> bit) & 1 for bit in range(n)], dtype=float)
        path, _ = log_wealth(x[:, None], [m])
        total += math.exp(path[-1]) * m ** x.sum() * (1 - m) ** (n - x.sum())
    assert total == pytest.approx(1.0, abs=1e-9)


def test_a_test_goes_on_from_its_state() -> None:
    rng = np.random.default_rng(2)
    x = rng.random((60, 3))
    whole, state = log_wealth(x, [0.3, 0.5, 0.6])
    first, middle = log_wealth(x[:25], [0.3, 0.5, 0.6])
    second, last = log_wealth(x[25:], [0.3, 0.5, 0.6], middle)
    assert np.concatenate([first, second]) == pytest.approx(whole)
    assert last == pytest.approx(state)


def test_false_alarms_over_whole_pilots_are_below_alpha(tmp_path: Path) -> None:
    """The small twin of bench/pilot.py: every claim at its border, looked at after each patient."""
    certified = made.certified(tmp_path)
    rng = np.random.default_rng(3)
    pilots, alarms = 300, 0
    for _ in range(pilots):
        seen = simulated.pilot(rng, 250, sensitivity=0.82, specificity=0.74)
        alarms += any(
            found.alarm for found in watch(seen, certified)
            if found.name in ("sensitivity", "specificity")
        )  # fmt: skip
    # Of 300 pilots at 5 % in all, and these are two of five questions: 2 % would be 6.
    assert alarms <= 11


def test_a_drop_is_found_and_when(tmp_path: Path) -> None:
    certified = made.certified(tmp_path)
    seen = simulated.pilot(np.random.default_rng(4), 700, sensitivity=0.6, specificity=0.8)
    found = {of.name: of for of in watch(seen, certified)}
    assert list(found) == [
        "sensitivity", "specificity", "calibration", "score", "attribute sex"
    ]  # fmt: skip
    assert found["sensitivity"].alarm is not None
    assert found["sensitivity"].alarm < "1970-03-15"
    assert found["specificity"].alarm is None
    assert found["attribute sex"].alarm is None
    assert found["sensitivity"].limit == pytest.approx(math.log(5 / ALPHA))


def test_scores_that_moved_and_scores_that_are_off_are_found(tmp_path: Path) -> None:
    certified, rng = made.certified(tmp_path), np.random.default_rng(5)

    def alarms(**how: float) -> set[str]:
        seen = simulated.pilot(rng, 600, sensitivity=0.9, specificity=0.8, **how)  # type: ignore[arg-type]
        found = watch(seen, certified)
        return {of.name for of in found if of.alarm and not of.name.endswith("ity")}

    assert alarms(off=0.0) == set()
    assert "calibration" in alarms(off=0.2)
    assert "calibration" in alarms(off=-0.2)
    assert "score" in alarms(off=0.0, shift=0.25)
    assert alarms(off=0.0, female=0.85) == {"attribute sex"}


def test_the_unit_is_the_patient(tmp_path: Path) -> None:
    """Ten alike cases of one patient are one value; cases that come later are left out."""
    certified, rng = made.certified(tmp_path), np.random.default_rng(6)
    seen = simulated.pilot(
        rng, 60, sensitivity=0.9, specificity=0.8, prevalence=1.0, cases_each=10
    )  # fmt: skip
    assert watch(seen, certified)[0].units == 60
    cases = seen.cases
    twice = {
        name: np.concatenate([getattr(cases, name)] * 2)
        for name in ("moment", "earliest", "latest", "score", "patient")
    }
    later = np.concatenate([cases.arrived, cases.arrived + 90 * simulated.DAY])
    both = Cases(arrived=later, attributes={"sex": np.concatenate([cases.attributes["sex"]] * 2)},
                 **twice)  # fmt: skip
    again = watch(Pilot(seen.answers, both), certified)[0]
    assert (again.units, again.highest) == (60, watch(seen, certified)[0].highest)


def test_an_alarm_and_its_state_outlive_their_data(tmp_path: Path) -> None:
    certified = made.certified(tmp_path)
    seen = simulated.pilot(np.random.default_rng(7), 500, sensitivity=0.6, specificity=0.8)
    before = {
        of.name: Carried(of.units, of.highest, of.alarm, of.state)
        for of in watch(seen, certified)
    }  # fmt: skip
    none = simulated.pilot(np.random.default_rng(7), 0, sensitivity=0.6, specificity=0.8)
    for one in watch(none, certified, before):
        assert replace(one, claim="", limit=0.0) == replace(
            one, claim="", limit=0.0, **before[one.name].__dict__
        )
    assert before["sensitivity"].alarm is not None


def test_what_was_withheld_is_not_asked(tmp_path: Path) -> None:
    certified = made.certified(tmp_path, score=None, cases=None, performance={})
    seen = simulated.pilot(np.random.default_rng(8), 50, sensitivity=0.6, specificity=0.8)
    assert watch(seen, certified) == ()
