"""Whether one case's tensors are what the contract says."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.schema import Contract, Tensor


def check_inputs(inputs: Mapping[str, NDArray[Any]], contract: Contract) -> None:
    """Raise Invalid unless one case's tensors are what the contract says. Names no value."""
    expected = {tensor.name: tensor for tensor in contract.inputs}
    if set(inputs) != set(expected):
        raise Invalid(
            f"the source gives the inputs {sorted(inputs)}, the contract {contract.id} asks for "
            f"{sorted(expected)}; use the contract that was written for this source"
        )
    for name, tensor in expected.items():
        _check_tensor(inputs[name], tensor)


def _check_tensor(array: NDArray[Any], tensor: Tensor) -> None:
    if array.dtype != np.dtype(tensor.staged_type) or array.shape != tensor.shape:
        raise Invalid(
            f"the input {tensor.name} of a case is {array.dtype} {list(array.shape)}, the contract "
            f"says {tensor.staged_type} {list(tensor.shape)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Invalid(f"the input {tensor.name} of a case holds NaN or infinity; mend the source")
    below = tensor.minimum is not None and bool((array < tensor.minimum).any())
    above = tensor.maximum is not None and bool((array > tensor.maximum).any())
    if below or above:
        raise Invalid(
            f"the input {tensor.name} of a case is outside the contract's range "
            f"{tensor.minimum} to {tensor.maximum}"
        )
