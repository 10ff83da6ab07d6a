"""A hospital's copy of the log's tree, which comes with the status: hashes, and a signed state.

    >>> bring_log(read, state / "log", root, now)      # only tiles that are new are asked for

Rules
-----
1. The state of the log is believed because the log's key signed it, under the pinned root. Each
   tile is held against that state, or against the tile above it, before it is kept.
2. A log that is shorter than the copy changes nothing here: whether two states are of one log is
   asked by `verify`, which has both.
3. The state comes after its tiles: whoever reads it finds those that it needs. Then the partial
   tiles of the state before go: a wider one serves as well.
"""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cryptography import x509

from registry.trust.checkpoint import parse
from registry.trust.errors import Invalid, Tampered
from registry.trust.keys import parse_certificate
from registry.trust.log_key import verified_checkpoint
from registry.trust.merkle import Tree
from registry.trust.tiles import (
    CERTIFICATE,
    CHECKPOINT,
    HASH_BYTES,
    LEVELS_A_TILE,
    TILE,
    TiledTree,
    read_checkpoint,
    tile_path,
)
from serving.bundle.memory import write_whole

Reader = Callable[[str], bytes | None]
FOLDER = "log/"
"""Where the log lies beside a status."""
MOST_EVENTS = 1 << 28


def bring_log(read: Reader, folder: Path, root: x509.Certificate, at: dt.datetime) -> None:
    """Bring the copy in `folder` up to what `read` knows; nothing where it knows no log.

    Raises Tampered (log_malformed), Refused (other_root, checkpoint_forged, ...), Unavailable.
    """
    note, certificate = read(FOLDER + CHECKPOINT), read(FOLDER + CERTIFICATE)
    if note is None or certificate is None:
        return
    try:
        head = verified_checkpoint(note, parse_certificate(certificate), root, at)
        known = read_checkpoint(folder)
        if known is not None and parse(known)[0].size >= head.size:
            return
    except (Invalid, ValueError) as error:
        raise _malformed("its state does not parse") from error
    if head.size > MOST_EVENTS:
        raise _malformed(f"it claims {head.size} events")
    edges = {edge[:2]: _read(read, *edge) for edge in _edges(head.size)}
    if _Edges(edges, head.size).root() != head.root:
        raise _malformed("its tree does not have the root that was signed")
    for level, number, width in _edges(head.size):
        _keep(folder, edges[level, number], level, number, width)
    tree = TiledTree(folder, head.size)
    for level, number in _whole(head.size):
        if not (folder / tile_path(level, number)).is_file():
            data = _read(read, level, number, TILE)
            if _root(data) != tree.subtree(LEVELS_A_TILE * (level + 1), number):
                raise _malformed(f"{tile_path(level, number)} is not a tile of this log")
            _keep(folder, data, level, number, TILE)
    write_whole(folder / CERTIFICATE, certificate)
    write_whole(folder / CHECKPOINT, note)
    _tidy(folder, 0 if known is None else parse(known)[0].size, head.size)


def tile_names(size: int) -> list[str]:
    """Every tile of a log of `size` events."""
    return [tile_path(*edge) for edge in _edges(size)] + [tile_path(*one) for one in _whole(size)]


class _Edges(TiledTree):
    """The right edge of a tree, which is all that its root needs."""

    def __init__(self, edges: Mapping[tuple[int, int], bytes], size: int) -> None:
        super().__init__(Path(), size)
        self._edges = edges

    def _read_tile(self, level: int, number: int, least: int) -> bytes:
        return self._edges[level, number]


def _entries(size: int) -> list[int]:
    """How many entries each level of tiles has, from the leaves up."""
    entries: list[int] = []
    while (number := size >> (LEVELS_A_TILE * len(entries))) > 0:
        entries.append(number)
    return entries


def _edges(size: int) -> list[tuple[int, int, int]]:
    """(level, number, width) of each partial tile."""
    found = [(level, *divmod(number, TILE)) for level, number in enumerate(_entries(size))]
    return [edge for edge in found if edge[2]]


def _whole(size: int) -> Iterator[tuple[int, int]]:
    """(level, number) of each full tile, the top first, so that each has one above it."""
    for level, number in reversed(list(enumerate(_entries(size)))):
        yield from ((level, one) for one in range(number // TILE))


def _read(read: Reader, level: int, number: int, width: int) -> bytes:
    name = tile_path(level, number, width)
    data = read(FOLDER + name)
    if data is None or len(data) != width * HASH_BYTES:
        raise _malformed(f"{name} is missing, or of another size")
    return data


def _root(data: bytes) -> bytes:
    hashes = (data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))
    return Tree(hashes).root()


def _keep(folder: Path, data: bytes, level: int, number: int, width: int) -> None:
    path = folder / tile_path(level, number, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def _tidy(folder: Path, before: int, size: int) -> None:
    """Drop the partial tiles that a wider one stands for now."""
    kept = {folder / tile_path(*edge) for edge in _edges(size)}
    for partial in {
        (folder / tile_path(*edge)).parent for edge in (*_edges(before), *_edges(size))
    }:
        for path in list(partial.iterdir()) if partial.is_dir() else ():
            if path not in kept:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            partial.rmdir()


def _malformed(why: str) -> Tampered:
    return Tampered(
        f"the log that came with the status can't be used: {why}; fetch it again, and tell the "
        "facility if it happens twice",
        code="log_malformed",
    )
