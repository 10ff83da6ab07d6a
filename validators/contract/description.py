"""What the inspection of a model file found, as intake and the report use it.

The inspection itself runs inside the sandbox (`Sandbox.inspect`), because it parses hostile
bytes; only this description leaves it. Every field was checked again on this side.

Rules
-----
1. Text comes from the model's author: it is bounded, printable ASCII, and never interpreted.
2. A dimension is a number, or a symbol's name, or None where the file says nothing.
"""

from typing import Annotated

from pydantic import Field

from validators.contract.schema import Strict

Text = Annotated[str, Field(max_length=256, pattern=r"^[ -~]*$")]
Count = Annotated[int, Field(ge=0, le=1 << 62)]
Bits = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Dimension = Annotated[int, Field(ge=0, le=1 << 40)] | Text | None


class TensorDescription(Strict):
    """One input or output as the file declares it: with the batch axis, which comes first."""

    name: Text
    dtype: Text
    shape: Annotated[tuple[Dimension, ...], Field(max_length=16)] | None
    """None where the file declares no rank."""


class WeightSketch(Strict):
    """One tensor of weights in a few bits; made in `serving.sandbox.weights`."""

    shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)]
    """Without axes of length 1; a matrix with its short side first."""
    bits: Bits
    turned: Bits | None = None
    """Of a square matrix: the bits of its transpose."""


class Weights(Strict):
    """What tells models of one family from others: see `validators.intake.weights`."""

    contents: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None
    """Digest of every number in the file; None where nobody looked."""
    tensors: Annotated[tuple[WeightSketch, ...], Field(max_length=1024)]
    complete: bool
    """Whether no tensor was left out for their number."""


class ModelDescription(Strict):
    """An ONNX model that passed every check that needs no contract."""

    inputs: Annotated[tuple[TensorDescription, ...], Field(max_length=256)]
    outputs: Annotated[tuple[TensorDescription, ...], Field(max_length=256)]
    ir_version: Count
    opsets: dict[Text, Count]
    """Version by domain; the default domain is written ai.onnx."""
    operators: Annotated[dict[Text, Count], Field(max_length=1024)]
    """How many nodes of each operator, subgraphs included; ai.onnx.ml's carry their domain."""
    nodes: Count
    initializers: Count
    parameters: Count
    """Elements in all initializers."""
    model_bytes: Count
    """Size after weights were inlined."""
    largest_tensor: Count
    """Elements of the largest tensor that shape inference found, at a batch of 256."""
    weights: Weights | None = None
    """Given by `inspect`; a model that is loaded is not sketched again."""
