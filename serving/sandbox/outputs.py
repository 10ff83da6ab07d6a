"""What a model answered, held against the contract before anyone looks at it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.sandbox.failures import ModelFailure
from validators.contract.schema import Contract, Tensor


def check_outputs(contract: Contract, outputs: Mapping[str, NDArray[Any]], n: int) -> None:
    """Raise ModelFailure unless `outputs` are `n` cases' answers as the contract asks for.

    The score must be there; the contract's other outputs are checked where they are given. Each
    must have its data type, the shape (n, *shape), finite values, and lie within its range; the
    score lies in [0, 1].
    """
    scores_of(contract, outputs, n)
    for tensor in contract.outputs:
        if tensor.name not in outputs:
            continue
        _check_form(tensor, outputs[tensor.name], n)
        bad = bad_rows(contract, tensor, outputs[tensor.name])
        for code, rows in bad.items():
            if rows.any():
                raise ModelFailure(code)


def scores_of(contract: Contract, outputs: Mapping[str, NDArray[Any]], n: int) -> NDArray[Any]:
    """The score's array, of shape (n,) or (n, 1), checked for presence, type and shape alone."""
    if contract.score not in outputs:
        raise ModelFailure("output_missing")
    tensor = next(t for t in contract.outputs if t.name == contract.score)
    _check_form(tensor, outputs[contract.score], n)
    return outputs[contract.score]


def bad_rows(
    contract: Contract, tensor: Tensor, array: NDArray[Any]
) -> dict[str, NDArray[np.bool_]]:
    """Which rows of a well-formed `array` break a rule, by code."""
    flat = array.reshape(len(array), math.prod(array.shape[1:]))  # -1 fails on no rows
    with np.errstate(invalid="ignore"):
        infinite = ~np.isfinite(flat).all(axis=1)
        low, high = tensor.minimum, tensor.maximum
        if tensor.name == contract.score:
            low, high = max(0.0, low or 0.0), min(1.0, 1.0 if high is None else high)
        outside = np.zeros(len(array), dtype=np.bool_)
        if low is not None:
            outside |= (flat < low).any(axis=1)
        if high is not None:
            outside |= (flat > high).any(axis=1)
    return {"output_not_finite": infinite, "output_range": outside & ~infinite}


def _check_form(tensor: Tensor, array: NDArray[Any], n: int) -> None:
    if array.dtype.name != tensor.dtype:
        raise ModelFailure("output_dtype")
    if array.shape != (n, *tensor.shape):
        raise ModelFailure("output_shape")
