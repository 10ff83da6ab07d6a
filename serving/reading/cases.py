"""Which files of a request make a case, and their tensors: by the very code of an ingest.

    read = tensors_of(contract, [Sent(data, case=0, input="ct"), …])

Runs inside the locked process: every byte here is hostile.

Rules
-----
1. A file says which case and which input it is of, or neither. Of neither, a DICOM series is a
   case and so is a picture, in the order of their first files; the input is the only image there
   is, or the only one that takes the file's modality.
2. An image of a case is exactly one volume of a modality that the contract takes. Pictures (PNG,
   TIFF) are taken where the contract takes `picture`.
3. Axes, spacing, size, values and type are brought to the contract's by
   `validators.contract.harmonise`, or refused in its words. A message names the case by its number
   and never a value of a file.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.dicom_file import Header, read_header
from validators.contract.dicom_open import guarded, is_dicom
from validators.contract.dicom_series import Volume, parts_of, read_picture
from validators.contract.harmonise import Picture, tensor_of
from validators.contract.image import ImageForm
from validators.contract.in_memory import InMemory
from validators.contract.picture_file import kind_of, read_picture_file
from validators.contract.schema import Contract, Tensor


@dataclass(frozen=True)
class Sent:
    """One file of the request; case None and input "" where the sender did not say."""

    data: memoryview = field(repr=False)
    case: int | None = None
    input: str = ""


@dataclass(frozen=True)
class Opened:
    """A file whose header was read: a DICOM file, or a picture of a kind."""

    number: int
    input: str
    header: Header | None = None
    picture: tuple[InMemory, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Read:
    """Tensors by input, with the case axis first; the files of each case; what was noticed."""

    tensors: dict[str, NDArray[Any]] = field(repr=False)
    files: list[list[int]]
    noticed: list[list[str]]


def images_of(contract: Contract) -> dict[str, Tensor]:
    """The inputs that are images, by name."""
    return {tensor.name: tensor for tensor in contract.inputs if tensor.image is not None}


def tensors_of(contract: Contract, sent: Sequence[Sent], most: int) -> Read:
    """The image tensors of every case, in the type that a cohort would store.

    most: cases of a request. Raises Invalid for the first case that does not fit.
    """
    images = images_of(contract)
    cases = _grouped(sent, contract)
    if not 0 < len(cases) <= most:
        raise Invalid(f"the files are {len(cases)} cases; a request holds 1 to {most}")
    made: dict[str, list[NDArray[Any]]] = {name: [] for name in images}
    noticed = []
    for number, files in enumerate(cases, 1):
        where = f"case {number} of {len(cases)}: " if len(cases) > 1 else ""
        try:
            of_case, notes = _case(images, files)
        except Invalid as error:
            raise Invalid(f"{where}{error.message}", code=_code(error)) from None
        noticed.append(notes)
        for name, tensor in of_case.items():
            made[name].append(tensor)
    return Read(
        {name: np.stack(rows) for name, rows in made.items()},
        [[file.number for file in files] for files in cases],
        noticed,
    )


def _code(error: Invalid) -> str:
    return "input_image" if error.code == Invalid.default_code else error.code


def _grouped(sent: Sequence[Sent], contract: Contract) -> list[list[Opened]]:
    opened = [_opened(number, file) for number, file in enumerate(sent)]
    named: dict[int, list[Opened]] = defaultdict(list)
    found: dict[str, list[Opened]] = defaultdict(list)
    for file, of in zip(sent, opened, strict=True):
        if file.case is not None:
            named[file.case].append(of)
        elif of.header is not None:
            found[of.header.series].append(of)
        else:
            found[f"picture {of.number}"].append(of)
    if found and len(images_of(contract)) > 1:
        raise Invalid(
            "the contract takes several images: name each file's case and input, as in `p-17/ct`",
            code="input_names",
        )
    return [named[number] for number in sorted(named)] + list(found.values())


def _opened(number: int, file: Sent) -> Opened:
    stored = InMemory(file.data, f"{number:06d}")
    # DICOM first: its preamble may be a TIFF's head.
    if not is_dicom(stored):
        kind = kind_of(bytes(file.data[:4]))
        if kind is not None:
            return Opened(number, file.input, picture=(stored, kind))
        raise Invalid(
            f"file {number + 1} of the request is neither DICOM nor PNG nor TIFF",
            code="input_image",
        )
    try:
        return Opened(number, file.input, read_header(stored))
    except Invalid as error:
        raise Invalid(f"file {number + 1}: {error.message}", code="input_image") from None


def _case(
    images: Mapping[str, Tensor], files: Sequence[Opened]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    of_input: dict[str, list[Opened]] = defaultdict(list)
    for file in files:
        of_input[_input_of(images, file)].append(file)
    tensors, noticed = {}, []
    for name, tensor in images.items():
        if name not in of_input:
            raise Invalid(f"the image {name} is missing", code="input_names")
        picture, uneven = _picture(tensor, of_input[name])
        if uneven:
            noticed.append(f"{name}: slices are missing or not equally far apart")
        tensors[name] = tensor_of(picture, tensor)
    return tensors, noticed


def _input_of(images: Mapping[str, Tensor], file: Opened) -> str:
    if file.input in images:
        return file.input
    if len(images) == 1:
        return next(iter(images))
    modality = "picture" if file.header is None else file.header.modality
    taking = [name for name, tensor in images.items() if modality in _form(tensor).modality]
    if len(taking) != 1:
        raise Invalid(
            f"a file's input can't be told by its modality: call its part {' or '.join(images)}",
            code="input_names",
        )
    return taking[0]


def _picture(tensor: Tensor, files: Sequence[Opened]) -> tuple[Picture, bool]:
    """The one image of these files, and whether its slices are uneven."""
    form, name = _form(tensor), tensor.name
    pictures = [file.picture for file in files if file.picture is not None]
    if pictures:
        if "picture" not in form.modality:
            raise Invalid(
                f"{name} takes {_listed(form)} as DICOM, no picture", code="input_modality"
            )
        if len(files) > 1:
            raise Invalid(f"{len(files)} files were sent for {name}, which is one picture")
        ((stored, kind),) = pictures
        read = guarded(
            lambda: read_picture_file(stored, name, kind), f"the picture of {name} can't be read"
        )
        return read, False
    volume = _volume(form, name, [file.header for file in files if file.header is not None])
    return read_picture(volume, form.values), len(volume.planes) > 1 and volume.uneven


def _volume(form: ImageForm, name: str, headers: Sequence[Header]) -> Volume:
    parts = parts_of(headers)
    usable = [volume for volume in parts.volumes if volume.first.modality in form.modality]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise Invalid(f"{len(usable)} images were sent for {name}, which is one")
    others = sorted({header.modality for header in headers} - set(form.modality))
    if others:
        raise Invalid(
            f"{name} takes {_listed(form)}, not {', '.join(others)}", code="input_modality"
        )
    if parts.refused:
        raise Invalid(parts.refused[0][1])
    raise Invalid(f"the files of {name} hold no image but a localizer")


def _form(tensor: Tensor) -> ImageForm:
    assert tensor.image is not None
    return tensor.image


def _listed(form: ImageForm) -> str:
    return " or ".join(form.modality)
