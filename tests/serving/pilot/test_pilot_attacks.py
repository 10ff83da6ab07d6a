"""What would tell of one patient, mix two pilots or end a log, and does not."""

import datetime as dt
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.trust.errors import Invalid
from serving.pilot import day_files
from serving.pilot.certified import Certified
from serving.pilot.log import PREDICTIONS, PredictionLog
from serving.pilot.outcomes import take_outcomes
from serving.pilot.reading import read_pilot
from serving.pilot.share import mark_shared, shared
from tests.serving.pilot import made

MONTHS = [dt.datetime(2026, month, 2, 8, tzinfo=dt.UTC) for month in (8, 9, 10, 11)]


def lived(
    place: Path, certified: Certified, month: int, first: int, known: dict[int, int], many: int
) -> None:
    """`many` patients of a month from number `first` on; the outcomes of `known`, all called
    negative."""
    moment = MONTHS[month]
    with PredictionLog(place) as log:
        for number in range(first, first + many):
            log.record(made.prediction(certified, number, 0.3, moment=moment))
    lines = [f"ACC-{of:05d},{reference},P{of}" for of, reference in known.items()]
    table = place / "of.csv"
    table.write_text("\n".join(["case,reference,patient", *lines]) + "\n")
    take_outcomes(place, certified, table, moment + dt.timedelta(days=3))


def test_the_names_of_folders_are_names(tmp_path: Path) -> None:
    """`*` is no pattern that reads another pilot, and `case=9` is no column."""
    certified = made.certified(tmp_path / "bundle")
    state, other = tmp_path / "case=9" / "site[*]?", tmp_path / "case=9" / "site[1]x"
    for place, numbers in ((state, (1, 2)), (other, (3,))):
        with PredictionLog(place) as log:
            for number in numbers:
                log.record(made.prediction(certified, number, 0.5))
    pilot = read_pilot(state, certified)
    assert (len(pilot.answers.moment), pilot.cases.n) == (2, 2)


def test_a_foreign_file_in_a_past_day_does_not_end_the_log(tmp_path: Path) -> None:
    certified = made.certified(tmp_path / "bundle")
    folder = tmp_path / PREDICTIONS / "2020-01-01"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": [1]}), folder / f"{name}.parquet")
    today = {"moment": dt.datetime.now(dt.UTC)}
    written = 0
    with PredictionLog(tmp_path, every_seconds=0.02) as log:
        for number in range(3):
            log.record(made.prediction(certified, number, 0.5, **today))
            until = time.monotonic() + 5
            while written == number and time.monotonic() < until:
                days = day_files.files(tmp_path / PREDICTIONS, day_files.day_of(today["moment"]))
                written = sum(pq.read_metadata(path).num_rows for path in days)
                time.sleep(0.01)
    assert (written, log.lost) == (3, 0)


def test_how_a_few_patients_were_answered_is_not_told(tmp_path: Path) -> None:
    """Three positive patients, all missed: no count, and no evidence that grows with each."""
    certified = made.certified(tmp_path / "bundle")
    lived(tmp_path, certified, 0, 0, dict.fromkeys(range(3), 1), 40)
    [asked] = [of for of in shared(tmp_path, certified, dt.date(2026, 9, 5)).watched
               if of.question == "sensitivity"]  # fmt: skip
    assert (asked.patients, asked.alarm, asked.evidence) == (None, None, 0)


def test_two_estimates_never_differ_by_one_patient(tmp_path: Path) -> None:
    certified = made.certified(tmp_path / "bundle")
    told = []
    for month, positives, negatives in ((0, 12, 20), (1, 1, 30), (2, 8, 10), (3, 1, 10)):
        first = 100 * month
        known = dict.fromkeys(range(first, first + positives), 1)
        known |= dict.fromkeys(range(first + positives, first + positives + negatives), 0)
        lived(tmp_path, certified, month, first, known, 60)
        report = shared(tmp_path, certified, MONTHS[month].date() + dt.timedelta(days=35))
        mark_shared(tmp_path, certified, report)
        told.append(bool(report.performance))
    # One new positive, then nine since the first month, then ten.
    assert told == [True, False, False, True]


def test_a_table_without_a_header_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    certified = made.certified(tmp_path / "bundle")
    table = tmp_path / "of.csv"
    table.write_text("ACC-2026-00017,1,Smith^John\nACC-2026-00018,0,Doe^Jane\n")
    with pytest.raises(Invalid) as caught:
        take_outcomes(tmp_path, certified, table, MONTHS[0])
    assert "Smith" not in caught.value.message
    assert "00017" not in caught.value.message
