"""What a model answered, held against the contract before anyone looks at it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.sandbox.failures import ModelFailure
from validators.contract.schema import Contract, Tensor

_GOLDEN = 0.6180339887498949
"""Its multiples spread over [0, 1) without a period."""


def check_outputs(contract: Contract, outputs: Mapping[str, NDArray[Any]], n: int) -> None:
    """Raise ModelFailure unless `outputs` are `n` cases' answers as the contract asks for.

    The score must be there; the contract's other outputs are checked where they are given. Each
    must have its data type, the shape (n, *shape), finite values, and lie within its range; the
    score lies in [0, 1], or is a map of 0 and the contract's labels.
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
    """The score's array, (n, *shape), checked for presence, type and shape alone."""
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
        labels = contract.reference if tensor.name == contract.score else None
        if tensor.name == contract.score and labels is None:
            low, high = max(0.0, low or 0.0), min(1.0, 1.0 if high is None else high)
        outside = np.zeros(len(array), dtype=np.bool_)
        if labels is not None:
            outside |= ~np.isin(flat, [0, *labels.structures.values()]).all(axis=1)
        if low is not None:
            outside |= (flat < low).any(axis=1)
        if high is not None:
            outside |= (flat > high).any(axis=1)
    return {"output_not_finite": infinite, "output_range": outside & ~infinite}


def no_answers(contract: Contract, n: int) -> NDArray[Any]:
    """What stands for `n` cases without an answer: NaN a score, or a map of labels of nothing."""
    if contract.reference is None:
        return np.full(n, np.nan)
    tensor = next(t for t in contract.outputs if t.name == contract.score)
    return np.zeros((n, *tensor.shape), dtype=np.uint8)


def numbers_of(contract: Contract, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """One number in [0, 1] a case, of checked outputs, by which two answers are compared.

    It is the score. A map of labels is the mean of its labels, each weighted by its place, so that
    a map that differs in a part of its voxels differs by at most that part, and one that is moved
    or turned differs too.
    """
    values = outputs[contract.score]
    if contract.reference is None:
        return values.reshape(-1).astype(np.float64)
    flat = values.reshape(len(values), -1).astype(np.float64)
    weights = 0.5 + 0.5 * np.modf(np.arange(flat.shape[1]) * _GOLDEN)[0]
    highest = max(contract.reference.structures.values())
    return np.asarray(flat @ weights / (highest * flat.shape[1]))


def _check_form(tensor: Tensor, array: NDArray[Any], n: int) -> None:
    if array.dtype.name != tensor.dtype:
        raise ModelFailure("output_dtype")
    if array.shape != (n, *tensor.shape):
        raise ModelFailure("output_shape")
