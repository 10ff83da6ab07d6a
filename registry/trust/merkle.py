"""The Merkle tree hash of RFC 9162 (section 2.1), which it shares with RFC 6962.

    >>> root([b"a", b"b"]) == node_hash(leaf_hash(b"a"), leaf_hash(b"b"))
    True

Rules
-----
1. A leaf is hashed with the prefix 0x00 and an inner node with 0x01, so that neither can be
   passed off as the other.
2. The tree of n leaves splits at the largest power of two below n; order matters.
3. Checking a proof never needs the other leaves.
"""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf's bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Iterable[bytes]) -> bytes:
    """The tree hash of the leaves' bytes, in their order; 32 bytes.

    Folds subtrees of equal size as they fill, so it holds log2(n) hashes and no list of leaves.
    """
    stack: list[tuple[int, bytes]] = []
    for data in leaves:
        size, subtree = 1, leaf_hash(data)
        while stack and stack[-1][0] == size:
            _, left = stack.pop()
            size, subtree = 2 * size, node_hash(left, subtree)
        stack.append((size, subtree))
    if not stack:
        return EMPTY_ROOT
    _, tree = stack.pop()
    while stack:
        tree = node_hash(stack.pop()[1], tree)
    return tree


def inclusion_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """The audit path of leaf `index`, from the leaf's sibling up (RFC 9162, 2.1.3.1)."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*inclusion_path(index, leaves[:split]), root(leaves[split:])]
    return [*inclusion_path(index - split, leaves[split:]), root(leaves[:split])]


def includes(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes
) -> bool:
    """Whether `path` proves that leaf `index` of a tree of `size` is `leaf` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, tree = index, size - 1, leaf_hash(leaf)
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            tree = node_hash(sibling, tree)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            tree = node_hash(tree, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and tree == expected_root
