"""A log's tree written as the folder of tiles that a hospital holds."""

import contextlib
from pathlib import Path

from registry.trust.merkle import Tree
from registry.trust.tiles import CHECKPOINT, HASH_BYTES, LEVELS_A_TILE, TILE, tile_path


def write_tiles(tree: Tree, size: int, folder: Path, note: bytes) -> int:
    """Write what is missing of the first `size` leaves' tiles, then the note; returns how many
    tiles were written."""
    written, level = 0, 0
    while (entries := size >> (LEVELS_A_TILE * level)) > 0:
        data = tree.hashes(LEVELS_A_TILE * level)[: entries * HASH_BYTES]
        for number in range(-(-entries // TILE)):
            part = data[number * TILE * HASH_BYTES : (number + 1) * TILE * HASH_BYTES]
            width = len(part) // HASH_BYTES
            path = folder / tile_path(level, number, width)
            if not path.exists():
                _put(path, part)
                written += 1
            _drop_narrower(folder / f"{tile_path(level, number)}.p", width)
        level += 1
    _put(folder / CHECKPOINT, note)
    return written


def _drop_narrower(partial: Path, width: int) -> None:
    if not partial.is_dir():
        return
    for path in partial.iterdir():
        if path.name != str(width):
            path.unlink()
    with contextlib.suppress(OSError):
        partial.rmdir()


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
