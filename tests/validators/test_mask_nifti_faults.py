"""NIfTI masks that break a rule: one clear line, and nothing of what they hold."""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.validators.nifti_made import (
    STRAIGHT,
    changed,
    made,
    refusal,
    save,
)
from validators.metrics import mask_grid


def _damaged(path: Path, how: str) -> None:
    """A file that breaks one rule."""
    labels: NDArray[Any] = made()
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
    save(path, labels, affine)
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
        changed(path, **changes[how])
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
    save(tmp_path / "r.nii", made())
    said = refusal(tmp_path, "r.nii", "p.nii")
    assert says in said
    assert said.startswith("t.csv: the file that prediction_path names in row 1 ")
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress((tmp_path / "p.nii").read_bytes()))
    assert says in refusal(tmp_path, "r.nii", "p.nii.gz")
    assert capfd.readouterr() == ("", "")


def test_damage_to_a_packed_file_is_seen(tmp_path: Path) -> None:
    save(tmp_path / "r.nii.gz", made())
    whole = (tmp_path / "r.nii.gz").read_bytes()
    damaged = {
        "cut": whole[:-30], "no checksum": whole[:-8], "checksum": whole[:-8] + b"\1" * 8,
        "flipped": whole[:150] + bytes([whole[150] ^ 0xFF]) + whole[151:], "start": whole[:5],
        "behind": whole + b"secret",
    }  # fmt: skip
    for name, data in damaged.items():
        (tmp_path / "p.nii.gz").write_bytes(data)
        assert "p.nii.gz" not in refusal(tmp_path, "r.nii.gz", "p.nii.gz"), name


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A few kB that tell of 2^36 voxels, or of 1 TiB of extensions."""
    header = nibabel.Nifti2Header()
    header.set_data_shape((1 << 12, 1 << 12, 1 << 12))
    header["vox_offset"] = 544
    save(tmp_path / "r.nii", made())
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    assert "voxels" in refusal(tmp_path, "r.nii", "p.nii.gz")
    header.set_data_shape((2, 2, 2))
    header["vox_offset"] = 1 << 40
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    assert "within 16 MiB" in refusal(tmp_path, "r.nii", "p.nii.gz")


def test_a_bomb_of_numpy_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_grid, "MOST_VOXELS", 100)
    np.savez_compressed(tmp_path / "r.npz", mask=np.zeros((11, 10), np.uint8), spacing=np.ones(2))
    assert "must have 1 to 100 voxels" in refusal(tmp_path, "r.npz", "r.npz")
    np.savez_compressed(tmp_path / "s.npz", mask=np.zeros((5, 5), np.uint8), spacing=np.ones(200))
    assert "must have 1 to 100 voxels" in refusal(tmp_path, "s.npz", "s.npz")
