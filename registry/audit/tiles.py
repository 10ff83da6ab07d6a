"""The log's tree as files that anybody may copy: beside the status, on a web server or a stick.

    >>> published(facility, tree, "checkpoint")       # the newest state that was signed, co-signed
    >>> published(facility, tree, "tile/0/000.p/17")

Rules
-----
1. Hashes only (`registry.trust.tiles`): no event leaves with them.
2. What is handed out is of the newest checkpoint in the store; asking makes none.
"""

from registry.audit.checkpoints import latest_note
from registry.audit.cosignatures import with_cosignatures
from registry.audit.log_key import log_key
from registry.audit.tree import KnownTree
from registry.facility import Facility
from registry.trust.checkpoint import parse
from registry.trust.errors import NotFound
from registry.trust.keys import pem_of
from registry.trust.tiles import (
    CERTIFICATE,
    CHECKPOINT,
    LEVELS_A_TILE,
    TILE,
    parse_tile_path,
)


def published(facility: Facility, known: KnownTree, name: str) -> bytes:
    """One file of the log, as anybody may have it; NotFound where it is none."""
    if name == CERTIFICATE:
        return pem_of(log_key(facility).certificate)
    note = latest_note(facility)
    if note is None:
        raise NotFound("the log has no checkpoint yet")
    if name == CHECKPOINT:
        return with_cosignatures(facility, note)
    level, number, width = parse_tile_path(name)
    head = parse(note)[0]
    if number * TILE + width > head.size >> (LEVELS_A_TILE * level):
        raise NotFound(f"the log of {head.size} events has no {name}")
    tree, first = known.at(head.size, head.root), number * TILE
    return tree.hashes(LEVELS_A_TILE * level, first, first + width)
