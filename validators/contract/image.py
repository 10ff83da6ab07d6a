"""What a contract says about a tensor that is an image: all that is ever done to its pixels.

    inputs:
      - name: ct
        dtype: float32
        shape: [1, 96, 256, 256]
        unit: HU
        image:
          modality: [CT]
          orientation: SPL
          spacing_mm: [1.5, 1.0, 1.0]
          resample: linear
          fit: centre
          padding: -1024
          values: HU
          stored_as: int16

Rules
-----
1. A shape is [channels, slices, rows, columns] or [channels, rows, columns]; 1 or 3 channels.
2. `orientation` names where slices, rows and columns lead in the patient: one each of L or R
   (left, right), A or P (front, back), S or I (head, feet). `SPL`: slices run to the head, rows to
   the back, columns to the left. An oblique image is turned to the nearest such axes and keeps its
   obliquity. Left out, the axes stay as they were acquired.
3. `spacing_mm` with `resample`: the image is brought to it. Without: an image whose spacing
   differs by more than 1 % is refused. Left out, any spacing will do.
4. `fit: centre` crops and pads about the middle; without it an image of another size is refused.
5. `values`: `HU` (CT alone, rescaled), `SUV` (PT alone, by body weight), `rescaled` (by the image's
   own slope and intercept, such as Bq/ml) or `stored` (as stored; MONOCHROME1 is turned so that
   more is brighter).
6. `stored_as` is the type in the sealed shards; the model gets `dtype`. A value that it can't hold
   refuses the case: nothing is clipped.
7. `modality: [SEG]` is a mask on the grid of the case's image.
"""

from typing import Annotated, Literal

from pydantic import Field

from validators.contract.strict import Strict

Modality = Literal["CT", "MR", "PT", "MG", "DX", "CR", "US", "SC", "XC", "OT", "SEG", "picture"]
StoredType = Literal["uint8", "int16", "uint16", "float32"]
Letters = Annotated[str, Field(pattern=r"^[LRAPSI]{3}$")]
_AXES = ("LR", "AP", "SI")
SPACING_TOLERANCE = 0.01


class ImageForm(Strict):
    """The form that an image tensor's pixels are brought to, and how."""

    modality: Annotated[tuple[Modality, ...], Field(min_length=1)]
    orientation: Letters | None = None
    spacing_mm: tuple[Annotated[float, Field(gt=0, le=100)], ...] | None = None
    resample: Literal["linear", "nearest"] | None = None
    fit: Literal["centre"] | None = None
    padding: float = 0.0
    values: Literal["HU", "SUV", "rescaled", "stored"] = "stored"
    stored_as: StoredType | None = None

    @property
    def mask(self) -> bool:
        """Whether this is a mask of the case's image."""
        return self.modality == ("SEG",)


def form_fault(form: ImageForm, shape: tuple[int, ...]) -> str | None:
    """Why a tensor of `shape` can't have this form, or None."""
    axes = len(shape) - 1
    if axes not in (2, 3) or shape[0] not in (1, 3):
        return (
            "the shape of an image is [channels, slices, rows, columns] or [channels, rows, "
            "columns], with 1 or 3 channels"
        )
    if form.orientation is not None:
        if axes == 2:
            return "orientation is for images with slices"
        if any(sum(letter in pair for letter in form.orientation) != 1 for pair in _AXES):
            return "orientation needs one letter of each: L or R, A or P, S or I"
    if form.spacing_mm is not None and len(form.spacing_mm) != axes:
        return f"spacing_mm needs {axes} numbers, one for each axis of the image"
    if form.resample is not None and form.spacing_mm is None:
        return "resample needs spacing_mm"
    if "SEG" in form.modality and not form.mask:
        return "modality SEG is for a tensor of its own"
    if form.mask and form.resample == "linear":
        return "a mask is resampled by nearest"
    if form.values == "HU" and form.modality != ("CT",):
        return "values in HU are for modality CT alone"
    if form.values == "SUV" and form.modality != ("PT",):
        return "values in SUV are for modality PT alone"
    return None
