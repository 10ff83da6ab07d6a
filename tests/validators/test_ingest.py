"""From a hospital's folder to sealed cases: nothing of a header leaves, nothing is lost unseen."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from safetensors.numpy import load_file

from registry.trust.errors import Invalid, NotFound, Refused
from tests.validators.dicom_made import (
    REAL,
    ROOT,
    SECRETS,
    noise,
    real_pair,
    segmentation,
    statement,
)
from tests.validators.ingest_made import (
    CT,
    MASK,
    bytes_of,
    hospital,
    made_contract,
    sealed,
    sign,
    table,
)
from validators.cohort.ingest import ingest
from validators.cohort.quality import read_quality


def test_a_folder_of_series_is_staged_sealed_and_streamed_in_its_own_type(tmp_path: Path):
    source, reference = hospital(tmp_path)
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=reference, keep=("sex", "age", "density"))  # fmt: skip
    assert (staged.cases, staged.meta["positives"]) == (6, 3)
    got = load_file(staged.block(0))["ct"]
    assert got.dtype == np.int16
    for number in range(6):
        assert (got[number, 0] == noise((4, 8, 8), number) - 1024).all()
    assert staged.table().column_names == ["case", "patient", "reference", "age", "density", "sex"]
    manifest, shards = sealed(staged, tmp_path)
    streamed = np.concatenate([shard.inputs["ct"] for shard in shards])
    assert streamed.dtype == np.int16
    assert sorted(a.sum() for a in streamed) == sorted(a.sum() for a in got)
    assert manifest.attributes["age"]["70-79"].cases == 6
    assert "age in bands" in manifest.about["deidentification"]


def test_nothing_of_a_header_or_of_another_column_is_staged(tmp_path: Path):
    source, reference = hospital(tmp_path)
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=reference, keep=("sex", "manufacturer", "study_month"))  # fmt: skip
    everything = b"".join(bytes_of(staged.path).values())
    everything += str(staged.table().to_pylist()).encode()
    for secret in (*SECRETS, "Geheim", "Gertrud", "Serial 12345"):
        assert secret.encode() not in everything
    assert staged.table()["manufacturer"].to_pylist() == ["Siemens"] * 6
    assert staged.table()["study_month"].to_pylist() == ["2024-03"] * 6


def test_one_bad_file_or_row_does_not_stop_the_rest_and_is_counted(tmp_path: Path):
    source, reference = hospital(tmp_path)
    (source / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    (source / "notes.txt").write_text("Geheim^Gertrud")
    cut = next((source / "Geheim_1").iterdir())
    cut.write_bytes(cut.read_bytes()[:-40])
    for path in (source / "Geheim_2").iterdir():
        image = pydicom.dcmread(path)
        image.Modality = "MR"
        image.save_as(path)
    with reference.open("a") as stream:
        stream.write(f"{ROOT}.999,1,a,x\n")
    rows = list(csv.DictReader(reference.open(newline="")))
    rows[3]["reference"], rows[4]["reference"] = "", "2"
    table(reference, rows)
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT), half="all",
                    reference=reference)  # fmt: skip
    assert staged.cases == 2
    flow = staged.meta["case_flow"]
    assert flow["the reference standard is missing"] == 1
    assert flow["the reference standard is neither 0 nor 1"] == 1
    assert flow["the contract takes no image of this modality"] == 1
    assert sum("pixels can't be decoded" in reason for reason in flow) == 1
    report = read_quality(staged)
    assert report["noted"] == {"files that are not DICOM": 1,
                               "rows of the reference table without an image": 2}  # fmt: skip
    assert "Geheim^" not in (staged.path / "left_out.csv").read_text()
    assert len((staged.path / "left_out.csv").read_text().splitlines()) == 1 + sum(flow.values())


def test_a_mask_is_sealed_beside_its_image(tmp_path: Path):
    source, reference = hospital(tmp_path, 3)
    for number in range(2):
        paths = sorted((source / f"Geheim_{number}").iterdir(),
                       key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])  # fmt: skip
        mask = np.zeros((4, 8, 8), dtype=np.uint8)
        mask[1, 2:4, 3 + number] = 1
        segmentation(paths, mask, source / f"seg{number}")
    staged = ingest(source, tmp_path / "out", contract=made_contract(CT, MASK), half="all",
                    reference=reference)  # fmt: skip
    assert staged.meta["case_flow"] == {"the image has 0 segmentations, not one": 1}
    arrays = load_file(staged.block(0))
    for number in range(2):
        assert arrays["lesion"][number, 0, 1, 2:4, 3 + number].all()
        assert arrays["lesion"][number].sum() == 2


@real_pair
def test_the_real_pair_is_deidentified_its_gap_reported_and_sealed_with_its_mask(tmp_path: Path):
    source = tmp_path / "src"
    shutil.copytree(REAL / "dicom", source)
    for folder, folders, files in os.walk(source):
        for name in (*folders, *files):
            (Path(folder) / name).chmod(0o755)
    source.chmod(0o755)
    statement(source)
    first = pydicom.dcmread(source / "ct_77654033/17106")
    reference = table(tmp_path / "r.csv", [{"patient": first.PatientID, "reference": 1}])
    ct = {**CT, "shape": [1, 4, 16, 16]}
    mask = {**MASK, "shape": [1, 4, 16, 16]}
    staged = ingest(source, tmp_path / "out", contract=made_contract(ct, mask), half="all",
                    reference=reference, keep=("sex", "age", "manufacturer"))  # fmt: skip
    report = read_quality(staged)
    assert report["noted"]["missing slices"] == 161
    assert report["review"] == {"a face may be shown": 1,
                                "slices are missing or not equally far apart": 1}  # fmt: skip
    with pytest.raises(Refused, match="not signed off"):
        sealed(staged, tmp_path)
    sign(staged)
    manifest, (shard,) = sealed(staged, tmp_path, "d")
    assert manifest.about["flags_reviewed"] == 2
    assert shard.inputs["lesion"].sum(axis=(0, 1, 3, 4)).tolist() == [0, 127, 256, 255]
    # The axes already lead to head, back and left, so slices, rows and columns are as they were.
    own = np.array([pydicom.dcmread(p).pixel_array for p in
                    sorted((source / "ct_77654033").iterdir())]) - 1024  # fmt: skip
    assert (shard.inputs["ct"][0, 0] == own).all()
    everything = b"".join(bytes_of(staged.path).values()) + str(staged.table().to_pylist()).encode()
    for secret in (str(first.PatientName), "Archibald", first.StudyDate, "LightSpeed", "GEMS_"):
        assert secret.encode() not in everything
    assert staged.table().to_pylist()[0]["age"] == "40-49"
    resampled = {**ct, "image": {**ct["image"], "spacing_mm": [1, 1, 1], "resample": "linear"}}
    with pytest.raises(Invalid, match="not equally far apart"):
        ingest(source, tmp_path / "x", contract=made_contract(resampled), half="all",
               reference=reference)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("statement", "cohort.yaml is missing"),
        ("reference", "cases.csv"),
        ("no reference", "no table at"),
        ("no case", "no case that can be used: the contract takes no image of this modality"),
        ("keep", "no column 'nothing' to keep"),
        ("keep a role", "no attribute"),
        ("two images", "more than one image"),
        ("twice", "two different rows"),
    ],
)
def test_a_source_that_can_t_be_read_says_what_to_do_in_one_line(
    tmp_path: Path, change: str, said: str
):
    source, reference = hospital(tmp_path, 2)
    contract, keep = made_contract(CT), ()
    if change == "statement":
        (source / "cohort.yaml").unlink()
    elif change == "no case":
        contract = made_contract({**CT, "image": {"modality": ["MR"]}})
    elif change.startswith("keep"):
        keep = ("nothing",) if change == "keep" else ("patient",)
    elif change == "two images":
        contract = made_contract(CT, {**CT, "name": "other"})
    elif change == "twice":
        with reference.open("a") as stream:
            stream.write(f"{ROOT}.100,1,a,x\n")
    given = {"reference": None, "no reference": tmp_path / "gone.csv"}.get(change, reference)
    with pytest.raises((Invalid, NotFound), match=said) as refusal:
        ingest(source, tmp_path / "out", contract=contract, half="all", reference=given, keep=keep)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_the_order_of_files_and_the_number_of_workers_change_nothing(tmp_path: Path):
    source, reference = hospital(tmp_path)
    contract = made_contract(CT)
    one = ingest(source, tmp_path / "one", contract=contract, half="all", reference=reference,
                 workers=1)  # fmt: skip
    told: list[tuple[int, int]] = []
    three = ingest(source, tmp_path / "three", contract=contract, half="all", reference=reference,
                   workers=3, progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert bytes_of(one.path) == bytes_of(three.path)
    assert told == [(n, 6) for n in range(1, 7)]
