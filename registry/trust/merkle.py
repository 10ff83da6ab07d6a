"""The Merkle tree hash of RFC 9162 (section 2.1), which it shares with RFC 6962.

    >>> root([b"a", b"b"]) == node_hash(leaf_hash(b"a"), leaf_hash(b"b"))
    True
    >>> tree = Tree(map(leaf_hash, leaves))        # for many proofs of one tree, at any size
    >>> extends(3, tree.root(3), 7, tree.root(7), tree.consistency_path(3, 7))
    True

Rules
-----
1. A leaf is hashed with the prefix 0x00 and an inner node with 0x01, so that neither can be
   passed off as the other.
2. The tree of n leaves splits at the largest power of two below n; order matters.
3. Checking a proof never needs the other leaves.
4. A proof is exactly what is needed: one hash too many or too few, or one that is not 32 bytes,
   and it proves nothing.

Cost: `Tree` keeps two hashes a leaf (64 bytes). Adding a leaf is one hash on average; a root or
a proof of n leaves is at most log2(n)^2 / 2 hashes (150 for a million).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()
_HASH_BYTES = 32


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
    if not 0 <= index < size or not _are_hashes(path):
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


def extends(
    first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether `path` proves that the tree of `second` leaves begins with the tree of `first`.

    RFC 9162, 2.1.4.2. Every tree begins with the empty one, and with itself, by an empty path.
    """
    if not 0 <= first <= second or not _are_hashes([first_root, second_root, *path]):
        return False
    if first == second:
        return not path and first_root == second_root
    if first == 0:
        return not path and first_root == EMPTY_ROOT
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not hashes:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(isinstance(value, bytes) and len(value) == _HASH_BYTES for value in values)


class Proofs(ABC):
    """Roots and proofs at any size, of whoever has the hashes of complete subtrees."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many leaves there are."""

    @abstractmethod
    def subtree(self, level: int, index: int) -> bytes:
        """The hash of leaves `index` * 2^`level` up to the next such, all of which are there."""

    def root(self, size: int | None = None) -> bytes:
        """The tree hash of the first `size` leaves; of all, if left out."""
        return self._range(0, self._checked(size))

    def inclusion_path(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of leaf `index` in the tree of the first `size` leaves."""
        size = self._checked(size)
        if not 0 <= index < size:
            raise IndexError(f"no leaf {index} in a tree of {size}")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency_path(self, first: int, second: int | None = None) -> list[bytes]:
        """The proof that the first `second` leaves begin with the first `first` (2.1.4.1)."""
        second = self._checked(second)
        if not 0 <= first <= second:
            raise IndexError(f"a tree of {second} leaves does not begin with one of {first}")
        if first in (0, second):
            return []
        path: list[bytes] = []
        start, end, whole = 0, second, True
        while first != end:
            middle = start + _split(end - start)
            if first <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start, whole = middle, False
        return path[::-1] if whole else [self._range(start, end), *path[::-1]]

    def _checked(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise IndexError(f"the tree has {self.size} leaves, not {size}")
        return size

    def _range(self, start: int, end: int) -> bytes:
        """The hash of the leaves from `start` to `end`, a subtree that the tree itself has."""
        if start == end:
            return EMPTY_ROOT
        width = end - start
        if width & (width - 1) == 0:
            return self.subtree(width.bit_length() - 1, start // width)
        middle = start + _split(width)
        return node_hash(self._range(start, middle), self._range(middle, end))


class Tree(Proofs):
    """A tree that grows at its right edge and proves things about itself at any earlier size."""

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        # _levels[k] joins the hashes of leaves i·2^k to (i+1)·2^k - 1, complete subtrees only.
        self._levels = [bytearray()]
        for value in leaf_hashes:
            self.append(value)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0]) // _HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """One more leaf, by its hash (`leaf_hash`)."""
        if len(leaf) != _HASH_BYTES:
            raise ValueError("a leaf is appended by its hash")
        self._levels[0] += leaf
        for level in range(len(self._levels)):
            hashes = self._levels[level]
            if len(hashes) % (2 * _HASH_BYTES):
                return
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            last_two = hashes[-2 * _HASH_BYTES :]
            self._levels[level + 1] += hashlib.sha256(b"\x01" + last_two).digest()

    def subtree(self, level: int, index: int) -> bytes:
        """See `Proofs.subtree`."""
        at = index * _HASH_BYTES
        return bytes(self._levels[level][at : at + _HASH_BYTES])

    def hashes(self, level: int, first: int = 0, end: int | None = None) -> bytes:
        """The hashes of complete subtrees of 2^`level` leaves, one after the other: from `first` up
        to `end`, or of all that there are."""
        if level >= len(self._levels):
            return b""
        last = None if end is None else end * _HASH_BYTES
        return bytes(self._levels[level][first * _HASH_BYTES : last])


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1
