"""Which cases a folder holds, and where each one's inputs are.

Rules
-----
1. With a table of cases, its rows are the cases. Without, each volume of a modality that the
   contract takes is a case, with the reference standard that the other table gives it.
2. A series of several volumes has no reference standard under its own name: the table names each
   of them (`series#1`).
3. What can't be a case is left out with its reason. A table that contradicts itself stops all.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from registry.trust.errors import Invalid
from validators.cohort.folder_files import (
    Found,
    Headers,
    headers_of,
    inside,
    read_folder,
    regular_files,
    take,
)
from validators.cohort.folder_table import (
    KEYS,
    Table,
    image_columns,
    number_columns,
    numbers_of,
    reference_of,
)
from validators.cohort.kept import OPTIONS, UNKNOWN, kept_of
from validators.cohort.source import Asked, Case
from validators.contract.dicom_file import Header
from validators.contract.dicom_series import Volume, parts_of

_NONE: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Todo:
    """A case and where its inputs come from; `row` is that of `Found.numbers`."""

    case: Case = field(repr=False)
    images: Mapping[str, Volume | Path] = field(repr=False)
    masks: Mapping[str, Header | Path] = field(repr=False)
    segment: str | None = field(default=None, repr=False)
    row: int = -1
    reference: Header | Path | None = field(default=None, repr=False)
    """The file of a reference standard that is a mask."""


def cases_of_table(folder: Path, table: Table, asked: Asked) -> tuple[list[Todo], Found]:
    """A case for each row of a table of cases."""
    for column in ("case", "patient", *image_columns(asked.contract).values()):
        if column not in table.columns:
            raise Invalid(f"{table.name} has no column {column!r}")
    check_keep(asked.keep, table, headers=bool(image_columns(asked.contract)))
    names = table.columns["case"]
    if len(set(names)) < len(names) or "" in names:
        raise Invalid(f"{table.name}: a case has no id, or two have the same")
    found, todos = Found(), []
    found.numbers = {
        name: numbers_of(table, columns) for name, columns in number_columns(asked.contract).items()
    }
    lacking = np.zeros(len(table), dtype=bool)
    for of in found.numbers.values():
        lacking |= np.isnan(of).any(axis=1)
    headers = _headers(folder, table, asked)
    for place, row in enumerate(table.rows()):
        try:
            if lacking[place]:
                raise Invalid("a number that the contract asks for is missing or no number")
            todos.append(_of_row(folder, row, asked, found, place, headers))
        except Invalid as error:
            found.left_out.append((row["case"], str(error)))
    return todos, found


def cases_of_walk(folder: Path, table: Table, asked: Asked) -> tuple[list[Todo], Found]:
    """A case for each volume that the contract takes and the table knows."""
    if asked.contract.reference is not None:
        raise Invalid(
            "where masks are the reference standard, write a table cases.csv into the folder that "
            "names each case's image and, in `reference`, its mask"
        )
    images = [t for t in asked.contract.inputs if t.image is not None and not t.image.mask]
    masks = [t for t in asked.contract.inputs if t.image is not None and t.image.mask]
    if len(images) != 1 or len(masks) > 1 or number_columns(asked.contract):
        raise Invalid(
            f"the contract {asked.contract.id} asks for more than one image and one mask; write "
            "a table cases.csv into the folder that names each case's files"
        )
    form = images[0].image
    assert form is not None
    check_keep(asked.keep, table, headers=True)
    key = next((key for key in KEYS if key in table.columns), None)
    if key is None:
        raise Invalid(f"{table.name} has none of the columns {', '.join(KEYS)}")
    rows: dict[str, dict[str, str]] = {}
    for row in table.rows():
        if row[key] in rows and row != rows[row[key]]:
            raise Invalid(f"{table.name} has two different rows for one {key}")
        rows[row[key]] = row
    found, todos, used = read_folder(folder), [], set()
    masks_of: dict[str, list[Header]] = defaultdict(list)
    for mask in found.masks:
        for series in mask.refers_to:
            masks_of[series].append(mask)
    for name, volume in sorted(found.volumes.items()):
        first = volume.first
        if first.modality not in form.modality:
            found.left_out.append((name, "the contract takes no image of this modality"))
            continue
        try:
            row = _row_of(rows, key, volume, found)
            used.add(row[key])
            of_series = masks_of[first.series]
            if masks and len(of_series) != 1:
                raise Invalid(f"the image has {len(of_series)} segmentations, not one")
            todos.append(
                Todo(
                    _case(name, row.get("patient") or first.patient, row, asked, first),
                    {images[0].name: volume},
                    {masks[0].name: of_series[0]} if masks else {},
                    row.get("segment") or None,
                )
            )
        except Invalid as error:
            found.left_out.append((name, str(error)))
    found.add("rows of the reference table without an image", len(set(rows) - used))
    return todos, found


def check_keep(keep: tuple[str, ...], table: Table, *, headers: bool) -> None:
    """Raise Invalid for an attribute that nothing gives, or that has another role."""
    roles = {*KEYS, "reference", "segment", "image", "mask", "salt"}
    for name in keep:
        if name in roles:
            raise Invalid(f"{name!r} is no attribute: it can't be kept")
        if name not in table.columns and not (headers and name in OPTIONS):
            options = f" and no header gives it ({', '.join(OPTIONS)})" if headers else ""
            raise Invalid(f"{table.name} has no column {name!r} to keep{options}")


def _row_of(
    rows: Mapping[str, dict[str, str]], key: str, volume: Volume, found: Found
) -> dict[str, str]:
    first = volume.first
    if key == "instance" and len(volume.planes) < len(first.frames):
        raise Invalid(
            "the file holds several volumes; name the one in the reference table by its series: "
            "SERIES#1"
        )
    name: Callable[[], str] = {
        "case": lambda: volume.id,
        "instance": lambda: first.instance,
        "series": lambda: volume.id if first.series in found.several else first.series,
        "study": lambda: first.study,
        "patient": lambda: first.patient,
    }[key]
    row = rows.get(name())
    if row is None and first.series in found.several and first.series in rows:
        raise Invalid(
            "the series holds several volumes; name the one in the reference table: SERIES#1"
        )
    if row is None:
        raise Invalid("the reference standard is missing")
    return row


def _of_row(
    folder: Path,
    row: dict[str, str],
    asked: Asked,
    found: Found,
    place: int,
    known: Headers,
) -> Todo:
    images: dict[str, Volume | Path] = {}
    masks: dict[str, Header | Path] = {}
    for tensor in asked.contract.inputs:
        if tensor.image is None:
            continue
        path = inside(folder, row[image_columns(asked.contract)[tensor.name]])
        if not tensor.image.mask:
            images[tensor.name] = _image(path, tensor.image.modality, found, known)
        else:
            masks[tensor.name] = path if path.is_dir() else _one(path, known)
    reference = None
    if asked.contract.reference is not None and row["reference"]:
        path = inside(folder, row["reference"])
        reference = path if path.is_dir() else _one(path, known)
    headers = [image.first for image in images.values() if isinstance(image, Volume)]
    case = _case(row["case"], row["patient"], row, asked, headers[0] if headers else None)
    return Todo(case, images or _NONE, masks or _NONE, row.get("segment") or None, place, reference)


def _headers(folder: Path, table: Table, asked: Asked) -> Headers:
    """The headers of all files that the table names, or that lie in folders that it names."""
    paths: dict[Path, None] = {}
    files = [] if asked.contract.reference is None else ["reference"]
    for column in (*image_columns(asked.contract).values(), *files):
        for named in set(table.columns[column]) - {""}:
            with contextlib.suppress(Invalid):  # told when its row is read
                path = inside(folder, named)
                paths |= dict.fromkeys(regular_files(path) if path.is_dir() else [path])
    return dict(zip(paths, headers_of(list(paths)), strict=True))


def _one(path: Path, headers: Headers) -> Header | Path:
    """A file's header; the file itself where it is not DICOM."""
    header = headers[path]
    if isinstance(header, str):
        raise Invalid(header)
    return path if header is None else header


def _image(
    path: Path, modalities: tuple[str, ...], found: Found, headers: Headers
) -> Volume | Path:
    here = Found()
    if path.is_dir():
        here = read_folder(path, headers)
    elif isinstance(header := _one(path, headers), Header):
        take(here, parts_of([header]), header.series)
    else:
        return path
    for note, count in here.notes.items():
        found.add(note, count)
    usable = [volume for volume in here.volumes.values() if volume.first.modality in modalities]
    if len(usable) != 1:
        reason = here.left_out[0][1] if here.left_out and not usable else ""
        raise Invalid(
            reason or f"{len(usable)} volumes of the contract's modality lie there, not one"
        )
    return usable[0]


def _case(
    name: str, patient: str, row: Mapping[str, str], asked: Asked, header: Header | None
) -> Case:
    if not patient:
        raise Invalid("the patient's id is missing")
    reference = reference_of(row["reference"], mask=asked.contract.reference is not None)
    from_header = [kept for kept in asked.keep if kept not in row]
    attributes = (
        kept_of(header, from_header) if header is not None else dict.fromkeys(from_header, UNKNOWN)
    )
    attributes |= {kept: row[kept] or UNKNOWN for kept in asked.keep if kept in row}
    return Case(name, patient, reference, attributes)
