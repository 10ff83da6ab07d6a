"""A hospital's folder whose reference standard is masks, and its contract."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from registry.storage.local import LocalStore
from tests.validators.dicom_made import noise, segmentation, statement, volume_of, write_series
from tests.validators.ingest_made import sign, table
from validators.cohort.ingest import Staged, ingest
from validators.cohort.key_store import create_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import Manifest
from validators.cohort.seal import seal
from validators.contract.read import parse_contract
from validators.contract.schema import Contract

SHAPE = (6, 12, 10)
STRUCTURES = {"organ": 1, "lesion": 2}


def contract_of_masks(
    shape: tuple[int, ...] = SHAPE, structures: dict[str, int] | None = None, **image: Any
) -> Contract:
    """A CT in, a map of labels out."""
    form = {"modality": ["CT"], "orientation": "SPL", "fit": "centre", "padding": -1024,
            "values": "HU", "stored_as": "int16"} | image  # fmt: skip
    return parse_contract({
        "id": "organ-and-lesion", "version": "1", "score": "labels",
        "inputs": [{"name": "ct", "dtype": "float32", "shape": [1, *shape], "unit": "HU",
                    "image": form}],
        "outputs": [{"name": "labels", "dtype": "uint8", "shape": [1, *shape]}],
        "reference": {"grid_of": "ct", "structures": structures or STRUCTURES},
    })  # fmt: skip


def drawn(number: int) -> NDArray[np.uint8]:
    """Labels on SHAPE, of no symmetry: an organ and, but in every fourth, a lesion at one side."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:5, 2:9, 2 + number % 3 : 8] = 1
    if number % 4 != 3:
        labels[2:4, 3:6, 5:7] = 2
    return labels


def ct(labels: NDArray[np.uint8], seed: int) -> NDArray[np.int16]:
    """Stored values: organ and lesion stand out, so that a threshold finds them."""
    values = noise(labels.shape, seed) // 20 + 900  # HU -114 to -34
    return (values + 200 * (labels > 0) + 200 * (labels == 2)).astype(np.int16)


def hospital_of_masks(folder: Path, count: int = 8, *, nifti: int = 1) -> Path:
    """`count` patients with a CT and a DICOM-SEG each; `nifti` of them have a NIfTI instead.

    The NIfTI is on axes of its own: right, front, head.
    """
    statement(folder)
    rows = []
    for number in range(count):
        labels = drawn(number)
        name = f"p{number:02d}"
        paths = write_series(folder / name, str(300 + number), ct(labels, number))
        volume = volume_of(paths)
        mask = folder / f"{name}.nii.gz"
        if number < nifti:
            place = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
            image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), place)
            nibabel.save(nibabel.as_closest_canonical(image), mask)
        else:
            mask = folder / f"{name}.seg"
            both = np.stack([labels == 1, labels == 2], axis=-1).astype(np.uint8)
            in_order = [plane.header.path for plane in volume.planes]
            segmentation(in_order, both, mask)
        rows.append({"case": name, "patient": f"P{number - number % 2}", "image": name,
                     "reference": mask.name, "site": "ab"[number % 2]})  # fmt: skip
    table(folder / "cases.csv", rows)
    return folder


def staged_masks(folder: Path, count: int = 8, **how: Any) -> Staged:
    """The hospital's cases, staged and signed off."""
    source = hospital_of_masks(folder / "hospital", count, **how)
    staged = ingest(source, folder / "staged", contract=contract_of_masks(), half="all",
                    keep=("site",))  # fmt: skip
    if (staged.path / "review.csv").exists():
        sign(staged)
    return staged


def sealed_masks(
    staged: Staged, folder: Path, name: str = "organs"
) -> tuple[Manifest, LocalStore, CohortKeys]:
    """Sealed with two cases a shard."""
    keys = create_keys(folder / "keys", name, "1")
    store = LocalStore(folder / "objects")
    manifest = seal(staged, store, cohort_id=name, version="1", keys=keys,
                    shard_size=2 * 2 * int(np.prod(SHAPE)))  # fmt: skip
    return manifest, store, keys
