"""One case's reference standard as a mask: from its file to the grid that the model sees.

    >>> reference, doubts = read_reference_mask(todo, contract, {"ct": picture})
    >>> reference[LABELS].shape, reference[SPACING]

Rules
-----
1. The file is a DICOM-SEG (`validators.cohort.dicom_mask`: checked, never moved) or a NIfTI
   map of the contract's labels on the image's grid. It then goes the image's own way through
   `validators.contract.harmonise`, by the nearest voxel.
2. A segment is a structure by the structure's name as its label. Where no segment is named like any
   structure, it is one by its number. For a single structure the table may name it (`segment`). A
   structure without a segment refuses the case: not drawn is not the same as not there.
3. Two structures in one voxel refuse the case: a map of labels can't hold both.
4. Millimetres from voxel to voxel are kept with the labels, since who scores holds no image.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cohort.dicom_mask import read_mask, read_segments
from validators.cohort.folder_cases import Todo
from validators.cohort.image_file import read_label_file
from validators.cohort.reference_masks import LABELS, SPACING
from validators.contract.dicom_file import Header
from validators.contract.dicom_series import Volume
from validators.contract.harmonise import Picture, harmonised
from validators.contract.reference import form_of_mask, grid_of
from validators.contract.schema import Contract, Tensor

NAME = "reference"
EMPTY = "the reference mask is empty"
UNEVEN = (
    "its slices are not equally far apart, so distances of masks in mm across slices don't hold"
)


def read_reference_mask(
    todo: Todo, contract: Contract, pictures: Mapping[str, Picture]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """{LABELS: uint8 on the grid, SPACING: float64 mm an axis}, and what a person must look at.

    Raises Invalid where the case has no mask, or one that does not lie on its image.
    """
    asked = contract.reference
    assert asked is not None
    image = next(t for t in contract.inputs if t.name == asked.grid_of)
    assert image.image is not None
    if todo.reference is None:
        raise Invalid("the reference standard is missing")
    picture = pictures[image.name]
    whole = _labels(todo, todo.images[image.name], picture, asked.structures)
    grid = grid_of(image)
    made = harmonised(
        whole,
        Tensor(name=NAME, dtype="uint8", shape=(1, *grid), image=form_of_mask(image.image)),
    )
    labels = made.values.reshape(grid)
    steps = made.spacings
    if steps is None or len(steps) < len(grid):
        raise Invalid("the image has no spacing in mm, which distances between masks need")
    spacing = np.array([float(f"{step:.6g}") for step in steps[-len(grid) :]])
    doubts = [] if whole.values.any() else [EMPTY]
    doubts += [
        f"the reference mask of {name} was cut away by the contract's cropping"
        for name, label in asked.structures.items()
        if (whole.values == label).any() and not (labels == label).any()
    ]
    if made.uneven and len(grid) == 3:
        doubts.append(UNEVEN)
    return {LABELS: labels, SPACING: spacing}, doubts


def _labels(
    todo: Todo, image: Volume | Any, picture: Picture, structures: Mapping[str, int]
) -> Picture:
    mask = todo.reference
    assert mask is not None
    if not isinstance(mask, Header):
        return read_label_file(mask, NAME, picture, structures.values())
    if mask.modality != "SEG" or not isinstance(image, Volume):
        raise Invalid("a DICOM mask must be a DICOM-SEG, of a DICOM image")
    made: NDArray[np.uint8] | None = None
    for label, segment in _segments(mask, structures, todo.segment).items():
        part = read_mask(mask, image, segment)
        if made is None:
            made = np.zeros(part.values.shape, dtype=np.uint8)
        if (made[part.values != 0] != 0).any():
            raise Invalid("two structures of the mask share a voxel; a map of labels can't hold it")
        made[part.values != 0] = label
    assert made is not None
    return Picture(made, picture.affine, picture.spacing, picture.uneven)


def _segments(mask: Header, structures: Mapping[str, int], asked: str | None) -> dict[int, str]:
    """The segment of each label, as `read_mask` takes it."""
    if asked is not None:
        if len(structures) != 1:
            raise Invalid("a column `segment` names one segment, the contract several structures")
        return {next(iter(structures.values())): asked}
    numbers = read_segments(mask)
    named = set(numbers.values()) & set(structures)
    for name, label in structures.items():
        if (name not in named) if named else (label not in numbers):
            raise Invalid(f"the segmentation has no segment of {name}")
    return {label: name if named else str(label) for name, label in structures.items()}
