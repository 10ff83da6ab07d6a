"""Made NIfTI masks, and a table of one row that names two of them."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.mask_file import compare_files
from validators.metrics.segmentation_table import KINDS, segmentation_row
from validators.protocol.tasks import SegmentationSettings, Structure
from validators.table_file import open_table

TWO = SegmentationSettings(
    structures=(Structure(name="gland", tolerance=2.0), Structure(name="tumour", tolerance=1.0)),
    maximum_distance=50.0,
)
HEADER = "case,patient,reference_path,prediction_path,failure"
STRAIGHT = np.array(
    [[0.7, 0, 0, -30], [0, 0.9, 0, 12.5], [0, 0, 3.0, -200], [0, 0, 0, 1]], dtype=np.float64
)


def oblique(degrees: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    return np.asarray(turn @ tilt @ STRAIGHT)


def made(seed: int = 0, shape: tuple[int, ...] = (12, 10, 7)) -> NDArray[np.uint8]:
    """A gland with a tumour at one side: no symmetry that would hide a wrong turn."""
    rng = np.random.default_rng(seed)
    found = np.zeros(shape, np.uint8)
    found[2:9, 1:6, 1:5] = 1
    found[2:4, 1:3, 1:3] = 2
    found[rng.random(shape) < 0.05] = 1
    return found


def save(path: Path, labels: NDArray[Any], affine: Any = STRAIGHT, **header: Any) -> Path:
    image = nibabel.Nifti1Image(labels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def values(folder: Path, reference: str, prediction: str) -> dict[str, float]:
    (folder / "t.csv").write_text(f"{HEADER}\na,1,{reference},{prediction},\n")
    names = [f"{kind}_{of.name}" for kind in KINDS for of in TWO.structures]
    found = compare_files(
        open_table(folder / "t.csv"), [reference], [prediction], np.array([""]), TWO, names,
        segmentation_row,
    )  # fmt: skip
    return {name: float(of[0]) for name, of in found.items()}


def refusal(folder: Path, reference: str, prediction: str) -> str:
    with pytest.raises(Invalid) as refused:
        values(folder, reference, prediction)
    assert "\n" not in refused.value.message
    assert "137" not in refused.value.message  # the label that no structure has
    return refused.value.message


def changed(path: Path, **fields: Any) -> None:
    """Write header fields as they are; nibabel would mend or refuse them."""
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + data[348:])
