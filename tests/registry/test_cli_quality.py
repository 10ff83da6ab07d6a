"""The quality of staged cases, at the command line."""

import json
from pathlib import Path

import pydicom
import pytest

from registry.cli.cohorts import ingest_source, show_quality
from tests.validators.ingest_made import CT, hospital, made_contract


def test_it_says_what_stands_between_the_cases_and_the_seal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, reference = hospital(tmp_path, 2)
    for path in (source / "Geheim_1").iterdir():
        image = pydicom.dcmread(path)
        image.BodyPartExamined = "HEAD"
        image.save_as(path)
    contract, out = tmp_path / "contract.json", tmp_path / "out"
    contract.write_text(made_contract(CT).model_dump_json())
    ingest_source(source, contract, out, "all", reference, ("sex",), False)
    assert "Next: touchstone cohort quality" in capsys.readouterr().out
    show_quality(out, False)
    said = capsys.readouterr().out
    assert "2 cases of 2 patients" in said
    assert "look at: 1 x a face may be shown" in said
    assert "1 of 1 rows" in said
    show_quality(out, True)
    report = json.loads(capsys.readouterr().out)
    assert report["review"] == {"a face may be shown": 1}
    path = out / "review.csv"
    path.write_text(path.read_text().replace(",,", ",keep,R. Viewer"))
    show_quality(out, False)
    assert f"next: touchstone cohort seal {out}" in capsys.readouterr().out


def test_who_ingests_reads_at_once_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, reference = hospital(tmp_path, 6)
    contract, out = tmp_path / "contract.json", tmp_path / "out"
    contract.write_text(made_contract(CT).model_dump_json())
    ingest_source(source, contract, out, "locked", reference, (), False)
    said = capsys.readouterr().out
    left = json.loads((out / "quality.json").read_text())["left_out"]
    assert left["patient in the development half"] > 0
    for why, number in left.items():
        assert f"left out: {number} x {why}" in said
