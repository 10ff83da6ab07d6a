"""Whether a perturbation can be done to a contract's input at all."""

import math

from registry.trust.errors import Invalid
from validators.contract.schema import Contract, Tensor
from validators.robustness.severity import Perturbation

WHOLE_OR_REAL = ("uint8", "int16", "float32", "int32", "float64")


def check_perturbation(contract: Contract, asked: Perturbation) -> Tensor:
    """The input that is perturbed. Raises Invalid where the contract has none that fits."""
    tensor = next((of for of in contract.inputs if of.name == asked.tensor), None)
    if tensor is None:
        raise Invalid(f"the contract has no input {asked.tensor!r} to perturb")
    check_tensor(tensor, asked)
    return tensor


def check_tensor(tensor: Tensor, asked: Perturbation) -> None:
    """Raise Invalid unless the perturbation can be done to the tensor."""
    named = f"the input {tensor.name!r}"
    if tensor.dtype not in WHOLE_OR_REAL:
        raise Invalid(f"{named} is {tensor.dtype}: it can't be perturbed")
    if asked.modality == "table":
        if len(asked.standard_deviations) != math.prod(tensor.shape):
            raise Invalid(
                f"{named} has {math.prod(tensor.shape)} elements and the perturbation "
                f"{len(asked.standard_deviations)} standard deviations; give one an element"
            )
        return
    if len(tensor.shape) not in (3, 4):
        raise Invalid(
            f"{named} has shape {list(tensor.shape)}; an image is [channels, rows, columns] or "
            "[channels, slices, rows, columns]"
        )
    if asked.kind == "stain" and tensor.shape[0] != 3:
        raise Invalid(f"{named} has {tensor.shape[0]} channels; a stain needs red, green and blue")
    if asked.modality == "CT" or asked.kind in ("blur", "resampling"):
        return
    declared = tensor.minimum is not None and tensor.maximum is not None
    if not declared and tensor.dtype != "uint8":
        raise Invalid(
            f"{named} declares no minimum and maximum, so {asked.kind} has no scale; declare both "
            "in the contract"
        )
    if declared and (tensor.maximum or 0.0) <= (tensor.minimum or 0.0):
        raise Invalid(f"{named} declares a maximum that is not above its minimum")
