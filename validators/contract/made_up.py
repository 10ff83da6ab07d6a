"""One made-up case for a tensor of the contract, the same bytes on every machine.

Golden vectors and look-alike cohorts are made of these.

Rules
-----
1. Every number comes from SHAKE-256 of the seed, the tensor's name and the case's number, by
   additions and multiplications, which IEEE 754 rounds alike everywhere: no sine, no exponential.
2. Values keep to the contract's minimum and maximum; without them, to a plain range for the type.
3. `plausible` fills in, from the unit's name, what the contract leaves open.
4. The first cases are the corners (all at the minimum, all at the maximum, the middle); the others
   alternate between noise, one bright spot on a flat ground, a ramp, and noise on a spot.
"""

import hashlib
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.schema import Tensor

_PLAIN = {"uint8": (0, 255), "int16": (-1024, 3071), "int32": (0, 9), "int64": (0, 9)}
"""Ranges for whole numbers that the contract does not bound; int16 as in Hounsfield units."""
_WIDTH = 3.0
_UNITS: tuple[tuple[tuple[str, ...], tuple[float, float]], ...] = (
    (("hu", "hounsfield"), (-1024.0, 3071.0)),
    (("suv",), (0.0, 25.0)),
    (("probability", "share", "fraction", "normalised", "normalized"), (0.0, 1.0)),
    (("%", "percent"), (0.0, 100.0)),
    (("year", "years"), (18.0, 90.0)),
    (("mm", "millimetre", "millimetres"), (0.0, 200.0)),
    (("ms",), (0.0, 2000.0)),
    (("z-score",), (-3.0, 3.0)),
)
"""What values of a unit usually lie between, by the words that name it."""


def make_case(tensor: Tensor, seed: str, case: int) -> NDArray[Any]:
    """One case's array: the tensor's dtype and shape, without the batch axis."""
    low, high = bounds(tensor)
    unit = _unit_values(tensor.shape, f"{seed}/{tensor.name}/{case}", case)
    if tensor.dtype == "bool":
        return np.asarray(unit >= 0.5)
    values = low + unit * (high - low)
    if not tensor.dtype.startswith("float"):
        values = np.floor(values + 0.5)
    return np.asarray(np.clip(values, low, high).astype(tensor.dtype))


def bounds(tensor: Tensor) -> tuple[float, float]:
    """(lowest, highest) value that is made for a tensor; whole numbers for integers.

    Raises Invalid when no value of the tensor's dtype lies between its minimum and maximum.
    """
    plain_low, plain_high = _PLAIN.get(tensor.dtype, (-_WIDTH, _WIDTH))
    low, high = tensor.minimum, tensor.maximum
    if low is None:
        low = plain_low if high is None else min(plain_low, high)
    if high is None:
        high = max(plain_high, low)
    if tensor.dtype in _PLAIN:
        limits = np.iinfo(tensor.dtype)
        if tensor.maximum is None:
            high = math.ceil(high)
        low = max(math.ceil(low), int(limits.min))
        high = min(math.floor(high), int(limits.max))
    if low > high:
        raise Invalid(f"the contract's minimum and maximum leave no value for {tensor.name}")
    return low, high


def plausible(tensor: Tensor) -> Tensor:
    """The tensor with a minimum and a maximum from its unit where the contract gives none.

    A tensor of no known unit, and a limit that the contract sets, stay as they are.
    """
    words = set(re.split(r"[^a-z%-]+", tensor.unit.lower()))
    usual = next((limits for names, limits in _UNITS if words & set(names)), None)
    if usual is None:
        return tensor
    low, high = tensor.minimum, tensor.maximum
    if low is None and (high is None or usual[0] <= high):
        low = usual[0]
    if high is None and (low is None or low <= usual[1]):
        high = usual[1]
    return tensor.model_copy(update={"minimum": low, "maximum": high})


def uniform(key: str, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1), multiples of 2^-32, from SHAKE-256 of the key."""
    words = np.frombuffer(hashlib.shake_256(key.encode()).digest(4 * count), "<u4")
    return words.astype(np.float64) * 2.0**-32


def _unit_values(shape: tuple[int, ...], key: str, case: int) -> NDArray[np.float64]:
    """Values in [0, 1] of one of seven patterns."""
    if case < 3:
        return np.full(shape, (0.0, 1.0, 0.5)[case])
    noise = uniform(key, math.prod(shape)).reshape(shape)
    pattern = case % 4
    if pattern == 0 or not shape:
        return noise
    place = uniform(key + "/place", 2 * len(shape) + 1)
    if pattern == 1:
        return _ramp(shape, place)
    spot = _spot(shape, place)
    return spot if pattern == 2 else 0.75 * spot + 0.25 * noise


def _axis(length: int) -> NDArray[np.float64]:
    return np.asarray((np.arange(length) + 0.5) * (1.0 / length), dtype=np.float64)


def _spot(shape: tuple[int, ...], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tent over each axis longer than 3, multiplied: bright in one place, flat elsewhere."""
    values = np.full(shape, 0.1 + 0.9 * place[-1])
    for axis, length in enumerate(shape):
        if length <= 3:  # channels
            continue
        centre, width = place[2 * axis], 0.1 + 0.4 * place[2 * axis + 1]
        tent = np.maximum(0.0, 1.0 - np.abs(_axis(length) - centre) * (1.0 / width))
        values = values * tent.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return values


def _ramp(shape: tuple[int, ...], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """From one value to another along the last axis."""
    start, end = place[0], place[1]
    return np.broadcast_to(start + (end - start) * _axis(shape[-1]), shape).copy()
