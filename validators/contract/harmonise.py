"""From an image in physical space to the tensor that a contract asks for: the only such code.

    >>> tensor_of(Picture(values, affine), contract.inputs[0]).shape
    (1, 96, 256, 256)

Rules
-----
1. In this order, and nothing else: axes turned to the contract's orientation, resampled, cropped
   and padded about the middle, stored in the contract's type. `validators.contract.image` says
   what each of these is.
2. Resampling is one-dimensional along each axis (the axes are at right angles): linear, or the
   nearest voxel for masks. The new grid has the old one's middle; beyond the outer voxels' centres
   the outer voxel counts. The same as scipy.ndimage.map_coordinates with order 1 (or 0) and mode
   nearest (tests), in NumPy alone, for it also runs at a hospital.
3. Nothing is clipped: a value that the type can't hold refuses the image. Resampled values are
   rounded to the nearest whole number where the type is one (halves to the even one).
4. Space is DICOM's: millimetres, to the patient's left, back and head.
"""

from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.image import SPACING_TOLERANCE, ImageForm
from validators.contract.schema import Tensor

Values = NDArray[Any]
Affine = NDArray[np.float64]
_DIRECTION = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Picture:
    """An image where it lies in space.

    values: [channels, slices, rows, columns]. affine: 4 x 4, from (slice, row, column) to
    millimetres; None for a picture without a place in space. spacing: of rows and columns in
    millimetres for a picture without a place, where it is known. uneven: the slices are not all
    equally far apart, or there is one alone, so the affine holds within slices and not across.
    """

    values: Values = field(repr=False)
    affine: Affine | None = None
    spacing: tuple[float, float] | None = None
    uneven: bool = False

    @property
    def spacings(self) -> tuple[float, ...] | None:
        """Millimetres between slices, rows and columns; rows and columns alone without affine."""
        if self.affine is not None:
            return tuple(float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))
        return self.spacing


def tensor_of(picture: Picture, tensor: Tensor) -> Values:
    """The contract's tensor of this image. Raises Invalid where the contract does not allow it."""
    return harmonised(picture, tensor).values.reshape(tensor.shape)


def harmonised(picture: Picture, tensor: Tensor) -> Picture:
    """The same with its new place in space: [channels, slices, rows, columns]."""
    form = tensor.image
    if form is None:
        raise Invalid(f"the contract says nothing about the image {tensor.name}; add `image:`")
    wanted = tensor.shape[1:] if len(tensor.shape) == 4 else (1, *tensor.shape[1:])
    if picture.values.shape[0] != tensor.shape[0]:
        raise Invalid(
            f"the image has {picture.values.shape[0]} channels, {tensor.name} has {tensor.shape[0]}"
        )
    if len(tensor.shape) == 3 and picture.values.shape[1] != 1:
        raise Invalid(
            f"the image has {picture.values.shape[1]} slices, {tensor.name} is of one; write "
            "[channels, slices, rows, columns]"
        )
    done = oriented(picture, form.orientation)
    done = _spaced(done, form, tensor.name)
    done = _fitted(done, wanted, form, tensor.name)
    values = _typed(done.values, tensor.staged_type, tensor.name)
    return replace(picture, values=values, affine=done.affine, spacing=done.spacing)


def axes_of(affine: Affine) -> tuple[str, str, str]:
    """Where slices, rows and columns lead, each to the nearest direction: ("S", "P", "L")."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(directions[axis, n]) for n, axis in enumerate(axes)),
    )
    letters = ("RL", "AP", "IS")
    named = [letters[axis][int(directions[axis, n] > 0)] for n, axis in enumerate(best)]
    return named[0], named[1], named[2]


def oriented(picture: Picture, orientation: str | None) -> Picture:
    """The same image with its axes turned, such as to `SPL`; as it is, if None."""
    if orientation is None:
        return picture
    if picture.affine is None:
        raise Invalid("the image has no place in space, so it can't be turned; leave orientation")
    now = axes_of(picture.affine)
    order, flips = [], []
    for letter in orientation:
        axis, sign = _DIRECTION[letter]
        place = next(n for n, have in enumerate(now) if _DIRECTION[have][0] == axis)
        order.append(place)
        flips.append(_DIRECTION[now[place]][1] != sign)
    values = picture.values.transpose(0, *(n + 1 for n in order))
    affine = picture.affine.copy()
    affine[:, :3] = affine[:, order]
    for axis, flip in enumerate(flips):
        if flip:
            values = np.flip(values, axis + 1)
            affine[:, 3] += affine[:, axis] * (values.shape[axis + 1] - 1)
            affine[:, axis] *= -1
    return replace(picture, values=values, affine=affine)


def _spaced(picture: Picture, form: ImageForm, name: str) -> Picture:
    if form.spacing_mm is None:
        return picture
    have = picture.spacings
    if have is None:
        raise Invalid(f"the image has no spacing, which {name} needs")
    axes = range(3 - len(form.spacing_mm), 3)
    if picture.uneven and len(axes) == 3:
        raise Invalid(
            f"the slices are not equally far apart (some may be missing); {name} needs it"
        )
    values, affine = picture.values, picture.affine
    # The spacing of a picture without a place has no first axis; a place always has three.
    spacing = dict(zip(range(3 - len(have), 3), have, strict=True))
    for axis, wanted in zip(axes, form.spacing_mm, strict=True):
        if axis not in spacing:
            raise Invalid(f"the image has no distance between slices, which {name} needs")
        ratio = wanted / spacing[axis]
        if form.resample is None:
            if abs(ratio - 1) > SPACING_TOLERANCE:
                raise Invalid(
                    f"the spacing is not the one of {name} and the contract allows no resampling"
                )
            continue
        values, shift = _resampled(values, axis + 1, ratio, linear=form.resample == "linear")
        if affine is not None:
            affine = affine.copy()
            affine[:, 3] += affine[:, axis] * shift
            affine[:, axis] *= ratio
    flat = picture.spacing
    if flat is not None and form.resample is not None:
        flat = (form.spacing_mm[-2], form.spacing_mm[-1])
    return replace(picture, values=values, affine=affine, spacing=flat)


def _resampled(values: Values, axis: int, ratio: float, *, linear: bool) -> tuple[Values, float]:
    """Along one axis, `ratio` old steps to a new one; and the first new place in old steps."""
    old = values.shape[axis]
    new = max(1, round(old / ratio))
    if new > 1 << 14:
        raise Invalid(f"resampling would make {new} steps along one axis; check the spacing")
    first = (old - 1) / 2 - ratio * (new - 1) / 2
    if new == old and abs(ratio - 1) < 1e-9:
        return values, 0.0
    places = np.clip(first + ratio * np.arange(new), 0, old - 1)
    if not linear:
        return np.take(values, np.floor(places + 0.5).astype(np.int64), axis=axis), first
    low = np.minimum(places.astype(np.int64), max(old - 2, 0))
    weight = (places - low).astype(np.float32)
    weight = weight.reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    real = values.astype(np.float32, copy=False)
    left, right = np.take(real, low, axis), np.take(real, np.minimum(low + 1, old - 1), axis)
    mixed: Values = left + (right - left) * weight
    return mixed, first


def _fitted(picture: Picture, wanted: tuple[int, ...], form: ImageForm, name: str) -> Picture:
    have = picture.values.shape[1:]
    if have == tuple(wanted):
        return picture
    if form.fit is None:
        raise Invalid(f"the image is {list(have)}, {name} is {list(wanted)} and is not fitted")
    cuts, pads, shifts = [slice(None)], [(0, 0)], []
    for old, new in zip(have, wanted, strict=True):
        begin = max(0, (old - new) // 2)
        before = max(0, (new - old) // 2)
        cuts.append(slice(begin, begin + min(old, new)))
        pads.append((before, max(0, new - old) - before))
        shifts.append(begin - before)
    cut = picture.values[tuple(cuts)]
    _check_padding(form.padding, cut.dtype, name)
    values = np.pad(cut, pads, constant_values=form.padding)
    affine = picture.affine
    if affine is not None:
        affine = affine.copy()
        affine[:, 3] += affine[:, :3] @ np.array(shifts, dtype=np.float64)
    return replace(picture, values=values, affine=affine)


def _check_padding(padding: float, dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if padding != int(padding) or not limits.min <= padding <= limits.max:
            raise Invalid(f"{name} is padded with {padding:g}, which {dtype} can't hold")


def _typed(values: Values, wanted: str, name: str) -> Values:
    dtype = np.dtype(wanted)
    if dtype.kind == "b":
        return np.asarray(values != 0)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise Invalid(f"the image {name} holds NaN or infinity")
        if dtype.kind in "iu":
            values = np.rint(values)
    if values.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise Invalid(
                f"the image has values that {wanted} can't hold; write another type in the contract"
            )
    return np.ascontiguousarray(values.astype(dtype))
