"""`assess`: the validators alone, on made-up tables and on a real one."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from registry.trust.canonical import parse_canonical, sha256_file
from registry.trust.errors import Invalid, Refused, TouchstoneError, Unavailable
from tests.validators.evidence_made import protocol
from validators.assess import assess, write_files
from validators.evidence import Report, SubgroupEvidence
from validators.protocol.read import read_protocol
from validators.protocol.schema import CohortRequirement
from validators.report.schema import report_schema

ROOT = Path(__file__).parents[2]
LESIONS = ROOT.parent / "shared" / "data" / "lesion-size-2020"
EXAMPLE = ROOT / "docs" / "examples" / "lesion-size.yaml"
COLUMNS = {"case": "image_name", "reference": "target"}
RULES = protocol(attributes=("site",))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    reference = random.integers(0, 2, 300)
    path = tmp_path / "predictions.csv"
    pyarrow.csv.write_csv(
        pa.table(
            {
                "case": [f"c{i}" for i in range(300)],
                "reference": reference,
                "score": 0.6 * random.random(300) + 0.4 * reference,
                "site": random.choice(["head", "trunk"], 300),
            }
        ),
        path,
    )
    return path


def test_both_files_are_written_and_the_report_is_what_is_returned(
    table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "some" / "new" / "folder"
    report = assess(table, RULES, out, {})
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
    value = parse_canonical((out / "report.json").read_bytes())
    assert Report.model_validate(value) == report
    jsonschema.validate(value, report_schema())
    assert report.digests.predictions == sha256_file(table)
    assert (report.digests.model, report.digests.cohort_root) == (None, None)
    assert "It certifies nothing" in (out / "report.html").read_text()


def test_assessing_again_gives_the_same_bytes_in_the_same_place(
    table: Path, tmp_path: Path
) -> None:
    first: dict[str, bytes] = {}
    for _ in range(2):
        assess(table, RULES, tmp_path / "out", {})
        found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        first = first or found
        assert found == first


def test_a_refused_table_writes_nothing(table: Path, tmp_path: Path) -> None:
    table.write_text("case,reference,score\n")
    with pytest.raises(Invalid):
        assess(table, RULES, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_a_table_with_fewer_cases_than_the_protocol_needs_is_refused(
    table: Path, tmp_path: Path
) -> None:
    rules = protocol(attributes=(), cohort=CohortRequirement(id="c", positives=1000))
    with pytest.raises(Refused, match="needs 1000 positive cases"):
        assess(table, rules, tmp_path / "out", {})


def test_an_output_that_cannot_be_written_is_one_line(table: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here already")
    with pytest.raises(Invalid, match="is a file; name a directory"):
        assess(table, RULES, tmp_path / "out", {})
    with pytest.raises(TouchstoneError, match="can't be written"):
        assess(table, RULES, tmp_path / "out" / "below", {})


def test_a_full_disk_leaves_the_earlier_report_whole(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assess(table, RULES, out, {})
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        write_files(out, {"report.json": b"{}", "report.html": b""})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_example_protocol_is_one() -> None:
    found = read_protocol(EXAMPLE)
    assert found.id == "lesion-size"
    assert found.goals_rationale


lesions = pytest.mark.skipif(
    not LESIONS.is_dir(), reason="the real table lesion-size-2020 is not on this machine"
)


def _lesions(tmp_path: Path, version: str, score: str) -> Report:
    path = LESIONS / f"lesion-size-2020_metadata.{version}.csv"
    return assess(path, read_protocol(EXAMPLE), tmp_path, {**COLUMNS, "score": score})


def _value(report: Report, metric: str) -> float | None:
    return next(found.estimate for found in report.endpoints if found.metric == metric)


def _group(report: Report, attribute: str, group: str, metric: str) -> SubgroupEvidence:
    return next(
        found
        for found in report.subgroups
        if (found.attribute, found.group, found.metric) == (attribute, group, metric)
    )


@lesions
def test_the_published_model_falls_short_on_small_melanomas(tmp_path: Path) -> None:
    """Numbers printed by the authors of lesion-size-2020, and Fisher's p of 4e-5 for the gap."""
    report = _lesions(tmp_path, "d0468cf", "adae_score")
    assert (report.case_flow.sealed, report.case_flow.positives) == (1295, 113)
    assert _value(report, "auc") == pytest.approx(0.810, abs=5e-4)
    small = _group(report, "tiny", "1", "sensitivity")
    assert small.estimate == pytest.approx(0.462, abs=5e-4)
    assert _group(report, "tiny", "0", "sensitivity").estimate == pytest.approx(0.874, abs=5e-4)
    assert small.outcome == "fail"
    assert small.adjusted_p is not None
    assert small.adjusted_p < 1e-3
    assert _group(report, "sex", "male", "auc").estimate == pytest.approx(0.810, abs=5e-4)
    assert _group(report, "sex", "female", "auc").estimate == pytest.approx(0.802, abs=5e-4)
    assert report.verdict.overall == "fail"
    assert "tiny=1" in report.verdict.reason


@lesions
def test_nothing_is_concluded_where_there_is_no_melanoma(tmp_path: Path) -> None:
    report = _lesions(tmp_path, "d0468cf", "adae_score")
    for site in ("oral/genital", "palms/soles"):
        found = _group(report, "anatom_site_general", site, "sensitivity")
        assert (found.positives, found.estimate) == (0, None)
        assert found.outcome == "insufficient_evidence"


@lesions
def test_the_later_run_of_the_same_model(tmp_path: Path) -> None:
    report = _lesions(tmp_path, "8f78292", "adae_score")
    assert _group(report, "sex", "male", "auc").estimate == pytest.approx(0.808, abs=5e-4)
    assert _group(report, "sex", "female", "auc").estimate == pytest.approx(0.801, abs=5e-4)


@lesions
def test_another_column_is_another_reader(tmp_path: Path) -> None:
    report = _lesions(tmp_path, "d0468cf", "crowd_score")
    assert _value(report, "auc") == pytest.approx(0.703, abs=5e-4)
    assert report.verdict.overall == "fail"
    assert json.loads((tmp_path / "report.json").read_bytes())["verdict"]["overall"] == "fail"
