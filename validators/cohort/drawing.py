"""Draw contours as images on a fixed grid in millimetres.

    >>> square = np.array([[-5.0, -5.0], [5.0, -5.0], [5.0, 5.0], [-5.0, 5.0]])
    >>> float(filled([square], size=64, pitch=1.0).sum())   # 10 mm by 10 mm
    100.0

Rules
-----
1. A pixel holds the share of its area that lies inside: areas survive at any nodule size.
2. Inside is decided by the even-odd rule, so a contour within a contour is a hole.
3. What lies beyond the grid's edge is cut off, never shrunk to fit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_SUBGRID = 4


def area(polygon: Points) -> float:
    """The area inside a closed polygon, in its own unit squared (the shoelace formula)."""
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))) / 2


def filled(polygons: Sequence[Points], *, size: int, pitch: float) -> NDArray[np.float32]:
    """The share of every pixel that lies inside the polygons, float32 [size, size] in 0 to 1.

    polygons: (n, 2) points x, y in millimetres from the image's centre; the last point is joined
    to the first. pitch: millimetres a pixel. Each pixel is sampled on a grid of 4 by 4.
    """
    fine = size * _SUBGRID
    toggles = np.zeros((fine, fine + 1), dtype=np.int32)
    for polygon in polygons:
        if len(polygon) >= 3:
            _toggle(toggles, polygon * (_SUBGRID / pitch) + fine / 2)
    inside = np.cumsum(toggles[:, :fine], axis=1) & 1
    blocks = inside.reshape(size, _SUBGRID, size, _SUBGRID)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32), dtype=np.float32)


def _toggle(toggles: NDArray[np.int32], polygon: Points) -> None:
    """Mark, in every sampled row, the columns where the polygon's edge is crossed.

    Samples lie at half-integers: a vertex on an integer is never hit head on.
    """
    fine = toggles.shape[0]
    x0, y0 = polygon[:, 0], polygon[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, fine).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, fine).astype(np.int64)
    counts = last - first
    edges = np.repeat(np.arange(len(polygon)), counts)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rows = first[edges] + np.arange(len(edges)) - starts
    share = (rows + 0.5 - y0[edges]) / (y1[edges] - y0[edges])
    crossing = x0[edges] + share * (x1[edges] - x0[edges])
    columns = np.clip(np.ceil(crossing - 0.5), 0, fine).astype(np.int64)
    np.add.at(toggles, (rows, columns), 1)
