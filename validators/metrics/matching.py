"""Which lesion a candidate hits, in one scan: made before the table of a detection task.

    >>> overlap = box_overlap(candidates, lesions)
    >>> match_candidates(overlap, scores, settings)
    array([ 0, -1,  0])

Rules
-----
1. A candidate may hit a lesion whose intersection over union with it is at least the settings'
   `minimum_overlap`, or whose centre lies within `maximum_distance` mm of its own.
2. Candidates choose in the order of their scores (equal scores: the closest first), each the
   closest lesion that is still free. A lesion is hit once.
3. A candidate that matches only lesions taken before is a duplicate of its closest one. It names
   that lesion, and is neither a further hit nor a false positive: only the best score of a lesion
   counts. PI-CAI (picai-eval) counts duplicates so too; it assigns by the largest number of
   matches and not by score, which differs only where candidates compete for lesions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.masks import Mask
from validators.protocol.tasks import DetectionSettings

Floats = NDArray[np.float64]
_ROUNDING = 1e-9


def match_candidates(
    closeness: Floats, scores: Floats, settings: DetectionSettings
) -> NDArray[np.int64]:
    """The lesion (its column) that each candidate hits or repeats, -1 for a false positive.

    `closeness` is [candidates, lesions]: intersections over union, or distances in mm, as
    `settings.matching` says; `scores` is [candidates]. Raises Invalid if they don't fit.
    """
    if closeness.ndim != 2 or scores.shape != closeness.shape[:1]:
        raise Invalid("there must be one score and one row of overlaps or distances a candidate")
    if not (np.isfinite(closeness).all() and np.isfinite(scores).all()):
        raise Invalid("scores, overlaps and distances must be finite numbers")
    limit = settings.maximum_distance
    if settings.matching == "overlap":
        nearness = closeness
        matches = closeness >= settings.minimum_overlap * (1 - _ROUNDING)
    else:
        nearness = -closeness
        matches = closeness <= (0.0 if limit is None else limit) * (1 + _ROUNDING)
    hit = np.full(len(scores), -1, dtype=np.int64)
    if not closeness.size:
        return hit
    nearness = np.where(matches, nearness, -np.inf)
    free = np.ones(closeness.shape[1], dtype=bool)
    for candidate in np.lexsort((-nearness.max(axis=1), -scores)):
        of = nearness[candidate]
        open_to_it = matches[candidate] & free
        if open_to_it.any():
            hit[candidate] = np.argmax(np.where(open_to_it, of, -np.inf))
            free[hit[candidate]] = False
        elif matches[candidate].any():
            hit[candidate] = np.argmax(of)
    return hit


def box_overlap(candidates: Floats, lesions: Floats) -> Floats:
    """Intersection over union of boxes, [candidates, lesions].

    A box is its lowest and its highest corner: both arguments are [boxes, 2, axes], in mm or in
    pixels. Raises Invalid unless each box has a volume.
    """
    for boxes in (candidates, lesions):
        if boxes.ndim != 3 or boxes.shape[1] != 2 or not (boxes[:, 1] > boxes[:, 0]).all():
            raise Invalid("a box must be two corners, the second above the first on every axis")
    if candidates.shape[2] != lesions.shape[2]:
        raise Invalid("candidates and lesions have boxes of different dimension")
    first, second = candidates[:, None], lesions[None]
    sides = np.minimum(first[:, :, 1], second[:, :, 1]) - np.maximum(
        first[:, :, 0], second[:, :, 0]
    )
    shared = np.prod(np.maximum(sides, 0), axis=2)
    sizes = [np.prod(boxes[:, 1] - boxes[:, 0], axis=1) for boxes in (candidates, lesions)]
    return np.asarray(shared / (sizes[0][:, None] + sizes[1][None] - shared))


def mask_overlap(candidates: Sequence[Mask], lesions: Sequence[Mask]) -> Floats:
    """Intersection over union of boolean masks on one grid, [candidates, lesions].

    Raises Invalid if a mask is empty or has another shape.
    """
    masks = [*candidates, *lesions]
    if len({mask.shape for mask in masks}) > 1:
        raise Invalid("the masks of a scan have different shapes; bring them to one grid first")
    if not all(mask.dtype == np.bool_ and mask.any() for mask in masks):
        raise Invalid("each candidate and each lesion needs a boolean mask that is not empty")
    overlap = np.zeros((len(candidates), len(lesions)))
    for row, first in enumerate(candidates):
        for column, second in enumerate(lesions):
            overlap[row, column] = (first & second).sum() / (first | second).sum()
    return overlap


def centre_distance(candidates: Floats, lesions: Floats) -> Floats:
    """Distances between centres, [candidates, lesions]; both arguments are [points, axes] in mm."""
    if candidates.ndim != 2 or lesions.ndim != 2 or candidates.shape[1] != lesions.shape[1]:
        raise Invalid("centres must be points with the same number of axes, in mm")
    return np.asarray(np.linalg.norm(candidates[:, None] - lesions[None], axis=2))
