"""Rows of staged inputs, gathered out of the blocks straight into a shard.

Rules
-----
1. Large rows are read alone, small ones with their whole block, which is no more than a few MB.
2. A block that is missing, cut or of another form is named: Invalid.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.cohort.ingest import Staged
from validators.cohort.tensors import Placed, rows_of, tensors_in, view_of

_ALONE = 1 << 12
"""Bytes from which a row is read alone."""
_HEAD = 1 << 16


def gather(folder: Staged, rows: NDArray[np.int64], into: Mapping[str, NDArray[Any]]) -> None:
    """Fill `into`, row by row, with the inputs of these staged rows."""
    numbers, within = rows // folder.block_size, rows % folder.block_size
    for number in np.unique(numbers):
        places = np.flatnonzero(numbers == number)
        with _reading(folder.block(int(number))) as block:
            placed = {tensor.name: tensor for tensor in _tensors_in(block)}
            if set(placed) != set(into):
                raise ValueError("it has other tensors")
            for name, array in into.items():
                _read(block, placed[name], within[places], places, array)


def _read(
    block: BinaryIO, tensor: Placed, rows: NDArray[np.int64], places: NDArray[np.int64],
    into: NDArray[Any],
) -> None:  # fmt: skip
    if (tensor.dtype, tensor.shape[1:]) != (str(into.dtype), into.shape[1:]):
        raise ValueError("it has another form")
    if tensor.shape[0] <= int(rows.max()):
        raise ValueError("it has too few rows")
    size = tensor.nbytes // tensor.shape[0]
    if size < _ALONE:
        block.seek(tensor.start)
        data = block.read(tensor.nbytes)
        whole = Placed(tensor.name, tensor.dtype, tensor.shape)
        into[places] = view_of(data, whole)[rows]
        return
    flat = rows_of(into)
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        block.seek(tensor.start + row * size)
        if block.readinto(flat[place * size : (place + 1) * size]) != size:  # type: ignore[attr-defined]
            raise ValueError("it is cut")


def _tensors_in(block: BinaryIO) -> list[Placed]:
    head = block.read(_HEAD)
    more = 8 + int.from_bytes(head[:8], "little") - len(head)
    if more > 0:
        head += block.read(min(more, 100_000_000))
    return tensors_in(head)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb", buffering=0) as block:
            yield block
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{path} is missing or damaged; run `touchstone cohort ingest` again"
        ) from error
