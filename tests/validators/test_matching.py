"""From boxes, masks and centres to hits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.errors import Invalid
from validators.metrics.matching import (
    box_overlap,
    centre_distance,
    mask_overlap,
    match_candidates,
)
from validators.protocol.tasks import DetectionSettings

OVERLAP = DetectionSettings(false_positives_per_scan=1, threshold=0.5, minimum_overlap=0.2)
DISTANCE = DetectionSettings(
    false_positives_per_scan=1, threshold=0.5, matching="centre_distance", maximum_distance=5.0
)


def _hits(closeness: Any, scores: Any, rule: DetectionSettings = OVERLAP) -> list[int]:
    return match_candidates(np.array(closeness, float), np.array(scores, float), rule).tolist()


def test_the_highest_score_chooses_first_and_a_lesion_is_hit_once() -> None:
    # The second candidate scores higher and takes the first lesion; the first one finds the other.
    assert _hits([[0.9, 0.3], [0.5, 0.0]], [0.6, 0.8]) == [1, 0]


def test_a_candidate_of_taken_lesions_is_a_duplicate_of_the_closest() -> None:
    assert _hits([[0.9], [0.5], [0.1]], [0.6, 0.8, 0.9]) == [0, 0, -1]


def test_equal_scores_go_to_the_closest() -> None:
    assert _hits([[0.3, 0.25], [0.6, 0.0]], [0.7, 0.7]) == [1, 0]


def test_limits_are_included() -> None:
    assert _hits([[0.2]], [0.5]) == [0]
    assert _hits([[0.1999]], [0.5]) == [-1]
    assert _hits([[5.0], [5.001]], [0.5, 0.9], DISTANCE) == [0, -1]


def test_the_nearest_centre_is_taken() -> None:
    assert _hits([[4.0, 1.0]], [0.5], DISTANCE) == [1]


def test_without_lesions_or_candidates() -> None:
    assert _hits(np.zeros((2, 0)), [0.5, 0.6]) == [-1, -1]
    assert _hits(np.zeros((0, 2)), []) == []


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Invalid, match="one score and one row"):
        _hits([[0.5]], [0.5, 0.6])
    with pytest.raises(Invalid, match="finite"):
        _hits([[np.nan]], [0.5])
    with pytest.raises(ValueError, match="needs it, in mm"):
        DetectionSettings(false_positives_per_scan=1, threshold=0.5, matching="centre_distance")


def test_overlap_of_boxes_is_that_of_their_masks() -> None:
    rng = np.random.default_rng(3)
    low = rng.integers(0, 8, (12, 1, 3))
    boxes = np.concatenate([low, low + rng.integers(1, 8, (12, 1, 3))], axis=1)
    masks = []
    for box in boxes:
        mask = np.zeros((16, 16, 16), bool)
        mask[tuple(slice(*ends) for ends in box.T)] = True
        masks.append(mask)
    by_boxes = box_overlap(boxes[:7].astype(float), boxes[7:].astype(float))
    assert by_boxes == pytest.approx(mask_overlap(masks[:7], masks[7:]))
    assert by_boxes.max() > 0


def test_distances_and_refusals() -> None:
    assert centre_distance(np.array([[0.0, 3.0]]), np.array([[4.0, 0.0], [0.0, 3.0]])).tolist() == [
        [5.0, 0.0]
    ]
    with pytest.raises(Invalid, match="same number of axes"):
        centre_distance(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(Invalid, match="the second above the first"):
        box_overlap(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)))
    with pytest.raises(Invalid, match="not empty"):
        mask_overlap([np.zeros((2, 2), bool)], [np.ones((2, 2), bool)])
    with pytest.raises(Invalid, match="different shapes"):
        mask_overlap([np.ones((2, 2), bool)], [np.ones((2, 3), bool)])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5))
def test_laws(seed: int, candidates: int, lesions: int) -> None:
    """Hits are allowed, unmatched ones match nothing, and a lower score changes nothing above."""
    rng = np.random.default_rng(seed)
    closeness = rng.random((candidates, lesions)) ** 3
    scores = rng.permutation(candidates) / 10 + 0.01
    hit = match_candidates(closeness, scores, OVERLAP)
    allowed = closeness >= 0.2
    for candidate, lesion in enumerate(hit):
        assert allowed[candidate, lesion] if lesion >= 0 else not allowed[candidate].any()
    # Greedy leaves no lesion free that some candidate could have had instead of repeating another.
    found = set(hit[hit >= 0].tolist())
    for candidate in range(candidates):
        same = np.flatnonzero((hit == hit[candidate]) & (scores > scores[candidate]))
        if hit[candidate] >= 0 and len(same):
            assert set(np.flatnonzero(allowed[candidate]).tolist()) <= found
    fewer = scores > scores.min()
    assert match_candidates(closeness[fewer], scores[fewer], OVERLAP).tolist() == (
        hit[fewer].tolist()
    )
    order = rng.permutation(candidates)
    assert match_candidates(closeness[order], scores[order], OVERLAP).tolist() == (
        hit[order].tolist()
    )
