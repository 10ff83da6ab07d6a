"""A predicted mask against a reference mask: overlap, surface and volume.

    >>> found = compare(reference, prediction, (3.0, 0.7, 0.7), tolerance=2.0,
    ...                 maximum_distance=50.0, maximum_volume_error=1.0)
    >>> found.dice, found.nsd, found.hd95, found.volume_error

Masks are boolean, 2D or 3D, of one shape and spacing (mm along each axis). Outside of the image
there is nothing: a structure cut off by the edge of the image has a surface there.

- `dice`: 2 |R and P| / (|R| + |P|) (Dice 1945).
- `nsd`, the normalised surface distance at a tolerance (Nikolov et al. 2021): the part of both
  surfaces, by area (by length in 2D), that lies within the tolerance of the other one. The surface
  runs between pixels: each block of 2 x 2 (x 2) that is partly filled holds the piece that marching
  squares (cubes) puts there, vertices half way, and stands at the block's centre; distances are
  between centres. A distance equal to the tolerance is within it.
- `hd95`: of the border pixels (those with a neighbour outside, over an edge in 2D or a face in 3D)
  the distances between centres to the other mask's nearest border pixel; their 95th percentile
  (linear between order statistics), the larger of both directions, in mm; cut off at
  `maximum_distance`.
- `volume_error`: (|P| - |R|) / |R|, cut off at `maximum_volume_error` on both sides.

Both masks empty is agreement: 1, 1, 0, 0. One of them empty is the worst: 0, 0, the maximum
distance, the maximum volume error (below zero if the structure was missed).

Values are those of MONAI 1.6.1 (`SurfaceDiceMetric(use_subvoxels=True)`,
`HausdorffDistanceMetric(percentile=95)`), where those are defined.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from registry.trust.errors import Invalid

Mask = NDArray[np.bool_]
Spacing = tuple[float, ...]

_ROUNDING = 1e-6
"""A distance that exceeds the tolerance by this part of it is equal to it."""
_WINDOW = 2
"""Pixels to each side that are looked at directly; nearly all distances between masks end there."""
_FEW = 1 / 64
"""Of the box: a search in a tree takes a pixel about this many times as long as a transform."""

# The 14 cases of marching cubes (Lorensen & Cline 1987) with vertices half way along the edges, in
# the triangulation of surface-distance (DeepMind, Apache-2.0): the corners that are inside, and for
# each triangle the sizes of its projections along the three axes, in eighths of a face. All other
# cases are these, turned, mirrored or with inside and outside exchanged.
_CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("00000000", ()),
    ("00000001", ("111",)),
    ("00000011", ("220", "220")),
    ("00000110", ("111", "111")),
    ("00000111", ("111", "222", "400")),
    ("00001111", ("400", "400")),
    ("00010110", ("111", "111", "111")),
    ("00010111", ("111", "111", "222", "222")),
    ("00011000", ("111", "111")),
    ("00011001", ("022", "022", "111")),
    ("00011011", ("022", "111", "202", "333")),
    ("00011110", ("111", "111", "222", "400")),
    ("00111100", ("220", "220", "220", "220")),
    ("01101001", ("111", "111", "111", "111")),
)


@dataclass(frozen=True)
class Agreement:
    """How a prediction agrees with the reference standard; distances in mm."""

    dice: float
    nsd: float
    hd95: float
    volume_error: float


def compare(
    reference: Mask, prediction: Mask, spacing: Spacing, *,
    tolerance: float, maximum_distance: float, maximum_volume_error: float,
) -> Agreement:  # fmt: skip
    """All four values of one structure in one case.

    Raises Invalid unless both masks are boolean, 2D or 3D, of one shape, and the spacing fits.
    """
    _check(reference, prediction, spacing)
    in_reference, in_prediction = int(reference.sum()), int(prediction.sum())
    if not in_reference and not in_prediction:
        return Agreement(1.0, 1.0, 0.0, 0.0)
    if not in_reference or not in_prediction:
        error = maximum_volume_error if in_prediction else -maximum_volume_error
        return Agreement(0.0, 0.0, maximum_distance, error)
    shared = int((reference & prediction).sum())
    error = (in_prediction - in_reference) / in_reference
    first, second = _cropped(reference, prediction)
    return Agreement(
        dice=2 * shared / (in_reference + in_prediction),
        nsd=_surface_agreement(first, second, spacing, tolerance),
        hd95=min(maximum_distance, _hausdorff_95(first, second, spacing)),
        volume_error=float(np.clip(error, -maximum_volume_error, maximum_volume_error)),
    )


def _check(reference: Mask, prediction: Mask, spacing: Spacing) -> None:
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.dtype != np.bool_:
            raise Invalid(f"the {name} mask must be boolean, not of type {mask.dtype.name}")
        if mask.ndim not in (2, 3):
            raise Invalid(f"the {name} mask has {mask.ndim} axes; 2 or 3 are needed")
    if reference.shape != prediction.shape:
        raise Invalid(
            "the prediction's mask has the shape "
            f"{_shape(prediction)} and the reference's {_shape(reference)}; bring the prediction "
            "to the grid of the reference first"
        )
    if len(spacing) != reference.ndim or not all(0 < step < np.inf for step in spacing):
        raise Invalid(
            f"the spacing must be {reference.ndim} positive numbers in mm, one for each axis of "
            "the mask"
        )


def _shape(mask: Mask) -> str:
    return " x ".join(str(size) for size in mask.shape)


def _cropped(first: Mask, second: Mask) -> tuple[Mask, Mask]:
    """Both masks on their common bounding box with one empty pixel around it."""
    either = first | second
    box = []
    for axis in range(either.ndim):
        others = tuple(other for other in range(either.ndim) if other != axis)
        filled = np.flatnonzero(either.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return np.pad(first[tuple(box)], 1), np.pad(second[tuple(box)], 1)


def _hausdorff_95(first: Mask, second: Mask, spacing: Spacing) -> float:
    one, other = (mask & ~ndimage.binary_erosion(mask) for mask in (first, second))
    return max(_percentile_95(one, other, spacing), _percentile_95(other, one, spacing))


def _percentile_95(here: Mask, there: Mask, spacing: Spacing) -> float:
    last = int(here.sum()) - 1
    # Those behind the two between which the percentile lies can be as far as they like.
    beyond = max(0, last - math.floor(0.95 * last) - 1)
    return float(np.quantile(_nearest(here, there, spacing, beyond=beyond), 0.95))


def _surface_agreement(first: Mask, second: Mask, spacing: Spacing, tolerance: float) -> float:
    size, limit = _sizes(spacing), tolerance * (1 + _ROUNDING)
    codes = [_codes(mask) for mask in (first, second)]
    surfaces = [(code > 0) & (code < len(size) - 1) for code in codes]
    near, whole = 0.0, 0.0
    for here, there in ((0, 1), (1, 0)):
        pieces = size[codes[here][surfaces[here]]]
        distance = _nearest(surfaces[here], surfaces[there], spacing, limit=limit)
        near += float(pieces[distance <= limit].sum())
        whole += float(pieces.sum())
    return min(1.0, near / whole)


def _nearest(
    here: Mask, there: Mask, spacing: Spacing, *, limit: float = np.inf, beyond: int = 0
) -> NDArray[np.float64]:
    """The distance of each place in `here` to the nearest one in `there`, in mm.

    It may be infinite where it exceeds `limit`, and for the `beyond` farthest places. Near places
    are looked up, nearest first; what is left is found by a tree of places or, where they are many,
    by a distance transform. All are exact.
    """
    steps, lengths, reach = _steps(spacing, _WINDOW)
    here, there = np.pad(here, _WINDOW), np.pad(there, _WINDOW)
    filled = there.ravel()
    left = np.flatnonzero(here)
    number = np.arange(len(left))
    found = np.full(len(left), np.inf)
    for step, length in zip(steps @ _strides(here), lengths, strict=True):
        if length > limit or len(left) <= beyond:
            return found
        hit = filled[left + step]
        found[number[hit]] = length
        left, number = left[~hit], number[~hit]
    if limit >= reach and len(left) > beyond:
        found[number] = _far(left, there, spacing, limit)
    return found


def _far(
    left: NDArray[np.intp], there: Mask, spacing: Spacing, limit: float
) -> NDArray[np.float64]:
    """As `_nearest` for the places at the flat indices `left`, by the quicker of two ways."""
    at = np.stack(np.unravel_index(left, there.shape))
    step = np.asarray(spacing)
    if len(left) + int(there.sum()) / 8 < _FEW * there.size:
        tree = KDTree(np.argwhere(there) * step, leafsize=32)
        return np.asarray(
            tree.query(at.T * step, distance_upper_bound=np.nextafter(limit, np.inf))[0]
        )
    nearest = ndimage.distance_transform_edt(
        ~there, sampling=spacing, return_distances=False, return_indices=True
    ).reshape(there.ndim, -1)
    return _length((nearest[:, left] - at).T, spacing)


@lru_cache(maxsize=64)
def _steps(spacing: Spacing, window: int) -> tuple[NDArray[np.intp], NDArray[np.float64], float]:
    """Steps within the window by length, [k, axes]; their lengths; no other step is below `reach`.

    So the first step that ends in a mask leads to the nearest place.
    """
    reach = (window + 1) * min(spacing)
    steps = np.array(list(product(range(-window, window + 1), repeat=len(spacing))))
    lengths = _length(steps, spacing)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] < reach]
    return steps[order], lengths[order], reach


def _length(steps: NDArray[np.intp], spacing: Spacing) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(((steps * np.asarray(spacing)) ** 2).sum(axis=1)))


def _strides(mask: Mask) -> NDArray[np.intp]:
    """How far apart neighbours along each axis are in the flat array."""
    return np.array([int(np.prod(mask.shape[axis + 1 :])) for axis in range(mask.ndim)])


def _codes(mask: Mask) -> NDArray[np.uint8]:
    """For each block of 2 x 2 (x 2) pixels its corners as bits, the first corner highest."""
    corners = list(product((0, 1), repeat=mask.ndim))
    code = np.zeros([size - 1 for size in mask.shape], dtype=np.uint8)
    for corner in corners:
        window = tuple(
            slice(start, start + size - 1) for start, size in zip(corner, mask.shape, strict=True)
        )
        code = np.asarray((code << 1) | mask[window], dtype=np.uint8)
    return code


def _sizes(spacing: Spacing) -> NDArray[np.float64]:
    """The area (mm^2; in 2D the length in mm) of the surface in a block, by its code."""
    step = np.asarray(spacing)
    if len(step) == 2:
        lengths = np.full(16, np.hypot(*step) / 2)  # one corner cut off
        lengths[[6, 9]] *= 2
        lengths[[5, 10]], lengths[[3, 12]] = step
        lengths[[0, 15]] = 0
        return lengths
    face = np.prod(step) / step
    return np.asarray(np.linalg.norm(_triangles() * face, axis=2).sum(axis=1))


@cache
def _triangles() -> NDArray[np.float64]:
    """For each of 256 codes, up to four triangles by their projections in faces; [256, 4, 3]."""
    table = np.zeros((256, 4, 3))
    for corners, triangles in _CASES:
        inside = np.array([int(bit) for bit in corners]).reshape(2, 2, 2)
        shape = np.array([[int(part) for part in of] for of in triangles]).reshape(-1, 3) / 8
        for axes in permutations(range(3)):
            turned, of_axes = inside.transpose(axes), shape[:, list(axes)]
            for mirror in product((1, -1), repeat=3):
                seen = turned[:: mirror[0], :: mirror[1], :: mirror[2]]
                code = int("".join(str(bit) for bit in seen.ravel()), 2)
                table[[code, 255 - code], : len(shape)] = of_axes
    table.flags.writeable = False
    return table
