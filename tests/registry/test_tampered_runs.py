"""Whatever was done to a locked cohort ends its run as the facility's fault, and names the object.

The matrix of `tests/validators/test_cohort_mutations.py`, taken through the worker's own steps on
one facility. Each mutation is made in the store's folder and undone.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.pipeline import canary
from registry.pipeline.carry import carry
from registry.pipeline.steps import begin_run, run
from registry.pipeline.watch import Watch
from registry.pipeline.work import Work
from registry.settings import Databases
from registry.storage.key_encryption import facility_keys
from registry.storage.local import LocalStore
from registry.submissions.cohort_life import check_lock
from registry.submissions.lock import load_manifest
from registry.trust.errors import TouchstoneError
from tests.registry.facility_example import Example, facility_example, honest
from tests.validators.cohort_example import SHARD, Sealed
from tests.validators.test_cohort_mutations import (
    CONTENT,
    WHERE,
    Draw,
    Locked,
    Objects,
    described,
    remade,
)
from validators.cohort.envelope import encrypt
from validators.cohort.ingest import open_staged
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import manifest_bytes, parse_manifest
from validators.cohort.seal import seal
from validators.cohort.verify import check_listed, verify

FOLDER = "cohorts/nodules/1"
MANIFEST, LOCK = f"{FOLDER}/manifest.json", f"{FOLDER}/lock.json"
Changes = Mapping[str, bytes | None]
"""What lies at a path afterwards; None where the object is gone."""


@pytest.fixture(scope="module")
def example(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with facility_example(database, tmp_path_factory.mktemp("tampered"), attempts=1) as made:
        made.fresh()
        yield made


@pytest.fixture(scope="module")
def locked(example: Example) -> Locked:
    home, store = example.worker.settings.home, example.worker.store
    assert isinstance(store, LocalStore)
    manifest = parse_manifest(store.get(MANIFEST))
    keys = facility_keys(example.worker.settings, manifest)
    now = Sealed(home, open_staged(home / "staged"), store, keys, manifest)
    older = Objects()

    class Kept:
        def put(self, path: str, data: bytes) -> None:
            older[path.replace("/0/", "/1/")] = data

    before = create_keys(home / "keys", "nodules", "0")
    seal(now.staged, Kept(), cohort_id="nodules", version="0", keys=before, shard_size=SHARD)
    return Locked(now, older, create_keys(home / "others", "nodules", "1"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "PAUSE_SECONDS", 0.01)


def content(what: str) -> Callable[[Locked, Draw], tuple[Changes, str]]:
    """Other content, sealed by somebody who knows the plain bytes and the form, but no key."""

    def made(locked: Locked, draw: Draw) -> tuple[Changes, str]:
        entry, plain = CONTENT[what](locked, draw)
        own = locked.stranger.inputs() if entry.kind == "inputs" else locked.stranger.reference()
        return {entry.path: encrypt(own, entry.path, plain)}, entry.path

    return made


def place(what: str) -> Callable[[Locked, Draw], tuple[Changes, str]]:
    """A shard dropped, added, put in another's place or taken from an older version."""

    def made(locked: Locked, draw: Draw) -> tuple[Changes, str]:
        objects, _, path = WHERE[what](locked, draw)
        return difference(locked.objects(), objects), path

    return made


def re_made(locked: Locked, draw: Draw) -> tuple[Changes, str]:
    """Any of the others, and a manifest that says so, with its arithmetic put right."""
    what = draw(st.sampled_from(sorted(CONTENT)))
    entry, plain = CONTENT[what](locked, draw)
    own = locked.stranger.inputs() if entry.kind == "inputs" else locked.stranger.reference()
    sealed, manifest = encrypt(own, entry.path, plain), locked.now.manifest
    entries = [
        described(one, sealed, plain) if one.path == entry.path else one for one in manifest.objects
    ]
    forged = manifest_bytes(remade(manifest, entries))
    return {entry.path: sealed, MANIFEST: forged}, MANIFEST


def lock_of_nobody(locked: Locked, draw: Draw) -> tuple[Changes, str]:
    whole = bytearray((locked.now.folder / "objects" / LOCK).read_bytes())
    whole[draw(st.integers(0, len(whole) - 1))] ^= 1
    return {LOCK: bytes(whole)}, LOCK


def one_byte(locked: Locked, draw: Draw) -> tuple[Changes, str]:
    path = draw(st.sampled_from([entry.path for entry in locked.now.manifest.objects]))
    whole = bytearray(locked.now.store.get(path))
    whole[draw(st.integers(0, len(whole) - 1))] ^= draw(st.integers(1, 255))
    return {path: bytes(whole)}, path


def beside(locked: Locked, draw: Draw) -> tuple[Changes, str]:
    name = draw(st.sampled_from(["note.txt", "inputs/extra", "reference.old", "a/b/c"]))
    return {f"{FOLDER}/{name}": b"x"}, f"{FOLDER}/{name}"


MATRIX: dict[str, Callable[[Locked, Draw], tuple[Changes, str]]] = {
    **{what: content(what) for what in CONTENT},
    **{f"a shard {what}": place(what) for what in WHERE},
    "a manifest re-made without the keys": re_made,
    "another lock": lock_of_nobody,
    "one byte of any object": one_byte,
    "an object beside": beside,
}


def difference(before: Objects, after: Objects) -> Changes:
    return {
        path: dict.get(after, path)
        for path in sorted({*before, *after})
        if dict.get(before, path) != dict.get(after, path)
    }


@contextlib.contextmanager
def changed(example: Example, changes: Changes) -> Iterator[None]:
    """Make the changes in the store's own folder, as whoever owns the disk can; then undo them."""
    root = example.worker.settings.home / "objects"
    before = {path: _read(root / path) for path in changes}
    try:
        for path, data in changes.items():
            _write(root / path, data)
        yield
    finally:
        for path, data in before.items():
            _write(root / path, data)


def _read(place: Path) -> bytes | None:
    return place.read_bytes() if place.exists() else None


def _write(place: Path, data: bytes | None) -> None:
    place.unlink(missing_ok=True)
    if data is not None:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.write_bytes(data)
        place.chmod(0o400)


def verified(example: Example, submission: str) -> None:
    """What `touchstone cohort verify` does with what the record names."""
    row, store = example.row(submission), example.worker.store
    check_lock(example.worker, row)
    manifest = load_manifest(example.worker, row)
    check_listed(manifest, store.names(FOLDER))
    verify(manifest, store, facility_keys(example.worker.settings, manifest))


def carried(example: Example) -> str:
    with example.turn() as turn:
        assert turn is not None
        return carry(example.worker, turn)


def ended_by(example: Example, submission: str, path: str) -> None:
    """The end is in the record as the facility's fault, with the object's name."""
    ((code, party),) = example.sql(
        "SELECT code, party FROM touchstone.finding WHERE submission = %s", submission
    )
    assert (code, party) == ("tampered", "facility")
    assert path in example.row(submission)["failure_message"]
    assert example.attempt(submission) in (None, "returned")


def refused_and_named(example: Example, changes: Changes, path: str) -> None:
    submission = example.queued(honest())
    with changed(example, changes):
        with pytest.raises(TouchstoneError, match=path):
            verified(example, submission)
        assert carried(example) == "technical_failure"
    ended_by(example, submission, path)


@pytest.mark.parametrize("what", MATRIX)
@settings(max_examples=1, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_run_on_a_cohort_with(
    example: Example, locked: Locked, what: str, data: st.DataObject
) -> None:
    refused_and_named(example, *MATRIX[what](locked, data.draw))


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_no_random_mutation_survives_a_run(
    example: Example, locked: Locked, data: st.DataObject
) -> None:
    what = data.draw(st.sampled_from(sorted(MATRIX)))
    refused_and_named(example, *MATRIX[what](locked, data.draw))


def test_a_reference_standard_changed_after_the_run_is_found_before_it_is_scored(
    example: Example, locked: Locked
) -> None:
    submission = example.queued(honest())
    with Watch(example.worker.record, submission) as watch:
        begin_run(Work(example.worker, example.row(submission), watch))
        run(Work(example.worker, example.row(submission), watch))
    assert example.attempt(submission) == "spent"
    path = locked.now.manifest.reference.path
    changes, _ = place("of an older version")(locked, lambda _: len(locked.now.manifest.shards))
    assert list(changes) == [path]
    with changed(example, changes):
        assert carried(example) == "technical_failure"
    ended_by(example, submission, path)


def test_the_cohort_put_right_runs_with_the_attempt_that_came_back(example: Example) -> None:
    """Last: of one attempt none was lost to all that was done above."""
    submission = example.queued(honest())
    verified(example, submission)
    assert carried(example) == "in_review"
    assert example.attempt(submission) == "spent"
