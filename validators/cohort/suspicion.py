"""What a person must look at before an image is sealed: writing in its pixels, a face.

    >>> suspicions(header, ("CT",), picture.values)
    ('writing may be burned in', 'a face may be shown')

Rules
-----
1. Writing is suspected where the header says so or does not deny it for a captured screen,
   ultrasound or photograph, and where the pixels show it: near the border, at least four separate
   blobs of an extreme value, as high as letters and on one line.
2. A face is suspected in CT and MR of several slices whose header names the head or the neck, or
   names no part of the body at all; and in volumes of files that have no such header.
3. Suspicion costs a look, a miss costs a patient's name: in doubt it is suspected. It proves
   nothing: writing in the middle of an image or in soft grey is not found.
"""

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from validators.contract.dicom_file import Header

WRITING = "writing may be burned in"
FACE = "a face may be shown"
_HEAD = frozenset({"ear", "ears", "iac", "face", "neck", "jaw", "kopf", "hals", "tête", "whole"})
_HEAD_BEGINS = ("head", "brain", "skull", "facial", "orbit", "sinus", "crani", "cerebr", "pituit",
                "dental", "maxill", "mandib", "schädel", "cerveau", "wholebody")  # fmt: skip
_BORDER = 0.2
_LETTER = (5, 48)
_LOOKED_AT = 5
_EXTREME = 0.07
"""Part of the range of grey values within which one is extreme: letters have soft edges."""


def suspicions(
    header: Header | None, modalities: Collection[str], pixels: NDArray[Any]
) -> tuple[str, ...]:
    """Reasons to look. header: None for other files; modalities: the contract's.

    pixels: [channels, slices, rows, columns].
    """
    found = []
    written = header is not None and (
        header.burned_in == "YES" or (header.secondary and header.burned_in != "NO")
    )
    if written or shows_writing(pixels):
        found.append(WRITING)
    inside = {header.modality} if header else set(modalities)
    if pixels.shape[1] > 1 and inside & {"CT", "MR"} and _head_or_unknown(header):
        found.append(FACE)
    return tuple(found)


def _head_or_unknown(header: Header | None) -> bool:
    words = re.findall(r"[^\W\d_]+", header.seen) if header else []
    return not words or any(w in _HEAD or w.startswith(_HEAD_BEGINS) for w in words)


def shows_writing(pixels: NDArray[Any]) -> bool:
    """Whether the border of some slice shows a line of letters of one extreme value."""
    slices = pixels.shape[1]
    looked_at = sorted({int(n) for n in np.linspace(0, slices - 1, min(slices, _LOOKED_AT))})
    return any(_line_of_letters(pixels[:, number].mean(axis=0)) for number in looked_at)


def _line_of_letters(picture: NDArray[np.float64]) -> bool:
    low, high = float(picture.min()), float(picture.max())
    if high == low or min(picture.shape) < 2 * _LETTER[0]:
        return False
    rows, columns = (max(1, int(n * _BORDER)) for n in picture.shape)
    border = np.ones(picture.shape, dtype=bool)
    border[rows:-rows, columns:-columns] = False
    near = _EXTREME * (high - low)
    bright, dark = picture >= high - near, picture <= low + near
    return any(_letters_on_a_line(extreme & border) for extreme in (bright, dark))


def _letters_on_a_line(marked: NDArray[np.bool_]) -> bool:
    if marked.mean() > 0.1:  # a background of that value, no writing
        return False
    labels, count = ndimage.label(marked, structure=np.ones((3, 3)))
    if count < 4 or count > 5000:
        return False
    feet, heights = [], []
    for place in ndimage.find_objects(labels):
        height, width = (part.stop - part.start for part in place)
        if _LETTER[0] <= height <= _LETTER[1] and width <= 2 * height:
            feet.append(place[0].stop)
            heights.append(height)
    if len(feet) < 4:
        return False
    order = np.argsort(feet)
    foot, tall = np.array(feet)[order], np.array(heights)[order]
    for start in range(len(foot) - 3):
        near = slice(start, start + 4)
        if foot[near][-1] - foot[near][0] <= 2 and tall[near].max() <= 1.6 * tall[near].min():
            return True
    return False
