"""The log as files proves what the tree itself proves, and nothing where a tile is missing."""

from pathlib import Path

import pytest

from registry.trust.errors import Unavailable
from registry.trust.merkle import Tree, extends, leaf_hash
from registry.trust.tiles import TiledTree, read_checkpoint, tile_path
from tests.registry.tiles_written import write_tiles


def grown(size: int) -> Tree:
    return Tree(leaf_hash(str(number).encode()) for number in range(size))


def test_paths_are_those_of_c2sp() -> None:
    """Examples of the specification, tlog-tiles: tile index encoding."""
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(2, 1000, 17) == "tile/2/x001/000.p/17"


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000])
def test_every_proof_is_the_trees_own(tmp_path: Path, size: int) -> None:
    tree = grown(size)
    write_tiles(tree, size, tmp_path, b"note")
    tiled = TiledTree(tmp_path, size)
    assert tiled.root() == tree.root()
    for first in {0, 1, size // 3, size // 2, 255, 256, size - 1, size}:
        if 0 <= first <= size:
            path = tiled.consistency_path(first)
            assert path == tree.consistency_path(first)
            assert extends(first, tree.root(first), size, tree.root(), path)
    assert tiled.inclusion_path(size // 2) == tree.inclusion_path(size // 2)
    assert read_checkpoint(tmp_path) == b"note"


def test_a_log_that_grew_writes_what_is_new_and_keeps_one_partial_tile_a_level(
    tmp_path: Path,
) -> None:
    tree = grown(1000)
    assert write_tiles(tree, 300, tmp_path, b"a") == 3  # one full, one partial, one above
    assert write_tiles(tree, 300, tmp_path, b"a") == 0
    assert write_tiles(tree, 1000, tmp_path, b"b") == 4
    found = sorted(path.relative_to(tmp_path).as_posix()
                   for path in tmp_path.rglob("*") if path.is_file())  # fmt: skip
    assert found == ["checkpoint", "tile/0/000", "tile/0/001", "tile/0/002", "tile/0/003.p/232",
                     "tile/1/000.p/3"]  # fmt: skip
    assert TiledTree(tmp_path, 700).root() == tree.root(700), "wider tiles serve smaller sizes"


def test_a_missing_tile_proves_nothing(tmp_path: Path) -> None:
    tree = grown(600)
    write_tiles(tree, 600, tmp_path, b"a")
    (tmp_path / "tile/0/001").unlink()
    (tmp_path / "tile/0/002.p/88").write_bytes(b"short")
    for first in (300, 550):
        with pytest.raises(Unavailable) as raised:
            TiledTree(tmp_path, 600).consistency_path(first)
        assert raised.value.code == "log_unproven"


def test_a_forged_tile_proves_nothing(tmp_path: Path) -> None:
    tree = grown(600)
    write_tiles(tree, 600, tmp_path, b"a")
    data = bytearray((tmp_path / "tile/0/001").read_bytes())
    data[0] ^= 1
    (tmp_path / "tile/0/001").write_bytes(data)
    path = TiledTree(tmp_path, 600).consistency_path(257)
    assert not extends(257, tree.root(257), 600, tree.root(), path)


def test_what_is_handed_out_is_cut_of_the_whole_level() -> None:
    tree = grown(600)
    for level in (0, 3, 8, 9, 30):
        whole = tree.hashes(level)
        for first, end in ((0, 256), (256, 512), (512, 600), (2, 2), (590, 900)):
            assert tree.hashes(level, first, end) == whole[first * 32 : end * 32]
