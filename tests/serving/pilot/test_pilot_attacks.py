"""What would tell of one patient, mix two pilots or end a log, and does not."""

import datetime as dt
import http.server
import json
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from registry.cli.main import app
from registry.trust.errors import Invalid, Refused, Tampered, Unavailable
from serving.pilot import day_files
from serving.pilot.certified import Certified, read_certified
from serving.pilot.log import PREDICTIONS, PredictionLog
from serving.pilot.outcomes import take_outcomes
from serving.pilot.reading import read_pilot
from serving.pilot.retention import forget, watch_all
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


@pytest.mark.parametrize("name", ["certificate.json", "report.json"])
def test_a_bundle_that_nests_without_end_is_told_in_a_line(tmp_path: Path, name: str) -> None:
    bundle = made.bundle(tmp_path)
    (bundle / name).write_bytes(b"[" * 100_000)
    with pytest.raises((Invalid, Tampered)):
        read_certified(bundle)


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


@pytest.mark.parametrize("data", [b"", b"no Parquet" * 100, None])
def test_a_file_that_is_damaged_or_foreign_is_told_in_a_line(
    tmp_path: Path, data: bytes | None
) -> None:
    certified = made.certified(tmp_path / "bundle")
    with PredictionLog(tmp_path) as log:
        log.record(made.prediction(certified, 1, 0.5))
    [path] = day_files.files(tmp_path / PREDICTIONS)
    odd = path.with_name("odd.parquet")
    pq.write_table(pa.table({"x": [1]}), odd) if data is None else odd.write_bytes(data)
    for act in (
        lambda: read_pilot(tmp_path, certified),
        lambda: forget(tmp_path, certified, dt.date(2026, 12, 30), 1),
    ):
        with pytest.raises(Unavailable, match="can't be read"):
            act()


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


def test_one_pilot_is_not_forgotten_with_another(tmp_path: Path) -> None:
    """The new version's scheduler deletes no alarm of the version before."""
    first = made.certified(tmp_path / "first")
    second = made.certified(tmp_path / "second", prevalence=0.3)
    for certified in (first, second):
        lived(tmp_path, certified, 0, 0, dict.fromkeys(range(60), 1), 60)
    [alarm] = _alarms(tmp_path, first)
    today = dt.date(2026, 12, 1)
    with pytest.raises(Refused, match=first.certificate):
        forget(tmp_path, second, today, 30)
    assert forget(tmp_path, first, today, 30).predictions == 1
    for certified in (first, second):
        assert read_pilot(tmp_path, certified).cases.n == 0
        assert _alarms(tmp_path, certified) == [alarm]


def _alarms(state: Path, certified: Certified) -> list[tuple[str, str | None]]:
    found = watch_all(state, certified, read_pilot(state, certified))
    return [(of.name, of.alarm) for of in found if of.alarm and of.name == "sensitivity"]


def test_what_may_have_been_sent_counts_as_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends after the sending may not tell of a few patients the month after."""
    bundle = made.bundle(tmp_path / "bundle")
    certified = made.certified(tmp_path / "bundle")
    lived(tmp_path / "pilot", certified, 0, 0, {0: 1}, 40)
    monkeypatch.setenv("TOUCHSTONE_STATE", str(tmp_path))
    monkeypatch.setenv("TOUCHSTONE_TOKEN", "tst_x")
    monkeypatch.setattr("registry.cli.client._PAUSES", ())

    def run(*words: str) -> str:
        return CliRunner().invoke(app, ["pilot", *words], catch_exceptions=False).output

    run("key", "clinic")
    digest = json.loads(run("share", str(bundle), "--preview", "--json"))["digest"]
    send = "share", str(bundle), "--send", digest
    with Refusing() as address:
        monkeypatch.setenv("TOUCHSTONE_SERVER", address)
        for _ in range(2):  # it was not kept, and can be sent again
            with pytest.raises(Refused, match="not you"):
                run(*send)
    with pytest.raises(Unavailable):
        run(*send)
    with pytest.raises(Refused, match="fewer than 10 new patients"):
        run(*send)


class Refusing(http.server.ThreadingHTTPServer):
    """A facility that says no."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"detail": "not you", "code": "refused"}'
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Answer)

    def __enter__(self) -> str:  # type: ignore[override]
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def test_a_table_without_a_header_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    certified = made.certified(tmp_path / "bundle")
    table = tmp_path / "of.csv"
    table.write_text("ACC-2026-00017,1,Smith^John\nACC-2026-00018,0,Doe^Jane\n")
    with pytest.raises(Invalid) as caught:
        take_outcomes(tmp_path, certified, table, MONTHS[0])
    assert "Smith" not in caught.value.message
    assert "00017" not in caught.value.message
