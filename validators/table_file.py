"""A CSV or Parquet file as columns of text, whatever its types were.

    >>> open_table(Path("predictions.csv")).read({"score": "adae_score"})["score"]

Rules
-----
1. The content decides: Parquet begins with PAR1, CSV is UTF-8 text with a header line.
2. Values are trimmed text; what Parquet has no value for is the empty text.
3. A message never holds a line of the file: Arrow's own messages quote lines, so none is passed on.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from registry.trust.errors import Invalid
from validators.parquet import names_in, table_in

_HEAD = 1 << 16
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class TableFile:
    """A table on disk. `delimiter` is None for Parquet."""

    path: Path
    names: tuple[str, ...]
    delimiter: str | None

    def read(self, wanted: Mapping[str, str]) -> dict[str, pa.Array]:
        """{name: text of its column} for `wanted`, {name: column in the file}.

        Raises Invalid when a line is broken, a column can't be read as text or there is no row.
        """
        for column in wanted.values():
            if self.names.count(column) > 1:
                raise Invalid(
                    f"{self.path.name} has several columns {column!r}; rename all but one"
                )
        columns = list(dict.fromkeys(wanted.values()))
        try:
            parquet = self.delimiter is None
            table = table_in(self.path, columns) if parquet else self._csv(columns)
            if table.num_rows == 0:
                raise Invalid(f"{self.path.name} has a header and no row; it needs one row a case")
            return {name: _text(table[column]) for name, column in wanted.items()}
        except (pa.ArrowException, OSError):
            kind = "Parquet" if self.delimiter is None else "CSV in UTF-8"
            raise Invalid(
                f"{self.path.name} can't be read as {kind}: it is damaged, or a column holds "
                "something other than text and numbers; write it again"
            ) from None

    def _csv(self, columns: list[str]) -> pa.Table:
        broken = 0

        def skip(row: object) -> str:
            nonlocal broken
            broken += 1
            return "skip"

        table = pyarrow.csv.read_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,
            ),
        )
        if broken:
            raise Invalid(
                f"{self.path.name}: {broken} rows have more or fewer values than the header has "
                "names; write the file again, with quotes around values that hold a delimiter"
            )
        return table


def open_table(path: Path) -> TableFile:
    """The table at `path`, its header read. Raises Invalid unless it is CSV or Parquet."""
    if not path.is_file():
        raise Invalid(f"there is no file {path}")
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise Invalid(f"{path.name} can't be read: {error.strerror}") from error
    if not head.strip():
        raise Invalid(f"{path.name} is empty; it needs a header line and one row a case")
    if head.startswith(b"version https://git-lfs"):
        raise Invalid(f"{path.name} is a Git LFS pointer, not the table; run git lfs pull")
    if head.startswith(b"PAR1"):
        return TableFile(path, _parquet_names(path), None)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise Invalid(f"{path.name} is not Parquet, in spite of its name; write it again")
    if head.startswith(b"PK\x03\x04"):
        raise Invalid(f"{path.name} is an archive or a spreadsheet; save it as CSV")
    if b"\0" in head:
        raise Invalid(f"{path.name} is neither CSV (UTF-8 text) nor Parquet")
    return _open_csv(path)


def _parquet_names(path: Path) -> tuple[str, ...]:
    try:
        return names_in(path)
    except (pa.ArrowException, OSError):
        raise Invalid(f"{path.name} is a damaged Parquet file; write it again") from None


def _open_csv(path: Path) -> TableFile:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            line = stream.readline(_HEAD)
            delimiter = max(_DELIMITERS, key=line.count)
            stream.seek(0)
            names = next(csv.reader(stream, delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        raise Invalid(f"{path.name} is neither CSV (UTF-8 text) nor Parquet") from None
    if len(names) < 2:
        raise Invalid(
            f"{path.name} has one column only; it needs a header line with comma, semicolon or tab "
            "between the names"
        )
    return TableFile(path, tuple(names), delimiter)


def _text(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    whole = column.cast(pa.string()).combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # no rows
        whole = pa.array([], pa.string())
    return pc.utf8_trim_whitespace(pc.fill_null(whole, ""))


def count(mask: pa.Array) -> int:
    """How many are true."""
    return int(pc.sum(mask).as_py() or 0)
