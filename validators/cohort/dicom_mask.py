"""A DICOM-SEG as a mask on the grid of an image: every frame at the slice that it belongs to.

    >>> picture = read_mask(header, volume, segment=None)

Rules
-----
1. The segmentation is of the image's frame of reference, orientation, pixel spacing, rows and
   columns, and its first pixel lies on the image's: it is never moved or resampled to fit.
2. A frame belongs to the slice at its own position projected on the normal. A frame with a marked
   pixel where the image has no slice refuses the case: the mask lies outside the image.
3. Of several segments one is named, by number or label. A fractional one is marked from a half on.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from registry.trust.errors import Invalid
from validators.contract.dicom_file import Header
from validators.contract.dicom_open import dataset, guarded
from validators.contract.dicom_series import Volume, plane_axes
from validators.contract.harmonise import Picture

_NEAR = 0.1
"""Part of a pixel, or of the distance between slices, by which a frame may be beside its place."""


def read_mask(header: Header, volume: Volume, segment: str | None = None) -> Picture:
    """The mask, uint8 0 or 1, [1, slices, rows, columns] of `volume`. Raises Invalid."""
    if volume.affine is None:
        raise Invalid("the image has no place in space, so a DICOM-SEG can't be put on it")
    _check_grid(header, volume)
    numbers, marked = guarded(lambda: _frames(header, segment), "the segmentation can't be decoded")
    mask = np.zeros((len(volume.planes), header.rows, header.columns), dtype=np.uint8)
    for frame, place in zip(marked, _places(header, volume, numbers), strict=True):
        if place is not None:
            mask[place] |= frame
        elif frame.any():
            raise Invalid("the mask lies outside the image: it marks a place without a slice")
    return Picture(mask[np.newaxis], volume.affine, None, volume.uneven)


def read_segments(header: Header) -> dict[int, str]:
    """The label of each segment, by its number. Raises Invalid."""
    return guarded(lambda: _segments(dataset(header.path)), "the segmentation can't be decoded")


def _check_grid(header: Header, volume: Volume) -> None:
    image = volume.first
    if not header.space or header.space != image.space:
        raise Invalid("mask and image have different frames of reference")
    if (header.rows, header.columns) != (image.rows, image.columns):
        raise Invalid("mask and image differ in rows or columns")


def _places(header: Header, volume: Volume, numbers: list[int]) -> list[int | None]:
    """The slice of each frame, or None where the image has none."""
    assert volume.affine is not None
    rows, columns = plane_axes(volume.planes[0].frame)
    normal = np.cross(columns, rows)
    spacing = np.array(volume.planes[0].frame.spacing)
    positions = np.array([plane.frame.position for plane in volume.planes])
    heights = positions @ normal
    near = _NEAR * float(np.linalg.norm(volume.affine[:3, 0]))
    places: list[int | None] = []
    for number in numbers:
        frame = header.frames[number]
        if frame.position is None or frame.spacing is None:
            raise Invalid("a frame of the mask lacks its position or pixel spacing")
        own_rows, own_columns = plane_axes(frame)
        if min(own_rows @ rows, own_columns @ columns) < 1 - 1e-5:
            raise Invalid("mask and image have different orientations")
        if np.abs(np.array(frame.spacing) / spacing - 1).max() > 1e-3:
            raise Invalid("mask and image have different pixel spacings")
        aside = np.array(frame.position) - positions[0]
        if max(abs(aside @ rows) / spacing[0], abs(aside @ columns) / spacing[1]) > _NEAR:
            raise Invalid("the mask is shifted against the image")
        distances = np.abs(heights - np.array(frame.position) @ normal)
        nearest = int(distances.argmin())
        places.append(nearest if distances[nearest] <= near else None)
    return places


def _frames(header: Header, segment: str | None) -> tuple[list[int], list[NDArray[np.uint8]]]:
    """The frames of one segment: their numbers, and what they mark."""
    found = dataset(header.path)
    if str(found.get("SOPInstanceUID", "")) != header.instance:
        raise Invalid("the file changed while it was read")
    wanted = _segment(found, segment)
    pixels = np.asarray(found.pixel_array).reshape(-1, header.rows, header.columns)
    if len(pixels) != len(header.frames):
        raise Invalid("the mask has another number of frames than its header says")
    kind = str(found.get("SegmentationType", "BINARY"))
    if kind == "LABELMAP":
        return list(range(len(pixels))), [(frame == wanted).astype(np.uint8) for frame in pixels]
    shared = found.get("SharedFunctionalGroupsSequence", None)
    numbers = [
        number
        for number, group in enumerate(found.PerFrameFunctionalGroupsSequence)
        if _number_of(group, shared[0] if shared else None) == wanted
    ]
    half = int(found.get("MaximumFractionalValue", 0) or 1) / 2 if kind == "FRACTIONAL" else 0.5
    return numbers, [(pixels[number] >= half).astype(np.uint8) for number in numbers]


def _number_of(group: Dataset, shared: Dataset | None) -> int:
    for place in (group, shared):
        items = place.get("SegmentIdentificationSequence", None) if place is not None else None
        if items:
            return int(items[0].ReferencedSegmentNumber)
    raise Invalid("a frame of the mask names no segment")


def _segments(found: Dataset) -> dict[int, str]:
    return {
        int(item.SegmentNumber): str(item.get("SegmentLabel", ""))
        for item in found.get("SegmentSequence", None) or ()
        if int(item.SegmentNumber) > 0  # a label map lists its background as 0
    }


def _segment(found: Dataset, asked: str | None) -> int:
    segments = _segments(found)
    if asked is None:
        if len(segments) != 1:
            raise Invalid(
                f"the segmentation has {len(segments)} segments; name one in a column `segment`"
            )
        return next(iter(segments))
    chosen = [number for number, label in segments.items() if asked in (str(number), label)]
    if len(chosen) != 1:
        raise Invalid("the segmentation has no segment, or several, of the name in `segment`")
    return chosen[0]
