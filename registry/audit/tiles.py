"""The log's tree as files that anybody may copy: beside the status, on a web server or a stick.

    >>> published(facility, tree, "checkpoint")       # the newest state that was signed
    >>> published(facility, tree, "tile/0/000.p/17")

Rules
-----
1. Hashes only (`registry.trust.tiles`): no event leaves with them. What is handed out is of the
   newest checkpoint in the store; asking makes none.
2. A full tile is written once and never again. The last, partial one gets another name as it grows;
   earlier ones go when it does, so that a folder holds one a level.
3. The checkpoint is written last: who reads it finds the tiles that it needs.
"""

import contextlib
import os
import secrets
from pathlib import Path

from registry.audit.checkpoints import latest_note
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.facility import Facility
from registry.trust.checkpoint import parse
from registry.trust.errors import NotFound
from registry.trust.keys import pem_of
from registry.trust.merkle import Tree
from registry.trust.tiles import (
    CERTIFICATE,
    CHECKPOINT,
    HASH_BYTES,
    LEVELS_A_TILE,
    TILE,
    parse_tile_path,
    tile_path,
)


def published(facility: Facility, known: KnownTree, name: str) -> bytes:
    """One file of the log, as anybody may have it; NotFound where it is none."""
    if name == CERTIFICATE:
        return pem_of(log_key(facility).certificate)
    note = latest_note(facility)
    if note is None:
        raise NotFound("the log has no checkpoint yet")
    if name == CHECKPOINT:
        return note
    level, number, width = parse_tile_path(name)
    head = parse(note)[0]
    if number * TILE + width > head.size >> (LEVELS_A_TILE * level):
        raise NotFound(f"the log of {head.size} events has no {name}")
    hashes = known.at(head.size, head.root).hashes(LEVELS_A_TILE * level)
    return hashes[number * TILE * HASH_BYTES :][: width * HASH_BYTES]


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
                _write(path, part)
                written += 1
            _drop_narrower(folder / f"{tile_path(level, number)}.p", width)
        level += 1
    _write(folder / CHECKPOINT, note)
    return written


def _drop_narrower(partial: Path, width: int) -> None:
    if not partial.is_dir():
        return
    for path in partial.iterdir():
        if path.name != str(width):
            path.unlink()
    with contextlib.suppress(OSError):
        partial.rmdir()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        half.write_bytes(data)
        os.replace(half, path)  # noqa: PTH105
    finally:
        half.unlink(missing_ok=True)
