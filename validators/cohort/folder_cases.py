"""Which cases a folder holds, and where each one's inputs are.

Rules
-----
1. With a table of cases, its rows are the cases. Without, each volume of a modality that the
   contract takes is a case, with the reference standard that the other table gives it.
2. A series of several volumes has no reference standard under its own name: the table names each
   of them (`series#1`).
3. What can't be a case is left out with its reason. A table that contradicts itself stops all.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from registry.trust.errors import Invalid
from validators.cohort.dicom_file import Header, is_dicom, read_header
from validators.cohort.dicom_series import Volume, parts_of
from validators.cohort.folder_files import Found, inside, read_folder, take
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


@dataclass(frozen=True)
class Todo:
    """A case and where its inputs come from."""

    case: Case = field(repr=False)
    images: Mapping[str, Volume | Path] = field(default_factory=dict, repr=False)
    masks: Mapping[str, Header | Path] = field(default_factory=dict, repr=False)
    segment: str | None = field(default=None, repr=False)
    numbers: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict, repr=False)
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
    numbers = {
        name: numbers_of(table, columns) for name, columns in number_columns(asked.contract).items()
    }
    found, todos = Found(), []
    for place, row in enumerate(table.rows()):
        try:
            todos.append(
                _of_row(folder, row, asked, found, {n: of[place] for n, of in numbers.items()})
            )
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
    numbers: Mapping[str, tuple[float | None, ...]],
) -> Todo:
    if any(value is None for of in numbers.values() for value in of):
        raise Invalid("a number that the contract asks for is missing or no number")
    images: dict[str, Volume | Path] = {}
    masks: dict[str, Header | Path] = {}
    for tensor in asked.contract.inputs:
        if tensor.image is None:
            continue
        path = inside(folder, row[image_columns(asked.contract)[tensor.name]])
        if not tensor.image.mask:
            images[tensor.name] = _image(path, tensor.image.modality, found)
        else:
            masks[tensor.name] = _mask(path)
    reference = None
    if asked.contract.reference is not None and row["reference"]:
        reference = _mask(inside(folder, row["reference"]))
    headers = [image.first for image in images.values() if isinstance(image, Volume)]
    case = _case(row["case"], row["patient"], row, asked, headers[0] if headers else None)
    return Todo(case, images, masks, row.get("segment") or None, numbers, reference)


def _mask(path: Path) -> Header | Path:
    return read_header(path) if path.is_file() and is_dicom(path) else path


def _image(path: Path, modalities: tuple[str, ...], found: Found) -> Volume | Path:
    if path.is_file() and not is_dicom(path):
        return path
    if path.is_file():
        here = Found()
        header = read_header(path)
        take(here, parts_of([header]), header.series)
    else:
        here = read_folder(path)
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
