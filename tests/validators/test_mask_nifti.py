"""NIfTI masks: their place in the patient, what is the same grid, and what is refused."""

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.evaluate import evaluate
from validators.metrics import mask_grid
from validators.metrics.mask_file import compare_files
from validators.metrics.mask_nifti import read_nifti
from validators.metrics.segmentation_table import KINDS, read_segmentation, segmentation_row
from validators.protocol.read import read_protocol
from validators.protocol.tasks import SegmentationSettings, Structure
from validators.table_file import open_table
from validators.tables import read_cases

TWO = SegmentationSettings(
    structures=(Structure(name="gland", tolerance=2.0), Structure(name="tumour", tolerance=1.0)),
    maximum_distance=50.0,
)
HEADER = "case,patient,reference_path,prediction_path,failure"
STRAIGHT = np.array(
    [[0.7, 0, 0, -30], [0, 0.9, 0, 12.5], [0, 0, 3.0, -200], [0, 0, 0, 1]], dtype=np.float64
)


def _oblique(degrees: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    return np.asarray(turn @ tilt @ STRAIGHT)


def _labels(seed: int = 0, shape: tuple[int, ...] = (12, 10, 7)) -> NDArray[np.uint8]:
    """A gland with a tumour at one side: no symmetry that would hide a wrong turn."""
    rng = np.random.default_rng(seed)
    found = np.zeros(shape, np.uint8)
    found[2:9, 1:6, 1:5] = 1
    found[2:4, 1:3, 1:3] = 2
    found[rng.random(shape) < 0.05] = 1
    return found


def _save(path: Path, labels: NDArray[Any], affine: Any = STRAIGHT, **header: Any) -> Path:
    image = nibabel.Nifti1Image(labels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def _values(folder: Path, reference: str, prediction: str) -> dict[str, float]:
    (folder / "t.csv").write_text(f"{HEADER}\na,1,{reference},{prediction},\n")
    names = [f"{kind}_{of.name}" for kind in KINDS for of in TWO.structures]
    found = compare_files(
        open_table(folder / "t.csv"), [reference], [prediction], np.array([""]), TWO, names,
        segmentation_row,
    )  # fmt: skip
    return {name: float(values[0]) for name, values in found.items()}


def _refusal(folder: Path, reference: str, prediction: str) -> str:
    with pytest.raises(Invalid) as refused:
        _values(folder, reference, prediction)
    assert "\n" not in refused.value.message
    assert "137" not in refused.value.message  # the label that no structure has
    return refused.value.message


def _changed(path: Path, **fields: Any) -> None:
    """Write header fields as they are; nibabel would mend or refuse them."""
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + data[348:])


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
                labels = np.roll(_labels(case), shift * (case % 3), axis=case % 2)
                if ending == "npz":
                    steps = np.array([0.7, 0.9, 3.0])
                    np.savez_compressed(tmp_path / name, mask=labels, spacing=steps)
                else:
                    _save(tmp_path / name, labels)
                names.append(name)
            lines.append(f"{case},{case},{'AB'[case % 2]},{','.join(names)}")
        table = tmp_path / f"{ending}.csv"
        table.write_text("\n".join(lines) + "\n")
        evidence.append(evaluate(read_cases(table, protocol_read, {}), protocol_read))
    assert evidence[0] == evidence[1] == evidence[2]


ORDERS = ["LPS", "RAS", "SPL", "PIR", "ASR", "IAL"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("affine", [STRAIGHT, _oblique(20), _oblique(45), _oblique(-135)])
@pytest.mark.parametrize("second", [False, True])
def test_files_with_other_axes_are_compared_in_the_patient(
    tmp_path: Path, order: str, affine: Any, second: bool
) -> None:
    reference, prediction = _labels(1), np.roll(_labels(2), 1, axis=0)
    _save(tmp_path / "r.nii.gz", reference, affine)
    _save(tmp_path / "p.nii.gz", prediction, affine)
    wanted = _values(tmp_path, "r.nii.gz", "p.nii.gz")
    assert wanted["dice_tumour"] < wanted["dice_gland"] < 1
    turned = "r" if second else "p"
    image = nibabel.load(tmp_path / f"{turned}.nii.gz")
    to = nibabel.orientations.axcodes2ornt(tuple(order))
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), to)
    nibabel.save(image.as_reoriented(change), tmp_path / "other.nii.gz")  # type: ignore[attr-defined]
    names = ["r.nii.gz", "p.nii.gz"]
    names[0 if second else 1] = "other.nii.gz"
    assert _values(tmp_path, *names) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_a_reference_is_turned_as_nibabel_turns_it(tmp_path: Path, order: str) -> None:
    start = nibabel.Nifti1Image(_labels(3), _oblique(15))
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
    image = nibabel.Nifti1Image(_labels(), STRAIGHT)
    image.set_sform(moved, code=1)
    image.set_qform(STRAIGHT, code=1)
    nibabel.save(image, tmp_path / "both.nii")
    _save(tmp_path / "moved.nii", _labels(), moved)
    _save(tmp_path / "straight.nii", _labels(), STRAIGHT)
    assert _values(tmp_path, "both.nii", "moved.nii")["dice_gland"] == 1
    image.set_sform(moved, code=0)
    nibabel.save(image, tmp_path / "qform.nii")
    assert _values(tmp_path, "qform.nii", "straight.nii")["dice_gland"] == 1
    image.set_qform(STRAIGHT, code=0)
    nibabel.save(image, tmp_path / "neither.nii")
    assert _values(tmp_path, "neither.nii", "neither.nii")["dice_gland"] == 1
    assert "origin" in _refusal(tmp_path, "neither.nii", "straight.nii")
    _changed(tmp_path / "neither.nii", pixdim=[1, 0.7, 0, 3, 1, 1, 1, 1])
    assert "no positive spacing and no sform" in _refusal(tmp_path, "neither.nii", "neither.nii")


def _with(change: str) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    labels, affine = _labels(), STRAIGHT.copy()
    if change == "shape":
        labels = labels[:-1]
    elif change == "spacing":
        affine[2, 2] *= 1.001
    elif change == "direction":
        affine = _oblique(0.2)
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
    _save(tmp_path / "r.nii.gz", _labels())
    _save(tmp_path / "p.nii.gz", *_with(change))
    said = _refusal(tmp_path, "r.nii.gz", "p.nii.gz")
    assert said == (
        f"t.csv: in row 1 the two masks, r.nii.gz and p.nii.gz, differ in {says}; bring the "
        "prediction to the grid of the reference first"
    )


def test_rounding_of_a_stored_affine_is_no_other_grid(tmp_path: Path) -> None:
    _save(tmp_path / "r.nii", _labels())
    _save(tmp_path / "p.nii", *_with("little"))
    assert _values(tmp_path, "r.nii", "p.nii")["dice_tumour"] == 1


def test_nifti_beside_npz_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "r.nii", _labels())
    np.savez(tmp_path / "p.npz", mask=_labels(), spacing=np.array([0.7, 0.9, 3.0]))
    assert "differ in kind of file (only NIfTI says" in _refusal(tmp_path, "r.nii", "p.npz")


def test_scaled_float_and_swapped_labels_are_the_same_labels(tmp_path: Path) -> None:
    labels = _labels()
    _save(tmp_path / "r.nii.gz", labels)
    nibabel.save(nibabel.Nifti2Image(labels, STRAIGHT), tmp_path / "second.nii")
    _save(tmp_path / "float.nii.gz", labels.astype(np.float32))
    _save(tmp_path / "double.nii", labels.astype(np.float64) + 1e-5)
    _save(tmp_path / "one_volume.nii", labels[..., None])
    image = nibabel.Nifti1Image(labels.astype(np.float64), STRAIGHT)
    image.set_data_dtype(np.int16)  # nibabel then scales by itself: a label is 2/65535 off
    nibabel.save(image, tmp_path / "scaled.nii")
    assert nibabel.load(tmp_path / "scaled.nii").dataobj.slope != 1  # type: ignore[attr-defined]
    image = nibabel.Nifti1Image(labels * 4 + 3, STRAIGHT)
    image.header.set_slope_inter(0.25, -0.75)
    nibabel.save(image, tmp_path / "slope.nii")
    _changed(tmp_path / "slope.nii", scl_slope=0.25, scl_inter=-0.75)
    big = nibabel.Nifti1Image(labels.astype(">i2"), STRAIGHT,
                              nibabel.Nifti1Header(endianness=">"))  # fmt: skip
    nibabel.save(big, tmp_path / "big.nii")
    for name in ("second.nii", "float.nii.gz", "double.nii", "one_volume.nii", "scaled.nii",
                 "slope.nii", "big.nii"):  # fmt: skip
        found = read_nifti(tmp_path / name, 2, name).turned(None)
        assert found.labels.dtype == np.uint8
        assert np.array_equal(found.labels, labels), name
        assert _values(tmp_path, "r.nii.gz", name)["dice_tumour"] == 1, name


def test_two_axes_are_a_2d_image_and_one_slice_is_not(tmp_path: Path) -> None:
    reference, prediction = _labels()[:, :, 1], np.roll(_labels()[:, :, 1], 1, axis=0)
    for name, labels in (("r", reference), ("p", prediction)):
        _save(tmp_path / f"{name}.nii", labels)
        np.savez(tmp_path / f"{name}.npz", mask=labels, spacing=np.array([0.7, 0.9]))
    flat = _values(tmp_path, "r.nii", "p.nii")
    assert flat == _values(tmp_path, "r.npz", "p.npz")
    _save(tmp_path / "slice.nii", prediction[:, :, None])
    assert "differ in shape" in _refusal(tmp_path, "r.nii", "slice.nii")
    coronal = STRAIGHT[:, [0, 2, 1, 3]]
    _save(tmp_path / "coronal.nii", prediction, coronal)
    assert "differ in" in _refusal(tmp_path, "r.nii", "coronal.nii")
    assert _values(tmp_path, "coronal.nii", "coronal.nii")["nsd_gland"] == 1


def _damaged(path: Path, how: str) -> None:
    """A file that breaks one rule."""
    labels: NDArray[Any] = _labels()
    if how == "half":
        labels = labels / 2
    elif how == "NaN":
        labels = np.where(labels == 2, np.nan, labels.astype(np.float32))
    elif how == "outside":
        labels = np.where(labels == 2, 137, labels).astype(np.uint8)
    elif how == "negative":
        labels = -labels.astype(np.int16)
    elif how == "complex":
        labels = labels.astype(np.complex64)
    elif how == "colour":
        labels = np.zeros(labels.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    elif how == "volumes":
        labels = np.stack([labels, labels], axis=3)
    affine = STRAIGHT.copy()
    if how == "shear":
        affine[0, 1] = 0.3
    if how == "infinite":
        affine[0, 3] = np.inf
    if how == "one axis":
        labels = labels[:, 0, 0]
    _save(path, labels, affine)
    changes: dict[str, dict[str, Any]] = {
        "metres": {"xyzt_units": 1}, "microns": {"xyzt_units": 3}, "unit": {"xyzt_units": 7},
        "pair": {"magic": b"ni1"}, "magic": {"magic": b"no"}, "type": {"datatype": 3},
        "far": {"vox_offset": 1e30}, "near": {"vox_offset": 0}, "nowhere": {"vox_offset": np.nan},
        "huge": {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]},
        "empty": {"dim": [3, 12, 0, 7, 1, 1, 1, 1]}, "below": {"dim": [3, 12, -10, 7, 1, 1, 1, 1]},
        "axes": {"dim": [9, 12, 10, 7, 1, 1, 1, 1]}, "intercept": {"scl_inter": np.nan,
        "scl_slope": 2}, "zero": {"srow_x": [0, 0, 0, 0]},
    }  # fmt: skip
    if how in changes:
        _changed(path, **changes[how])
    data = path.read_bytes()
    if how == "text":
        path.write_bytes(b"secret: the label is 137")
    elif how == "header":
        path.write_bytes(data[:200])
    elif how == "short":
        path.write_bytes(data[:-1])
    elif how == "long":
        path.write_bytes(data + b"\0")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("half", "not whole numbers"), ("NaN", "not whole numbers"),
        ("outside", "labels other than 0 to 2"), ("negative", "labels other than 0 to 2"),
        ("complex", "not complex"), ("colour", "or colours"),
        ("volumes", "one 2D or 3D volume"), ("one axis", "one 2D or 3D volume"),
        ("shear", "right angles"), ("infinite", "without a finite"), ("zero", "without a finite"),
        ("metres", "lengths in meter, not in mm"), ("microns", "lengths in micron, not in mm"),
        ("unit", "damaged NIfTI header"), ("pair", "half of a .hdr and .img pair"),
        ("magic", "damaged NIfTI header"), ("type", "damaged NIfTI header"),
        ("far", "within 16 MiB"), ("near", "within 16 MiB"), ("nowhere", "damaged NIfTI header"),
        ("huge", "must have 1 to 536870912 voxels"), ("empty", "must have 1 to"),
        ("below", "must have 1 to"), ("axes", "damaged NIfTI header"),
        ("intercept", "an intercept that is no number"),
        ("text", "no NIfTI file, in spite of its name"), ("header", "damaged NIfTI header"),
        ("short", "damaged or cut short"), ("long", "more data than its header tells of"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_a_rule_gets_one_clear_line(
    tmp_path: Path, how: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    _damaged(tmp_path / "p.nii", how)
    _save(tmp_path / "r.nii", _labels())
    said = _refusal(tmp_path, "r.nii", "p.nii")
    assert says in said
    assert said.startswith("t.csv: the file that prediction_path names in row 1 ")
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress((tmp_path / "p.nii").read_bytes()))
    assert says in _refusal(tmp_path, "r.nii", "p.nii.gz")
    assert capfd.readouterr() == ("", "")


def test_damage_to_a_packed_file_is_seen(tmp_path: Path) -> None:
    _save(tmp_path / "r.nii.gz", _labels())
    whole = (tmp_path / "r.nii.gz").read_bytes()
    damaged = {
        "cut": whole[:-30], "no checksum": whole[:-8], "checksum": whole[:-8] + b"\1" * 8,
        "flipped": whole[:150] + bytes([whole[150] ^ 0xFF]) + whole[151:], "start": whole[:5],
        "behind": whole + b"secret",
    }  # fmt: skip
    for name, data in damaged.items():
        (tmp_path / "p.nii.gz").write_bytes(data)
        assert "p.nii.gz" not in _refusal(tmp_path, "r.nii.gz", "p.nii.gz"), name


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A few kB that tell of 2^36 voxels, or of 1 TiB of extensions."""
    header = nibabel.Nifti2Header()
    header.set_data_shape((1 << 12, 1 << 12, 1 << 12))
    header["vox_offset"] = 544
    _save(tmp_path / "r.nii", _labels())
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    assert "voxels" in _refusal(tmp_path, "r.nii", "p.nii.gz")
    header.set_data_shape((2, 2, 2))
    header["vox_offset"] = 1 << 40
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    assert "within 16 MiB" in _refusal(tmp_path, "r.nii", "p.nii.gz")


def test_a_bomb_of_numpy_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_grid, "MOST_VOXELS", 100)
    np.savez_compressed(tmp_path / "r.npz", mask=np.zeros((11, 10), np.uint8), spacing=np.ones(2))
    assert "must have 1 to 100 voxels" in _refusal(tmp_path, "r.npz", "r.npz")
    np.savez_compressed(tmp_path / "s.npz", mask=np.zeros((5, 5), np.uint8), spacing=np.ones(200))
    assert "must have 1 to 100 voxels" in _refusal(tmp_path, "s.npz", "s.npz")


def test_nothing_of_extensions_or_of_the_headers_text_is_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(_labels(), STRAIGHT)
    image.header["descrip"] = b"secret"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"secret" * 40))  # type: ignore[no-untyped-call]
    nibabel.save(image, tmp_path / "r.nii.gz")
    assert _values(tmp_path, "r.nii.gz", "r.nii.gz")["dice_tumour"] == 1
    data = bytearray(gzip.decompress((tmp_path / "r.nii.gz").read_bytes()))
    data[352:356] = struct.pack("<i", 1 << 30)  # an extension that tells of 1 GiB
    (tmp_path / "p.nii").write_bytes(data)
    assert _values(tmp_path, "r.nii.gz", "p.nii")["dice_tumour"] == 1


def test_a_failed_prediction_needs_no_file(tmp_path: Path) -> None:
    _save(tmp_path / "r.nii.gz", _labels())
    (tmp_path / "t.csv").write_text(f"{HEADER}\na,1,r.nii.gz,r.nii.gz,\nb,2,r.nii.gz,,timeout\n")
    table = read_segmentation(tmp_path / "t.csv", TWO, (), True, {})
    assert table.failed.tolist() == [False, True]
    assert table.values["dice_gland"][0] == 1
