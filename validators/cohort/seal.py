"""Seal staged cases: encrypted shards, and a manifest whose root names the content.

    >>> keys = create_keys(Path("cohort-keys"), "lidc-nodules", "1")
    >>> manifest = seal(Path("staged"), store, cohort_id="lidc-nodules", version="1", keys=keys)
    >>> store.put(manifest_path(manifest.id, manifest.version), manifest_bytes(manifest))

Rules
-----
1. Shards hold inputs alone, and are sealed with the input key; reference standard and attributes
   are one object of their own, sealed with the reference key, and so are masks
   (`validators.cohort.reference_masks`).
2. Cases are in the order of their pseudonyms: a function of key and id, not of the source's
   order, so neither shard nor row says anything about a case.
3. The same staging and keys give the same bytes and root. A seal that was killed is run again.
4. Shards are made in threads, two for each core, and each has one in memory.
5. Cases that are not cleared (`validators.cohort.clearance`) are not sealed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Conflict, Invalid
from validators.cohort.ahead import in_order, threads
from validators.cohort.clearance import check_clear
from validators.cohort.contents import (
    SALT,
    counts_of,
    digests_of_cases,
    empty_shard,
    pseudonyms,
    salts,
    shard_digests,
    table_bytes,
)
from validators.cohort.envelope import Buffer, lock
from validators.cohort.ingest import Staged, open_staged
from validators.cohort.keys import CohortKeys, InputKey, NamesKey, ReferenceKey
from validators.cohort.manifest import (
    SCHEMA,
    KeyFingerprints,
    Manifest,
    ObjectKind,
    SealedObject,
    check_manifest,
    reference_path,
    root_of,
    shard_path,
)
from validators.cohort.objects import ObjectWriter
from validators.cohort.reference_masks import seal_masks
from validators.cohort.review import digest_of_review
from validators.cohort.staged_rows import gather
from validators.cohort.tensors import Placed

SHARD = 5_000_000
"""Bytes of input a shard, about."""
_PART, _MORE = 1 << 16, 8
Progress = Callable[[int, int], None]
Form = dict[str, tuple[str, tuple[int, ...]]]


def seal(
    staged: Path | Staged,
    writer: ObjectWriter,
    *,
    cohort_id: str,
    version: str,
    keys: CohortKeys,
    progress: Progress = lambda done, total: None,
    shard_size: int = SHARD,
) -> Manifest:
    """Write a cohort's sealed objects and return its manifest, which the caller stores.

    shard_size: bytes of input a shard, about. Raises NotFound when nothing is staged there,
    Conflict when the keys are another cohort's, Invalid when the staging folder is damaged,
    Refused while it holds anything outside the allow-list or a flag that nobody looked at.
    """
    if (keys.cohort, keys.version) != (cohort_id, version):
        raise Conflict(f"these are the keys of {keys.cohort} version {keys.version}")
    folder = open_staged(staged) if isinstance(staged, Path) else staged
    cleared = check_clear(folder)
    table, origin = _renamed(folder.table(), keys.names())
    if len(table) != folder.cases:
        raise Invalid(f"{folder.path} is damaged: run `touchstone cohort ingest` again")
    input_key, reference_key = keys.inputs(), keys.reference()
    objects: list[SealedObject] = []
    digests: list[str] = []
    table, masks = seal_masks(
        folder, table, origin, cases_a_shard(form_of(folder), shard_size),
        partial(put_object, writer, key=reference_key), cohort=cohort_id, version=version,
    )  # fmt: skip
    shards = _Shards(folder, table, origin, writer, input_key)
    parts = shards.parts(shard_size)
    for entry, of_cases in in_order(shards.seal, parts, at_once=2 * threads(), more=_MORE):
        objects.append(entry)
        digests += of_cases
        progress(len(digests), len(table))
    path = reference_path(cohort_id, version)
    plain = table_bytes(table)
    objects.extend(masks)
    objects.append(put_object(writer, path, "reference", len(table), plain, reference_key))
    description = _description(folder, table, cohort_id, version)
    if cleared.reviewed:
        description["about"] = description["about"] | {
            "flags_reviewed": cleared.reviewed,
            "reviewed_by": ", ".join(cleared.reviewers),
            "review": digest_of_review(cleared.rows, keys.names().derive("review").hex()),
        }
    manifest = Manifest.model_validate(
        description
        | {
            "objects": objects,
            "case_digests": digests,
            "keys": KeyFingerprints(
                inputs=input_key.fingerprint, reference=reference_key.fingerprint
            ),
            "root": root_of(description, objects, digests),
        }
    )
    check_manifest(manifest)
    return manifest


def _renamed(table: pa.Table, key: NamesKey) -> tuple[pa.Table, NDArray[np.int64]]:
    """The table under pseudonyms, in their order, with salts; and where each row came from."""
    made = {
        "case": _each(table["case"], lambda ids: pseudonyms(key, "case", ids)),
        "patient": _each(table["patient"], lambda ids: pseudonyms(key, "patient", ids)),
    }
    table = table.append_column(SALT, _each(table["case"], lambda ids: salts(key, ids)))
    for name, column in made.items():
        table = table.set_column(table.column_names.index(name), name, column)
    order = pc.sort_indices(table["case"])
    return table.take(order), order.to_numpy().astype(np.int64)


def _each(column: pa.ChunkedArray, name: Callable[[list[str]], list[str]]) -> pa.ChunkedArray:
    """The column with each id renamed, a part at a time: lists of text take much memory."""
    parts = [column.slice(start, _PART) for start in range(0, len(column), _PART)]
    return pa.chunked_array([pa.array(name(of.to_pylist())) for of in parts], pa.string())


def form_of(folder: Staged) -> Form:
    """Type and shape of each tensor of a case."""
    found = folder.meta["tensors"]
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in found.items()}


def cases_a_shard(form: Form, size: int) -> int:
    """How many cases of this form `size` bytes hold; one at least."""
    a_case = sum(Placed(name, *of).nbytes for name, of in form.items())
    return max(1, size // max(1, a_case))


@dataclass(frozen=True)
class _Shards:
    """What the shards are made of: staged inputs, and the table in the order of the pseudonyms."""

    folder: Staged
    table: pa.Table
    origin: NDArray[np.int64]
    writer: ObjectWriter
    key: InputKey

    @property
    def form(self) -> Form:
        """Type and shape of each tensor of a case."""
        return form_of(self.folder)

    def parts(self, size: int) -> Iterator[tuple[int, range]]:
        """Number and rows of each shard."""
        step = cases_a_shard(self.form, size)
        for number, start in enumerate(range(0, len(self.table), step)):
            yield number, range(start, min(start + step, len(self.table)))

    def seal(self, part: tuple[int, range]) -> tuple[SealedObject, list[str]]:
        """Gather, hash, encrypt and write one shard; its entry and the digests of its cases."""
        number, rows = part
        table = self.table.slice(rows.start, len(rows))
        plain, views = empty_shard(table["case"].to_pylist(), self.form)
        gather(self.folder, self.origin[rows.start : rows.stop], views)
        digest, inputs = shard_digests(plain, views)
        path = shard_path(self.key.cohort, self.key.version, number)
        entry = put_shard(self.writer, path, len(rows), plain, digest, self.key)
        return entry, digests_of_cases(table, inputs)


def put_object(
    writer: ObjectWriter,
    path: str,
    kind: ObjectKind,
    cases: int,
    plain: Buffer,
    key: InputKey | ReferenceKey,
) -> SealedObject:
    """Encrypt one object, write it, and say what a manifest says of it."""
    return _put(writer, path, kind, cases, plain, sha256_bytes(plain), key)


def put_shard(
    writer: ObjectWriter, path: str, cases: int, plain: Buffer, digest: str, key: InputKey
) -> SealedObject:
    """The same for a shard of inputs, whose digest (`shard_digests`) is at hand."""
    return _put(writer, path, "inputs", cases, plain, digest, key)


def _put(
    writer: ObjectWriter, path: str, kind: ObjectKind, cases: int, plain: Buffer, digest: str,
    key: InputKey | ReferenceKey,
) -> SealedObject:  # fmt: skip
    sealed = lock(key, path, digest, plain)
    entry = SealedObject(
        path=path,
        kind=kind,
        cases=cases,
        size=len(sealed),
        sha256=sha256_bytes(sealed),
        plain_size=len(plain),
        plain_sha256=digest,
    )
    writer.put(path, sealed)
    return entry


def _description(folder: Staged, table: pa.Table, cohort: str, version: str) -> dict[str, Any]:
    counts, attributes = counts_of(table)
    groups = {
        attribute: {group: c.model_dump(mode="json") for group, c in of_attribute.items()}
        for attribute, of_attribute in attributes.items()
    }
    copied = ("title", "licence", "citation", "reference_standard", "contract_digest",
              "case_flow", "about")  # fmt: skip
    return {
        "schema_id": SCHEMA,
        "id": cohort,
        "version": version,
        "counts": counts.model_dump(mode="json"),
        "attributes": groups,
    } | {name: folder.meta[name] for name in (*copied, "structures") if name in folder.meta}
