"""A table of predictions: what is read, and one clear line for everything that is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from registry.trust.errors import Invalid
from tests.validators.evidence_made import protocol
from validators.cases import CaseTable
from validators.protocol.schema import Protocol
from validators.table import MAXIMUM_GROUPS, read_table

PLAIN = protocol(attributes=())
BY_SITE = protocol(attributes=("site",))
CLUSTERED = protocol(attributes=(), cluster="patient")
HEADER = "case,reference,score"
GOOD = f"{HEADER}\na,1,0.9\nb,0,0.2\nc,1,0.4\nd,0,0.1\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes, name: str = "predictions.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def _read(path: Path, rules: Protocol = PLAIN, **columns: str) -> CaseTable:
    return read_table(path, rules, columns)


def _refusal(path: Path, rules: Protocol = PLAIN, **columns: str) -> str:
    with pytest.raises(Invalid) as refused:
        _read(path, rules, **columns)
    message = refused.value.message
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_a_csv_becomes_cases(write: Write) -> None:
    table = _read(write(GOOD))
    assert table.reference.tolist() == [1, 0, 1, 0]
    assert table.score.tolist() == [0.9, 0.2, 0.4, 0.1]
    assert table.patient is None
    assert table.attributes == {}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_the_usual_kinds_of_csv_are_read(
    write: Write, delimiter: str, start: str, end: str
) -> None:
    text = start + GOOD.replace(",", delimiter).replace("\n", end)
    assert _read(write(text)).score.tolist() == [0.9, 0.2, 0.4, 0.1]


def test_quoted_values_may_hold_delimiters_and_line_ends(write: Write) -> None:
    text = 'case,note,reference,score\n"a,1","two\nlines",1,0.9\nb,"say ""x""",0,0.2\n'
    assert _read(write(text)).score.tolist() == [0.9, 0.2]


@pytest.mark.parametrize(
    ("positive", "negative"), [("1", "0"), ("true", "false"), ("True", "FALSE"), ("1.0", "0.0")]
)
def test_the_reference_is_0_or_1_or_true_or_false(
    write: Write, positive: str, negative: str
) -> None:
    table = _read(write(f"{HEADER}\na,{positive},0.9\nb,{negative},0.2\n"))
    assert table.reference.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("references", "scores"),
    [
        (pa.array([1, 0]), pa.array([0.9, 0.25], pa.float32())),
        (pa.array([True, False]), pa.array([0.9, 0.25])),
        (pa.array([1.0, 0.0]), pa.array(["0.9", " 0.25 "])),
        (pa.array(["1", "0"]).dictionary_encode(), pa.array([1, 0])),
    ],
    ids=["integers", "booleans", "floats and text", "dictionary"],
)
def test_parquet_is_told_by_its_content_whatever_its_name_and_types(
    tmp_path: Path, references: Any, scores: Any
) -> None:
    path = tmp_path / "predictions.dat"
    pq.write_table(pa.table({"case": [7, 8], "reference": references, "score": scores}), path)
    table = _read(path)
    assert table.reference.tolist() == [1, 0]
    assert table.score[0] == pytest.approx(float(scores[0].as_py()))


def test_other_names_are_mapped(write: Write) -> None:
    path = write("image,target,adae_score\na,1,0.9\nb,0,0.2\n")
    table = _read(path, case="image", reference="target", score="adae_score")
    assert table.score.tolist() == [0.9, 0.2]


def test_patients_become_codes_and_leading_zeros_count(write: Write) -> None:
    path = write("case,patient,reference,score\na,01,1,0.9\nb,1,0,0.2\nc,01,0,0.3\n")
    table = _read(path, CLUSTERED)
    assert table.patient is not None
    assert table.patient.tolist() == [0, 1, 0]


def test_an_empty_attribute_is_the_group_unknown(write: Write, tmp_path: Path) -> None:
    path = write("case,reference,score,site\na,1,0.9,head\nb,0,0.2,\nc,0,0.1,  \n")
    assert _read(path, BY_SITE).attributes["site"].tolist() == ["head", "unknown", "unknown"]
    pq.write_table(
        pa.table(
            {"case": ["a", "b"], "reference": [1, 0], "score": [0.9, 0.1], "site": ["h", None]}
        ),
        tmp_path / "t.parquet",
    )
    found = _read(tmp_path / "t.parquet", BY_SITE)
    assert found.attributes["site"].tolist() == ["h", "unknown"]


def test_a_declared_failure_is_a_failed_prediction(write: Write) -> None:
    path = write(
        "case,reference,score,failure\na,1,0.9,\nb,0,,timeout\nc,1,nan,timeout\nd,0,0.1,\n"
        "e,1,,not_readable\n"
    )
    table = _read(path)
    assert np.isnan(table.score).tolist() == [False, True, True, False, True]
    assert table.failed_by_code == {"not_readable": 1, "timeout": 2}


def _parquet(tmp_path: Path, **columns: Any) -> Path:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_nan_in_parquet_is_missing_too(tmp_path: Path) -> None:
    path = _parquet(tmp_path, case=["a", "b"], reference=[1, 0], score=[float("nan"), 0.1])
    assert "score is empty or NaN in 1 rows" in _refusal(path)


REFUSALS: dict[str, tuple[str, Protocol, str]] = {
    "empty": ("", PLAIN, "is empty; it needs a header line"),
    "blank": (" \n\n", PLAIN, "is empty; it needs a header line"),
    "header only": (f"{HEADER}\n", PLAIN, "has a header and no row"),
    "one column": ("case\na\n", PLAIN, "has one column only"),
    "git lfs": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", PLAIN,
        "is a Git LFS pointer, not the table; run git lfs pull",
    ),
    "binary": ("a\0b,c\n", PLAIN, "is neither CSV (UTF-8 text) nor Parquet"),
    "spreadsheet": ("PK\x03\x04xl/", PLAIN, "is an archive or a spreadsheet; save it as CSV"),
    "broken row": (f"{HEADER}\na,1,0.9\nb,0\n", PLAIN, "1 rows have more or fewer values"),
    "missing column": (
        "case,reference,scor\na,1,0.9\nb,0,0.2\n", PLAIN,
        "has no column 'score' (nearest: 'scor'); name the right one with --column score=scor",
    ),
    "nothing near": (
        "case,reference,p\na,1,0.9\n", PLAIN, "has no column 'score'; it has case, reference, p"),
    "two columns of a name": (
        "case,reference,score,score\na,1,0.9,0.8\n", PLAIN, "has several columns 'score'"),
    "no patient": (GOOD, CLUSTERED, "has no column 'patient'"),
    "no attribute": (GOOD, BY_SITE, "has no column 'site'"),
    "empty case": (f"{HEADER}\na,1,0.9\n,0,0.2\n", PLAIN, "1 rows have no case id"),
    "duplicate cases": (
        f"{HEADER}\nq7,1,0.9\nq7,0,0.2\nq7,0,0.2\nb,0,0.1\n", PLAIN,
        "2 rows repeat a case id of another row; keep one row a case",
    ),
    "empty score": (
        f"{HEADER}\na,1,\nb,0,0.2\n", PLAIN,
        "score is empty or NaN in 1 rows; give them a value, or declare the predictions failed",
    ),
    "nan score": (f"{HEADER}\na,1,NaN\nb,0,nan\n", PLAIN, "score is empty or NaN in 2 rows"),
    "infinite score": (f"{HEADER}\na,1,inf\nb,0,0.2\n", PLAIN, "not a finite number in 1 rows"),
    "logits": (f"{HEADER}\na,1,3.2\nb,0,-1\n", PLAIN, "lies outside 0 to 1 in 2 rows; a score"),
    "words": (f"{HEADER}\na,1,high\nb,0,0.2\n", PLAIN, "score is not a finite number in 1 rows"),
    "decimal comma": (
        "case;reference;score\na;1;0,9\nb;0;0,2\n", PLAIN,
        "score is not a finite number in 2 rows; write decimals with a point",
    ),
    "score and failure": (
        f"{HEADER},failure\na,1,0.9,timeout\nb,0,0.2,\n", PLAIN,
        "1 rows have a value and a failure code",
    ),
    "failure in prose": (
        f"{HEADER},failure\na,1,,Mr Miller moved\nb,0,0.2,\n", PLAIN,
        "failure is no short code in 1 rows",
    ),
    "odd reference": (
        f"{HEADER}\na,malignant,0.9\nb,0,0.2\n", PLAIN,
        "reference is neither 0 or 1 nor true or false in 1 rows",
    ),
    "empty reference": (f"{HEADER}\na,,0.9\nb,0,0.2\n", PLAIN, "reference is empty in 1 rows"),
    "one class": (f"{HEADER}\na,0,0.9\nb,0,0.2\n", PLAIN, "all 2 cases are negative (0)"),
    "empty patient": (
        "case,patient,reference,score\na,p,1,0.9\nb,,0,0.2\n", CLUSTERED,
        "patient is empty in 1 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_said_in_one_line(write: Write, name: str) -> None:
    content, rules, said = REFUSALS[name]
    message = _refusal(write(content), rules)
    assert said in message
    assert "predictions.csv" in message


@pytest.mark.parametrize("name", ["duplicate cases", "words", "odd reference", "failure in prose",
                                  "logits", "broken row", "score and failure"])  # fmt: skip
def test_a_message_never_quotes_a_row(write: Write, name: str) -> None:
    content, rules, _ = REFUSALS[name]
    message = _refusal(write(content), rules)
    for value in ("q7", "high", "malignant", "Miller", "3.2", "b,0", "0.9"):
        assert value not in message


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    assert "there is no file" in _refusal(tmp_path / "nothing.csv")
    assert "there is no file" in _refusal(tmp_path)


def test_text_of_another_encoding(write: Write) -> None:
    assert "UTF-8" in _refusal(write("case,reference,score,läsion\n".encode("latin-1")))
    later = (f"{HEADER},site\n" + "a,1,0.9,x\n" * 2 + "ä,0,0.2,y\n").encode("latin-1")
    assert "UTF-8" in _refusal(write(later))


def test_parquet_in_name_only_and_damaged_parquet(write: Write, tmp_path: Path) -> None:
    assert "is not Parquet, in spite of its name" in _refusal(write(GOOD, "p.parquet"))
    whole = _parquet(tmp_path, case=["a", "b"], reference=[1, 0], score=[0.9, 0.1]).read_bytes()
    assert "damaged Parquet" in _refusal(write(whole[: len(whole) // 2], "p.parquet"))
    assert "damaged Parquet" in _refusal(write(b"PAR1", "p.parquet"))
    flipped = bytearray(whole)
    flipped[4:40] = b"\xff" * 36
    assert "Parquet" in _refusal(write(bytes(flipped), "p.parquet"))


def test_a_column_of_lists_is_no_column_of_scores(tmp_path: Path) -> None:
    path = _parquet(tmp_path, case=["a", "b"], reference=[1, 0], score=[[0.1], [0.2]])
    assert "something other than text and numbers" in _refusal(path)


def test_a_mapping_that_names_nothing(write: Write) -> None:
    message = _refusal(write(GOOD), scoer="score")
    assert "did you mean 'score'?" in message
    message = _refusal(write(GOOD), score="adae")
    assert "which --column score=adae names" in message
    assert "it reads case, reference, score, site" in _refusal(write(GOOD), BY_SITE, age="x")


def test_a_number_is_no_group(tmp_path: Path) -> None:
    n = MAXIMUM_GROUPS + 1
    path = _parquet(
        tmp_path,
        case=[str(i) for i in range(n)],
        reference=[i % 2 for i in range(n)],
        score=[0.5] * n,
        site=[i / 7 for i in range(n)],
    )
    assert f"site has {n} different values, too many for groups" in _refusal(path, BY_SITE)


def test_csv_and_parquet_of_the_same_table_are_the_same_cases(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    data = pa.table(
        {
            "case": [f"c{i}" for i in range(500)],
            "patient": [f"p{i // 3}" for i in range(500)],
            "reference": random.integers(0, 2, 500),
            "score": random.random(500),
            "site": random.choice(["head", "trunk", ""], 500),
        }
    )
    pyarrow.csv.write_csv(data, tmp_path / "t.csv")
    pq.write_table(data, tmp_path / "t.parquet")
    rules = protocol(attributes=("site",), cluster="patient")
    one, two = (_read(tmp_path / name, rules) for name in ("t.csv", "t.parquet"))
    assert one.patient is not None
    assert two.patient is not None
    for a, b in (
        (one.reference, two.reference),
        (one.score, two.score),
        (one.patient, two.patient),
        (one.attributes["site"], two.attributes["site"]),
    ):
        assert (a == b).all()
