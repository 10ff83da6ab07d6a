"""What goes back: in tens, nothing of fewer than k, and nothing that subtraction gives away."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trust.canonical import canonical
from registry.trust.dsse import check_signature, payload_of
from registry.trust.errors import Invalid, Refused, Tampered
from registry.trust.keys import issue, new_root
from registry.trust.pilot_report import PILOT_REPORT_TYPE, PilotReport, parse_pilot_report
from serving.pilot.certified import Certified
from serving.pilot.log import PredictionLog
from serving.pilot.outcomes import take_outcomes
from serving.pilot.share import mark_shared, shared, signed, withheld
from tests.serving.pilot import made

DECEMBER, JANUARY = dt.date(2026, 12, 9), dt.date(2027, 1, 2)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_no_count_below_k_is_told_or_follows(counts: list[int]) -> None:
    told = withheld(counts, 10)
    hidden = [count for count, of in zip(counts, told, strict=True) if of is None]
    shown = [(count, of) for count, of in zip(counts, told, strict=True) if of is not None]
    assert all(count >= 10 and abs(count - of) <= 5 and of % 10 == 0 for count, of in shown)
    assert len(hidden) != 1 or len(counts) == 1
    if hidden and shown:
        # The total and the shown ones leave a sum that many small counts fit.
        assert sum(hidden) >= 20


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Certified]:
    """Three weeks of November with 300 cases in 100 patients, one day of December with nine."""
    place = tmp_path_factory.mktemp("pilot")
    certified = made.certified(place / "bundle", performance=made.TRUE)
    state = place / "state"
    score, reference = made.scores(np.random.default_rng(20), 309)
    with PredictionLog(state) as log:
        for number in range(309):
            late = {} if number < 300 else {"moment": dt.datetime(2026, 12, 3, tzinfo=dt.UTC)}
            log.record(made.prediction(certified, number, float(score[number]), **late))
    lines = ["case,reference,patient,sex"]
    for of in range(300):
        lines.append(f"ACC-{of:05d},{reference[of]},P{of // 3},{'M' if of < 21 else 'F'}")
    (place / "of.csv").write_text("\n".join(lines) + "\n")
    take_outcomes(state, certified, place / "of.csv", made.START + dt.timedelta(days=20))
    return state, certified


def test_a_report_ends_with_a_month_and_counts_patients_in_tens(
    lived: tuple[Path, Certified],
) -> None:
    report = shared(*lived, DECEMBER)
    assert (report.first_month, report.last_month) == ("2026-11", "2026-11")
    assert report.answers == 300
    assert report.attributes == {"sex": {"F": None, "M": None}}  # seven men: both are withheld
    assert report.score is not None
    assert report.alarms == ("attribute sex",)
    assert {of.metric for of in report.performance} >= {"sensitivity", "auc"}
    text = canonical(report.model_dump(mode="json")).decode()
    assert "ACC" not in text
    assert "2026-11-" not in text


def test_two_reports_never_differ_by_a_few_patients(lived: tuple[Path, Certified]) -> None:
    state, certified = lived
    report = shared(state, certified, DECEMBER)
    mark_shared(state, certified, report)
    for today in (DECEMBER, JANUARY):  # nine cases of December are too few
        with pytest.raises(Refused, match="fewer than 10 new patients"):
            shared(state, certified, today)
    next(state.glob("shared-*")).unlink()


def test_it_is_signed_and_one_changed_bit_is_noticed(lived: tuple[Path, Certified]) -> None:
    signer = issue(new_root("clinic", demo=False), "pilot", organisation="clinic")
    envelope = signed(shared(*lived, DECEMBER), signer)
    payload = check_signature(envelope, PILOT_REPORT_TYPE, signer.certificate)
    assert parse_pilot_report(payload).answers == 300
    other = {**envelope, "payload": envelope["payload"].replace("MD", "Mj", 1)}
    if other == envelope:
        other["payload"] = envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]
    with pytest.raises((Tampered, Invalid)):
        check_signature(other, PILOT_REPORT_TYPE, signer.certificate)
    assert payload == payload_of(envelope)


@pytest.mark.parametrize(
    "change",
    [
        {"answers": 301},
        {"failed": 3},
        {"last_month": "2026-11-30"},
        {"patients": None},
        {"k": 5},
        {"case": "ACC-1"},
        {"attributes": {"sex": {"F": None, "M": 280}}},
        {"first_month": "2026-12"},
        {"performance": [{"metric": "auc", "estimate": 1e9, "low": 0, "high": 1}]},
    ],
)
def test_what_is_not_in_the_form_is_refused(
    lived: tuple[Path, Certified], change: dict[str, object]
) -> None:
    whole = shared(*lived, DECEMBER).model_dump(mode="json")
    with pytest.raises(Invalid, match="no report of a pilot"):
        parse_pilot_report(canonical({**whole, **change}))
    assert PilotReport.model_validate(json.loads(json.dumps(whole)))


def test_k_is_never_below_ten(lived: tuple[Path, Certified]) -> None:
    state, certified = lived
    assert certified.k == 10
    wide = shared(state, replace(certified, k=50), DECEMBER)
    assert wide.k == 50
    assert wide.positives is None or wide.positives >= 50
