"""Nothing is sealed that nobody looked at, or that lies outside the allow-list."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from safetensors.numpy import load_file, save_file

from registry.trust.errors import Refused
from tests.validators.dicom_made import (
    ROOT,
)
from tests.validators.ingest_made import (
    CT,
    hospital,
    made_contract,
    sealed,
    sign,
    table,
)
from validators.cohort.ingest import ingest
from validators.cohort.quality import read_quality


def test_sealing_waits_for_every_look_and_no_row_of_it_can_be_lost(tmp_path: Path):
    source, reference = hospital(tmp_path, 4)
    for path in (source / "Geheim_3").iterdir():
        image = pydicom.dcmread(path)
        image.BodyPartExamined = "HEAD"
        image.save_as(path)
    shutil.copytree(source / "Geheim_0", source / "again")
    for path in (source / "again").iterdir():
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID += ".5"
        image.SOPInstanceUID += ".5"
        image.save_as(path)
    with reference.open("a") as stream:
        stream.write(f"{ROOT}.100.5,0,a,x\n")
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=reference)  # fmt: skip
    assert read_quality(staged)["review"] == {
        "a face may be shown": 1, "it has the same pixels as another case": 2
    }  # fmt: skip
    assert read_quality(staged)["duplicates"]["same_pixels"] == 1
    before = (staged.path / "review.csv").read_text()
    for decision, reviewer in (("", ""), ("keep", " "), ("remove", "R. Viewer")):
        sign(staged, decision, reviewer)
        with pytest.raises(Refused, match="3 of 3 rows"):
            sealed(staged, tmp_path, f"{decision}{len(reviewer)}")
    sign(staged)
    signed = (staged.path / "review.csv").read_text().splitlines(keepends=True)
    (staged.path / "review.csv").write_text("".join(signed[:-1]))
    with pytest.raises(Refused, match="does not hold the rows"):
        sealed(staged, tmp_path, "x")
    (staged.path / "review.csv").unlink()
    with pytest.raises(Refused, match="does not hold the rows"):
        sealed(staged, tmp_path, "y")
    (staged.path / "review.csv").write_text("".join(signed))
    assert sealed(staged, tmp_path, "z")[0].about["reviewed_by"] == "R. Viewer"
    assert before.count("\n") == 4


def test_what_was_signed_off_stays_so_when_cases_are_ingested_again_as_long_as_they_are_the_same(
    tmp_path: Path,
):
    source, reference = hospital(tmp_path, 3)
    heads = [path for n in (1, 2) for path in (source / f"Geheim_{n}").iterdir()]
    for path in heads:
        image = pydicom.dcmread(path)
        image.BodyPartExamined = "HEAD"
        image.save_as(path)
    asked = {"contract": made_contract(CT), "half": "all", "reference": reference}
    staged = ingest(source, tmp_path / "out", **asked)
    sign(staged)
    first = sealed(staged, tmp_path, "first")[0]
    assert first.about["flags_reviewed"] == 2
    again = ingest(source, tmp_path / "out", **asked)
    assert read_quality(again)["signed_off"] == {"kept": 2, "fell_away": 0}
    assert sealed(again, tmp_path, "first")[0].root == first.root
    sign(again, reviewer="A. Nother")
    other = sealed(again, tmp_path, "first", "other")[0]
    assert other.about["review"] != first.about["review"]
    assert other.root != first.root
    image = pydicom.dcmread(heads[-1])
    image.PixelData = image.pixel_array[::-1].tobytes()
    image.save_as(heads[-1])
    (tmp_path / "out").rename(tmp_path / "out.replaced")  # as a run leaves it that is killed
    changed = ingest(source, tmp_path / "out", **asked)
    assert read_quality(changed)["signed_off"] == {"kept": 1, "fell_away": 1}
    with pytest.raises(Refused, match="1 of 2 rows"):
        sealed(changed, tmp_path, "second")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("file", "1 files that ingest did not write"),
        ("column", "other columns"),
        ("metadata", "text beside its columns"),
        ("block", "something other than the contract's tensors"),
        ("text", "something other than the contract's tensors"),
        ("date", "density has 1 values"),
    ],
)
def test_sealing_is_refused_while_anything_lies_outside_the_allow_list(
    tmp_path: Path, harm: str, said: str
):
    source, reference = hospital(tmp_path, 3)
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=reference, keep=("density",))  # fmt: skip
    cases = staged.table()
    arrays = load_file(staged.block(0))
    if harm == "file":
        (staged.path / "header.json").write_text("{}")
    elif harm == "column":
        pq.write_table(cases.append_column("name", pa.array(["a"] * 3)),
                       staged.path / "cases.parquet")  # fmt: skip
    elif harm == "metadata":
        pq.write_table(cases.replace_schema_metadata({"patient": "Geheim"}),
                       staged.path / "cases.parquet")  # fmt: skip
    elif harm == "block":
        save_file({**arrays, "header": np.zeros((3, 1))}, staged.block(0))
    elif harm == "text":
        save_file(arrays, staged.block(0), metadata={"name": "Geheim"})
    else:
        column = cases.column_names.index("density")
        pq.write_table(cases.set_column(column, "density", pa.array(["a", "1952-12-24", "b"])),
                       staged.path / "cases.parquet")  # fmt: skip
    with pytest.raises(Refused, match=said) as refusal:
        sealed(staged, tmp_path)
    assert "1952" not in str(refusal.value)


@pytest.mark.parametrize(
    "value", ["1952-12-24", "24.12.1952", "19521224", "Geheim^Gertrud", "g@x.example", "12345678",
              "1.2.840.10008.1", "a" * 65, "P101"]
)  # fmt: skip
def test_a_value_that_may_name_a_patient_is_counted_and_not_shown(tmp_path: Path, value: str):
    source, reference = hospital(tmp_path, 3)
    rows = list(csv.DictReader(reference.open(newline="")))
    rows[1]["density"] = value
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=table(reference, rows), keep=("density",))  # fmt: skip
    report = read_quality(staged)
    assert report["outside_the_allow_list"] == {"density": 1}
    assert value not in json.dumps(report) + (staged.path / "quality.html").read_text()
    with pytest.raises(Refused, match="density has 1 values"):
        sealed(staged, tmp_path)
