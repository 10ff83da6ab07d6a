"""Rows in small Parquet files, a folder a day: complete or absent, whenever a process is killed.

    >>> append(state / "predictions", "2026-11-28", table)
    >>> merge_past(state / "predictions", today="2026-11-29")

Rules
-----
1. A file is written under a name that begins with a dot, brought to the disk, and then renamed. A
   reader takes no name that begins with a dot, so it sees whole files only. Nothing is changed
   afterwards.
2. Every row has a random `id`. The files of a past day are merged into one, and a kill in between
   leaves rows in two files: a reader takes each id once.
3. The merged file is named by its content. Two that merge at once therefore do no harm: a file is
   removed by those only who have put all its rows into another one.
4. Deleting is by day, whole folders: nothing of a day that is over its time stays.
"""

import datetime as dt
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from registry.trust.canonical import hex_of, sha256_bytes
from registry.trust.errors import Invalid, Tampered, Unavailable
from serving.whole_file import put_whole

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_STALE_SECONDS = 3600.0


def append(place: Path, day: str, table: Any) -> Path:
    """Write a table (pyarrow, with a column `id`) as one new file of `day`."""
    name = f"{time.time_ns():020d}-{secrets.token_hex(8)}.parquet"
    return _write(place / day, name, _bytes_of(table))


def files(place: Path, day: str | None = None) -> list[Path]:
    """The complete files of all days, or of one, in order."""
    found: list[Path] = []
    for folder in _days(place) if day is None else [place / day]:
        if folder.is_dir():
            found += [of for of in folder.glob("*.parquet") if not of.name.startswith(".")]
    return sorted(found)


def merge_past(place: Path, today: str) -> int:
    """One file a day for the days before `today`; returns how many small files went."""
    import pyarrow as pa

    from validators.parquet import table_in

    gone = 0
    for folder in _days(place):
        small = files(place, folder.name)
        if folder.name >= today or len(small) < 2:
            continue
        try:
            whole = pa.concat_tables([table_in(path) for path in small])
        except FileNotFoundError:
            continue  # another process is merging this day
        except pa.ArrowException as error:
            raise Tampered(f"a file in {folder} is damaged: move it out of there") from error
        kept = whole.take(pa.array(_first_of_each(whole["id"].to_pylist())))
        data = _bytes_of(kept.sort_by([("moment", "ascending"), ("id", "ascending")]))
        made = _write(folder, f"all-{hex_of(sha256_bytes(data))}.parquet", data)
        for path in small:
            if path != made:
                path.unlink(missing_ok=True)
                gone += 1
    return gone


def forget(place: Path, before: str) -> list[str]:
    """Delete every day before `before` (YYYY-MM-DD), and what killed writers left; the days."""
    gone = []
    for folder in _days(place):
        if folder.name < before:
            shutil.rmtree(folder)
            gone.append(folder.name)
            continue
        for part in folder.glob(".*"):
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink(missing_ok=True)
    return gone


def day_of(moment: dt.datetime) -> str:
    """The folder of a moment: its day in UTC."""
    return moment.astimezone(dt.UTC).date().isoformat()


def _days(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(of for of in place.iterdir() if _DAY.match(of.name) and of.is_dir())


def _first_of_each(ids: list[str]) -> list[int]:
    return list({of: number for number, of in reversed(list(enumerate(ids)))}.values())


def _bytes_of(table: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd")
    return bytes(stream.getvalue())


def _write(folder: Path, name: str, data: bytes) -> Path:
    if not _DAY.match(folder.name):
        raise Invalid(f"{folder.name!r} is not a day")
    target = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        put_whole(target, data, 0o600)
    except OSError as error:
        raise Unavailable(f"{folder} can't be written ({error.strerror})") from error
    return target
