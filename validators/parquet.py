"""Read Parquet in the caller's own thread.

pyarrow reads files and Python streams through threads of its own, and a process that ends at once
while one of them starts is aborted ("terminate called without an active exception": 3 of 150 short
commands). A buffer in memory and a mapped file are read without any.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def table_of(data: bytes | bytearray | memoryview, columns: list[str] | None = None) -> pa.Table:
    """The table in these bytes, or some of its columns. Raises what pyarrow does."""
    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
    return file.read(columns=columns, use_threads=False)


def table_in(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in this file, or some of its columns. Raises OSError and what pyarrow does."""
    with pa.memory_map(str(path)) as mapped:
        return pq.ParquetFile(mapped).read(columns=columns, use_threads=False)


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the columns of the table in this file. Raises as `table_in`."""
    with pa.memory_map(str(path)) as mapped:
        return tuple(pq.ParquetFile(mapped).schema_arrow.names)
