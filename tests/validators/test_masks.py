"""Masks: the values of MONAI, values counted by hand, and what an empty mask counts as."""

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.errors import Invalid
from tests.validators.monai_values import HERE, TOLERANCES, Mask, pairs
from validators.metrics.masks import Agreement, compare

MONAI: dict[str, Any] = json.loads(HERE.read_text())["found"]
PAIRS = pairs()
CAPS = {"maximum_distance": 100.0, "maximum_volume_error": 1.0}


def _compare(
    reference: Mask, prediction: Mask, spacing: tuple[float, ...], tolerance: float = 1.0,
    **caps: float,
) -> Agreement:  # fmt: skip
    return compare(reference, prediction, spacing, tolerance=tolerance, **{**CAPS, **caps})


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_values_are_those_of_monai(name: str, tolerance: float) -> None:
    found, wanted = _compare(*PAIRS[name], tolerance), MONAI[name]
    assert found.dice == pytest.approx(wanted["dice"], abs=1e-6)
    assert found.nsd == pytest.approx(wanted["nsd"][TOLERANCES.index(tolerance)], abs=1e-6)
    assert found.hd95 == pytest.approx(wanted["hd95"], abs=1e-5)


def test_values_counted_by_hand() -> None:
    reference, prediction = np.zeros((2, 6, 6), bool)
    reference[1:3, 1:3] = True
    prediction[1:3, 2:5] = True
    found = _compare(reference, prediction, (1.0, 2.0), tolerance=0.5)
    assert found.dice == 2 * 2 / (4 + 6)
    assert found.volume_error == (6 - 4) / 4
    # Of the prediction's six pixels, all of its border, two lie 4 mm from the reference's border.
    assert found.hd95 == 4.0
    # Within .5 mm lie only the pieces that stand at the same place.
    assert found.nsd == pytest.approx(_by_hand())


def _by_hand() -> float:
    corner = np.sqrt(5) / 2
    # Places are (row, column) of the block's first pixel. Reference: rows 0, 2; columns 0, 1, 2.
    reference = {(0, 0): corner, (0, 2): corner, (2, 0): corner, (2, 2): corner,
                 (0, 1): 2.0, (2, 1): 2.0, (1, 0): 1.0, (1, 2): 1.0}  # fmt: skip
    prediction = {(0, 1): corner, (0, 4): corner, (2, 1): corner, (2, 4): corner,
                  (0, 2): 2.0, (0, 3): 2.0, (2, 2): 2.0, (2, 3): 2.0,
                  (1, 1): 1.0, (1, 4): 1.0}  # fmt: skip
    shared = reference.keys() & prediction.keys()
    near = sum(reference[at] + prediction[at] for at in shared)
    return float(near / (sum(reference.values()) + sum(prediction.values())))


def test_a_plane_has_the_area_of_its_faces() -> None:
    """A slab that is moved by one voxel along its thin axis: within 2 mm all of its faces agree."""
    reference, prediction = np.zeros((2, 8, 30, 30), bool)
    reference[2:4], prediction[3:5] = True, True
    shares = [
        _compare(reference, prediction, (2.0, 1.0, 1.0), tolerance).nsd for tolerance in (1.9, 2.0)
    ]
    assert shares[0] < 0.6  # upper and lower face of either slab lie in no face of the other
    assert shares[1] == 1.0  # a distance equal to the tolerance is within it


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.0, 0.5)])
def test_what_empty_masks_count_as(spacing: tuple[float, ...]) -> None:
    empty = np.zeros((6,) * len(spacing), bool)
    full = ~empty
    caps = {"maximum_distance": 40.0, "maximum_volume_error": 0.8}
    assert _compare(empty, empty, spacing, **caps) == Agreement(1.0, 1.0, 0.0, 0.0)
    assert _compare(full, empty, spacing, **caps) == Agreement(0.0, 0.0, 40.0, -0.8)
    assert _compare(empty, full, spacing, **caps) == Agreement(0.0, 0.0, 40.0, 0.8)


def test_distances_and_volume_errors_are_cut_off() -> None:
    reference, prediction, spacing = PAIRS["one voxel, far away"]
    found = _compare(reference, prediction, spacing, maximum_distance=10.0)
    assert found.hd95 == 10.0
    assert found.volume_error == 1.0
    assert _compare(reference, prediction, spacing, maximum_volume_error=50.0).volume_error == 50.0


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing", "says"),
    [
        (np.ones((4, 4), bool), np.ones((4, 5), bool), (1.0, 1.0), "4 x 5"),
        (np.ones((4, 4), bool), np.ones((4, 4), bool), (1.0, 1.0, 1.0), "2 positive numbers"),
        (np.ones((4, 4), bool), np.ones((4, 4), bool), (1.0, 0.0), "positive"),
        (np.ones((4, 4), bool), np.ones((4, 4), bool), (1.0, float("nan")), "positive"),
        (np.ones((4, 4)), np.ones((4, 4), bool), (1.0, 1.0), "boolean, not of type float64"),
        (np.ones(4, bool), np.ones(4, bool), (1.0,), "1 axes"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    reference: Any, prediction: Any, spacing: tuple[float, ...], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        _compare(reference, prediction, spacing)


_SHAPES = st.sampled_from([(5, 6), (4, 5, 3), (1, 7), (3, 1, 4)])


@settings(max_examples=60, deadline=None)
@given(_SHAPES, st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0.1, 5))
def test_laws(shape: tuple[int, ...], seed: int, filled: float, tolerance: float) -> None:
    """Within bounds; the same for exchanged, turned or mirrored masks; equal masks agree wholly."""
    rng = np.random.default_rng(seed)
    first, second = (rng.random(shape) < filled for _ in range(2))
    spacing = tuple(rng.uniform(0.5, 3, len(shape)).tolist())
    found = _compare(first, second, spacing, tolerance)
    assert 0 <= found.dice <= 1
    assert 0 <= found.nsd <= 1
    assert 0 <= found.hd95 <= CAPS["maximum_distance"]
    assert abs(found.volume_error) <= CAPS["maximum_volume_error"]
    back = _compare(second, first, spacing, tolerance)
    turned = _compare(first.T[::-1], second.T[::-1], spacing[::-1], tolerance)
    for other in (back, turned):
        assert (other.dice, other.nsd, other.hd95) == pytest.approx(
            (found.dice, found.nsd, found.hd95)
        )
    assert _compare(first, first, spacing, tolerance) == Agreement(1.0, 1.0, 0.0, 0.0)
    wide = np.pad(first, 4), np.pad(second, 4)
    around = _compare(*wide, spacing, tolerance)
    assert (around.dice, around.nsd) == pytest.approx((found.dice, found.nsd))
    assert _compare(first, second, spacing, tolerance * 2).nsd >= found.nsd - 1e-12


def test_all_ways_to_find_distances_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from validators.metrics import masks

    found = {}
    for window, few in ((2, 1 / 64), (0, 0.0), (0, 9.0)):  # looked up; by a transform; by a tree
        monkeypatch.setattr(masks, "_WINDOW", window)
        monkeypatch.setattr(masks, "_FEW", few)
        found[window, few] = [
            _compare(*pair, tolerance) for pair in PAIRS.values() for tolerance in TOLERANCES
        ]
    for other in found.values():
        for first, second in zip(found[2, 1 / 64], other, strict=True):
            assert second.hd95 == pytest.approx(first.hd95, rel=1e-12)
            assert second.nsd == pytest.approx(first.nsd, rel=1e-12)


_AT = np.indices((128, 128, 128)) - 64
_BALL = (_AT**2).sum(axis=0) < 45**2


@pytest.mark.parametrize("filled", [None, 0.5, 0.1, 0.02])
def test_a_pair_of_128_cubed_takes_no_longer_than_a_second(filled: float | None) -> None:
    """Balls, and pure noise, which is nothing but surface."""
    reference, prediction = _BALL, np.roll(_BALL, 3, axis=1)
    if filled is not None:
        rng = np.random.default_rng(1)
        reference, prediction = (rng.random(_BALL.shape) < filled for _ in range(2))
    took = []
    for _ in range(3):
        start = time.perf_counter()
        _compare(reference, prediction, (1.0, 0.7, 0.7))
        took.append(time.perf_counter() - start)
    assert min(took) < 1.0
