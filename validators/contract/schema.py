"""The contract between a model and a cohort: named tensors in, named tensors out.

    >>> contract = Contract.model_validate(yaml.safe_load(path.read_text()))
    >>> contract.digest
    'sha256:…'

Rules
-----
1. Shapes leave out the leading batch axis, which every tensor has:
   [1, 64, 64] means (N, 1, 64, 64).
2. A model must take exactly these inputs and give at least the output named by `score`.
3. The score is the model's probability of the positive reference, one finite number in
   [0, 1] a case. With `reference` it is a map of labels (`validators.contract.reference`).
4. Unknown fields are refused.
"""

from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from registry.trust.canonical import digest_of
from validators.contract.faults import fault
from validators.contract.image import ImageForm, form_fault
from validators.contract.reference import ReferenceMask, reference_fault
from validators.contract.strict import Grown, Strict

__all__ = ["Contract", "DataType", "Identifier", "Name", "Strict", "Tensor", "Version"]

DataType = Literal["float32", "float64", "int64", "int32", "int16", "uint8", "bool"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.-]{0,31}$")]


_HELD_BY: dict[str, tuple[str, ...]] = {
    "bool": ("bool",),
    "uint8": ("uint8",),
    "int16": ("uint8", "int16"),
    "int32": ("uint8", "int16", "uint16", "int32"),
    "int64": ("uint8", "int16", "uint16", "int64"),
    "float32": ("uint8", "int16", "uint16", "float32"),
    "float64": ("uint8", "int16", "uint16", "float32", "float64"),
}
"""Which stored types a tensor's type holds without loss."""


class Tensor(Grown):
    """One named tensor: its type, its shape without the batch axis, its unit and meaning."""

    added_later: ClassVar[tuple[str, ...]] = ("image",)

    name: Name
    dtype: DataType
    shape: tuple[Annotated[int, Field(gt=0, le=1 << 20)], ...]
    unit: str = ""
    meaning: str = ""
    minimum: float | None = None
    maximum: float | None = None
    image: ImageForm | None = None
    """What is done to an image before it is this tensor; left out for other tensors."""

    @property
    def staged_type(self) -> str:
        """The type in a cohort's shards; the model gets `dtype`."""
        return self.image.stored_as or self.dtype if self.image else self.dtype

    @model_validator(mode="after")
    def _image_fits(self) -> Self:
        if self.image is None:
            return self
        wrong = form_fault(self.image, self.shape)
        if wrong is None and self.staged_type not in _HELD_BY[self.dtype]:
            wrong = f"{self.dtype} can't hold every {self.staged_type}"
        if wrong is not None:
            raise fault("image", wrong)
        return self


class Contract(Grown):
    """What a model must take and give to be run on a cohort."""

    added_later: ClassVar[tuple[str, ...]] = ("reference",)

    id: Identifier
    version: Version
    inputs: Annotated[tuple[Tensor, ...], Field(min_length=1)]
    outputs: Annotated[tuple[Tensor, ...], Field(min_length=1)]
    score: Name
    tolerance: Annotated[float, Field(ge=0, le=0.01)] = 1e-5
    """Largest difference of a score between two runs that counts as the same answer; of a map of
    labels, the largest part of its voxels that may differ."""
    reference: ReferenceMask | None = None
    """Where the reference standard is a mask; left out where it is a class."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for side_name, side in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [tensor.name for tensor in side]
            if len(set(names)) != len(names):
                raise fault(side_name, "two of them have the same name")
        score = next((t for t in self.outputs if t.name == self.score), None)
        if score is None:
            raise fault("score", f"{self.score!r} is not among the outputs")
        if self.reference is not None:
            if wrong := reference_fault(self.reference, self.inputs, score):
                raise fault(*wrong)
            return self
        if score.shape not in ((), (1,)) or not score.dtype.startswith("float"):
            raise fault("score", "it must be one float a case: shape [] or [1]")
        return self

    @cached_property
    def digest(self) -> str:
        """The digest of the contract's canonical JSON: its identity."""
        return digest_of(self.model_dump(mode="json"))
