"""One case's tensor, perturbed; and the stream of a cohort with one tensor perturbed.

    >>> shards = perturbed(stream(manifest, store, key), perturbation, contract, seed=seed)
    >>> predictions = predict(sandbox, shards, contract, order_seed=seed)

Rules
-----
1. Type and shape never change, and no value leaves the declared minimum and maximum.
2. What is added is a function of the seed (a digest of what the run is bound to), the kind, the
   tensor's name, the shard's index and the row. So a run that is repeated meets the same inputs,
   and no prediction can steer them.
3. One shard is in memory at a time, and the caller's arrays are left as they are.
4. A perturbed run takes the same way through the sandbox as the run itself.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cohort.shard import Shard
from validators.contract.schema import Contract, Tensor
from validators.robustness import images
from validators.robustness.draws import Draws, Floats
from validators.robustness.fits import check_perturbation, check_tensor
from validators.robustness.images import Range
from validators.robustness.severity import Perturbation

_WORKING = {
    "uint8": np.float32,
    "int16": np.float32,
    "float32": np.float32,
    "int32": np.float64,
    "float64": np.float64,
}
"""The type to compute in, which holds every value of the tensor's own."""


def perturbed(
    shards: Iterable[Shard], perturbation: Perturbation, contract: Contract, *, seed: str
) -> Iterator[Shard]:
    """The same cases in the same order with one input tensor perturbed.

    seed: a digest of what the run is bound to. Raises Invalid, before the first shard is asked
    for, where the perturbation does not fit the contract.
    """
    tensor = check_perturbation(contract, perturbation)
    return _stream(shards, perturbation, tensor, seed)


def perturb(
    values: NDArray[Any], perturbation: Perturbation, tensor: Tensor, draws: Draws
) -> NDArray[Any]:
    """One case's tensor, perturbed: the same type and shape.

    Raises Invalid where the perturbation does not fit the tensor.
    """
    check_tensor(tensor, perturbation)
    return _bounded(values, perturbation, tensor, draws)


def _stream(
    shards: Iterable[Shard], perturbation: Perturbation, tensor: Tensor, seed: str
) -> Iterator[Shard]:
    for shard in shards:
        if tensor.name not in shard.inputs:
            raise Invalid(f"shard {shard.index} has no input {tensor.name!r} to perturb")
        # Shards may hold a smaller type than the model gets (`stored_as`): it is cast before.
        given = shard.inputs[tensor.name].astype(tensor.dtype, copy=False)
        made = np.empty_like(given)
        for row, values in enumerate(given):
            draws = Draws(seed, perturbation.kind, tensor.name, shard.index, row)
            made[row] = _bounded(values, perturbation, tensor, draws)
        yield Shard(shard.index, shard.cases, {**shard.inputs, tensor.name: made})


def _bounded(
    values: NDArray[Any], perturbation: Perturbation, tensor: Tensor, draws: Draws
) -> NDArray[Any]:
    if values.dtype.name not in _WORKING:
        raise Invalid(f"the input {tensor.name!r} is {values.dtype.name}: it can't be perturbed")
    exact: Floats = values.astype(_WORKING[values.dtype.name])
    changed = (_table if perturbation.modality == "table" else _image)(
        exact, perturbation, tensor, draws
    )
    if tensor.minimum is not None or tensor.maximum is not None:
        changed = np.clip(changed, tensor.minimum, tensor.maximum)
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        changed = np.clip(np.rint(changed), limits.min, limits.max)
    return changed.astype(values.dtype)


def _image(values: Floats, asked: Perturbation, tensor: Tensor, draws: Draws) -> Floats:
    amount, modality, kind = asked.amount, asked.modality, asked.kind
    if kind == "blur":
        return images.blur(values, amount)
    if kind == "resampling":
        return images.resampling(values, amount)
    if modality == "CT":
        if kind == "noise":
            return images.gaussian_noise(values, amount, None, draws)
        return images.offset(values, amount, draws)
    over = _range(tensor)
    if kind == "contrast":
        return images.gamma(values, amount, over, draws)
    if kind == "bias_field":
        return images.bias_field(values, amount, over, draws)
    if kind == "compression":
        return images.compression(values, amount, over)
    if kind == "stain":
        return images.stain(values, amount, over, draws)
    if modality == "MR":
        return images.rician_noise(values, amount, over, draws)
    if modality == "radiography":
        return images.quantum_noise(values, amount, over, draws)
    if modality == "ultrasound":
        return images.speckle(values, amount, over, draws)
    return images.gaussian_noise(values, amount, over, draws)


def _table(values: Floats, asked: Perturbation, tensor: Tensor, draws: Draws) -> Floats:
    """Noise in standard deviations, or values rounded to multiples of them."""
    spread = np.reshape(asked.standard_deviations, tensor.shape)
    if asked.kind == "noise":
        return values + asked.amount * spread * draws.normal(values.shape)
    step = np.where(spread > 0, asked.amount * spread, 1.0)
    return np.where(spread > 0, np.rint(values / step) * step, values)


def _range(tensor: Tensor) -> Range:
    if tensor.minimum is not None and tensor.maximum is not None:
        return Range(tensor.minimum, tensor.maximum)
    return Range(0.0, 255.0)
