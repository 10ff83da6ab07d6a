"""Sealing and reading on many threads: the same bytes, a few shards, the first fault by name."""

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, load_file

from registry.storage.local import LocalStore
from registry.trust.canonical import canonical, digest_of
from registry.trust.errors import Invalid, Tampered, Unavailable
from tests.validators.cohort_made import made_staging
from validators.cohort.ahead import in_order
from validators.cohort.contents import (
    digests_of_cases,
    input_digests,
    parse_shard,
    pseudonyms,
    shard_bytes,
    shard_digests,
)
from validators.cohort.key_store import create_keys
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import Manifest, case_digest, manifest_bytes, parse_manifest
from validators.cohort.one_case import Cases
from validators.cohort.seal import seal
from validators.cohort.stream import read_salted_reference, stream
from validators.cohort.verify import verify

SHARD = 600
"""Four cases."""


@dataclass(frozen=True)
class Made:
    staged: Path
    store: LocalStore
    keys: CohortKeys
    manifest: Manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    staged = made_staging(folder / "staged", 61)
    store, keys = LocalStore(folder / "objects"), create_keys(folder / "keys", "made", "1")
    manifest = seal(staged, store, cohort_id="made", version="1", keys=keys, shard_size=SHARD)
    return Made(staged, store, keys, manifest)


def test_every_case_comes_back_under_its_pseudonym(made: Made) -> None:
    blocks = [load_file(path) for path in sorted(made.staged.glob("inputs-*"))]
    names = [f"case {n:05d}" for n in range(61)]
    position = {p: n for n, p in enumerate(pseudonyms(made.keys.names(), "case", names))}
    seen = []
    for shard in stream(made.manifest, made.store, made.keys.inputs()):
        for row, case in enumerate(shard.cases):
            seen.append(position[case])
            block, within = divmod(position[case], 7)
            for name, array in shard.inputs.items():
                assert np.array_equal(array[row], blocks[block][name][within])
    assert sorted(seen) == list(range(61))


def test_one_thread_and_many_seal_the_same_bytes(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores in (1, 4):
        monkeypatch.setattr("validators.cohort.seal.in_order", _of(cores))
        store = LocalStore(tmp_path / str(cores))
        again = seal(made.staged, store, cohort_id="made", version="1", keys=made.keys,
                     shard_size=SHARD)  # fmt: skip
        assert manifest_bytes(again) == manifest_bytes(made.manifest)
        for entry in again.objects:
            assert store.get(entry.path) == made.store.get(entry.path)


def _of(threads: int) -> Any:
    return lambda work, items, at_once, more: in_order(work, items, at_once=threads)


def test_sealing_and_reading_hold_a_few_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty shards of half a megabyte, on two cores."""
    for place in ("seal", "verify"):
        monkeypatch.setattr(f"validators.cohort.{place}.threads", lambda: 2)
    staged = made_staging(tmp_path / "staged", 40, size=512)
    store, keys = LocalStore(tmp_path / "objects"), create_keys(tmp_path / "keys", "made", "1")
    peaks = {}
    tracemalloc.start()

    def peak(name: str) -> None:
        peaks[name] = tracemalloc.get_traced_memory()[1] / (2 * 512 * 512)
        tracemalloc.reset_peak()

    manifest = seal(staged, store, cohort_id="made", version="1", keys=keys, shard_size=1)
    peak("seal")
    for shard in stream(manifest, store, keys.inputs()):
        assert len(shard.cases) == 1
    peak("stream")
    verify(manifest, store, keys)
    peak("verify")
    tracemalloc.stop()
    assert len(manifest.shards) == 40
    assert peaks["seal"] < 10, peaks
    assert peaks["stream"] < 8, peaks  # the caller's, three under way and their sealed bytes
    assert peaks["verify"] < 8, peaks


class Counting:
    """A store that notes in which thread and when each object is read."""

    def __init__(self, store: LocalStore, change: str = "") -> None:
        self.store, self.change = store, change
        self.read: list[str] = []

    def get(self, path: str) -> bytes:
        self.read.append(path)
        data = self.store.get(path)
        return data[:-1] + bytes([data[-1] ^ 1]) if path == self.change else data


def working() -> set[threading.Thread]:
    """The threads that read ahead, those of other tests' unfinished streams among them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("cohort")}


def test_two_shards_are_read_ahead_and_no_more(made: Made) -> None:
    others = working()
    store = Counting(made.store)
    events: list[object] = []
    caller = threading.get_ident()

    def before() -> None:
        events.append((threading.get_ident() == caller, list(store.read)))

    reading = stream(made.manifest, store, made.keys.inputs(), before_decrypt=before)
    next(reading)
    assert events == [(True, [made.manifest.shards[0].path])]  # before anything else is read
    until = time.monotonic() + 10
    while len(store.read) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(0.05)
    assert sorted(store.read) == [entry.path for entry in made.manifest.shards[:3]]
    reading.close()
    assert not working() - others
    assert len(store.read) == 3


def test_a_reader_that_fails_leaves_no_thread(made: Made) -> None:
    others = working()

    def run() -> None:
        for _ in stream(made.manifest, made.store, made.keys.inputs()):
            raise RuntimeError("the model")

    with pytest.raises(RuntimeError, match="the model"):
        run()
    assert not working() - others


@pytest.mark.parametrize("number", [0, 1, 5, 14])
def test_a_tampered_shard_is_named_and_nothing_after_it_is_given_out(
    made: Made, number: int
) -> None:
    path = made.manifest.shards[number].path
    seen: list[int] = []
    spent: list[int] = []
    shards = stream(made.manifest, Counting(made.store, path), made.keys.inputs(),
                    before_decrypt=lambda: spent.append(1))  # fmt: skip
    with pytest.raises(Tampered, match=path):
        seen.extend(shard.index for shard in shards)
    assert seen == list(range(number))
    assert len(spent) == bool(number)
    for keys in (None, made.keys):
        with pytest.raises(Tampered, match=path):
            verify(made.manifest, Counting(made.store, path), keys)


def test_a_case_by_position_costs_one_shard(made: Made) -> None:
    store, spent = Counting(made.store), []
    cases = Cases(made.manifest, store, made.keys.inputs(), before_decrypt=lambda: spent.append(1))
    assert len(cases) == 61
    assert not store.read
    assert not spent
    position = 0
    for shard in stream(made.manifest, made.store, made.keys.inputs()):
        for row, case in enumerate(shard.cases):
            one = cases[position]
            assert (one.cases, one.index) == ((case,), shard.index)
            for name, array in shard.inputs.items():
                assert np.array_equal(one.inputs[name], array[row : row + 1])
            position += 1
    assert store.read == [entry.path for entry in made.manifest.shards]  # each once
    assert spent == [1]
    for beyond in (-1, 61):
        with pytest.raises(IndexError):
            cases[beyond]
    path, spent = made.manifest.shards[2].path, []
    changed = Cases(made.manifest, Counting(made.store, path), made.keys.inputs(),
                    before_decrypt=lambda: spent.append(1))  # fmt: skip
    with pytest.raises(Tampered, match=path):
        changed[9]
    assert not spent


def test_an_object_that_can_not_be_written_is_named_and_leaves_no_half(
    made: Made, tmp_path: Path
) -> None:
    """A file lies where the folder of the shards belongs: each worker's write fails."""
    store = LocalStore(tmp_path)
    store.put("cohorts/made/1/inputs", b"in the way")
    with pytest.raises(Exception, match="cohorts/made/1/inputs/00000") as raised:
        seal(made.staged, store, cohort_id="made", version="1", keys=made.keys, shard_size=SHARD)
    assert "\n" not in str(raised.value)
    assert store.list("") == ["cohorts/made/1/inputs"]

    class Full:
        def __init__(self) -> None:
            self.store = LocalStore(tmp_path / "full")

        def put(self, path: str, data: bytes) -> None:
            if path.endswith("/00003"):
                raise Unavailable(f"the object {path} can't be written: no space")
            self.store.put(path, data)

    full = Full()
    with pytest.raises(Unavailable, match="00003 can't be written"):
        seal(made.staged, full, cohort_id="made", version="1", keys=made.keys, shard_size=SHARD)
    for path in full.store.list(""):
        assert full.store.get(path) == made.store.get(path)


def test_a_block_that_shrank_while_it_was_sealed_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = made_staging(tmp_path / "staged", 61, size=64)
    block = staged / "inputs-00003.safetensors"

    def cut(folder: object) -> object:
        block.write_bytes(block.read_bytes()[:-9])
        return _cleared

    from validators.cohort.clearance import Cleared

    _cleared = Cleared(())
    monkeypatch.setattr("validators.cohort.seal.check_clear", cut)
    with pytest.raises(Invalid, match="inputs-00003"):
        seal(staged, LocalStore(tmp_path / "o"), cohort_id="made", version="1", keys=made.keys)


def test_a_shards_digest_names_every_plain_byte(made: Made) -> None:
    """Each byte changed in turn: another digest, or no shard."""
    rng = np.random.default_rng(1)
    inputs = {
        "image": rng.integers(0, 9, (3, 1, 2, 2)).astype(np.int16),
        "age": rng.random((3, 1)).astype(np.float32),
        "m": rng.random((3, 2)) < 0.5,
    }
    plain = bytes(shard_bytes(["0f" * 16, "1a" * 16, "2b" * 16], inputs))
    assert set(load(plain)) == {*inputs, "case pseudonyms"}  # it is safetensors
    digests = {shard_digests(plain, parse_shard(0, "p", plain).inputs)[0]}
    count = 1
    for offset in range(len(plain)):
        for mask in (1, 2, 128):
            changed = bytearray(plain)
            changed[offset] ^= mask
            try:
                shard = parse_shard(0, "p", bytes(changed))
            except Tampered:
                continue
            digests.add(shard_digests(bytes(changed), shard.inputs)[0])
            count += 1
    assert len(digests) == count > 60
    for other in (plain + b"\0", plain[:-1], b"", plain[:8], b"\xff" * 40):
        with pytest.raises(Tampered):
            parse_shard(0, "p", other)


def test_the_digest_of_inputs_is_that_of_each_tensor_in_the_order_of_names() -> None:
    rng = np.random.default_rng(2)
    for size in (2, 40):  # laid together, and not
        inputs = {"b": rng.random((3, size, size)), "a": rng.integers(0, 9, (3,)).astype(np.int64)}
        shape = canonical([["a", "int64", []], ["b", "float64", [size, size]]])
        assert list(input_digests(inputs)) == [
            "sha256:" + hashlib.sha256(shape + inputs["a"][row].tobytes()
                                       + inputs["b"][row].tobytes()).hexdigest()
            for row in range(3)
        ]  # fmt: skip


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(attributes=st.dictionaries(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.-]{0,8}\Z"), _text),
       patient=_text, reference=st.integers(0, 1))  # fmt: skip
def test_a_cases_digest_is_that_of_canonical_json(
    attributes: dict[str, str], patient: str, reference: int
) -> None:
    value = {"attributes": attributes, "case": "c", "inputs": "d", "patient": patient,
             "reference": reference, "salt": "s"}  # fmt: skip
    assert case_digest("c", patient, reference, attributes, "d", "s") == digest_of(value)


def test_digests_of_a_table_are_those_of_its_cases(made: Made) -> None:
    table = read_salted_reference(made.manifest, made.store, made.keys.reference())
    shards = stream(made.manifest, made.store, made.keys.inputs())
    inputs = [digest for shard in shards for digest in input_digests(shard.inputs)]
    assert tuple(digests_of_cases(table, inputs)) == made.manifest.case_digests
    assert len(digests_of_cases(table.drop_columns(["sex"]), inputs)) == 61
    with pytest.raises(ValueError, match="zip"):
        digests_of_cases(table, inputs[:-1])


def test_a_manifest_of_the_older_form_says_what_to_do(made: Made) -> None:
    data = manifest_bytes(made.manifest).replace(b"touchstone/cohort/v2", b"touchstone/cohort/v1")
    with pytest.raises(Invalid, match="older version"):
        parse_manifest(data)


def test_results_come_in_order_and_the_first_error_ends_it() -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        if number in (5, 6):
            raise ValueError(str(number))
        return number

    started: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            started.append(number)
            yield number

    got: list[int] = []
    with pytest.raises(ValueError, match="5"):
        got.extend(in_order(work, items(), at_once=4))
    assert got == [0, 1, 2, 3, 4]
    assert len(started) <= 10
