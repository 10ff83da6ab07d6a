"""NIfTI masks: their place in the patient, and what is the same grid."""

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.validators.nifti_made import (
    HEADER,
    STRAIGHT,
    TWO,
    changed,
    made,
    oblique,
    refusal,
    save,
    values,
)
from validators.evaluate import evaluate
from validators.metrics.mask_nifti import read_nifti
from validators.metrics.segmentation_table import read_segmentation
from validators.protocol.read import read_protocol
from validators.tables import read_cases


def test_the_same_masks_as_npz_and_as_nifti_give_identical_evidence(tmp_path: Path) -> None:
    protocol = tmp_path / "protocol.yaml"
    text = Path("docs/examples/segmentation.yaml").read_text()
    protocol.write_text(text.replace("tolerance: 2}", "tolerance: 2}\n    - {name: tumour, "
                                     "tolerance: 1}"))  # fmt: skip
    protocol_read = read_protocol(protocol)
    evidence = []
    for ending in ("npz", "nii", "nii.gz"):
        lines = ["case,patient,scanner,reference_path,prediction_path"]
        for case in range(40):
            names = []
            for whose, shift in (("r", 0), ("p", 1)):
                name = f"{whose}{case}.{ending}"
                labels = np.roll(made(case), shift * (case % 3), axis=case % 2)
                if ending == "npz":
                    steps = np.array([0.7, 0.9, 3.0])
                    np.savez_compressed(tmp_path / name, mask=labels, spacing=steps)
                else:
                    save(tmp_path / name, labels)
                names.append(name)
            lines.append(f"{case},{case},{'AB'[case % 2]},{','.join(names)}")
        table = tmp_path / f"{ending}.csv"
        table.write_text("\n".join(lines) + "\n")
        evidence.append(evaluate(read_cases(table, protocol_read, {}), protocol_read))
    assert evidence[0] == evidence[1] == evidence[2]


ORDERS = ["LPS", "RAS", "SPL", "PIR", "ASR", "IAL"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("affine", [STRAIGHT, oblique(20), oblique(45), oblique(-135)])
@pytest.mark.parametrize("second", [False, True])
def test_files_with_other_axes_are_compared_in_the_patient(
    tmp_path: Path, order: str, affine: Any, second: bool
) -> None:
    reference, prediction = made(1), np.roll(made(2), 1, axis=0)
    save(tmp_path / "r.nii.gz", reference, affine)
    save(tmp_path / "p.nii.gz", prediction, affine)
    wanted = values(tmp_path, "r.nii.gz", "p.nii.gz")
    assert wanted["dice_tumour"] < wanted["dice_gland"] < 1
    turned = "r" if second else "p"
    image = nibabel.load(tmp_path / f"{turned}.nii.gz")
    to = nibabel.orientations.axcodes2ornt(tuple(order))
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), to)
    nibabel.save(image.as_reoriented(change), tmp_path / "other.nii.gz")  # type: ignore[attr-defined]
    names = ["r.nii.gz", "p.nii.gz"]
    names[0 if second else 1] = "other.nii.gz"
    assert values(tmp_path, *names) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_a_reference_is_turned_as_nibabel_turns_it(tmp_path: Path, order: str) -> None:
    start = nibabel.Nifti1Image(made(3), oblique(15))
    to = nibabel.orientations.axcodes2ornt(tuple(order))
    image = start.as_reoriented(to)
    nibabel.save(image, tmp_path / "m.nii")
    stored = nibabel.load(tmp_path / "m.nii")
    wanted = nibabel.as_closest_canonical(stored)
    found = read_nifti(tmp_path / "m.nii", 2, "m").turned(None)
    assert np.array_equal(found.labels, np.asarray(wanted.dataobj))  # type: ignore[attr-defined]
    assert found.affine == pytest.approx(wanted.affine)  # type: ignore[attr-defined]
    assert found.spacing == pytest.approx(wanted.header.get_zooms(), rel=1e-6)


def test_the_sform_goes_before_the_qform_and_either_before_the_spacing(tmp_path: Path) -> None:
    moved = STRAIGHT.copy()
    moved[0, 3] += 5
    image = nibabel.Nifti1Image(made(), STRAIGHT)
    image.set_sform(moved, code=1)
    image.set_qform(STRAIGHT, code=1)
    nibabel.save(image, tmp_path / "both.nii")
    save(tmp_path / "moved.nii", made(), moved)
    save(tmp_path / "straight.nii", made(), STRAIGHT)
    assert values(tmp_path, "both.nii", "moved.nii")["dice_gland"] == 1
    image.set_sform(moved, code=0)
    nibabel.save(image, tmp_path / "qform.nii")
    assert values(tmp_path, "qform.nii", "straight.nii")["dice_gland"] == 1
    image.set_qform(STRAIGHT, code=0)
    nibabel.save(image, tmp_path / "neither.nii")
    assert values(tmp_path, "neither.nii", "neither.nii")["dice_gland"] == 1
    assert "origin" in refusal(tmp_path, "neither.nii", "straight.nii")
    changed(tmp_path / "neither.nii", pixdim=[1, 0.7, 0, 3, 1, 1, 1, 1])
    assert "no positive spacing and no sform" in refusal(tmp_path, "neither.nii", "neither.nii")


def _with(change: str) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    labels, affine = made(), STRAIGHT.copy()
    if change == "shape":
        labels = labels[:-1]
    elif change == "spacing":
        affine[2, 2] *= 1.001
    elif change == "direction":
        affine = oblique(0.2)
        affine[:, 3] = STRAIGHT[:, 3]
    elif change == "mirror":
        affine[0, 0] *= -1
    elif change == "origin":
        affine[0, 3] += 0.02 * 0.7
    elif change == "little":
        affine[0, 3] += 0.005 * 0.7
        affine[2, 2] *= 1 + 5e-5
    return labels, affine


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("shape", "shape"), ("spacing", "spacing"), ("direction", "direction of the axes"),
        ("mirror", "origin"), ("origin", "origin"),
    ],
)  # fmt: skip
def test_masks_on_two_grids_are_refused_by_what_differs(
    tmp_path: Path, change: str, says: str
) -> None:
    save(tmp_path / "r.nii.gz", made())
    save(tmp_path / "p.nii.gz", *_with(change))
    said = refusal(tmp_path, "r.nii.gz", "p.nii.gz")
    assert said == (
        f"t.csv: in row 1 the two masks, r.nii.gz and p.nii.gz, differ in {says}; bring the "
        "prediction to the grid of the reference first"
    )


def test_rounding_of_a_stored_affine_is_no_other_grid(tmp_path: Path) -> None:
    save(tmp_path / "r.nii", made())
    save(tmp_path / "p.nii", *_with("little"))
    assert values(tmp_path, "r.nii", "p.nii")["dice_tumour"] == 1


def test_nifti_beside_npz_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "r.nii", made())
    np.savez(tmp_path / "p.npz", mask=made(), spacing=np.array([0.7, 0.9, 3.0]))
    assert "differ in kind of file (only NIfTI says" in refusal(tmp_path, "r.nii", "p.npz")


def test_scaled_float_and_swapped_labels_are_the_same_labels(tmp_path: Path) -> None:
    labels = made()
    save(tmp_path / "r.nii.gz", labels)
    nibabel.save(nibabel.Nifti2Image(labels, STRAIGHT), tmp_path / "second.nii")
    save(tmp_path / "float.nii.gz", labels.astype(np.float32))
    save(tmp_path / "double.nii", labels.astype(np.float64) + 1e-5)
    save(tmp_path / "one_volume.nii", labels[..., None])
    image = nibabel.Nifti1Image(labels.astype(np.float64), STRAIGHT)
    image.set_data_dtype(np.int16)  # nibabel then scales by itself: a label is 2/65535 off
    nibabel.save(image, tmp_path / "scaled.nii")
    assert nibabel.load(tmp_path / "scaled.nii").dataobj.slope != 1  # type: ignore[attr-defined]
    image = nibabel.Nifti1Image(labels * 4 + 3, STRAIGHT)
    image.header.set_slope_inter(0.25, -0.75)
    nibabel.save(image, tmp_path / "slope.nii")
    changed(tmp_path / "slope.nii", scl_slope=0.25, scl_inter=-0.75)
    big = nibabel.Nifti1Image(labels.astype(">i2"), STRAIGHT,
                              nibabel.Nifti1Header(endianness=">"))  # fmt: skip
    nibabel.save(big, tmp_path / "big.nii")
    for name in ("second.nii", "float.nii.gz", "double.nii", "one_volume.nii", "scaled.nii",
                 "slope.nii", "big.nii"):  # fmt: skip
        found = read_nifti(tmp_path / name, 2, name).turned(None)
        assert found.labels.dtype == np.uint8
        assert np.array_equal(found.labels, labels), name
        assert values(tmp_path, "r.nii.gz", name)["dice_tumour"] == 1, name


def test_two_axes_are_a_2d_image_and_one_slice_is_not(tmp_path: Path) -> None:
    reference, prediction = made()[:, :, 1], np.roll(made()[:, :, 1], 1, axis=0)
    for name, labels in (("r", reference), ("p", prediction)):
        save(tmp_path / f"{name}.nii", labels)
        np.savez(tmp_path / f"{name}.npz", mask=labels, spacing=np.array([0.7, 0.9]))
    flat = values(tmp_path, "r.nii", "p.nii")
    assert flat == values(tmp_path, "r.npz", "p.npz")
    save(tmp_path / "slice.nii", prediction[:, :, None])
    assert "differ in shape" in refusal(tmp_path, "r.nii", "slice.nii")
    coronal = STRAIGHT[:, [0, 2, 1, 3]]
    save(tmp_path / "coronal.nii", prediction, coronal)
    assert "differ in" in refusal(tmp_path, "r.nii", "coronal.nii")
    assert values(tmp_path, "coronal.nii", "coronal.nii")["nsd_gland"] == 1


def test_nothing_of_extensions_or_of_the_headers_text_is_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(made(), STRAIGHT)
    image.header["descrip"] = b"secret"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"secret" * 40))  # type: ignore[no-untyped-call]
    nibabel.save(image, tmp_path / "r.nii.gz")
    assert values(tmp_path, "r.nii.gz", "r.nii.gz")["dice_tumour"] == 1
    data = bytearray(gzip.decompress((tmp_path / "r.nii.gz").read_bytes()))
    data[352:356] = struct.pack("<i", 1 << 30)  # an extension that tells of 1 GiB
    (tmp_path / "p.nii").write_bytes(data)
    assert values(tmp_path, "r.nii.gz", "p.nii")["dice_tumour"] == 1


def test_a_failed_prediction_needs_no_file(tmp_path: Path) -> None:
    save(tmp_path / "r.nii.gz", made())
    (tmp_path / "t.csv").write_text(f"{HEADER}\na,1,r.nii.gz,r.nii.gz,\nb,2,r.nii.gz,,timeout\n")
    table = read_segmentation(tmp_path / "t.csv", TWO, (), True, {})
    assert table.failed.tolist() == [False, True]
    assert table.values["dice_gland"][0] == 1
