"""From a hospital's folder to sealed cases: nothing of a header leaves, nothing is lost unseen."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from registry.storage.local import LocalStore
from registry.trust.errors import Invalid, NotFound, Refused
from tests.validators.dicom_made import (
    ROOT,
    SECRETS,
    header,
    noise,
    save,
    statement,
    with_pixels,
    write_series,
)
from tests.validators.test_dicom import REAL, real_pair
from validators.cohort.ingest import Staged, ingest
from validators.cohort.keys import create_keys
from validators.cohort.quality import read_quality
from validators.cohort.seal import seal
from validators.cohort.stream import stream
from validators.contract.read import parse_contract
from validators.contract.schema import Contract


def made_contract(*inputs: dict[str, Any]) -> Contract:
    return parse_contract(
        {"id": "made", "version": "1", "inputs": list(inputs), "score": "p",
         "outputs": [{"name": "p", "dtype": "float32", "shape": [1]}]}
    )  # fmt: skip


CT = {
    "name": "ct", "dtype": "float32", "shape": [1, 4, 8, 8],
    "image": {"modality": ["CT"], "orientation": "SPL", "fit": "centre", "padding": -1024,
              "values": "HU", "stored_as": "int16"},
}  # fmt: skip
MASK = {
    "name": "lesion", "dtype": "uint8", "shape": [1, 4, 8, 8],
    "image": {"modality": ["SEG"], "orientation": "SPL", "fit": "centre"},
}  # fmt: skip


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def hospital(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """A folder with a series for each patient, and a table with the reference standards."""
    source = folder / "hospital"
    statement(source)
    rows = []
    for number in range(count):
        write_series(source / f"Geheim_{number}", str(100 + number), noise((4, 8, 8), number))
        rows.append({"series": f"{ROOT}.{100 + number}", "reference": number % 2,
                     "density": "abcd"[number % 4], "name": SECRETS[0]})  # fmt: skip
    return source, table(folder / "reference.csv", rows)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sealed(staged: Staged, folder: Path, name: str = "c") -> Any:
    keys = create_keys(folder / f"keys-{name}", "made", "1")
    store = LocalStore(folder / f"store-{name}")
    manifest = seal(staged, store, cohort_id="made", version="1", keys=keys)
    return manifest, list(stream(manifest, store, keys.inputs()))


def sign(staged: Staged, decision: str = "keep", reviewer: str = "R. Viewer") -> None:
    path = staged.path / "review.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["decision"], row["reviewer"] = decision, reviewer
    table(path, rows)


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
    from tests.validators.test_dicom import segmentation

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


def test_a_table_of_cases_names_files_of_any_kind(tmp_path: Path):
    source = tmp_path / "src"
    statement(source)
    grey = noise((5, 6)).astype(np.uint16)
    Image.fromarray(grey).save(source / "a.png")
    Image.fromarray(grey).save(source / "b.tif")
    place = np.diag([0.5, 0.25, 1, 1])
    nibabel.save(
        nibabel.Nifti1Image(grey.T[..., None].astype(np.int16), place), source / "c.nii.gz"
    )
    pixels = with_pixels(header("1", 1, "DX", ImagerPixelSpacing=[0.25, 0.5]), grey)
    save(pixels, source / "d.dcm")
    rows = [{"case": f"c{n}", "patient": f"p{n}", "reference": n % 2, "image": name,
             "marker.0": n / 4, "marker.1": -n, "sex": "female"}
            for n, name in enumerate(["a.png", "b.tif", "c.nii.gz", "d.dcm", "../reference.csv",
                                      "gone.png"])]  # fmt: skip
    table(source / "cases.csv", rows)
    (tmp_path / "reference.csv").write_text("secret")
    contract = made_contract(
        {"name": "x", "dtype": "float32", "shape": [1, 5, 6],
         "image": {"modality": ["DX", "picture"], "stored_as": "uint16"}},
        {"name": "marker", "dtype": "float32", "shape": [2]},
    )  # fmt: skip
    staged = ingest(source, tmp_path / "out", contract=contract, half="all", keep=("sex",))
    arrays = load_file(staged.block(0))
    assert arrays["x"].dtype == np.uint16
    assert (arrays["x"] == grey[None, None]).all()
    assert arrays["marker"].tolist() == [[0, 0], [0.25, -1], [0.5, -2], [0.75, -3]]
    assert staged.meta["case_flow"] == {
        "a file that the table names lies outside the source's folder": 1,
        "a file that the table names is not there": 1,
    }


def test_nifti_lies_in_dicom_s_space(tmp_path: Path):
    from validators.cohort.image_file import read_image

    values = noise((4, 5, 6))
    place = np.array([[-2.0, 0, 0, 7], [0, -3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, place), tmp_path / "v.nii")
    picture = read_image(tmp_path / "v.nii", "x")
    for i, j, k in np.ndindex(4, 5, 6):
        assert picture.values[0, k, j, i] == values[i, j, k]
        there = (place @ [i, j, k, 1]) * [-1, -1, 1, 1]
        assert np.allclose(picture.affine @ [k, j, i, 1], there)


def test_a_table_of_numbers_is_a_cohort_by_itself(tmp_path: Path):
    statement(tmp_path)
    rng = np.random.default_rng(0)
    rows = [{"case": f"c{n:04d}", "patient": f"p{n // 2}", "reference": int(rng.random() < 0.3),
             "age": int(rng.integers(30, 90)), "marker": f"{rng.normal():.4f}", "sex": "mf"[n % 2]}
            for n in range(1000)]  # fmt: skip
    rows[7]["marker"] = "n/a"
    contract = made_contract(
        {"name": "age", "dtype": "int64", "shape": []},
        {"name": "marker", "dtype": "float32", "shape": [1]},
    )
    source = table(tmp_path / "numbers.csv", rows)
    staged = ingest(source, tmp_path / "out", contract=contract, half="all", keep=("sex",))
    assert staged.cases == 999
    assert staged.block_size == 256
    got = np.concatenate([load_file(path)["age"] for path in staged.blocks()])
    assert got.tolist() == [row["age"] for n, row in enumerate(rows) if n != 7]
    assert sealed(staged, tmp_path)[0].counts.cases == 999
    halves = [ingest(source, tmp_path / half, contract=contract, half=half)
              for half in ("locked", "development")]  # fmt: skip
    patients = [set(half.table()["patient"].to_pylist()) for half in halves]
    assert not patients[0] & patients[1]
    assert sum(half.cases for half in halves) == 999


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
