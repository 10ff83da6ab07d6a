"""Drift, performance, the page and the end of old data, on a pilot that was logged and read."""

import datetime as dt
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from registry.trust.errors import Invalid
from serving.pilot.certified import Certified
from serving.pilot.drift import drift, input_drift
from serving.pilot.log import PredictionLog
from serving.pilot.outcomes import take_outcomes
from serving.pilot.page import evidently_page, pilot_page
from serving.pilot.performance import performance
from serving.pilot.reading import read_pilot
from serving.pilot.retention import forget, watch_all
from serving.pilot.summary import summarise
from tests.serving.pilot import made, simulated
from validators.drift.measures import jensen_shannon, stability_index

N = 400
ARRIVED = made.START + dt.timedelta(days=20)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Certified]:
    """A pilot of 400 cases in 200 patients that does as certified; outcomes of 390."""
    place = tmp_path_factory.mktemp("pilot")
    certified = made.certified(place / "bundle", performance=made.TRUE)
    state = place / "state"
    rng = np.random.default_rng(9)
    score, reference = made.scores(rng, N)
    with PredictionLog(state) as log:
        for number in range(N):
            log.record(made.prediction(certified, number, float(score[number])))
        log.record(made.prediction(certified, N, 0.0, scores={}, failure="unreadable"))
    lines = ["case,reference,patient,sex"]
    for of in range(N - 10):
        lines.append(f"ACC-{of:05d},{reference[of]},P{of // 2},{'FM'[of // 2 % 2]}")
    (place / "outcomes.csv").write_text("\n".join(lines) + "\n")
    take_outcomes(state, certified, place / "outcomes.csv", ARRIVED)
    return state, certified


def test_performance_is_that_of_the_facilitys_own_metrics(lived: tuple[Path, Certified]) -> None:
    state, certified = lived
    cases = read_pilot(state, certified).cases
    found = performance(cases, certified)
    known = cases.latest >= 0
    positive = known & (cases.latest == 1)
    by_hand = float((cases.score[positive] >= 0.5).mean())
    figures = {of.metric: of for of in found.figures}
    assert figures["sensitivity"].estimate.value == pytest.approx(by_hand)
    assert figures["sensitivity"].estimate.clusters is not None
    assert figures["auc"].estimate.interval is not None
    assert abs(figures["calibration_in_the_large"].estimate.value or 1) < 0.4
    # 401 cases: the one that failed has an id too; ten of the scored ones await their outcome.
    assert (found.n, found.awaited) == (N - 10, 11)
    assert {(of.attribute, of.group) for of in found.groups} == {("sex", "F"), ("sex", "M")}
    assert not [of for of in found.groups if of.below and of.metric == "specificity"]


def test_a_figure_beyond_the_certified_interval_and_a_weak_group_are_told(tmp_path: Path) -> None:
    certified = made.certified(tmp_path)
    seen = simulated.pilot(np.random.default_rng(10), 900, sensitivity=0.55, specificity=0.8)
    found = {of.metric: of for of in performance(seen.cases, certified).figures}
    assert found["sensitivity"].below
    assert not found["specificity"].below
    groups = performance(seen.cases, certified).groups
    assert all(of.below for of in groups if of.metric == "sensitivity")
    few = simulated.pilot(np.random.default_rng(10), 12, sensitivity=0.55, specificity=0.8)
    assert performance(few.cases, certified).groups == ()


def test_drift_is_told_in_the_houses_own_measures(lived: tuple[Path, Certified]) -> None:
    state, certified = lived
    pilot = read_pilot(state, certified)
    score, sex = drift(pilot, certified)
    counts = [round(share * 400) for share in made.SHARES], list(score.here)
    assert sum(score.here) == (N - 10) // 2 + 10  # patients, as far as they are known
    assert score.index == pytest.approx(stability_index(*counts))
    assert score.distance == pytest.approx(jensen_shannon(*counts))
    assert (score.shifted, sex.shifted) == (False, False)
    moved = simulated.pilot(
        np.random.default_rng(11), 500, sensitivity=0.9, specificity=0.8, shift=0.3, off=0.0
    )
    assert drift(moved, certified)[0].shifted
    found = input_drift(pilot.answers)
    assert found[0].name == "mean"
    assert found[0].difference is not None
    assert found[0].difference > 1


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else_and_can_be_read_aloud(lived: tuple[Path, Certified]) -> None:
    state, certified = lived
    page = pilot_page(summarise(state, certified))
    assert page == pilot_page(summarise(state, certified))
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"https?://|<script|<link|<img|url\(|@import", page)
    outline = _Outline()
    outline.feed(page)
    names = [tag for tag, _ in outline.tags]
    assert names.count("h1") == 1
    assert ("html", {"lang": "en"}) in outline.tags
    assert names.count("table") == names.count("caption")
    assert all("scope" in about for tag, about in outline.tags if tag == "th")
    assert all(about.get("aria-label") for tag, about in outline.tags if tag == "svg")
    assert "No alarm" in page
    assert "ACC-" not in page


def test_an_alarm_stands_first_with_what_to_do(tmp_path: Path) -> None:
    certified, state = made.certified(tmp_path / "bundle"), tmp_path / "state"
    with PredictionLog(state) as log:
        for number in range(120):
            log.record(made.prediction(certified, number, 0.1))
    lines = "".join(f"ACC-{number:05d},1\n" for number in range(120))
    (tmp_path / "of.csv").write_text("case,reference\n" + lines)
    take_outcomes(state, certified, tmp_path / "of.csv", ARRIVED)
    page = pilot_page(summarise(state, certified))
    assert re.search(r'<div class="state alarm" role="alert"><strong>Alarm: sensitivity', page)
    assert "positive cases are missed more often" in page
    assert "outcomes of both kinds are needed" in page


def test_a_pilot_without_any_answer_has_a_page(tmp_path: Path) -> None:
    certified = made.certified(tmp_path / "bundle")
    page = pilot_page(summarise(tmp_path / "state", certified))
    assert "No answer so far" in page
    empty = made.certified(tmp_path / "other", score=None, cases=None, performance={},
                           attributes={})  # fmt: skip
    assert "nothing is watched" in pilot_page(summarise(tmp_path / "state", empty))


def test_old_days_go_and_the_tests_go_on(tmp_path: Path) -> None:
    certified, state = made.certified(tmp_path / "bundle"), tmp_path / "state"
    rng = np.random.default_rng(12)
    score, reference = made.scores(rng, 240)
    for part, days in ((range(120), 0), (range(120, 240), 100)):
        moved = dt.timedelta(days=days)
        with PredictionLog(state) as log:
            for number in part:
                moment = made.START + moved + dt.timedelta(minutes=number)
                log.record(made.prediction(certified, number, float(score[number]), moment=moment))
        lines = "".join(f"ACC-{number:05d},{reference[number]}\n" for number in part)
        (tmp_path / "of.csv").write_text("case,reference\n" + lines)
        take_outcomes(state, certified, tmp_path / "of.csv", made.START + moved)
    whole = watch_all(state, certified, read_pilot(state, certified))
    today = (made.START + dt.timedelta(days=110)).date()
    gone = forget(state, certified, today, days=50)
    assert (gone.predictions, gone.outcomes) == (1, 1)
    pilot = read_pilot(state, certified)
    assert pilot.cases.n == 120
    after = watch_all(state, certified, pilot)
    assert [of.units for of in after] == [of.units for of in whole]
    assert [of.highest for of in after] == pytest.approx([of.highest for of in whole])
    assert forget(state, certified, today, days=50).predictions == 0
    assert watch_all(state, certified, read_pilot(state, certified)) == after
    with pytest.raises(Invalid, match="at least one day"):
        forget(state, certified, today, days=0)


@pytest.mark.slow
def test_evidentlys_page_is_a_file_of_its_own(lived: tuple[Path, Certified]) -> None:
    state, certified = lived
    made_page = evidently_page(read_pilot(state, certified), summarise(state, certified))
    assert b"<html" in made_page.html
    assert "html" not in repr(made_page)
