"""The log of predictions: complete files only, no id on disk, and each answer counted once."""

import datetime as dt
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from registry.trust.errors import Invalid, Tampered
from serving.pilot import day_files
from serving.pilot.certified import read_certified
from serving.pilot.log import PREDICTIONS, PredictionLog
from serving.pilot.outcomes import OUTCOMES, take_outcomes
from serving.pilot.reading import read_pilot
from tests.serving.pilot import made

NOW = made.START + dt.timedelta(days=30)


def test_what_is_recorded_is_read_and_no_id_is_on_disk(tmp_path: Path) -> None:
    certified, state = made.certified(tmp_path / "bundle"), tmp_path / "state"
    with PredictionLog(state) as log:
        for number in range(60):
            who = f"PAT-{number // 2}"
            log.record(made.prediction(certified, number, number / 60, patient=who))
        log.record(made.prediction(certified, 3, 0.99, moment=NOW))  # again: the first counts
    rows = "case,reference,patient,sex,born\n" + "".join(
        f" ACC-{number:05d} ,{number % 2},,{'X' if number == 5 else 'F'},1950-01-01\n"
        for number in range(50)
    )
    (tmp_path / "outcomes.csv").write_text(rows)
    taken = take_outcomes(state, certified, tmp_path / "outcomes.csv", NOW)
    assert (taken.rows, taken.attributes, taken.left_out) == (50, ("sex",), ("born",))
    pilot = read_pilot(state, certified)
    assert len(pilot.answers.moment) == 61
    assert pilot.answers.inputs["mean"][0] == 0.1
    assert (pilot.cases.n, int((pilot.cases.latest >= 0).sum())) == (60, 50)
    assert len(set(pilot.cases.patient)) == 30
    assert float(pilot.cases.score.max()) == 59 / 60
    assert pilot.cases.attributes["sex"].tolist().count("(others)") == 1
    on_disk = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    text = on_disk + b"".join(
        str(pq.read_table(path).to_pylist()).encode() for path in state.rglob("*.parquet")
    )
    assert not [of for of in (b"ACC-", b"PAT-", b"1950-01-01") if of in text]
    assert (state / "pseudonym.key").stat().st_mode & 0o077 == 0


def test_a_correction_counts_in_figures_and_not_in_tests(tmp_path: Path) -> None:
    certified, state = made.certified(tmp_path / "bundle"), tmp_path / "state"
    with PredictionLog(state) as log:
        log.record(made.prediction(certified, 0, 0.7))
    for hours, reference in ((0, ""), (1, "1"), (2, "0")):
        (tmp_path / "of.csv").write_text(f"case,reference\nACC-00000,{reference}\n")
        take_outcomes(state, certified, tmp_path / "of.csv", NOW + dt.timedelta(hours=hours))
    cases = read_pilot(state, certified).cases
    assert (cases.earliest.tolist(), cases.latest.tolist()) == ([1], [0])
    assert cases.arrived[0] == int((NOW + dt.timedelta(hours=1)).timestamp() * 1e6)


def test_merging_and_a_half_done_merge_count_each_row_once(tmp_path: Path) -> None:
    certified, state = made.certified(tmp_path / "bundle"), tmp_path / "state"
    for number in range(5):
        with PredictionLog(state, every_seconds=0.01) as log:
            log.record(made.prediction(certified, number, 0.5))
            time.sleep(0.05)
    place = state / PREDICTIONS
    kept = {path: path.read_bytes() for path in day_files.files(place)}
    day_files.merge_past(place, "2027-01-01")
    assert len(day_files.files(place)) == 1
    for path, data in kept.items():  # the small files, as a kill would have left them
        path.write_bytes(data)
    assert len(read_pilot(state, certified).answers.moment) == 5
    day_files.merge_past(place, "2027-01-01")
    assert len(day_files.files(place)) == 1
    assert day_files.forget(place, "2026-11-03") == ["2026-11-02"]
    assert read_pilot(state, certified).cases.n == 0


_WRITER = """
import datetime as dt, sys, time
from pathlib import Path
from serving.pilot.log import PredictionLog
from serving.pilot.prediction import Prediction
log = PredictionLog(Path(sys.argv[1]), every_seconds=0.001)
while True:
    time.sleep(0.0005)
    log.record(Prediction("sha256:" + "a" * 64, dt.datetime.now(dt.UTC), {"malignant": 0.5}, 0.01,
                          case="ACC-1"))
"""


def test_a_killed_writer_leaves_complete_files_only(tmp_path: Path) -> None:
    for milliseconds in (0, 7, 31):
        before = len(day_files.files(tmp_path / PREDICTIONS))
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)])
        while len(day_files.files(tmp_path / PREDICTIONS)) == before:
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(milliseconds / 1000)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    found = day_files.files(tmp_path / PREDICTIONS)
    assert found
    assert all(pq.read_table(path).num_rows for path in found)


def test_a_disk_that_takes_nothing_is_counted_and_never_raised(tmp_path: Path) -> None:
    certified = made.certified(tmp_path / "bundle")
    (tmp_path / PREDICTIONS).write_text("a file where the folder should be")
    log = PredictionLog(tmp_path)
    log.record(made.prediction(certified, 0, 0.5))
    log.close()
    assert log.lost == 1
    log.record(made.prediction(certified, 1, 0.5))  # too late
    assert log.lost == 2


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("case,reference\nA,2\n", "neither 0, 1 nor empty in 1 rows"),
        ("case,reference\nA,1\nA,0\n", "name a case that another row names"),
        ("reference,sex\n1,F\n", "needs a column 'case'"),
        ("case,reference\n,1\n", "have no case"),
    ],
)
def test_outcomes_that_are_not_clear_are_refused_whole(
    tmp_path: Path, rows: str, told: str
) -> None:
    certified = made.certified(tmp_path / "bundle")
    (tmp_path / "of.csv").write_text(rows)
    with pytest.raises(Invalid, match=told):
        take_outcomes(tmp_path / "state", certified, tmp_path / "of.csv", NOW)
    assert not (tmp_path / "state" / OUTCOMES).exists()


def test_a_summary_that_was_edited_is_noticed(tmp_path: Path) -> None:
    folder = made.bundle(tmp_path)
    path = folder / "reference-summary.json"
    path.write_text(path.read_text().replace("0.82", "0.42"))
    with pytest.raises(Tampered, match="not the one that was certified"):
        read_certified(folder)


@pytest.mark.parametrize(
    "odd", [{"scores": {"malignant": np.nan}}, {"seconds": -1.0}, {"scores": {}}]
)
def test_a_prediction_is_finite(tmp_path: Path, odd: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        made.prediction(made.certified(tmp_path), 0, 0.5, **odd)


def test_what_serves_imports_nothing_heavy_for_the_hook() -> None:
    heavy = "{'pyarrow', 'duckdb', 'numpy', 'scipy', 'sklearn', 'evidently', 'pandas', 'jinja2'}"
    asked = f"import sys, serving.pilot.prediction; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
