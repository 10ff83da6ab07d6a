"""Parquet is read in the caller's own thread: a short command that ends at once is not aborted."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from validators.parquet import names_in, table_in, table_of

COUNTED = """
import os, sys
from pathlib import Path
from validators.parquet import names_in, table_in, table_of
def threads(): return len(os.listdir("/proc/self/task"))
path, before = Path(sys.argv[1]), threads()
names_in(path), table_in(path), table_of(path.read_bytes(), ["a"])
sys.exit(threads() - before)
"""


def test_what_was_written_is_read_in_this_thread_alone(tmp_path: Path):
    table, path = pa.table({"a": range(5000), "b": ["x"] * 5000}), tmp_path / "t.parquet"
    pq.write_table(table, path, compression="zstd", row_group_size=1000)
    assert table_in(path).equals(table_of(path.read_bytes()))
    assert table_of(path.read_bytes(), ["b"]).column_names == ["b"]
    assert names_in(path) == ("a", "b")
    if not Path("/proc/self/task").exists():
        pytest.skip("no /proc: threads can't be counted here")
    assert subprocess.run([sys.executable, "-c", COUNTED, path], check=False).returncode == 0
