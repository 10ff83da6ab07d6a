"""Read Parquet in the caller's own thread.

pyarrow reads files and Python streams through threads of its own, and a process that ends at once
while one of them starts is aborted ("terminate called without an active exception": 3 of 150 short
commands). A buffer is read without any, also one that a file is mapped to.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def table_of(data: bytes | bytearray | memoryview, columns: list[str] | None = None) -> pa.Table:
    """The table in these bytes, or some of its columns. Raises what pyarrow does."""
    return _read(pa.py_buffer(data), columns)


def table_in(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in this file, or some of its columns. Raises OSError and what pyarrow does."""
    with pa.memory_map(str(path)) as mapped:
        return _read(mapped.read_buffer(), columns)


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the columns of the table in this file. Raises as `table_in`."""
    with pa.memory_map(str(path)) as mapped:
        return tuple(pq.ParquetFile(mapped).schema_arrow.names)


def _read(data: pa.Buffer, columns: list[str] | None) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)
