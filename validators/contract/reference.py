"""What a contract says of a reference standard that is a mask.

    reference:
      grid_of: ct
      structures: {liver: 1, tumour: 2}

Rules
-----
1. The mask lies on the grid of the input `grid_of`: turned, resampled (nearest voxel), cropped and
   padded as that image is. Outside of the image there is nothing: padding is 0.
2. It is a map of labels, one number of 8 bits a voxel: 0 is outside, each structure has a number of
   its own. So two structures never share a voxel.
3. The output that is scored (`score`) is such a map too, of whole numbers on the same grid, with or
   without an axis of one channel in front. A probability is turned into labels by the model.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from validators.contract.image import ImageForm
from validators.contract.strict import Strict

if TYPE_CHECKING:
    from validators.contract.schema import Tensor

Label = Annotated[int, Field(ge=1, le=255)]
StructureName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
_WHOLE = ("uint8", "int16", "int32", "int64")


class ReferenceMask(Strict):
    """A reference standard that is a mask: on which grid, and which number each structure has."""

    grid_of: StructureName
    structures: Annotated[dict[StructureName, Label], Field(min_length=1, max_length=50)]


def grid_of(tensor: "Tensor") -> tuple[int, ...]:
    """The shape of an image tensor without its channels."""
    return tensor.shape[1:]


def form_of_mask(form: ImageForm) -> ImageForm:
    """What is done to a mask so that it lies on an image of this form."""
    return ImageForm(
        modality=("SEG",),
        orientation=form.orientation,
        spacing_mm=form.spacing_mm,
        resample=None if form.resample is None else "nearest",
        fit=form.fit,
    )


def reference_fault(
    reference: ReferenceMask, inputs: "tuple[Tensor, ...]", score: "Tensor"
) -> tuple[str, str] | None:
    """The field that does not fit these inputs and this output, and why; or None."""
    image = next((t for t in inputs if t.name == reference.grid_of), None)
    if image is None or image.image is None or image.image.mask:
        return "reference.grid_of", f"{reference.grid_of!r} is no input with an image"
    if len(set(reference.structures.values())) < len(reference.structures):
        return "reference.structures", "two structures have the same number"
    grid = grid_of(image)
    if score.shape not in (grid, (1, *grid)) or score.dtype not in _WHOLE:
        return "score", f"it must be a map of whole numbers on the grid {list(grid)}"
    return None
