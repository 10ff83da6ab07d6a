"""Random mutations of a locked cohort: none survives `verify`, none survives a run.

Two kinds of hands: one that writes to the store, and one that also re-makes the manifest (digests,
sizes, root) without holding a key, and even has the record say so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import NotFound, Tampered
from tests.validators.cohort_example import SHARD, Sealed, sealed_example
from validators.cohort.contents import parse_shard, shard_bytes, shard_digests, table_bytes
from validators.cohort.envelope import lock, unlock
from validators.cohort.key_store import create_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import (
    Manifest,
    SealedObject,
    description_of,
    manifest_bytes,
    parse_manifest,
    root_of,
)
from validators.cohort.seal import seal
from validators.cohort.stream import read_reference, read_salted_reference, stream
from validators.cohort.verify import check_listed, verify

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Objects(dict[str, bytes]):
    def get(self, path: str) -> bytes:  # type: ignore[override]
        if path not in self:
            raise NotFound(f"there is no object {path}")
        return self[path]


@dataclass(frozen=True)
class Locked:
    """A sealed version, its older sister, and whoever holds no key of it: keys of their own."""

    now: Sealed
    older: dict[str, bytes]
    stranger: CohortKeys

    def objects(self) -> Objects:
        manifest = self.now.manifest
        return Objects({entry.path: self.now.store.get(entry.path) for entry in manifest.objects})


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Locked:
    now = sealed_example(tmp_path_factory.mktemp("now"))
    older = Objects()

    class Kept:
        def put(self, path: str, data: bytes) -> None:
            older[path.replace("/0/", "/1/")] = data

    keys = create_keys(now.folder / "keys", "nodules", "0")
    seal(now.staged, Kept(), cohort_id="nodules", version="0", keys=keys, shard_size=SHARD)
    stranger = create_keys(now.folder / "others", "nodules", "1")
    return Locked(now, older, stranger)


def run(locked: Locked, objects: Objects, manifest: Manifest) -> None:
    """All that a run and its scoring read; the record names the manifest that is given."""
    keys = locked.now.keys
    for _ in stream(manifest, objects, keys.inputs()):
        pass
    read_reference(manifest, objects, keys.reference())


def remade(manifest: Manifest, entries: list[SealedObject], **changes: Any) -> Manifest:
    """The manifest with other objects and its arithmetic put right, as anybody can."""
    changed = manifest.model_copy(update={"objects": tuple(entries), **changes})
    root = root_of(description_of(changed), changed.objects, changed.case_digests)
    return changed.model_copy(update={"root": root})


def digest_of_plain(entry: SealedObject, plain: bytes) -> str:
    """As a seal computes it."""
    if entry.kind == "reference":
        return sha256_bytes(plain)
    return shard_digests(plain, parse_shard(0, entry.path, plain).inputs)[0]


def described(entry: SealedObject, sealed: bytes, plain: bytes | None = None) -> SealedObject:
    """An entry put right for other bytes."""
    about: dict[str, Any] = {"size": len(sealed), "sha256": sha256_bytes(sealed)}
    if plain is not None:
        about |= {"plain_size": len(plain), "plain_sha256": digest_of_plain(entry, plain)}
    return entry.model_copy(update=about)


def plain_of(locked: Locked, entry: SealedObject) -> bytes:
    keys = locked.now.keys
    key = keys.inputs() if entry.kind == "inputs" else keys.reference()
    return bytes(unlock(key, entry.path, entry.plain_sha256, locked.now.store.get(entry.path)))


def one_pixel(locked: Locked, draw: Draw) -> tuple[SealedObject, bytes]:
    """A shard with one pixel of one case changed."""
    entry = draw(st.sampled_from(locked.now.manifest.shards))
    shard = parse_shard(0, entry.path, plain_of(locked, entry))
    image = shard.inputs["image"].copy()
    flat = image.reshape(-1)
    at = draw(st.integers(0, len(flat) - 1))
    flat[at] = 1 - flat[at] if flat[at] != 0.5 else 0.0
    return entry, shard_bytes(shard.cases, shard.inputs | {"image": image})


def one_column(locked: Locked, draw: Draw, name: str) -> tuple[SealedObject, bytes]:
    """The table with two different values of one column exchanged."""
    import pyarrow as pa

    manifest = locked.now.manifest
    table = read_salted_reference(manifest, locked.now.store, locked.now.keys.reference())
    values = table[name].to_pylist()
    one = draw(st.integers(0, len(values) - 1))
    other = draw(st.sampled_from([n for n, value in enumerate(values) if value != values[one]]))
    values[one], values[other] = values[other], values[one]
    at = table.column_names.index(name)
    table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    return manifest.reference, table_bytes(table)


CONTENT: dict[str, Callable[[Locked, Draw], tuple[SealedObject, bytes]]] = {
    "one pixel changed": one_pixel,
    "two references swapped": lambda locked, draw: one_column(locked, draw, "reference"),
    "an attribute edited": lambda locked, draw: one_column(
        locked, draw, draw(st.sampled_from(sorted(locked.now.manifest.attributes)))
    ),
    "two patients swapped": lambda locked, draw: one_column(locked, draw, "patient"),
}


@pytest.mark.parametrize("what", CONTENT)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_other_content_without_the_keys_is_refused_by_name(
    locked: Locked, what: str, data: st.DataObject
) -> None:
    """They know the plain bytes and the form; what they lack is the key."""
    manifest = locked.now.manifest
    entry, plain = CONTENT[what](locked, data.draw)
    own = locked.stranger.inputs() if entry.kind == "inputs" else locked.stranger.reference()
    objects = locked.objects()
    objects[entry.path] = bytes(lock(own, entry.path, digest_of_plain(entry, plain), plain))
    entries = [
        described(one, objects[one.path], plain) if one.path == entry.path else one
        for one in manifest.objects
    ]
    for named in (manifest, remade(manifest, entries)):
        for check in (
            lambda named=named: verify(named, objects, locked.now.keys),
            lambda named=named: run(locked, objects, named),
        ):
            with pytest.raises(Tampered, match=entry.path):
                check()
    with pytest.raises(Tampered, match=entry.path):
        verify(manifest, objects, None)


@pytest.mark.parametrize("what", CONTENT)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_other_content_by_a_holder_of_all_keys_is_another_root(
    locked: Locked, what: str, data: st.DataObject
) -> None:
    """Whoever holds every key can seal what they like, and not under the root that two signed."""
    manifest = locked.now.manifest
    entry, plain = CONTENT[what](locked, data.draw)
    own = locked.now.keys.inputs() if entry.kind == "inputs" else locked.now.keys.reference()
    objects = locked.objects()
    objects[entry.path] = bytes(lock(own, entry.path, digest_of_plain(entry, plain), plain))
    entries = [
        described(one, objects[one.path], plain) if one.path == entry.path else one
        for one in manifest.objects
    ]
    forged = remade(manifest, entries)
    assert forged.root != manifest.root  # what the record, the lock and every run compare
    with pytest.raises(Tampered):
        verify(forged, objects, locked.now.keys)
    with pytest.raises(Tampered, match=entry.path):
        run(locked, objects, manifest)


def dropped(locked: Locked, draw: Draw) -> tuple[Objects, list[SealedObject], str]:
    objects, entries = locked.objects(), list(locked.now.manifest.objects)
    at = draw(st.integers(0, len(entries) - 2))
    path = entries[at].path
    del objects[path]
    return objects, [*entries[:at], *entries[at + 1 :]], path


def added(locked: Locked, draw: Draw) -> tuple[Objects, list[SealedObject], str]:
    objects, entries = locked.objects(), list(locked.now.manifest.objects)
    copied = entries[draw(st.integers(0, len(entries) - 2))]
    path = f"cohorts/nodules/1/inputs/{len(entries) - 1:05d}"
    objects[path] = objects[copied.path]
    entries.insert(len(entries) - 1, copied.model_copy(update={"path": path}))
    return objects, entries, path


def reordered(locked: Locked, draw: Draw) -> tuple[Objects, list[SealedObject], str]:
    objects, entries = locked.objects(), list(locked.now.manifest.objects)
    one, other = sorted(draw(st.sets(st.integers(0, len(entries) - 2), min_size=2, max_size=2)))
    a, b = entries[one], entries[other]
    objects[a.path], objects[b.path] = objects[b.path], objects[a.path]
    entries[one] = b.model_copy(update={"path": a.path})
    entries[other] = a.model_copy(update={"path": b.path})
    return objects, entries, a.path


def of_an_older_version(locked: Locked, draw: Draw) -> tuple[Objects, list[SealedObject], str]:
    objects, entries = locked.objects(), list(locked.now.manifest.objects)
    at = draw(st.integers(0, len(entries) - 1))
    path = entries[at].path
    objects[path] = locked.older[path]
    entries[at] = described(entries[at], objects[path])
    return objects, entries, path


WHERE = {"dropped": dropped, "added": added, "reordered": reordered,
         "of an older version": of_an_older_version}  # fmt: skip


@pytest.mark.parametrize("what", WHERE)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_shard_out_of_its_place_is_refused_by_name(
    locked: Locked, what: str, data: st.DataObject
) -> None:
    manifest, keys = locked.now.manifest, locked.now.keys
    objects, entries, path = WHERE[what](locked, data.draw)
    if what == "added":  # nothing reads it; a run and whoever verifies list the folder
        with pytest.raises(Tampered, match=path):
            check_listed(manifest, objects)
    else:
        for check in (
            lambda: verify(manifest, objects, None),
            lambda: verify(manifest, objects, keys),
            lambda: run(locked, objects, manifest),
        ):
            with pytest.raises(Tampered, match=path):
                check()
    forged = remade(manifest, entries)  # and the manifest says so too, without the keys
    for check in (lambda: verify(forged, objects, keys), lambda: run(locked, objects, forged)):
        with pytest.raises(Tampered, match=r"cohorts/nodules/1/|the manifest of cohort nodules"):
            check()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_manifest_re_made_without_the_keys_does_not_verify(
    locked: Locked, data: st.DataObject
) -> None:
    """A field changed and the root put right: another root than the one that two signed."""
    manifest = locked.now.manifest
    field = data.draw(st.sampled_from(["case_digests", "counts", "case_flow", "attributes"]))
    value = manifest.model_dump(mode="json")
    if field == "case_digests":
        at = data.draw(st.integers(0, len(value[field]) - 1))
        value[field][at] = "sha256:" + data.draw(st.sampled_from("0123456789abcdef")) * 64
    elif field == "counts":
        value[field]["positives"] += 1
        value[field]["negatives"] -= 1
    elif field == "case_flow":
        value[field]["left out"] = data.draw(st.integers(1, 9))
    else:
        groups = value[field][data.draw(st.sampled_from(sorted(value[field])))]
        groups[sorted(groups)[0]]["positives"] += 1
    changed = Manifest.model_validate(value)
    forged = parse_manifest(manifest_bytes(remade(changed, list(manifest.objects))))
    assert forged.root != manifest.root
    assert sha256_bytes(manifest_bytes(forged)) != sha256_bytes(manifest_bytes(manifest))
    if field != "case_flow":  # a free number, which the root and the lock alone hold
        with pytest.raises(Tampered):
            verify(forged, locked.objects(), locked.now.keys)


def test_what_lies_beside_a_cohort_is_named(locked: Locked) -> None:
    paths = [*locked.objects(), "cohorts/nodules/1/manifest.json", "cohorts/nodules/1/lock.json"]
    check_listed(locked.now.manifest, paths)
    with pytest.raises(Tampered, match="inputs/99999 was added"):
        check_listed(locked.now.manifest, [*paths, "cohorts/nodules/1/inputs/99999"])
