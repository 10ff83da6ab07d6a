"""The frames of a file: where each lies, what its stored values mean, and what tells them apart.

Rules
-----
1. Places of an enhanced file come from its functional groups, those of a frame before shared ones.
2. Frames at one place (4D) are told apart by the dimensions that the file itself declares, but
   those in space; then by time, b-value, echo or trigger delay.
3. A number that can't be is Invalid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset

from registry.trust.errors import Invalid

_IN_PLACE = frozenset({0x00200032, 0x00209057, 0x0040072A, 0x0040074A, 0x0048021E, 0x0048021F})
"""Dimensions that say where a frame lies, and not which volume it is of."""
_OF_FRAMES = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
)


@dataclass(frozen=True)
class Frame:
    """Where one frame lies, and what its stored values mean."""

    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False
    """Whether the header gives a slope or an intercept."""
    splitters: tuple[float, ...] = field(default=(), repr=False)
    """What tells frames at one place apart: the file's own dimensions, then _OF_FRAMES."""


def frames_of(found: Dataset, count: int) -> tuple[Frame, ...]:
    """One for each frame; places of enhanced objects come from their functional groups."""
    shared = _first(found, "SharedFunctionalGroupsSequence")
    per_frame = found.get("PerFrameFunctionalGroupsSequence", None) or ()
    if not per_frame:
        return (_frame(found, shared, None, ()),) * count
    if len(per_frame) != count:
        raise Invalid("the header describes another number of frames than it counts")
    dimensions = [int(item.get("DimensionIndexPointer", 0) or 0)
                  for item in found.get("DimensionIndexSequence", None) or ()]  # fmt: skip
    return tuple(_frame(found, shared, group, dimensions) for group in per_frame)


def _frame(
    found: Dataset, shared: Dataset | None, own: Dataset | None, dimensions: Sequence[int]
) -> Frame:
    def value(sequence: str, name: str) -> Any:
        for group in (own, shared):
            item = _first(group, sequence) if group is not None else None
            if item is not None and item.get(name, None) is not None:
                return item[name].value
        return found.get(name, None)

    orientation = _numbers(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    position = _numbers(value("PlanePositionSequence", "ImagePositionPatient"), 3)
    spacing = _numbers(value("PixelMeasuresSequence", "PixelSpacing"), 2)
    if spacing is None:
        spacing = _numbers(found.get("ImagerPixelSpacing", None), 2)
    slope = value("PixelValueTransformationSequence", "RescaleSlope")
    intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
    return Frame(
        orientation,
        position,
        (spacing[0], spacing[1]) if spacing else None,
        _number(slope, 1.0),
        _number(intercept, 0.0),
        not (slope is None and intercept is None),
        (*_indices(own, dimensions), *(_number(value(*where), -1.0) for where in _OF_FRAMES))
        if own is not None
        else (),
    )


def _indices(own: Dataset | None, dimensions: Sequence[int]) -> tuple[float, ...]:
    """A frame's place along each dimension of its file that is none in space."""
    content = _first(own, "FrameContentSequence")
    given = content.get("DimensionIndexValues", None) if content is not None else None
    values = [given] if isinstance(given, int) else list(given or ())
    if len(values) != len(dimensions):
        return (-1.0,) * sum(pointer not in _IN_PLACE for pointer in dimensions)
    return tuple(
        float(index)
        for pointer, index in zip(dimensions, values, strict=True)
        if pointer not in _IN_PLACE
    )


def _first(group: Dataset | None, name: str) -> Dataset | None:
    items = group.get(name, None) if group is not None else None
    return items[0] if items else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or value == "":
        return None
    numbers = tuple(float(n) for n in value)
    if len(numbers) != count or not all(math.isfinite(n) and abs(n) < 1e6 for n in numbers):
        raise Invalid("an orientation, position or spacing in the header is impossible")
    return numbers


def _number(value: Any, default: float) -> float:
    if value is None or value == "":
        return default
    number = float(value)
    if not math.isfinite(number):
        raise Invalid("a slope or intercept in the header is impossible")
    return number
