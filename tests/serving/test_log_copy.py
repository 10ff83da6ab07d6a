"""The log's tree comes to a hospital whole and as it was signed, or what was there stays."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.trust.errors import TouchstoneError
from registry.trust.keys import pem_of
from registry.trust.merkle import Tree, extends, leaf_hash
from registry.trust.tiles import TiledTree, read_checkpoint
from serving.bundle.log_copy import bring_log, tile_names
from serving.bundle.status_copy import export_log, folder_reader
from tests.registry.tiles_written import write_tiles
from tests.serving import certified
from tests.serving.certified import NOW, Facility

SIZES = (1, 255, 256, 300, 65_536, 65_700)


@pytest.fixture(scope="module")
def tef() -> Facility:
    return certified.facility()


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(leaf_hash(str(number).encode()) for number in range(SIZES[-1]))


def published(tef: Facility, tree: Tree, size: int, folder: Path) -> Path:
    """A folder as a web server has it."""
    short = Tree(tree.hashes(0, at, at + 1) for at in range(size))
    write_tiles(short, size, folder / "log", certified.state_of(tef.log, short))
    (folder / "log" / "certificate.pem").write_bytes(pem_of(tef.log.certificate))
    return folder


def test_a_copy_grows_with_the_log_and_proves_what_the_log_proves(
    tef: Facility, tree: Tree, tmp_path: Path
) -> None:
    copy, asked = tmp_path / "copy", []

    def reading(folder: Path) -> Callable[[str], bytes | None]:
        read = folder_reader(folder)
        return lambda name: (asked.append(name), read(name))[1]  # type: ignore[func-returns-value]

    for size in SIZES:
        here = published(tef, tree, size, tmp_path / str(size))
        bring_log(reading(here), copy, tef.root.certificate, NOW)
        tiled = TiledTree(copy, size)
        assert tiled.root() == tree.root(size)
        partial = [path for path in copy.rglob("*") if path.parent.suffix == ".p"]
        assert sorted(partial) == sorted(
            copy / name for name in tile_names(size) if ".p/" in name
        ), "those of the state before are gone"
        assert {path.parent for path in partial} == set(copy.rglob("*.p"))
        for first in {one for one in SIZES if one < size}:
            path = tiled.consistency_path(first, size)
            assert extends(first, tree.root(first), size, tree.root(size), path)
    whole = [name for name in asked if "/tile/" in name and ".p/" not in name]
    assert len(whole) == len(set(whole)) == 256 + 1, "a full tile is fetched once"
    before = read_checkpoint(copy)
    bring_log(folder_reader(tmp_path / "300"), copy, tef.root.certificate, NOW)
    assert read_checkpoint(copy) == before, "a shorter one changes nothing"
    stick = tmp_path / "stick"
    assert export_log(folder_reader(tmp_path / "300"), stick) == 5
    bring_log(folder_reader(stick), tmp_path / "other", tef.root.certificate, NOW)
    assert TiledTree(tmp_path / "other", 300).root() == tree.root(300)


@pytest.mark.parametrize(
    ("name", "code"),
    [("checkpoint", "checkpoint_forged"), ("tile/0/000", "log_malformed"),
     ("tile/0/001.p/44", "log_malformed"), ("tile/1/000.p/1", "log_malformed")],
)  # fmt: skip
def test_what_was_changed_on_the_way_is_not_kept_and_does_no_lasting_harm(
    tef: Facility, tree: Tree, tmp_path: Path, name: str, code: str
) -> None:
    here = published(tef, tree, 300, tmp_path / "here")
    path, copy = here / "log" / name, tmp_path / "copy"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[-4] = ord("A") if bad[-4] != ord("A") else ord("B")  # Base64 stays Base64
    for data in (bytes(bad), None):
        path.write_bytes(data) if data else path.unlink()
        if name == "checkpoint" and data is None:
            bring_log(folder_reader(here), copy, tef.root.certificate, NOW)
        else:
            with pytest.raises(TouchstoneError) as caught:
                bring_log(folder_reader(here), copy, tef.root.certificate, NOW)
            assert data is None or caught.value.code == code
        assert read_checkpoint(copy) is None
    path.write_bytes(good)
    bring_log(folder_reader(here), copy, tef.root.certificate, NOW)
    assert TiledTree(copy, 300).root() == tree.root(300)


def test_the_log_of_another_root_is_refused(tef: Facility, tree: Tree, tmp_path: Path) -> None:
    other = certified.facility().root.certificate
    with pytest.raises(TouchstoneError) as caught:
        bring_log(folder_reader(published(tef, tree, 5, tmp_path)), tmp_path / "c", other, NOW)
    assert caught.value.code == "other_root"
    late = NOW + dt.timedelta(days=10_000)
    with pytest.raises(TouchstoneError):
        bring_log(folder_reader(tmp_path), tmp_path / "c", tef.root.certificate, late)
