"""The log's tree as plain files, in the layout of C2SP tlog-tiles: hashes only.

    >>> tree = TiledTree(Path("status/log"), size=1234)
    >>> extends(7, root_of_7, 1234, root_of_1234, tree.consistency_path(7))

    checkpoint              the newest state that was signed
    certificate.pem         the certificate of the key that signed it, under the facility's root
    tile/0/x001/067         256 hashes of leaves, 256,000 + 17,152 on
    tile/0/x001/068.p/12    the last tile, 12 hashes wide so far
    tile/1/000              256 hashes of subtrees of 256 leaves, and so on up

Rules
-----
1. Nothing in the files is believed: what they prove is held against signed roots.
2. A tile that is missing proves nothing, and that is said (log_unproven). A wider tile than is
   needed serves as well.
3. Leaves are hashes. What an event says is in nobody's hands but the facility's and its subject's.
"""

import re
from functools import lru_cache
from pathlib import Path

from registry.trust.checkpoint import LONGEST
from registry.trust.errors import NotFound, Unavailable
from registry.trust.merkle import Proofs, node_hash

HASH_BYTES = 32
TILE = 256
LEVELS_A_TILE = 8
CHECKPOINT = "checkpoint"
CERTIFICATE = "certificate.pem"
_TILE = re.compile(r"tile/([0-7])/((?:x[0-9]{3}/){0,5})([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z")


def tile_path(level: int, number: int, width: int = TILE) -> str:
    """The path of a tile from the folder on: `tile/0/x001/234`, or `tile/0/x001/234.p/7`."""
    digits = f"{number:03d}"
    digits = digits.zfill((len(digits) + 2) // 3 * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{name}" + ("" if width == TILE else f".p/{width}")


def parse_tile_path(path: str) -> tuple[int, int, int]:
    """(level, number, width) of a tile; NotFound where the path is not the one of any."""
    found = _TILE.match(path)
    if found is not None:
        level, width = int(found[1]), int(found[4] or TILE)
        number = int(found[2].replace("x", "").replace("/", "") + found[3])
        if width <= TILE and tile_path(level, number, width) == path:
            return level, number, width
    raise NotFound(f"{path[:60]!a} is no file of the log")


def read_checkpoint(folder: Path) -> bytes | None:
    """The newest signed state in the folder, unverified; None where there is none."""
    return _read(folder / CHECKPOINT, LONGEST)


class TiledTree(Proofs):
    """The tree of `size` leaves whose hashes lie in `folder`."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._tile = lru_cache(maxsize=64)(self._read_tile)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    def subtree(self, level: int, index: int) -> bytes:
        """See `Proofs.subtree`; Unavailable (log_unproven) where a tile is missing."""
        above = level % LEVELS_A_TILE
        start = index << above
        number, offset = divmod(start, TILE)
        end = offset + (1 << above)
        data = self._tile(level // LEVELS_A_TILE, number, end)
        hashes = [data[at : at + HASH_BYTES]
                  for at in range(offset * HASH_BYTES, end * HASH_BYTES, HASH_BYTES)]  # fmt: skip
        while len(hashes) > 1:
            hashes = [node_hash(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    def _read_tile(self, level: int, number: int, least: int) -> bytes:
        """At least the first `least` hashes of a tile."""
        whole = self._folder / tile_path(level, number)
        data = _read(whole, TILE * HASH_BYTES)
        if data is not None and len(data) == TILE * HASH_BYTES:
            return data
        partial = whole.with_name(whole.name + ".p")
        for width in range(least, TILE):
            data = _read(partial / str(width), TILE * HASH_BYTES)
            if data is not None and len(data) == width * HASH_BYTES:
                return data
        raise Unavailable(
            f"{tile_path(level, number)} is not in the folder of the log: fetch a newer status, "
            "whole",
            code="log_unproven",
        )


def _read(path: Path, most: int) -> bytes | None:
    """The bytes of a regular file that is not larger than `most`."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError:
        return None
    return data if len(data) <= most else None
