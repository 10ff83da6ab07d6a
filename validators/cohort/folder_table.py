"""The table of a folder: one row a case, or reference standards by series, study or patient.

Rules
-----
1. A table of cases (`cases.csv` or `cases.parquet` in the folder) has `case`, `patient`,
   `reference`, a column for each image of the contract (a file or a folder of one series) and one
   for each number: NAME, or NAME.0, NAME.1, … for a tensor of several.
2. A table of reference standards has the first there is of `case`, `instance`, `series`, `study`
   and `patient` as its key, and `reference`; a column `patient` beside another key counts before
   the header's.
3. Where there is one image (or one mask) alone, its column may be called `image` (`mask`).
   `segment` names the segment of a DICOM-SEG.
4. Where masks are the reference standard, `reference` of a table of cases names each one's file.
5. No message holds a value of the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.schema import Contract, Tensor
from validators.table_file import open_table

KEYS = ("case", "instance", "series", "study", "patient")
NAMES = ("cases.csv", "cases.parquet")


@dataclass(frozen=True)
class Table:
    """Columns of text, of one length; `numbers` are the contract's, NaN where there is none."""

    name: str
    columns: dict[str, list[str]] = field(repr=False)
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self) -> Iterator[dict[str, str]]:
        """The text, row by row."""
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))


def read_table(path: Path, keep: tuple[str, ...], contract: Contract) -> Table:
    """The columns that are needed and those to keep; all others are never read. Raises Invalid."""
    file = open_table(path)
    roles = {*KEYS, "reference", "segment", *image_columns(contract).values()}
    numbers = {name for names in number_columns(contract).values() for name in names}
    text = roles | set(keep)
    wanted = [name for name in file.names if name in numbers | text]
    if "reference" not in wanted:
        raise Invalid(f"{path.name} has no column `reference`")
    read = file.read({name: name for name in wanted})
    return Table(
        path.name,
        {name: column.to_pylist() for name, column in read.items() if name in text},
        {name: _numbers(column) for name, column in read.items() if name in numbers},
    )


def image_columns(contract: Contract) -> dict[str, str]:
    """The column of each image tensor, as it is called when there is one alone."""
    columns = {}
    for mask, short in ((False, "image"), (True, "mask")):
        tensors = [t for t in contract.inputs if t.image is not None and t.image.mask == mask]
        for tensor in tensors:
            columns[tensor.name] = short if len(tensors) == 1 else tensor.name
    return columns


def number_columns(contract: Contract) -> dict[str, tuple[str, ...]]:
    """The columns of each tensor that is no image."""
    return {t.name: _number_columns(t) for t in contract.inputs if t.image is None}


def _number_columns(tensor: Tensor) -> tuple[str, ...]:
    if tensor.shape in ((), (1,)):
        return (tensor.name,)
    if len(tensor.shape) != 1:
        raise Invalid(
            f"{tensor.name} has {len(tensor.shape)} axes and is no image; say `image:` in the "
            "contract if it is one"
        )
    return tuple(f"{tensor.name}.{n}" for n in range(tensor.shape[0]))


def numbers_of(table: Table, columns: tuple[str, ...]) -> NDArray[np.float64]:
    """The numbers of a tensor, [rows, columns]; NaN where there is none."""
    missing = [name for name in columns if name not in table.numbers]
    if missing:
        raise Invalid(f"{table.name} has no column {missing[0]}, which the contract asks for")
    return np.stack([table.numbers[name] for name in columns], axis=1)


def _numbers(text: pa.Array) -> NDArray[np.float64]:
    plain = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
    values = pc.cast(pc.if_else(plain, text, None), pa.float64())
    found: NDArray[np.float64] = values.to_numpy(zero_copy_only=False)
    return found


def reference_of(text: str, *, mask: bool = False) -> int:
    """0 or 1; 0 where the text names a mask. Raises Invalid for anything else."""
    if not text:
        raise Invalid("the reference standard is missing")
    if mask:
        return 0
    if text not in ("0", "1"):
        raise Invalid("the reference standard is neither 0 nor 1")
    return int(text)
