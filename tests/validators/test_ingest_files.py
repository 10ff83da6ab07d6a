"""Cases from tables, pictures and NIfTI."""

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from tests.validators.dicom_made import (
    header,
    noise,
    save,
    statement,
    with_pixels,
)
from tests.validators.ingest_made import made_contract, sealed, table
from validators.cohort.ingest import ingest


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
    assert staged.block_size == 1 << 16
    got = np.concatenate([load_file(path)["age"] for path in staged.blocks()])
    assert got.tolist() == [row["age"] for n, row in enumerate(rows) if n != 7]
    assert sealed(staged, tmp_path)[0].counts.cases == 999
    halves = [ingest(source, tmp_path / half, contract=contract, half=half)
              for half in ("locked", "development")]  # fmt: skip
    patients = [set(half.table()["patient"].to_pylist()) for half in halves]
    assert not patients[0] & patients[1]
    assert sum(half.cases for half in halves) == 999


def test_mammograms_of_eight_bits_keep_them_and_are_known_by_their_instance(tmp_path: Path):
    source = tmp_path / "src"
    statement(source)
    rows = []
    for view in range(4):
        pixels = noise((12, 10), view).astype(np.uint8)
        made = header("1", view, "MG", PhotometricInterpretation=f"MONOCHROME{1 + view % 2}",
                      ImagerPixelSpacing=[0.1, 0.1], BodyPartExamined="BREAST")  # fmt: skip
        save(with_pixels(made, pixels), source / f"{view}.dcm")
        rows.append({"instance": made.SOPInstanceUID, "reference": view % 2})
    contract = made_contract(
        {"name": "view", "dtype": "float32", "shape": [1, 12, 10],
         "image": {"modality": ["MG"], "stored_as": "uint8", "spacing_mm": [0.1, 0.1]}}
    )  # fmt: skip
    staged = ingest(source, tmp_path / "out", contract=contract, half="all",
                    reference=table(tmp_path / "r.csv", rows))  # fmt: skip
    got = load_file(staged.block(0))["view"]
    assert got.dtype == np.uint8
    for view in range(4):
        pixels = noise((12, 10), view).astype(np.uint8)
        assert (got[view, 0] == (255 - pixels if view % 2 == 0 else pixels)).all()
    assert staged.meta["patients"] == 1


def test_pictures_in_colour_have_three_channels(tmp_path: Path):
    source = tmp_path / "src"
    statement(source)
    colours = np.random.default_rng(1).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    Image.fromarray(colours).save(source / "a.png")
    Image.fromarray(colours).convert("P").save(source / "b.png")
    Image.fromarray(colours).convert("RGBA").save(source / "c.png")
    rows = [{"case": n, "patient": n, "reference": 1, "image": f"{n}.png"} for n in "abc"]
    table(source / "cases.csv", rows)
    contract = made_contract(
        {"name": "x", "dtype": "uint8", "shape": [3, 6, 7], "image": {"modality": ["picture"]}}
    )
    staged = ingest(source, tmp_path / "out", contract=contract, half="all")
    assert (load_file(staged.block(0))["x"][0] == np.moveaxis(colours, -1, 0)).all()
    assert list(staged.meta["case_flow"].values()) == [2]
