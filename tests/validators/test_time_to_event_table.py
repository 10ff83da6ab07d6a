"""A table of follow-up and risks: what is read, and one clear line for everything that is wrong."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.trust.errors import Invalid
from tests.validators.survival_made import SETTINGS, changed, cohort
from validators.metrics.time_to_event_table import TimeToEventTable, read_time_to_event

HEADER = "case,patient,time,event,risk,probability_12,probability_24"
GOOD = f"{HEADER}\na,p,3.5,1,2.25,0.4,0.6\nb,q,14,0,-1,0.1,0.3\nc,p,7,false,0,0.2,0.4\n"


def _read(
    tmp_path: Path, content: str, attributes: tuple[str, ...] = (), **columns: str
) -> TimeToEventTable:
    path = tmp_path / "predictions.csv"
    path.write_text(content, encoding="utf-8")
    return read_time_to_event(path, SETTINGS, attributes, True, columns)


def test_a_csv_becomes_cases(tmp_path: Path) -> None:
    table = _read(tmp_path, GOOD)
    assert table.time.tolist() == [3.5, 14, 7]
    assert table.event.tolist() == [True, False, False]
    assert table.risk.tolist() == [2.25, -1, 0]
    assert table.probabilities[24].tolist() == [0.6, 0.3, 0.4]
    assert table.patient is not None
    assert table.patient.tolist() == [0, 1, 0]
    assert table.failed.sum() == 0


def test_parquet_with_other_names_and_no_patients(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"image": ["a", "b"], "months": [3, 4], "died": [True, False],
                  "score": [1.5, None], "failure": ["", "timeout"], "site": ["x", ""]}),
        path,
    )  # fmt: skip
    names = {"case": "image", "time": "months", "event": "died", "risk": "score"}
    table = read_time_to_event(path, SETTINGS, ("site",), False, names)
    assert table.failed.tolist() == [False, True]
    assert table.failed_by_code == {"timeout": 1}
    assert table.attributes["site"].tolist() == ["x", "unknown"]
    assert table.patient is None
    assert table.probabilities == {}


def _with(row: str, header: str = HEADER) -> str:
    return f"{header}\nq7,p,3.5,1,2.25,0.4,0.6\n{row}\n"


CODED = f"{HEADER},failure"
REFUSALS = {
    "no time": (_with("b,q,,1,3.25,0.4,0.6"), "time is empty in 1 rows"),
    "zero time": (_with("b,q,0,1,3.25,0.4,0.6"), "time is zero or negative in 1 rows"),
    "negative time": (_with("b,q,-3.25,1,1,0.4,0.6"), "time is zero or negative in 1 rows"),
    "a date": (_with("b,q,3.25.2020,1,1,0.4,0.6"), "time is not a finite number in 1 rows"),
    "no event": (_with("b,q,2,,3.25,0.4,0.6"), "event is empty in 1 rows"),
    "another event": (_with("b,q,2,2,3.25,0.4,0.6"), "event is neither 0 or 1 nor true or false"),
    "infinite risk": (_with("b,q,2,1,inf,0.4,0.6"), "risk is not a finite number in 1 rows"),
    "no risk": (_with("b,q,2,1,,0.4,0.6"), "risk is empty or NaN in 1 rows; give them a value"),
    "no probability": (_with("b,q,2,1,3.25,,0.6"), "probability_12 is empty or NaN in 1 rows"),
    "percent": (_with("b,q,2,1,3.25,40,60"), "probability_12 lies outside 0 to 1 in 1 rows"),
    "comma": (
        f"{HEADER.replace(',', ';')}\nb;q;2;1;3,25;0.4;0.6\n",
        "risk is not a finite number in 1 rows; write decimals with a point",
    ),
    "duplicate": (_with("q7,p,3,1,3.25,0.4,0.6"), "1 rows repeat a case id"),
    "risk and failure": (
        f"{CODED}\nb,q,2,1,3.25,0.4,0.6,timeout\n",
        "risk: 1 rows have a value and a failure code",
    ),
    "probability and failure": (
        f"{CODED}\nb,q,2,1,,0.4,,timeout\n",
        "probability_12: 1 rows have a value and a failure code",
    ),
    "no column": (
        "case,patient,time,event,risc\nb,q,2,1,3.25\n",
        "has no column 'risk' (nearest: 'risc'); name the right one with --column risk=risc",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    content, said = REFUSALS[name]
    with pytest.raises(Invalid) as refused:
        _read(tmp_path, content)
    message = refused.value.message
    assert said in message
    assert "predictions.csv" in message
    assert "\n" not in message
    for value in ("q7", "3.25", "0.4"):
        assert value not in message


def test_a_mapped_probability_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="which --column probability_12=p12 names"):
        _read(tmp_path, GOOD, probability_12="p12")
    with pytest.raises(Invalid, match="reads no column 'probability_36'"):
        _read(tmp_path, GOOD, probability_36="p36")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"time": np.zeros(3)}, "3 of 3 times are missing, or not above 0"),
        ({"time": np.array([1, np.nan, 2])}, "1 of 3 times"),
        ({"event": np.array([0, 1, 2])}, "neither 0 nor 1 in 1 of 3"),
        ({"risk": np.array([0, np.inf, 0])}, "1 of 3 risks are infinite"),
        ({"risk": np.array(["a", "b", "c"])}, "must hold numbers"),
        ({"risk": np.zeros(2)}, "has 2 rows, and there are 3 cases"),
        ({"probabilities": {12.0: np.array([0, 1, 2])}}, "lie outside"),
        ({"probabilities": {12.0: np.array([0, 1, np.nan])}}, "only one of risk and"),
    ],
)
def test_the_table_itself_refuses(columns: dict[str, object], said: str) -> None:
    good = cohort(1, 3)
    with pytest.raises(Invalid, match=said):
        changed(good, **columns)
    with pytest.raises(Invalid, match="no case"):
        good.subset(np.zeros(3, bool))


def test_columns_are_read_only_and_repr_shows_no_value() -> None:
    table = cohort(2, 5, patients=3)
    for of in (table.time, table.event, table.risk, table.probabilities[12.0], table.patient):
        with pytest.raises(ValueError, match="read-only"):
            of[0] = 0  # type: ignore[index]
    assert str(table.time[0])[:5] not in repr(table)
    assert "array" not in repr(table)


def test_a_subset_has_its_own_patients() -> None:
    table = cohort(3, 60, failed=5, patients=20)
    assert table.patient is not None
    part = table.subset(table.patient >= 10)
    assert part.n == 30
    assert part.patient is not None
    assert set(part.patient.tolist()) == set(range(10))
    assert part.probabilities.keys() == table.probabilities.keys()
