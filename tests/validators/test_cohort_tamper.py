"""Whatever is done to a sealed cohort is noticed, and the object is named."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Invalid, NotFound, Refused, Tampered, TouchstoneError
from tests.validators.cohort_example import Sealed, sealed_example
from validators.cohort.envelope import decrypt, encrypt
from validators.cohort.key_store import create_keys, open_keys
from validators.cohort.keys import CohortKeys, InputKey, KeyFile, ReferenceKey
from validators.cohort.manifest import (
    Manifest,
    description_of,
    manifest_bytes,
    parse_manifest,
    root_of,
)
from validators.cohort.stream import read_reference, stream
from validators.cohort.verify import verify


class Objects(dict[str, bytes]):
    """A copy of the sealed objects in memory, to be tampered with."""

    def get(self, path: str) -> bytes:  # type: ignore[override]
        if path not in self:
            raise NotFound(f"there is no object {path}")
        return self[path]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed_example(tmp_path_factory.mktemp("sealed"))


def copied(sealed: Sealed) -> Objects:
    return Objects({o.path: sealed.store.get(o.path) for o in sealed.manifest.objects})


def everything(sealed: Sealed, objects: Objects, manifest: Manifest | None = None) -> None:
    """All that a run reads: the inputs, then the reference standard."""
    named = manifest or sealed.manifest
    for _ in stream(named, objects, sealed.keys.inputs()):
        pass
    read_reference(named, objects, sealed.keys.reference())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_byte_changed_in_any_object_is_refused_by_name(
    sealed: Sealed, data: st.DataObject
) -> None:
    objects = copied(sealed)
    path = data.draw(st.sampled_from(sorted(objects)))
    offset = data.draw(st.integers(0, len(objects[path]) - 1))
    mask = data.draw(st.integers(1, 255))
    changed = bytearray(objects[path])
    changed[offset] ^= mask
    objects[path] = bytes(changed)
    for check in (
        lambda: verify(sealed.manifest, objects, None),
        lambda: verify(sealed.manifest, objects, sealed.keys),
        lambda: everything(sealed, objects),
    ):
        with pytest.raises(Tampered, match=path):
            check()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_byte_changed_in_the_manifest_is_refused(sealed: Sealed, data: st.DataObject) -> None:
    good = manifest_bytes(sealed.manifest)
    offset = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[offset] ^= data.draw(st.integers(1, 127))
    with pytest.raises(TouchstoneError):
        verify(parse_manifest(bytes(changed)), copied(sealed), sealed.keys)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_manifest_re_made_for_changed_bytes_names_the_object(
    sealed: Sealed, data: st.DataObject
) -> None:
    """Whoever can write objects and manifest, but holds no key, gets no further."""
    objects = copied(sealed)
    position = data.draw(st.integers(0, len(sealed.manifest.objects) - 1))
    entry = sealed.manifest.objects[position]
    changed = bytearray(objects[entry.path])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    objects[entry.path] = bytes(changed)
    entries = list(sealed.manifest.objects)
    entries[position] = entry.model_copy(update={"sha256": sha256_bytes(bytes(changed))})
    remade = sealed.manifest.model_copy(update={"objects": tuple(entries)})
    with pytest.raises(Tampered, match=entry.path):
        everything(sealed, objects, remade)
    with pytest.raises(Tampered, match=entry.path):
        verify(remade, objects, sealed.keys)


def test_a_missing_object_is_named(sealed: Sealed) -> None:
    for path in copied(sealed):
        objects = copied(sealed)
        del objects[path]
        for keys in (None, sealed.keys):
            with pytest.raises(Tampered, match=f"{path} is missing"):
                verify(sealed.manifest, objects, keys)


def test_two_shards_exchanged_in_the_store_are_named(sealed: Sealed) -> None:
    objects = copied(sealed)
    first, second = sealed.manifest.shards[0].path, sealed.manifest.shards[1].path
    objects[first], objects[second] = objects[second], objects[first]
    with pytest.raises(Tampered, match=first):
        everything(sealed, objects)


def test_two_shards_exchanged_in_store_and_manifest_alike_are_named(sealed: Sealed) -> None:
    """The path is part of what was encrypted, so a shard can't take another's place."""
    objects = copied(sealed)
    a, b, *others = sealed.manifest.objects
    objects[a.path], objects[b.path] = objects[b.path], objects[a.path]
    moved = (b.model_copy(update={"path": a.path}), a.model_copy(update={"path": b.path}))
    remade = _with_root(sealed.manifest.model_copy(update={"objects": (*moved, *others)}))
    assert remade.root != sealed.manifest.root
    with pytest.raises(Tampered, match=a.path):
        everything(sealed, objects, remade)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"objects": m["objects"][1:]},
        lambda m: {"objects": m["objects"][:-1]},
        lambda m: {"objects": [m["objects"][1], m["objects"][0], *m["objects"][2:]]},
        lambda m: {"objects": [m["objects"][0], *m["objects"]]},
        lambda m: {"case_digests": m["case_digests"][1:]},
        lambda m: {"case_digests": m["case_digests"][::-1]},
        lambda m: {"counts": m["counts"] | {"positives": m["counts"]["positives"] + 1}},
        lambda m: {"case_flow": {}},
        lambda m: {"contract_digest": "sha256:" + 64 * "0"},
        lambda m: {"root": "sha256:" + 64 * "0"},
    ],
    ids=["dropped", "no reference", "reordered", "added", "case dropped", "cases reordered",
         "count", "case flow", "contract", "root"],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(
    sealed: Sealed, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    value = json.loads(manifest_bytes(sealed.manifest))
    with pytest.raises(Tampered, match="the manifest of cohort nodules"):
        parse_manifest(canonical(value | change(value)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"id": "a"}'])
def test_what_is_no_manifest_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(Invalid):
        parse_manifest(data)


def test_cases_whose_references_were_exchanged_by_a_holder_of_all_keys_do_not_verify(
    sealed: Sealed,
) -> None:
    """With the old case digests and a well-sealed new table, `verify` finds the case."""
    import pyarrow as pa

    from validators.cohort.contents import table_bytes
    from validators.cohort.stream import read_salted_reference

    key = sealed.keys.reference()
    table = read_salted_reference(sealed.manifest, sealed.store, key)
    rows = table.to_pylist()
    values = [row["reference"] for row in rows]
    alike = [[row[name] for name in sealed.manifest.attributes] for row in rows]
    first, other = next(
        pair
        for pair in itertools.combinations(range(len(values)), 2)
        if values[pair[0]] != values[pair[1]] and alike[pair[0]] == alike[pair[1]]
    )
    values[first], values[other] = values[other], values[first]
    position = table.column_names.index("reference")
    plain = table_bytes(table.set_column(position, "reference", pa.array(values, pa.int8())))
    entry = sealed.manifest.reference
    objects = copied(sealed)
    objects[entry.path] = encrypt(key, entry.path, plain)
    new = entry.model_copy(
        update={
            "size": len(objects[entry.path]),
            "sha256": sha256_bytes(objects[entry.path]),
            "plain_size": len(plain),
            "plain_sha256": sha256_bytes(plain),
        }
    )
    remade = _with_root(
        sealed.manifest.model_copy(update={"objects": (*sealed.manifest.shards, new)})
    )
    assert remade.root != sealed.manifest.root
    parse_manifest(manifest_bytes(remade))
    with pytest.raises(Tampered, match=f"a case of {sealed.manifest.shards[0].path}"):
        verify(remade, objects, sealed.keys)


def test_the_attempt_is_spent_once_and_before_anything_is_decrypted(sealed: Sealed) -> None:
    events: list[str] = []
    shards = stream(
        sealed.manifest,
        sealed.store,
        sealed.keys.inputs(),
        before_decrypt=lambda: events.append("spent"),
    )
    assert events == []
    for shard in shards:
        events.append(f"shard {shard.index}")
    assert events == ["spent", *(f"shard {n}" for n in range(len(sealed.manifest.shards)))]


def test_a_damaged_first_shard_spends_no_attempt_and_a_later_one_stops_the_run(
    sealed: Sealed,
) -> None:
    for damaged in (0, 1):
        objects = copied(sealed)
        path = sealed.manifest.shards[damaged].path
        objects[path] = objects[path][:-1] + bytes([objects[path][-1] ^ 1])
        spent: list[int] = []
        seen = []
        reading = stream(
            sealed.manifest,
            objects,
            sealed.keys.inputs(),
            before_decrypt=lambda spent=spent: spent.append(1),  # type: ignore[misc]
        )
        with pytest.raises(Tampered, match=path):
            seen.extend(shard.index for shard in reading)
        assert len(spent) == damaged
        assert len(seen) <= damaged


def test_refused_to_spend_means_nothing_is_decrypted(sealed: Sealed) -> None:
    def none_left() -> None:
        raise Refused("no attempt is left")

    with pytest.raises(Refused, match="no attempt"):
        next(stream(sealed.manifest, sealed.store, sealed.keys.inputs(),
                    before_decrypt=none_left))  # fmt: skip


def test_running_a_model_needs_no_reference_and_scoring_needs_no_input(sealed: Sealed) -> None:
    inputs, reference = copied(sealed), copied(sealed)
    del inputs[sealed.manifest.reference.path]
    for entry in sealed.manifest.shards:
        del reference[entry.path]
    cases = [c for s in stream(sealed.manifest, inputs, sealed.keys.inputs()) for c in s.cases]
    table = read_reference(sealed.manifest, reference, sealed.keys.reference())
    assert cases == table["case"].to_pylist()


def test_neither_key_opens_what_the_other_one_sealed(sealed: Sealed) -> None:
    inputs, reference = sealed.keys.inputs(), sealed.keys.reference()
    with pytest.raises(Refused, match="InputKey"):
        next(stream(sealed.manifest, sealed.store, reference))  # type: ignore[arg-type]
    with pytest.raises(Refused, match="ReferenceKey"):
        read_reference(sealed.manifest, sealed.store, inputs)  # type: ignore[arg-type]
    entry = sealed.manifest.reference
    posing = ReferenceKey("nodules", "1", inputs.secret)
    for key in (inputs, posing):
        with pytest.raises(Tampered, match=entry.path):
            decrypt(key, entry.path, entry.plain_sha256, sealed.store.get(entry.path))
    same_secret = InputKey("nodules", "1", reference.secret)
    with pytest.raises(Tampered):
        decrypt(same_secret, entry.path, entry.plain_sha256, sealed.store.get(entry.path))


def test_who_holds_the_inputs_can_not_test_a_guess_of_the_reference(sealed: Sealed) -> None:
    """No case digest comes out for either reference without the salt that lies with it."""
    from validators.cohort.contents import input_digests
    from validators.cohort.manifest import case_digest

    table = read_reference(sealed.manifest, sealed.store, sealed.keys.reference())
    shard = next(stream(sealed.manifest, sealed.store, sealed.keys.inputs()))
    row = table.slice(0, 1).to_pylist()[0]
    attributes = {n: v for n, v in row.items() if n not in ("case", "patient", "reference")}
    inputs = next(input_digests(shard.inputs))
    guesses = {
        case_digest(row["case"], row["patient"], reference, attributes, inputs, salt)
        for reference in (0, 1)
        for salt in ("", row["case"], sealed.manifest.root)
    }
    assert guesses.isdisjoint(sealed.manifest.case_digests)


def test_keys_lie_in_files_that_only_their_owner_reads(sealed: Sealed, tmp_path: Path) -> None:
    create_keys(tmp_path, "nodules", "1")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    key = tmp_path / "key-encryption.key"
    key.chmod(0o640)
    with pytest.raises(Refused, match="chmod 600"):
        open_keys(tmp_path, sealed.manifest)


def test_no_secret_is_in_a_repr_a_manifest_or_the_wrapped_file(
    sealed: Sealed, tmp_path: Path
) -> None:
    import base64

    keys = sealed.keys
    secrets = [keys.inputs().secret, keys.reference().secret, keys.names().secret]
    held = (sealed.folder / "keys/nodules/1.json").read_bytes() + manifest_bytes(sealed.manifest)
    shown = repr([keys, keys.inputs(), keys.reference(), keys.names()])
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret) not in shown
        assert base64.b64encode(secret) not in held
        assert secret not in held


def test_a_wrapped_key_can_not_be_passed_off_as_another(sealed: Sealed, tmp_path: Path) -> None:
    create_keys(tmp_path, "nodules", "1")
    path = tmp_path / "nodules/1.json"
    held = json.loads(path.read_bytes())
    held["inputs"], held["reference"] = held["reference"], held["inputs"]
    path.unlink()
    path.write_bytes(canonical(held))
    path.chmod(0o600)
    with pytest.raises(Refused, match="unwrapped"):
        open_keys(tmp_path, sealed.manifest).inputs()


def test_another_facilitys_key_file_unwraps_nothing(sealed: Sealed, tmp_path: Path) -> None:
    kek = tmp_path / "other.key"
    other = KeyFile.create(kek)
    held = sealed.keys
    stolen = CohortKeys("nodules", "1", held._wrapped, other)
    with pytest.raises(Refused, match="another facility"):
        stolen.inputs()
    with pytest.raises(NotFound, match="no keys"):
        open_keys(tmp_path, sealed.manifest)


def test_keys_of_another_version_are_refused_before_anything_is_spent(
    sealed: Sealed, tmp_path: Path
) -> None:
    others = create_keys(tmp_path, "nodules", "1")
    spent: list[int] = []
    with pytest.raises(Refused, match="not the InputKey of cohort nodules"):
        next(stream(sealed.manifest, sealed.store, others.inputs(),
                    before_decrypt=lambda: spent.append(1)))  # fmt: skip
    assert not spent


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a\0b"])
def test_a_cohorts_name_can_not_leave_the_key_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        create_keys(tmp_path / "keys", name, "1")


def _with_root(manifest: Manifest) -> Manifest:
    root = root_of(description_of(manifest), manifest.objects, manifest.case_digests)
    return manifest.model_copy(update={"root": root})
