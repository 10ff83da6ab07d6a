"""A patient is erased: the new version is the old one without them, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from registry.storage.local import LocalStore
from registry.trust.errors import Conflict, Invalid, Tampered
from tests.validators.cohort_example import Sealed, sealed_example
from validators.cohort.contents import SALT
from validators.cohort.erase import ERASED, erase
from validators.cohort.key_store import create_keys, open_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import Manifest, manifest_bytes
from validators.cohort.stream import read_reference, read_salted_reference, stream
from validators.cohort.verify import verify


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed_example(tmp_path_factory.mktemp("sealed"))


def without(
    sealed: Sealed, store: LocalStore, *patients: str, version: str = "2"
) -> tuple[Manifest, CohortKeys]:
    keys = create_keys(sealed.folder / "keys", "nodules", version, after=sealed.keys)
    return (
        erase(sealed.manifest, sealed.store, sealed.keys, store, keys, patients=patients),
        keys,
    )


def rows_of(manifest: Manifest, store: LocalStore, keys: CohortKeys) -> dict[str, Any]:
    """{case: (row, inputs)} of everything."""
    table = {row["case"]: row
             for row in read_reference(manifest, store, keys.reference()).to_pylist()}  # fmt: skip
    return {
        case: (table[case], {name: array[at].tobytes() for name, array in shard.inputs.items()})
        for shard in stream(manifest, store, keys.inputs())
        for at, case in enumerate(shard.cases)
    }


def test_the_new_version_is_the_old_one_without_the_patient(sealed: Sealed, tmp_path: Path) -> None:
    staged = sealed.staged.table()
    patient = staged["patient"][0].as_py()
    own = staged["patient"].to_pylist().count(patient)
    store = LocalStore(tmp_path)
    manifest, keys = without(sealed, store, patient)
    verify(manifest, store, keys)
    before = rows_of(sealed.manifest, sealed.store, sealed.keys)
    after = rows_of(manifest, store, keys)
    assert len(after) == len(before) - own
    assert after == {case: before[case] for case in after}
    assert manifest.case_flow == sealed.manifest.case_flow | {ERASED: own}
    assert manifest.counts.patients == sealed.manifest.counts.patients - 1
    assert set(manifest.case_digests).isdisjoint(sealed.manifest.case_digests)
    assert manifest.about["erased_from"] == "1"
    salts = [
        set(read_salted_reference(one, where, its.reference())[SALT].to_pylist())
        for one, where, its in ((manifest, store, keys),
                                (sealed.manifest, sealed.store, sealed.keys))
    ]  # fmt: skip
    assert salts[0].isdisjoint(salts[1])


def test_the_next_patient_is_found_in_the_new_version_though_the_old_keys_are_gone(
    sealed: Sealed, tmp_path: Path
) -> None:
    first, second = sorted(set(sealed.staged.table()["patient"].to_pylist()))[:2]
    store = LocalStore(tmp_path)
    manifest, keys = without(sealed, store, first, version="3")
    reopened = open_keys(sealed.folder / "keys", manifest)
    later = create_keys(sealed.folder / "keys", "nodules", "4", after=reopened)
    again = erase(manifest, store, reopened, store, later, patients=[second])
    verify(again, store, later)
    assert again.counts.patients == sealed.manifest.counts.patients - 2
    with pytest.raises(Invalid, match="1 of 1 patients"):  # who is gone is not found again
        erase(manifest, store, keys, store, later, patients=[first])


def test_erasing_again_gives_the_same_bytes(sealed: Sealed, tmp_path: Path) -> None:
    patient = sealed.staged.table()["patient"][0].as_py()
    store = LocalStore(tmp_path)
    first, _ = without(sealed, store, patient)
    assert manifest_bytes(without(sealed, store, patient)[0]) == manifest_bytes(first)


def test_nobody_is_erased_by_a_slip_of_the_pen(sealed: Sealed, tmp_path: Path) -> None:
    patients = set(sealed.staged.table()["patient"].to_pylist())
    for wrong, words in (({"nobody"}, "1 of 1"), ({min(patients), "nobody"}, "1 of 2"),
                         (set(), "0 of 0"), (patients, "nobody would be left")):  # fmt: skip
        with pytest.raises(Invalid, match=words):
            without(sealed, LocalStore(tmp_path), *wrong)
    assert LocalStore(tmp_path).list("") == []


def test_a_damaged_old_version_is_named_and_not_carried_on(sealed: Sealed, tmp_path: Path) -> None:
    patient = sealed.staged.table()["patient"][0].as_py()
    path = sealed.manifest.shards[1].path

    class Damaged:
        def get(self, at: str) -> bytes:
            data = sealed.store.get(at)
            return data[:-1] + bytes([data[-1] ^ 1]) if at == path else data

    keys = create_keys(sealed.folder / "keys", "nodules", "2", after=sealed.keys)
    with pytest.raises(Tampered, match=path):
        erase(sealed.manifest, Damaged(), sealed.keys, LocalStore(tmp_path), keys,
              patients=[patient])  # fmt: skip


def test_keys_that_do_not_go_on_from_the_old_ones_are_refused(
    sealed: Sealed, tmp_path: Path
) -> None:
    fresh = create_keys(tmp_path / "keys", "nodules", "2")
    for keys in (fresh, sealed.keys):
        with pytest.raises(Conflict):
            erase(sealed.manifest, sealed.store, sealed.keys, LocalStore(tmp_path), keys,
                  patients=["x"])  # fmt: skip
