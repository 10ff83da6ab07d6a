"""All files that pydicom ships, as one hospital's folder."""

import csv
import shutil
import warnings
from pathlib import Path

import pydicom
import pydicom.data

from registry.trust.errors import Invalid
from tests.validators.dicom_made import statement
from tests.validators.ingest_made import bytes_of, made_contract, table
from validators.cohort.ingest import ingest
from validators.cohort.quality import read_quality
from validators.contract.dicom_file import read_header
from validators.contract.dicom_open import is_dicom

CONTRACT = made_contract(
    {"name": "x", "dtype": "float32", "shape": [1, 64, 64],
     "image": {"modality": ["CT", "MR", "CR", "OT", "PT"], "fit": "centre"}}
)  # fmt: skip


def test_they_are_staged_or_left_out_with_a_reason_and_no_name_is_staged(tmp_path: Path):
    source = tmp_path / "src"
    shutil.copytree(Path(pydicom.data.__file__).parent, source)
    statement(source)
    rows, names = {}, set()
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        if not is_dicom(path):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            names.add(str(whole.get("PatientName", "")))
        try:
            header = read_header(path)
        except Invalid:
            continue
        rows[header.instance] = {"instance": header.instance, "reference": len(rows) % 2,
                                 "patient": header.patient or "none"}  # fmt: skip
    staged = ingest(source, tmp_path / "out", contract=CONTRACT, half="all",
                    reference=table(tmp_path / "r.csv", list(rows.values())),
                    keep=("sex", "age", "manufacturer", "modality"))  # fmt: skip
    report = read_quality(staged)
    with (staged.path / "left_out.csv").open(newline="") as stream:
        left_out = list(csv.DictReader(stream))
    assert staged.cases >= 25
    assert len(left_out) == sum(report["left_out"].values()) >= 90
    assert all(row["reason"] for row in left_out)
    assert set(staged.table()["modality"].to_pylist()) >= {"CT", "MR"}
    shown = b"".join(data for name, data in bytes_of(staged.path).items() if name != "left_out.csv")
    shown += "".join(
        str(of) for row in staged.table().drop_columns(["case", "patient"]).to_pylist()
        for of in row.values()
    ).encode()  # fmt: skip
    for name in names:
        if len(name) > 3:
            assert name.encode() not in shown
