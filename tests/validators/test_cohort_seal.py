"""Sealing: what the root binds, what a second run gives, and what the sealed form hides."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from registry.storage.local import LocalStore
from registry.trust.errors import Conflict, Invalid, NotFound
from tests.validators.cohort_example import CONTRACT, SHARD, Sealed, few_scans, sealed_example
from validators.cohort.key_store import create_keys, open_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import manifest_bytes, parse_manifest, root_of
from validators.cohort.seal import seal
from validators.cohort.stream import read_reference, stream
from validators.cohort.verify import verify


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed_example(tmp_path_factory.mktemp("sealed"))


def test_what_was_sealed_can_be_read_back_and_is_what_was_staged(sealed: Sealed) -> None:
    table = read_reference(sealed.manifest, sealed.store, sealed.keys.reference())
    staged = sealed.staged.table()
    assert table.column_names == staged.column_names
    for column in ("reference", "slice_thickness", "contrast_used", "collection_phase"):
        assert sorted(table[column].to_pylist()) == sorted(staged[column].to_pylist())
    assert len(set(table["patient"].to_pylist())) == len(set(staged["patient"].to_pylist()))
    shards = list(stream(sealed.manifest, sealed.store, sealed.keys.inputs()))
    assert len(shards) > 2
    assert [case for shard in shards for case in shard.cases] == table["case"].to_pylist()
    staged_inputs = load_file(sealed.staged.block(0))
    for name, array in staged_inputs.items():
        read = np.concatenate([shard.inputs[name] for shard in shards])
        assert sorted(row.tobytes() for row in read) == sorted(row.tobytes() for row in array)


def test_reference_and_inputs_of_a_case_stay_together(sealed: Sealed) -> None:
    """Told by the images: each is unique, and has its own reference standard in the staging."""
    staged = sealed.staged.table()["reference"].to_pylist()
    images = load_file(sealed.staged.block(0))["image"]
    expected = {image.tobytes(): reference for image, reference in zip(images, staged, strict=True)}
    table = read_reference(sealed.manifest, sealed.store, sealed.keys.reference())
    reference = dict(zip(table["case"].to_pylist(), table["reference"].to_pylist(), strict=True))
    for shard in stream(sealed.manifest, sealed.store, sealed.keys.inputs()):
        for case, image in zip(shard.cases, shard.inputs["image"], strict=True):
            assert expected[image.tobytes()] == reference[case]


def test_the_manifest_survives_its_own_bytes_and_verifies(sealed: Sealed) -> None:
    manifest = parse_manifest(manifest_bytes(sealed.manifest))
    assert manifest == sealed.manifest
    verify(manifest, sealed.store, None)
    verify(manifest, sealed.store, open_keys(sealed.folder / "keys", manifest))


def test_counts_are_those_of_the_staged_table(sealed: Sealed) -> None:
    table = sealed.staged.table()
    counts = sealed.manifest.counts
    assert counts.cases == len(table) == counts.positives + counts.negatives
    assert counts.positives == sum(table["reference"].to_pylist())
    for attribute, groups in sealed.manifest.attributes.items():
        column = table[attribute].to_pylist()
        assert {group: found.cases for group, found in groups.items()} == {
            value: column.count(value) for value in set(column)
        }


def test_sealing_again_gives_the_same_bytes_in_the_same_store(sealed: Sealed) -> None:
    again = seal(
        sealed.folder / "staged",
        sealed.store,
        cohort_id="nodules",
        version="1",
        keys=create_keys(sealed.folder / "keys", "nodules", "1"),
        shard_size=SHARD,
    )
    assert manifest_bytes(again) == manifest_bytes(sealed.manifest)


def test_other_cases_under_the_same_name_do_not_overwrite(sealed: Sealed, tmp_path: Path) -> None:
    changed = _swapped(sealed, tmp_path, "reference", 0, _other(sealed, "reference"))
    with pytest.raises(Conflict):
        seal(changed, sealed.store, cohort_id="nodules", version="1", keys=sealed.keys,
             shard_size=SHARD)  # fmt: skip


@pytest.mark.parametrize(
    "column", ["reference", "patient", "slice_thickness", "contrast_used", "collection_phase"]
)
def test_two_values_exchanged_between_cases_give_another_root(
    sealed: Sealed, tmp_path: Path, column: str
) -> None:
    """Every count stays as it was; only who has which value is different."""
    changed = _swapped(sealed, tmp_path, column, 0, _other(sealed, column))
    again = sealed.again(changed, f"swapped-{column}")
    assert again.counts == sealed.manifest.counts
    assert again.root != sealed.manifest.root


def test_two_images_exchanged_between_cases_give_another_root(
    sealed: Sealed, tmp_path: Path
) -> None:
    folder = shutil.copytree(sealed.staged.path, tmp_path / "staged")
    block = folder / sealed.staged.block(0).name
    arrays = load_file(block)
    arrays["image"][[0, 1]] = arrays["image"][[1, 0]]
    save_file(arrays, block)
    assert sealed.again(folder, "swapped-image").root != sealed.manifest.root


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_root_binds_every_field_of_the_description(sealed: Sealed, data: st.DataObject) -> None:
    description = json.loads(manifest_bytes(sealed.manifest))
    objects = sealed.manifest.objects
    digests = sealed.manifest.case_digests
    for unbound in ("objects", "case_digests", "keys", "root"):
        del description[unbound]
    assert root_of(description, objects, digests) == sealed.manifest.root
    field = data.draw(st.sampled_from(sorted(description)))
    description[field] = "something else"
    assert root_of(description, objects, digests) != sealed.manifest.root


def test_the_root_names_the_content_whatever_the_encryption_keys(
    sealed: Sealed, tmp_path: Path
) -> None:
    """New data keys, the same key for names: other bytes, the same root."""
    fresh = create_keys(tmp_path / "keys", "nodules", "1")
    mixed = CohortKeys("nodules", "1", {
        "inputs": fresh.inputs().secret,
        "reference": fresh.reference().secret,
        "names": sealed.keys.names().secret,
    }, _InTheClear())  # fmt: skip
    again = seal(sealed.staged, LocalStore(tmp_path / "objects"), cohort_id="nodules",
                 version="1", keys=mixed, shard_size=SHARD)  # fmt: skip
    assert again.root == sealed.manifest.root
    assert {o.sha256 for o in again.objects}.isdisjoint(o.sha256 for o in sealed.manifest.objects)


def test_nothing_sealed_shows_an_id_of_the_source(sealed: Sealed) -> None:
    table = sealed.staged.table()
    ids = {*table["case"].to_pylist(), *table["patient"].to_pylist()}
    data = manifest_bytes(sealed.manifest)
    data += b"".join(sealed.store.get(entry.path) for entry in sealed.manifest.objects)
    key = sealed.keys.reference()
    data += str(read_reference(sealed.manifest, sealed.store, key).to_pylist()).encode()
    for shard in stream(sealed.manifest, sealed.store, sealed.keys.inputs()):
        data += str(shard.cases).encode()
    assert b"LIDC-IDRI-" not in data
    assert not [name for name in ids if name.encode() in data]


def test_the_order_of_cases_says_nothing_about_them(sealed: Sealed, tmp_path: Path) -> None:
    """With other keys, the same staging comes in another order."""
    other = create_keys(tmp_path / "keys", "nodules", "1")
    again = seal(sealed.staged, LocalStore(tmp_path / "objects"), cohort_id="nodules",
                 version="1", keys=other, shard_size=SHARD)  # fmt: skip
    first = next(stream(sealed.manifest, sealed.store, sealed.keys.inputs()))
    second = next(stream(again, LocalStore(tmp_path / "objects"), other.inputs()))
    assert first.inputs["image"].tobytes() != second.inputs["image"].tobytes()
    assert again.root != sealed.manifest.root


def test_keys_of_another_cohort_are_refused(sealed: Sealed, tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys", "others", "1")
    with pytest.raises(Conflict, match="others"):
        seal(sealed.staged, sealed.store, cohort_id="nodules", version="1", keys=keys)


@pytest.mark.parametrize(("name", "version"), [("Made", "1"), ("../made", "1"), ("made", "a/b")])
def test_a_name_that_no_manifest_can_bear_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, version: str
) -> None:
    with pytest.raises(Invalid, match="can't be called"):
        create_keys(tmp_path / "keys", name, version)
    assert list(tmp_path.iterdir()) == []


def test_nothing_staged_is_said_plainly(sealed: Sealed, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cohort ingest"):
        seal(tmp_path, sealed.store, cohort_id="nodules", version="1", keys=sealed.keys)


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"cut"),
                                    lambda p: p.write_bytes(p.read_bytes()[:-9])])  # fmt: skip
def test_a_damaged_staging_is_named(
    sealed: Sealed, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = shutil.copytree(sealed.staged.path, tmp_path / "staged")
    damage(folder / sealed.staged.block(0).name)
    with pytest.raises(Invalid, match="inputs-00000"):
        sealed.again(folder, "damaged")


@pytest.mark.parametrize("puts", [0, 1, 3])
def test_a_seal_that_broke_off_is_run_again_to_the_same_end(
    sealed: Sealed, tmp_path: Path, puts: int
) -> None:
    """The disk fills up after `puts` objects; the second run finishes in the same store."""
    store = LocalStore(tmp_path / "objects")
    arguments = {"cohort_id": "nodules", "version": "1", "shard_size": SHARD}
    with pytest.raises(OSError, match="No space"):
        seal(sealed.staged, _Filling(store, puts), keys=sealed.keys, **arguments)  # type: ignore[arg-type]
    again = seal(sealed.staged, store, keys=sealed.keys, **arguments)  # type: ignore[arg-type]
    assert manifest_bytes(again) == manifest_bytes(sealed.manifest)
    verify(again, store, sealed.keys)


_KILLED = """
import os, signal, sys
from pathlib import Path
from registry.storage.local import LocalStore
from validators.cohort.ingest import ingest
from validators.cohort.key_store import create_keys
from validators.cohort.seal import seal
from validators.protocol.read import read_contract

folder, at_ingest, at_seal = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])

def die_at(case):
    return lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= case > 0 else None

ingest(folder / "few.sqlite", folder / "staged", contract=read_contract(Path(sys.argv[2])),
       half="all", progress=die_at(at_ingest))
keys = create_keys(folder / "keys", "nodules", "1")
seal(folder / "staged", LocalStore(folder / "objects"), cohort_id="nodules", version="1",
     keys=keys, shard_size=100_000, progress=die_at(at_seal))
"""


def test_a_killed_process_leaves_nothing_half_done(sealed: Sealed, tmp_path: Path) -> None:
    """SIGKILL while ingesting, then while sealing; the third run ends as if nothing happened."""
    few_scans(tmp_path / "few.sqlite")

    def run(at_ingest: int, at_seal: int) -> int:
        return subprocess.run(
            [sys.executable, "-c", _KILLED, str(tmp_path), str(CONTRACT), str(at_ingest),
             str(at_seal)],
            check=False, cwd=CONTRACT.parents[1], env=dict(os.environ),
        ).returncode  # fmt: skip

    assert run(5, 0) == -signal.SIGKILL
    assert not (tmp_path / "staged").exists()
    assert run(0, 7) == -signal.SIGKILL
    assert (tmp_path / "objects/cohorts/nodules/1/inputs/00000").exists()
    assert run(0, 0) == 0
    for path in sorted(sealed.staged.path.iterdir()):
        assert (tmp_path / "staged" / path.name).read_bytes() == path.read_bytes()
    keys = create_keys(tmp_path / "keys", "nodules", "1")
    store = LocalStore(tmp_path / "objects")
    manifest = seal(tmp_path / "staged", store, cohort_id="nodules", version="1", keys=keys,
                    shard_size=SHARD)  # fmt: skip
    verify(manifest, store, keys)


_KILLED_AT = """
import os, signal, sys, threading
from pathlib import Path
from registry.storage.local import LocalStore
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import manifest_bytes
from validators.cohort.seal import seal

folder, at, before = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "before"
linked, counting = 0, threading.Lock()

def link(*given, **more):  # from several threads
    global linked
    with counting:
        linked += 1
        mine = linked
    if mine == at and before:
        os.kill(os.getpid(), signal.SIGKILL)
    really(*given, **more)
    if mine == at:
        os.kill(os.getpid(), signal.SIGKILL)

really, os.link = os.link, link
keys = create_keys(folder / "keys", "nodules", "1")
store = LocalStore(folder / "objects")
manifest = seal(Path(sys.argv[4]), store, cohort_id="nodules", version="1", keys=keys,
                shard_size=100_000)
store.put("cohorts/nodules/1/manifest.json", manifest_bytes(manifest))
print(manifest.root, linked)
"""


@pytest.mark.parametrize("before", ["before", "after"])
def test_a_seal_killed_at_any_write_is_run_again_to_the_same_root(
    sealed: Sealed, tmp_path: Path, before: str
) -> None:
    """Every file gets its name by one link: SIGKILL around each of them, keys and all, in turn."""

    def run(folder: Path, at: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _KILLED_AT, str(folder), str(at), before,
             str(sealed.staged.path)],
            check=False, cwd=CONTRACT.parents[1], capture_output=True, text=True,
        )  # fmt: skip

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (first,) = run(undisturbed, 0).stdout.splitlines()
    root, writes = first.split()
    assert int(writes) == 3 + len(sealed.manifest.objects)  # two files of keys, the manifest
    for at in range(1, int(writes) + 1):
        folder = tmp_path / f"at-{at}"
        if at > 2:  # the same keys as undisturbed; before that they are not made yet
            shutil.copytree(undisturbed / "keys", folder / "keys")
        else:
            folder.mkdir()
        assert run(folder, at if at <= 2 else at - 2).returncode == -signal.SIGKILL
        (again,) = run(folder, 0).stdout.splitlines()
        if at > 2:
            assert again.split()[0] == root
            for path in (undisturbed / "objects").rglob("*"):
                if path.is_file():
                    beside = folder / path.relative_to(undisturbed)
                    assert beside.read_bytes() == path.read_bytes()
        store = LocalStore(folder / "objects")
        manifest = parse_manifest(store.get("cohorts/nodules/1/manifest.json"))
        verify(manifest, store, open_keys(folder / "keys", manifest))


class _Filling:
    """A real store on a disk that has room for some objects."""

    def __init__(self, store: LocalStore, room: int) -> None:
        self._store, self._room = store, room

    def put(self, path: str, data: bytes) -> None:
        if self._room == 0:
            raise OSError(28, "No space left on device")
        self._room -= 1
        self._store.put(path, data)


class _InTheClear:
    """Data keys that are not wrapped, to put a key ring together by hand."""

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        return secret

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return wrapped


def _other(sealed: Sealed, column: str) -> int:
    """A row whose value differs from the first's."""
    values = sealed.staged.table()[column].to_pylist()
    return next(row for row, value in enumerate(values) if value != values[0])


def _swapped(sealed: Sealed, folder: Path, column: str, first: int, second: int) -> Path:
    """A copy of the staging with one column's values exchanged between two rows."""
    copied = shutil.copytree(sealed.staged.path, folder / "staged")
    table = sealed.staged.table()
    values = table[column].to_pylist()
    values[first], values[second] = values[second], values[first]
    position = table.column_names.index(column)
    kind = table.schema.field(column).type
    pq.write_table(
        table.set_column(position, column, pa.array(values, kind)), copied / "cases.parquet"
    )
    return copied
