"""The files of a folder: DICOM headers by series, and why others could not be read.

Rules
-----
1. Links and whatever is no regular file are passed over, so nothing outside the folder is read.
2. One file that can't be read is left out with its reason; the rest goes on.
3. Files are in the order of their names, so the same folder gives the same cases.
4. Headers are read in several processes where there are many. Where one of them ends before its
   time, the rest is read here, with the same result.
"""

import contextlib
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cohort.reading_processes import reading_processes
from validators.contract.dicom_file import Header, read_header
from validators.contract.dicom_open import is_dicom
from validators.contract.dicom_series import Parts, Volume, parts_of
from validators.cores import cores

STATEMENT = "cohort.yaml"
MANY = 500
"""Files from which on headers are read in several processes: starting them takes a second."""
_CHUNK = 32


Headers = Mapping[Path, Header | str | None]
"""Files, and what `headers_of` gives for them."""


@dataclass
class Found:
    """What lies in a folder. `volumes` by id; `masks` are segmentations."""

    volumes: dict[str, Volume] = field(default_factory=dict, repr=False)
    masks: list[Header] = field(default_factory=list, repr=False)
    left_out: list[tuple[str, str]] = field(default_factory=list, repr=False)
    notes: dict[str, int] = field(default_factory=dict)
    several: dict[str, int] = field(default_factory=dict, repr=False)
    """Series that hold several volumes, and how many."""
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    """Of a table of cases: each tensor's, row by row."""

    def add(self, note: str, count: int = 1) -> None:
        """Count something for the quality report."""
        if count:
            self.notes[note] = self.notes.get(note, 0) + count


def regular_files(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, in the order of their names; no link is followed."""
    for here, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(here) / name
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def inside(folder: Path, named: str) -> Path:
    """The file or folder `named` in a table. Raises Invalid when it is not there or elsewhere."""
    path = folder / named
    try:
        real, base = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise Invalid("a file that the table names is not there") from None
    if not real.is_relative_to(base):
        raise Invalid("a file that the table names lies outside the source's folder")
    if not (real.is_dir() or real.is_file()):
        raise Invalid("a file that the table names is no regular file")
    return real


def read_folder(folder: Path, known: Headers | None = None) -> Found:
    """The volumes and segmentations of all DICOM files below `folder`.

    known: the headers of these files, where they were read before.
    """
    found = Found()
    series: dict[str, list[Header]] = defaultdict(list)
    masks: dict[str, Header] = {}
    paths = [p for p in regular_files(folder) if str(p.relative_to(folder)) != STATEMENT]
    read = {} if known is None else known
    headers = headers_of([path for path in paths if path not in read])
    for path in paths:
        header = read[path] if path in read else next(headers)
        if header is None:
            found.add("files that are not DICOM")
            continue
        if isinstance(header, str):
            found.left_out.append((str(path.relative_to(folder)), header))
            continue
        if header.modality == "SEG":
            masks.setdefault(header.instance, header)
        else:
            series[header.series].append(header)
    found.masks.extend(masks.values())
    for uid in sorted(series):
        take(found, parts_of(series[uid]), uid)
    return found


def headers_of(paths: Sequence[Path]) -> Iterator[Header | str | None]:
    """The header of each file, over all cores where there are many.

    None for what is no DICOM file; else why it can't be read.
    """
    done = 0
    if len(paths) >= MANY and cores() > 1:
        with reading_processes(cores()) as pool, contextlib.suppress(BrokenProcessPool):
            for read in pool.map(_header_of, paths, chunksize=_CHUNK):
                yield read
                done += 1
    yield from map(_header_of, paths[done:])


def _header_of(path: Path) -> Header | str | None:
    """The header; None for what is no DICOM file; else why it can't be read."""
    try:
        return read_header(path) if is_dicom(path) else None
    except Invalid as error:
        return str(error)
    except OSError:
        return "the file can't be opened"


def take(found: Found, parts: Parts, uid: str) -> None:
    """Add one series."""
    for volume in parts.volumes:
        found.volumes[volume.id] = volume
    found.left_out.extend(parts.refused)
    found.add("localizers left out", parts.localizers)
    found.add("copies of an instance left out", parts.copies)
    if len(parts.volumes) + len(parts.refused) > 1:
        found.add("series split into several volumes")
        found.several[uid] = len(parts.volumes) + len(parts.refused)


def state_of_folder(folder: Path) -> str:
    """A digest of every file's name, size and time of change."""
    digest = hashlib.sha256()
    for path in regular_files(folder):
        found = path.stat()
        name = os.fsencode(path.relative_to(folder))
        digest.update(b"%d %b %d %d\n" % (len(name), name, found.st_size, found.st_mtime_ns))
    return digest.hexdigest()
