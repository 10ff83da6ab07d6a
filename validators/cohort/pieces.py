"""Read a source's inputs piece by piece, over all cores, so that a run that was killed goes on.

    >>> outcome = read_pieces(source, contract, Path("staged.partial"), progress)
    >>> outcome.kept
    (0, 1, 3)

Rules
-----
1. A piece is one case of a source that decodes files, 256 of another. Its tensors are written
   first, then what came of it; each file takes its name when it is whole. What has an outcome is
   not read again.
2. A case that the source or the contract refuses is left out with its reason; the rest goes on.
3. Files of any origin are decoded in processes of their own, one for each core
   (`validators.cohort.reading_processes`). A piece that ends its process is tried once more alone
   and then left out.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid, Unavailable
from validators.cohort.check import check_inputs
from validators.cohort.reading_processes import reading_processes
from validators.cohort.reference_masks import check_reference, stacked
from validators.cohort.source import Inputs, Source
from validators.contract.schema import Contract
from validators.cores import cores

TABLE_PIECE = 256
CRASHED = "reading it ended the process: its decoder failed, or it needs more memory than there is"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """Which cases were kept (positions, in order), and what was noticed, by position."""

    kept: tuple[int, ...]
    refused: dict[int, str] = field(repr=False)
    review: dict[int, tuple[str, ...]] = field(repr=False)
    notes: dict[int, tuple[str, ...]] = field(repr=False)


@dataclass(frozen=True)
class Pieces:
    """The pieces of one source in one folder."""

    source: Source = field(repr=False)
    contract: Contract
    folder: Path

    @property
    def size(self) -> int:
        """Cases a piece."""
        return 1 if self.source.decodes else TABLE_PIECE

    def __len__(self) -> int:
        return -(-len(self.source.cases) // self.size)

    def positions(self, number: int) -> range:
        """The cases of a piece."""
        start = number * self.size
        return range(start, min(start + self.size, len(self.source.cases)))

    def outcome_file(self, number: int) -> Path:
        """What came of a piece; there when it is done."""
        return self.folder / f"{number:07d}.json"

    def tensor_file(self, number: int) -> Path:
        """The tensors of the piece's kept cases."""
        return self.folder / f"{number:07d}.safetensors"

    def done(self, number: int) -> bool:
        """Whether the piece need not be read again."""
        return self.outcome_file(number).is_file()

    def read(self, number: int, progress: Progress = lambda done, total: None) -> None:
        """Read one piece and write its tensors and outcome."""
        began = self.folder / f"{number:07d}.began"
        began.touch()
        kept: list[Inputs] = []
        value: dict[str, dict[str, Any]] = {"refused": {}, "review": {}, "notes": {}}
        for position in self.positions(number):
            progress(position + 1, len(self.source.cases))
            try:
                inputs = self.source.read(position)
                check_inputs(inputs.tensors, self.contract)
                check_reference(inputs.reference, self.contract)
            except (Invalid, OSError, MemoryError) as error:
                value["refused"][str(position)] = _reason(error)
                continue
            kept.append(inputs)
            if inputs.review:
                value["review"][str(position)] = list(inputs.review)
            if inputs.notes:
                value["notes"][str(position)] = list(inputs.notes)
        if kept:
            arrays = {
                t.name: np.stack([inputs.tensors[t.name] for inputs in kept])
                for t in self.contract.inputs
            } | stacked([inputs.reference for inputs in kept])
            write_whole(self.tensor_file(number), save(arrays))
        write_whole(self.outcome_file(number), canonical(value))
        began.unlink(missing_ok=True)

    def give_up(self, number: int) -> None:
        """Leave a piece out that ends every process that reads it."""
        refused = {str(position): CRASHED for position in self.positions(number)}
        write_whole(
            self.outcome_file(number), canonical({"refused": refused, "review": {}, "notes": {}})
        )

    def outcome(self) -> Outcome:
        """What came of all pieces."""
        merged: dict[str, dict[int, Any]] = {"refused": {}, "review": {}, "notes": {}}
        for number in range(len(self)):
            value = json.loads(self.outcome_file(number).read_bytes())
            for name, of in merged.items():
                of.update({int(position): found for position, found in value[name].items()})
        refused = merged["refused"]
        kept = tuple(n for n in range(len(self.source.cases)) if n not in refused)
        return Outcome(
            kept,
            refused,
            {position: tuple(found) for position, found in merged["review"].items()},
            {position: tuple(found) for position, found in merged["notes"].items()},
        )

    def rows(self, kept: Sequence[int]) -> dict[str, NDArray[Any]]:
        """The tensors of the cases at `kept`, which is in order, one a row."""
        rows: dict[str, NDArray[Any]] = {}
        first = 0
        for number, of_piece in groupby(kept, lambda position: position // self.size):
            refused = json.loads(self.outcome_file(number).read_bytes())["refused"]
            present = [p for p in self.positions(number) if str(p) not in refused]
            wanted = np.isin(present, list(of_piece))
            last = first + int(wanted.sum())
            for name, array in load_file(self.tensor_file(number)).items():
                if name not in rows:
                    rows[name] = np.empty((len(kept), *array.shape[1:]), array.dtype)
                rows[name][first:last] = array[wanted]
            first = last
        return rows


def read_pieces(
    source: Source, contract: Contract, folder: Path, progress: Progress, workers: int | None = None
) -> Pieces:
    """Read what has not been read yet."""
    pieces = Pieces(source, contract, folder)
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [number for number in range(len(pieces)) if not pieces.done(number)]
    if not source.decodes:
        for number in waiting:
            pieces.read(number, progress)
        return pieces
    at_once = max(1, min(workers or cores(), len(waiting)))
    suspects = [number for number in waiting if (folder / f"{number:07d}.began").exists()]
    calm = [number for number in waiting if number not in set(suspects)]
    finished = len(pieces) - len(waiting)
    while calm:
        before = finished
        for _ in _run(pieces, calm, at_once):
            finished += 1
            progress(finished, len(pieces))
        suspects += [n for n in calm if not pieces.done(n)
                     and (folder / f"{n:07d}.began").exists()]  # fmt: skip
        calm = [n for n in calm if not pieces.done(n) and n not in set(suspects)]
        if finished == before and not suspects:
            raise Unavailable("no process can be started to read the files; free some memory")
    for number in suspects:
        for _ in _run(pieces, [number], 1):
            pass
        if not pieces.done(number):
            pieces.give_up(number)
        (folder / f"{number:07d}.began").unlink(missing_ok=True)
        finished += 1
        progress(finished, len(pieces))
    return pieces


def _reason(error: Exception) -> str:
    if isinstance(error, Invalid):
        return str(error)
    return "a file can't be opened" if isinstance(error, OSError) else CRASHED


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that has its name only when it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)


_PIECES: Pieces | None = None
"""The pieces that a reading process works on."""


def _run(pieces: Pieces, numbers: Sequence[int], workers: int) -> Iterator[int]:
    """Read pieces in processes of their own; stops early when one of them ends its process."""
    with reading_processes(workers, _begin, pieces) as pool:
        futures = [pool.submit(_read_one, number) for number in numbers]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            return


def _begin(pieces: Pieces) -> None:
    global _PIECES
    _PIECES = pieces


def _read_one(number: int) -> int:
    assert _PIECES is not None
    _PIECES.read(number)
    return number
