"""Labels on a grid, and whether two grids are the same.

Rules
-----
1. A grid has at most 2^29 voxels (512 x 512 x 2048); its labels are 0 to the number of structures.
2. A grid with a place in the patient has an affine: from the indices of its three axes to mm. Its
   axes stand at right angles (cosines up to 0.001), for distances are measured along them.
3. A reference is turned to the axes of the patient (left to right, back to front, foot to head, as
   near as they come), a prediction to the axes of its reference. So two files with other axes,
   order or direction, but the same voxels in the patient, compare. Nothing is resampled.
4. Two grids are the same if their shapes are; the spacings within 1/10,000; the cosines of the
   directions within 0.001; the origins within 1/100 of the smallest spacing. Without an affine
   shape and spacing decide, and an array of indices says nothing about a place in a patient: one
   grid with an affine and one without are never the same.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.masks import Spacing

Labels = NDArray[np.integer]
Affine = NDArray[np.float64]

MOST_VOXELS = 1 << 29
_SPACING, _COSINE, _ORIGIN = 1e-4, 1e-3, 1e-2


@dataclass(frozen=True, eq=False)
class Grid:
    """Labels with the spacing of their axes in mm.

    `affine` is None where the place in the patient is unknown. Else it is [4, 4], for three axes;
    `flat` is the one along which a 2D image has no extent.
    """

    labels: Labels = field(repr=False)
    spacing: Spacing
    affine: Affine | None = field(default=None, repr=False)
    flat: int | None = None

    def turned(self, towards: "Grid | None") -> Self:
        """The same voxels on the axes of `towards`; of the patient, if it is None."""
        if self.affine is None:
            return self
        axes = np.eye(4) if towards is None or towards.affine is None else towards.affine
        order = io_orientation(np.linalg.inv(axes) @ self.affine)
        solid = self.labels if self.flat is None else np.expand_dims(self.labels, self.flat)
        affine = self.affine @ inv_ornt_aff(order, solid.shape)
        flat = None if self.flat is None else int(order[self.flat, 0])
        labels = np.ascontiguousarray(apply_orientation(solid, order))
        return replace(
            self, labels=labels if flat is None else labels.squeeze(flat),
            spacing=spacing_of(affine, flat), affine=affine, flat=flat,
        )  # fmt: skip


def spacing_of(affine: Affine, flat: int | None) -> Spacing:
    """The mm from voxel to voxel along each axis that has an extent, to six digits.

    A file holds them in 32 bits, seven digits; so .7 is .7 as in a file that holds 64 bits.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return tuple(float(f"{step:.6g}") for axis, step in enumerate(steps) if axis != flat)


def differences(first: Grid, second: Grid) -> list[str]:
    """In what the grids differ, in words; empty if they are the same."""
    if (first.affine is None) != (second.affine is None):
        return ["kind of file (only NIfTI says where the voxels lie in the patient)"]
    if first.labels.shape != second.labels.shape:
        return ["shape"]
    found = []
    if not np.allclose(first.spacing, second.spacing, rtol=_SPACING, atol=0):
        found.append("spacing")
    if first.affine is not None and second.affine is not None:
        if np.abs(_directions(first.affine) - _directions(second.affine)).max() > _COSINE:
            found.append("direction of the axes")
        moved = float(np.linalg.norm(first.affine[:3, 3] - second.affine[:3, 3]))
        if moved > _ORIGIN * min(first.spacing):
            found.append("origin")
    return found


def check_affine(affine: Affine, where: str) -> None:
    """Raise Invalid unless the affine is finite and its axes stand at right angles."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (steps > 0).all():
        raise Invalid(f"{where} has an affine without a finite, positive spacing; write it again")
    axes = _directions(affine)
    if np.abs(axes.T @ axes - np.eye(3)).max() > _COSINE:
        raise Invalid(
            f"{where} has an affine whose axes do not stand at right angles; resample both masks "
            "to a grid without shear"
        )


def check_size(shape: tuple[int, ...], where: str) -> None:
    """Raise Invalid for a grid without voxels or with too many."""
    if not 0 < math.prod(shape) <= MOST_VOXELS or min(shape, default=1) < 1:
        raise Invalid(f"{where} must have 1 to {MOST_VOXELS} voxels; cut both masks out first")


def check_labels(labels: Labels | NDArray[np.float64], structures: int, where: str) -> None:
    """Raise Invalid for a label that no structure has."""
    if labels.size and (labels.min() < 0 or labels.max() > structures):
        raise Invalid(f"{where} has labels other than 0 to {structures}, the number of structures")


def _directions(affine: Affine) -> NDArray[np.float64]:
    return np.asarray(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
