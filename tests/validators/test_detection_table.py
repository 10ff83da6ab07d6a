"""The table of a detection task: what is read, and one clear line for everything that is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from registry.trust.errors import Invalid
from validators.metrics.detection_table import DetectionTable, read_detection
from validators.protocol.tasks import DetectionSettings

RULES = DetectionSettings(false_positives_per_scan=1.0, threshold=0.5, maximum_candidates=2)
HEADER = "case,patient,kind,lesion,score,hit,site,failure"
GOOD = """a,01,scan,,,,head,
a,01,lesion,1,,,,
a,01,lesion,2,,,,
a,01,candidate,,0.9,2,,
a,,candidate,,0.25,,,
b,02,scan,,,,,
c,01,Scan,,,,head,timeout
c,01,lesion,1,,,,
"""


def _read(folder: Path, rows: str, header: str = HEADER, **columns: str) -> DetectionTable:
    path = folder / "candidates.csv"
    path.write_text(f"{header}\n{rows}")
    return read_detection(path, RULES, ("site",), True, columns)


def _refusal(folder: Path, rows: str, header: str = HEADER) -> str:
    with pytest.raises(Invalid) as refused:
        _read(folder, rows, header)
    assert "\n" not in refused.value.message
    assert "secret" not in refused.value.message
    return refused.value.message


def test_a_table_is_read(tmp_path: Path) -> None:
    table = _read(tmp_path, GOOD)
    assert table.n == 3
    assert table.failed.tolist() == [False, False, True]
    assert table.failed_by_code == {"timeout": 1}
    assert table.lesion_scan.tolist() == [0, 0, 2]
    assert table.candidate_scan.tolist() == [0, 0]
    assert table.score.tolist() == [0.9, 0.25]
    assert table.hit.tolist() == [1, -1]
    assert table.patient is not None
    assert table.patient.tolist() == [0, 1, 0]
    assert table.attributes["site"].tolist() == ["head", "unknown", "head"]
    assert "0.9" not in repr(table)
    assert not table.score.flags.writeable


def test_the_order_of_rows_does_not_matter_and_parquet_is_read(tmp_path: Path) -> None:
    lines = GOOD.splitlines()
    found = _read(tmp_path, "\n".join(reversed(lines)) + "\n")
    assert found.n == 3
    assert sorted(found.score.tolist()) == [0.25, 0.9]
    hits = found.hit >= 0
    assert found.lesion_scan[found.hit[hits]].tolist() == found.candidate_scan[hits].tolist()
    path = tmp_path / "candidates.csv"
    pq.write_table(pyarrow.csv.read_csv(path), tmp_path / "t.parquet")
    again = read_detection(tmp_path / "t.parquet", RULES, ("site",), True, {})
    assert again.score.tolist() == found.score.tolist()
    assert again.failed_by_code == {"timeout": 1}


def test_a_scan_with_more_candidates_than_allowed_failed(tmp_path: Path) -> None:
    table = _read(tmp_path, GOOD + "a,01,candidate,,0.3,,,\n")
    assert table.failed.tolist() == [True, False, True]
    assert table.failed_by_code == {"timeout": 1, "too_many_candidates": 1}
    assert len(table.score) == 0
    assert len(table.lesion_scan) == 3


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("d,4,tumour,1,,,,\n", "kind is none of scan, lesion, candidate in 1 rows"),
        ("a,01,scan,,,,head,\n", "1 rows repeat a case id"),
        (",01,scan,,,,head,\n", "1 rows have no case id"),
        ("secret,4,lesion,1,,,,\n", "1 rows of kind lesion belong to a scan without a row of kind"),
        ("secret,4,candidate,,0.4,,,\n", "1 rows of kind candidate belong to a scan without"),
        ("b,01,lesion,1,,,,\n", "1 rows of kind lesion name another patient"),
        ("b,02,lesion,1,,,,lost\n", "1 rows of kind lesion have a failure code"),
        ("b,02,lesion,,,,,\n", "lesion is empty in 1 rows"),
        ("a,01,lesion,2,,,,\n", "1 rows repeat a lesion of the same scan"),
        ("b,02,candidate,,0.4,1,,\n", "hit names no lesion of its scan in 1 rows"),
        ("b,02,candidate,,,,,\n", "score is empty or NaN in 1 rows of kind candidate"),
        ("b,02,candidate,,1.4,,,\n", "score lies outside 0 to 1 in 1 rows"),
        ("b,02,candidate,,secret,,,\n", "score is not a finite number in 1 rows"),
        ("c,01,candidate,,0.4,,,\n", "1 candidates belong to scans with a failure code"),
        ("d,,scan,,,,,\n", "patient is empty in 1 rows"),
        ("d,4,scan,,,,,Secret!\n", "failure is no short code in 1 rows"),
    ],
)
def test_a_wrong_row_gets_one_clear_line(tmp_path: Path, rows: str, says: str) -> None:
    assert says in _refusal(tmp_path, GOOD + rows)


def test_missing_columns_and_no_scans(tmp_path: Path) -> None:
    assert "no row of kind scan" in _refusal(tmp_path, "a,1,lesion,1,,,,\n")
    assert "has no column 'hit'" in _refusal(tmp_path, GOOD, HEADER.replace("hit", "match"))
    assert _read(tmp_path, GOOD, HEADER.replace("hit", "match"), hit="match").n == 3
    with pytest.raises(Invalid, match="reads no column 'hits'"):
        _read(tmp_path, GOOD, hits="match")


def test_a_table_without_failures_or_patients(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("case,kind,lesion,score,hit\na,scan,,,\na,lesion,x,,\na,candidate,,1,x\n")
    table = read_detection(path, RULES, (), False, {})
    assert table.patient is None
    assert table.cluster.tolist() == [0]
    assert table.hit.tolist() == [0]


def test_a_subset_keeps_each_hit_with_its_lesion(tmp_path: Path) -> None:
    table = _read(tmp_path, GOOD + "b,02,lesion,9,,,,\nb,02,candidate,,0.7,9,,\n")
    part = table.subset(np.array([False, True, True]))
    assert part.n == 2
    assert part.lesion_scan.tolist() == [1, 0]
    assert part.candidate_scan.tolist() == [0]
    assert part.hit.tolist() == [1]
    assert part.patient is not None
    assert part.patient.tolist() == [1, 0]
    assert part.attributes == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": np.array([0.9, 1.5])}, "1 of 2 scores lie outside"),
        ({"score": np.array([0.9, np.nan])}, "1 of 2 scores lie outside"),
        ({"score": np.array([0.9])}, "the column score has 1 rows"),
        ({"hit": np.array([2, -1])}, "1 candidates hit a lesion of another scan"),
        ({"hit": np.array([3, -1])}, "1 rows of hit name what does not exist"),
        ({"hit": np.array([1.0, -1.0])}, "whole numbers"),
        ({"candidate_scan": np.array([0, 2])}, "1 candidates belong to scans that failed"),
        ({"lesion_scan": np.array([0, 0, 7])}, "1 rows of lesion_scan name"),
        ({"failed": np.zeros(0, bool)}, "no case"),
        ({"patient": np.array([1, 2])}, "the column patient has 2 rows"),
    ],
)
def test_the_table_refuses_what_breaks_its_rules(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    table = replace(_read(tmp_path, GOOD), attributes={}, failed_by_code={})
    with pytest.raises(Invalid, match=says):
        replace(table, **change)


def test_arrow_holds_text_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "typed.parquet"
    columns = {
        "case": [1, 1, 1], "patient": [7, 7, 7], "kind": ["scan", "lesion", "candidate"],
        "lesion": [None, 3, None], "score": [None, None, 0.5], "hit": [None, None, 3],
    }  # fmt: skip
    pq.write_table(pa.table(columns), path)
    assert read_detection(path, RULES, (), True, {}).hit.tolist() == [0]
