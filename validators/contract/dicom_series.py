"""A DICOM series: which volumes it holds, where they lie in space, and their values.

    >>> for part in parts_of(headers).volumes:
    ...     picture = read_picture(part, "HU")

Rules
-----
1. A volume is of one series, modality, size, orientation, pixel spacing and frame of reference.
   Files without a position are images of their own. Localizers and copies of an instance are left
   out and counted.
2. Where two slices lie at one place (4D), the series is split by the first attribute that tells
   them apart; where none does, it is refused. Frames of one enhanced file are split by a dimension
   of that file, else by all of them, and only where each part has the same places.
3. Slices are in the order of their positions projected on the normal of the planes, never of
   their numbers or names. Slices that are not above each other (a tilted gantry) are refused.
4. Distances that differ by more than a tenth make a volume uneven: it has missing slices or none
   that can be known. It is never resampled between slices.
5. A volume's id is its series; where a series has several, series#1, series#2, … in the order of
   their first instance; that of a file without a position is its instance.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.dicom_file import LARGEST, Header, stored
from validators.contract.dicom_frames import Frame
from validators.contract.dicom_open import guarded
from validators.contract.harmonise import Picture

EVEN = 0.1
"""Part of the usual distance between slices by which one may differ."""
SPACINGS = (0.005, 50.0)
"""Millimetres between pixels or slices that can be."""
_SAME_PLACE = 1e-3


@dataclass(frozen=True)
class Plane:
    """One frame of one file."""

    header: Header = field(repr=False)
    number: int

    @property
    def frame(self) -> Frame:
        """Where it lies."""
        return self.header.frames[self.number]


@dataclass(frozen=True)
class Volume:
    """Slices in the order of their positions. affine: (slice, row, column) to millimetres."""

    id: str = field(repr=False)
    planes: tuple[Plane, ...] = field(repr=False)
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float] | None
    missing: int
    """Slices that are missing between the first and the last."""
    uneven: bool

    @property
    def first(self) -> Header:
        """The header of the first slice: what all slices share."""
        return self.planes[0].header


@dataclass(frozen=True)
class Parts:
    """The volumes of a series; what was left out of it, and why some could not be read."""

    volumes: tuple[Volume, ...]
    refused: tuple[tuple[str, str], ...]
    """Id and reason."""
    localizers: int
    copies: int


def parts_of(headers: Iterable[Header]) -> Parts:
    """The volumes of one series."""
    by_instance: dict[str, Header] = {}
    copies = localizers = 0
    groups: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: (h.instance, str(h.path))):
        if header.instance in by_instance:
            copies += 1
            continue
        by_instance[header.instance] = header
        if "LOCALIZER" in header.image_type:
            localizers += 1
            continue
        groups[_alike(header)].append(header)
    divided = [part for group in groups.values() for part in _divided(_planes(group))]
    volumes, refused = [], []
    for number, part in enumerate(divided, 1):
        placed = part[0].frame.position is not None
        series, instance = part[0].header.series, part[0].header.instance
        name = (f"{series}#{number}" if len(divided) > 1 else series) if placed else instance
        try:
            volumes.append(guarded(partial(_volume, name, part), "the image can't be placed"))
        except Invalid as error:
            refused.append((name, str(error)))
    return Parts(tuple(volumes), tuple(refused), localizers, copies)


def read_picture(volume: Volume, values: str) -> Picture:
    """The image in space. values: `stored`, `rescaled`, `HU` or `SUV`. Raises Invalid."""
    first = volume.first
    size = len(volume.planes) * first.rows * first.columns * first.samples
    if size > LARGEST:
        raise Invalid(f"the image has more than {LARGEST} values")
    if values == "HU" and first.modality != "CT":
        raise Invalid("only CT has Hounsfield units")
    if values == "SUV" and any(plane.header.uptake is None for plane in volume.planes):
        raise Invalid("the header lacks what uptake values need: units, dose, weight, times")
    exact = values != "SUV" and all(
        part == int(part)
        for plane in volume.planes
        for part in (plane.frame.slope, plane.frame.intercept)
    )
    whole: NDArray[Any] | None = None
    of_file: dict[str, NDArray[Any]] = {}
    for place, plane in enumerate(volume.planes):
        if plane.header.instance not in of_file:
            of_file = {plane.header.instance: stored(plane.header)}
        made = _valued(of_file[plane.header.instance][plane.number], plane, values, exact)
        if whole is None:
            whole = np.empty((len(volume.planes), *made.shape), dtype=made.dtype)
        if made.dtype != whole.dtype:
            raise Invalid("the slices have different types of pixels")
        whole[place] = made
    assert whole is not None
    channels = whole[np.newaxis] if first.samples == 1 else np.moveaxis(whole, -1, 0)
    return Picture(channels, volume.affine, volume.spacing, volume.uneven)


def plane_axes(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors of a plane: where rows lead, and where columns lead. Raises Invalid."""
    if frame.orientation is None:
        raise Invalid("a slice has a position and no orientation")
    along_columns, along_rows = np.array(frame.orientation).reshape(2, 3)
    lengths = np.linalg.norm([along_rows, along_columns], axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(along_rows @ along_columns) > 1e-2:
        raise Invalid("the orientation of a slice is not two directions at right angles")
    return along_rows / lengths[0], along_columns / lengths[1]


def _valued(values: NDArray[Any], plane: Plane, wanted: str, exact: bool) -> NDArray[Any]:
    """What the stored values mean: whole numbers where every slope and intercept is one."""
    if wanted == "stored":
        return values
    frame = plane.frame
    if wanted == "HU" and not frame.rescaled:
        raise Invalid("a slice has no rescale slope and intercept, so it has no Hounsfield units")
    if plane.header.inverted and (frame.slope, frame.intercept) != (1.0, 0.0):
        raise Invalid("a MONOCHROME1 image with a rescale slope or intercept is not read")
    if exact:
        made = values.astype(np.int64) * int(frame.slope) + int(frame.intercept)
        if np.abs(made).max(initial=0) > np.iinfo(np.int32).max:
            raise Invalid("the rescaled values are too large")
        return made.astype(np.int32)
    real = values.astype(np.float64) * frame.slope + frame.intercept
    return (real * (plane.header.uptake or 1.0) if wanted == "SUV" else real).astype(np.float32)


def _alike(header: Header) -> tuple[Any, ...]:
    frame = header.frames[0]
    if frame.position is None or len(header.frames) > 1:
        return ("alone", header.instance)
    orientation = tuple(round(n, 3) + 0.0 for n in frame.orientation or ())
    spacing = tuple(round(n, 4) for n in frame.spacing or ())
    return (header.modality, header.rows, header.columns, header.samples, header.bits,
            header.space, orientation, spacing)  # fmt: skip


def _planes(headers: Sequence[Header]) -> list[Plane]:
    return [Plane(header, number) for header in headers for number in range(len(header.frames))]


def _divided(group: list[Plane]) -> list[list[Plane]]:
    """One list, or several when slices share places and something tells them apart."""
    if len(group) == 1 or not _shared_places(group):
        return [group]
    for number in range(len(group[0].header.splitters)):
        by_file: dict[str, list[Plane]] = defaultdict(list)
        for plane in group:
            by_file[plane.header.splitters[number]].append(plane)
        if len(by_file) > 1 and not any(map(_shared_places, by_file.values())):
            return list(by_file.values())
    width = min(len(plane.frame.splitters) for plane in group)
    for some in (*((number,) for number in range(width)), tuple(range(width))):
        by_frame: dict[tuple[float, ...], list[Plane]] = defaultdict(list)
        for plane in group:
            by_frame[tuple(plane.frame.splitters[number] for number in some)].append(plane)
        parts = [by_frame[key] for key in sorted(by_frame)]
        if len(parts) > 1 and _same_places(parts) and not _shared_places(parts[0]):
            return parts
    return [group]


def _shared_places(group: Sequence[Plane]) -> bool:
    places = _places(group)
    return places is not None and len(np.unique(places, axis=0)) < len(group)


def _same_places(parts: Sequence[Sequence[Plane]]) -> bool:
    """Whether every part has a slice at each place of the first, and no other."""
    first, *others = (_places(part) for part in parts)
    return first is not None and all(
        other is not None
        and len(other) == len(first)
        and np.array_equal(np.unique(other, axis=0), np.unique(first, axis=0))
        for other in others
    )


def _places(group: Sequence[Plane]) -> NDArray[np.float64] | None:
    """[planes, 3] in thousandths of a millimetre; None where one has no place."""
    positions = [plane.frame.position for plane in group]
    if any(position is None for position in positions):
        return None
    return np.asarray(np.round(np.array(positions) / _SAME_PLACE))


def _volume(name: str, planes: Sequence[Plane]) -> Volume:
    frames = [plane.frame for plane in planes]
    spacing = frames[0].spacing
    if spacing is not None and not all(SPACINGS[0] <= n <= SPACINGS[1] for n in spacing):
        raise Invalid("the spacing of the pixels is impossible")
    if all(frame.position is None for frame in frames):
        if len(planes) > 1:
            raise Invalid("the file has several frames and no positions: it is a film, no volume")
        return Volume(name, tuple(planes), None, spacing, 0, True)
    if any(f.position is None or f.spacing is None or f.orientation is None for f in frames):
        raise Invalid("a slice lacks its position, orientation or pixel spacing")
    if any(f.spacing != spacing for f in frames):
        raise Invalid("the slices differ in the spacing of their pixels")
    assert spacing is not None
    orientations = np.array([frame.orientation for frame in frames])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise Invalid("the slices have different orientations")
    rows, columns = plane_axes(frames[0])
    normal = np.cross(columns, rows)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    if len(steps) and steps.min() < _SAME_PLACE:
        raise Invalid("two slices lie at one place and nothing tells them apart")
    aside = (positions - positions[order[0]]) - np.outer(heights - heights[order[0]], normal)
    if np.abs(aside).max() > 0.1 * max(spacing):
        raise Invalid("the slices are not above each other (a tilted gantry or another series)")
    usual = float(np.median(steps)) if len(steps) else 1.0
    if len(steps) and not SPACINGS[0] <= usual <= SPACINGS[1]:
        raise Invalid("the distance between slices is impossible")
    uneven = bool(len(steps) == 0 or np.abs(steps - usual).max() > EVEN * usual)
    missing = int(np.maximum(np.rint(steps / usual) - 1, 0).sum()) if len(steps) else 0
    step = usual if uneven or not len(steps) else float(steps.mean())
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([normal * step, rows * spacing[0], columns * spacing[1]])
    affine[:3, 3] = positions[order[0]]
    return Volume(name, tuple(planes[n] for n in order), affine, None, missing, uneven)
