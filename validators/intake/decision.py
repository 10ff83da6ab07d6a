"""Does an inspected model take and give what the contract says? Pure: it decides, nothing else.

Rules
-----
1. Inputs are exactly the contract's: same names, same types, same shapes after the batch axis.
2. The batch axis is free. A model exported for one fixed batch can't be run in batches.
3. The score is among the outputs; outputs of the contract that are given must fit; others are
   ignored and never computed.
4. A dimension that the file leaves open fits any number: the run itself checks the answer.
"""

from collections.abc import Sequence

from registry.trust.errors import Refused
from validators.contract.description import Dimension, ModelDescription, TensorDescription
from validators.contract.schema import Contract, Tensor


def decide(description: ModelDescription, contract: Contract) -> None:
    """Accept (None), or raise Refused with one sentence: the tensor, found and expected.

    Codes: input_missing, input_unexpected, input_dtype, input_shape, batch_fixed,
    output_missing, output_dtype, output_shape.
    """
    found = {tensor.name: tensor for tensor in description.inputs}
    wanted = {tensor.name: tensor for tensor in contract.inputs}
    for name, tensor in wanted.items():
        if name not in found:
            raise Refused(
                f"the model has no input {name!r}, which contract {_named(contract)} gives it; "
                f"its inputs are {_names(found)}: rename or add the input",
                code="input_missing",
            )
        _check(found[name], tensor, contract, "input")
    for name in found:
        if name not in wanted:
            raise Refused(
                f"the model asks for an input {name!r}, which contract {_named(contract)} does "
                f"not give; it gives {_names(wanted)}: remove the input",
                code="input_unexpected",
            )
    given = {tensor.name: tensor for tensor in description.outputs}
    if contract.score not in given:
        raise Refused(
            f"the model has no output {contract.score!r}, which contract {_named(contract)} takes "
            f"as the score; its outputs are {_names(given)}: rename or add the output",
            code="output_missing",
        )
    for tensor in contract.outputs:
        if tensor.name in given:
            _check(given[tensor.name], tensor, contract, "output")


def _check(found: TensorDescription, wanted: Tensor, contract: Contract, side: str) -> None:
    subject = f"the {side} {wanted.name!r}"
    if found.dtype != wanted.dtype:
        raise Refused(
            f"{subject} is {found.dtype}, and contract {_named(contract)} says {wanted.dtype}: "
            "export the model with that type",
            code=f"{side}_dtype",
        )
    if found.shape is None:
        return
    expected: tuple[Dimension, ...] = ("batch", *wanted.shape)
    if len(found.shape) != len(expected) or not all(
        _fits(dimension, size)
        for dimension, size in zip(found.shape[1:], wanted.shape, strict=True)
    ):
        raise Refused(
            f"{subject} has shape {_shape(found.shape)}, and contract {_named(contract)} says "
            f"{_shape(expected)}: export the model with that shape",
            code=f"{side}_shape",
        )
    if isinstance(found.shape[0], int):
        raise Refused(
            f"{subject} has a fixed batch of {found.shape[0]}: export the model with a free "
            f"(dynamic) first axis, {_shape(expected)}",
            code="batch_fixed",
        )


def _fits(dimension: Dimension, size: int) -> bool:
    return not isinstance(dimension, int) or dimension == size


def _named(contract: Contract) -> str:
    return f"{contract.id} {contract.version}"


def _names(tensors: dict[str, TensorDescription] | dict[str, Tensor]) -> str:
    return ", ".join(repr(name) for name in list(tensors)[:8]) or "none"


def _shape(shape: Sequence[Dimension]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
