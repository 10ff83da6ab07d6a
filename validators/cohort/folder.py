"""A folder of DICOM, NIfTI, PNG or TIFF files, or a table of numbers, as a source of cases.

    >>> source = KIND.open(Path("hospital"), "all", Asked(contract, keep=("sex", "age")))

Rules
-----
1. `cohort.yaml` beside the data says what must be said of every cohort: title, licence, citation,
   reference_standard.
2. Cases come from `cases.csv` or `cases.parquet`; without one from the DICOM files, with reference
   standards of the table that was named (`validators.cohort.folder_table`).
3. Images become tensors in `validators.contract.harmonise` and nowhere else. Masks are put on the
   image's own grid first.
4. Attributes are those that were asked for by name, and no others.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.canonical import digest_of
from registry.trust.errors import Invalid, NotFound
from validators.cohort.dicom_mask import read_mask
from validators.cohort.folder_cases import Todo, cases_of_table, cases_of_walk
from validators.cohort.folder_files import STATEMENT, state_of_folder
from validators.cohort.folder_table import NAMES, read_table
from validators.cohort.image_file import read_image, read_mask_file
from validators.cohort.kept import OPTIONS
from validators.cohort.reference_mask import read_reference_mask
from validators.cohort.source import Asked, Inputs, half_of, state_of
from validators.cohort.suspicion import suspicions
from validators.contract.dicom_file import Header
from validators.contract.dicom_open import guarded
from validators.contract.dicom_series import Volume, read_picture
from validators.contract.harmonise import Picture, tensor_of
from validators.contract.read import parse_document, read_document
from validators.contract.schema import Strict, Tensor

_SALT = "touchstone/folder/halves/1"
_TABLES = (".csv", ".tsv", ".parquet")


class Statement(Strict):
    """What `cohort.yaml` says."""

    title: str
    licence: str
    citation: str
    reference_standard: str


class Folder:
    """An opened folder, restricted to one half of its patients."""

    def __init__(self, path: Path, half: str, asked: Asked) -> None:
        folder = path if path.is_dir() else path.parent
        statement = _statement(folder)
        self.title, self.licence = statement.title, statement.licence
        self.citation = statement.citation
        self.reference_standard = statement.reference_standard
        self._contract = asked.contract
        table, own = _table(path, asked)
        read = read_table(table, asked.keep, asked.contract)
        todos, found = (cases_of_table if own else cases_of_walk)(folder, read, asked)
        mine = [t for t in todos if half in ("all", half_of(t.case.patient, _SALT))]
        self._numbers = found.numbers
        self._todos: list[Todo] = sorted(mine, key=lambda todo: todo.case.case)
        self.cases = tuple(todo.case for todo in self._todos)
        self.left_out = tuple(found.left_out)
        self.notes = dict(sorted(found.notes.items()))
        self.case_flow = dict(sorted(Counter(reason for _, reason in self.left_out).items()))
        if half != "all":
            other = "locked" if half == "development" else "development"
            self.case_flow[f"patient in the {other} half"] = len(todos) - len(mine)
        self.about: dict[str, str | int | float] = {
            "deidentification": "attributes kept by name, by PS3.15 annex E: "
            + ("; ".join(OPTIONS.get(n, f"column {n}") for n in asked.keep) or "none")
        }
        self.decodes = any(todo.images or todo.masks for todo in self._todos)
        self.state = digest_of(
            [state_of_folder(folder) if self.decodes else state_of(path if own else table),
             state_of(table), list(asked.keep)]
        )  # fmt: skip

    def read(self, position: int) -> Inputs:
        """Every tensor of the contract, and what a person must look at."""
        if not self.decodes:
            return self._read(position)
        return guarded(lambda: self._read(position), "the case can't be read")

    def _read(self, position: int) -> Inputs:
        todo = self._todos[position]
        pictures: dict[str, Picture] = {}
        tensors: dict[str, NDArray[Any]] = {}
        review: list[str] = []
        notes: list[str] = []
        for tensor in self._contract.inputs:
            if tensor.image is None:
                tensors[tensor.name] = _numbers(self._numbers[tensor.name][todo.row], tensor)
            elif not tensor.image.mask:
                image = todo.images[tensor.name]
                picture = _picture(image, tensor)
                pictures[tensor.name] = picture
                header = image.first if isinstance(image, Volume) else None
                review += suspicions(header, tensor.image.modality, picture.values)
                if isinstance(image, Volume) and len(image.planes) > 1 and image.uneven:
                    review.append("slices are missing or not equally far apart")
                    notes += ["missing slices"] * image.missing
                tensors[tensor.name] = tensor_of(picture, tensor)
        for tensor in self._contract.inputs:
            if tensor.image is not None and tensor.image.mask:
                mask = _mask(todo, tensor, pictures)
                tensors[tensor.name] = tensor_of(mask, tensor)
                if not mask.values.any():
                    review.append("the mask is empty")
                elif tensors[tensor.name].sum() == 0:
                    review.append("the mask was cut away by the contract's cropping")
        reference = None
        if self._contract.reference is not None:
            reference, doubts = read_reference_mask(todo, self._contract, pictures)
            review += doubts
        return Inputs(tensors, tuple(dict.fromkeys(review)), tuple(notes), reference)


class _Kind:
    """Any folder; a table of numbers by itself."""

    def recognises(self, path: Path) -> bool:
        return path.is_dir() or (path.is_file() and path.suffix.lower() in _TABLES)

    def open(self, path: Path, half: str, asked: Asked | None = None) -> Folder:
        if asked is None:
            raise Invalid("a folder is read for a contract; name one")
        return Folder(path, half, asked)


KIND = _Kind()


def _statement(folder: Path) -> Statement:
    path = folder / STATEMENT
    if not path.is_file():
        raise Invalid(
            f"{path} is missing: write title, licence, citation and reference_standard into it"
        )
    return parse_document(Statement, read_document(path), str(path))


def _table(path: Path, asked: Asked) -> tuple[Path, bool]:
    """The table to read, and whether its rows are the cases."""
    own = [path] if path.is_file() else [path / n for n in NAMES if (path / n).is_file()]
    if len(own) > 1 or (own and asked.reference is not None):
        raise Invalid(f"{path} has a table of cases and another table; keep one of the two")
    if own:
        return own[0], True
    if asked.reference is None:
        raise Invalid(
            f"{path} has no table cases.csv; write one, or name the table of reference standards "
            "with --reference"
        )
    if not asked.reference.is_file():
        raise NotFound(f"there is no table at {asked.reference}")
    return asked.reference, False


def _picture(image: Volume | Path, tensor: Tensor) -> Picture:
    assert tensor.image is not None
    if isinstance(image, Volume):
        return read_picture(image, tensor.image.values)
    if tensor.image.values in ("HU", "SUV"):
        raise Invalid("only DICOM says that values are Hounsfield units or SUV; use `stored`")
    return read_image(image, tensor.name)


def _mask(todo: Todo, tensor: Tensor, pictures: dict[str, Picture]) -> Picture:
    if len(pictures) != 1:
        raise Invalid("a mask needs exactly one image that it belongs to")
    ((name, picture),) = pictures.items()
    mask, image = todo.masks[tensor.name], todo.images[name]
    if not isinstance(mask, Header):
        return read_mask_file(mask, tensor.name, picture)
    if mask.modality != "SEG" or not isinstance(image, Volume):
        raise Invalid("a DICOM mask must be a DICOM-SEG, of a DICOM image")
    return read_mask(mask, image, todo.segment)


def _numbers(numbers: NDArray[np.float64], tensor: Tensor) -> NDArray[Any]:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind in "iub" and (numbers != np.rint(numbers)).any():
        raise Invalid(f"{tensor.name} takes whole numbers and the table has another")
    with np.errstate(all="ignore"):  # what does not fit is seen below or by the contract's check
        made = numbers.astype(dtype)
    if dtype.kind in "iub" and (made.astype(np.float64) != numbers).any():
        raise Invalid(f"{tensor.name} has a number that {tensor.dtype} can't hold")
    return made.reshape(tensor.shape)
