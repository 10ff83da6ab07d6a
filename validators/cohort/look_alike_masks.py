"""Made-up masks for the cases of a look-alike cohort: a box of each structure, nothing anatomical.

    >>> made_labels(contract, "made-up-00003", marked=True).shape
    (96, 256, 256)

A case's masks are a function of contract and name alone, so a folder of made-up cases holds none.
They say nothing about its image: no measure on them means anything.
"""

import numpy as np
from numpy.typing import NDArray

from validators.contract.made_up import uniform
from validators.contract.reference import grid_of
from validators.contract.schema import Contract, Tensor

_SMALLEST, _LARGEST = 0.2, 0.6
"""Of a box's side, as a share of the image's."""


def made_labels(contract: Contract, case: str, *, marked: bool) -> NDArray[np.uint8]:
    """A map of labels on the grid of the reference standard; of nothing unless `marked`."""
    assert contract.reference is not None
    grid = grid_of(_image(contract))
    labels = np.zeros(grid, dtype=np.uint8)
    if not marked:
        return labels
    for name, label in contract.reference.structures.items():
        draws = uniform(f"look-alike/masks/{case}/{name}", 2 * len(grid)).reshape(2, -1)
        sides = np.maximum(1, np.rint((_SMALLEST + (_LARGEST - _SMALLEST) * draws[0]) * grid))
        starts = np.floor(draws[1] * (np.array(grid) - sides + 1))
        box = tuple(
            slice(int(start), int(start + side)) for start, side in zip(starts, sides, strict=True)
        )
        labels[box] = label
    return labels


def made_spacing(contract: Contract) -> NDArray[np.float64]:
    """mm along each axis of the grid: the contract's own where it states them, and else 1."""
    tensor = _image(contract)
    stated = tensor.image.spacing_mm if tensor.image else None
    return np.array(stated or [1.0] * len(grid_of(tensor)), dtype=np.float64)


def _image(contract: Contract) -> Tensor:
    assert contract.reference is not None
    wanted = contract.reference.grid_of
    return next(tensor for tensor in contract.inputs if tensor.name == wanted)
