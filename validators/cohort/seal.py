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
4. One shard is in memory at a time.
5. Cases that are not cleared (`validators.cohort.clearance`) are not sealed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Conflict, Invalid
from validators.cohort.clearance import check_clear
from validators.cohort.contents import (
    SALT,
    attributes_of,
    counts_of,
    input_digests,
    pseudonym,
    salt_of,
    shard_bytes,
    table_bytes,
)
from validators.cohort.envelope import encrypt
from validators.cohort.ingest import Staged, open_staged
from validators.cohort.keys import CohortKeys, InputKey, NamesKey, ReferenceKey
from validators.cohort.manifest import (
    KeyFingerprints,
    Manifest,
    ObjectKind,
    SealedObject,
    case_digest,
    check_manifest,
    reference_path,
    root_of,
    shard_path,
)
from validators.cohort.objects import ObjectWriter
from validators.cohort.reference_masks import seal_masks

SHARD = 5_000_000
"""Bytes of input a shard, about."""
Progress = Callable[[int, int], None]


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
    total = len(table)
    if total != folder.cases:
        raise Invalid(f"{folder.path} is damaged: run `touchstone cohort ingest` again")
    input_key, reference_key = keys.inputs(), keys.reference()
    objects, digests = [], []
    step = max(1, shard_size // _bytes_a_case(folder))
    table, masks = seal_masks(
        folder, table, origin, step, partial(put_object, writer, key=reference_key),
        cohort=cohort_id, version=version,
    )  # fmt: skip
    names = attributes_of(table)
    rows_of = {name: table[name].to_pylist() for name in table.column_names}
    for number, start in enumerate(range(0, total, step)):
        rows = range(start, min(start + step, total))
        inputs = _gather(folder, origin[rows.start : rows.stop])
        for row, digest in zip(rows, input_digests(inputs), strict=True):
            attributes = {name: rows_of[name][row] for name in names}
            digests.append(
                case_digest(
                    rows_of["case"][row],
                    rows_of["patient"][row],
                    rows_of["reference"][row],
                    attributes,
                    digest,
                    rows_of[SALT][row],
                )
            )
        plain = shard_bytes(rows_of["case"][rows.start : rows.stop], inputs)
        path = shard_path(cohort_id, version, number)
        objects.append(put_object(writer, path, "inputs", len(rows), plain, input_key))
        progress(rows.stop, total)
    path = reference_path(cohort_id, version)
    objects.extend(masks)
    objects.append(put_object(writer, path, "reference", total, table_bytes(table), reference_key))
    description = _description(folder, table, cohort_id, version)
    if cleared.reviewed:
        description["about"] = description["about"] | {
            "flags_reviewed": cleared.reviewed,
            "reviewed_by": ", ".join(cleared.reviewers),
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
    ids = table["case"].to_pylist()
    cases = [pseudonym(key, "case", name) for name in ids]
    patients = [pseudonym(key, "patient", name) for name in table["patient"].to_pylist()]
    order = np.argsort(np.array(cases))
    for name, values in (("case", cases), ("patient", patients)):
        column = table.column_names.index(name)
        table = table.set_column(column, name, pa.array(values, pa.string()))
    table = table.append_column(SALT, pa.array([salt_of(key, n) for n in ids], pa.string()))
    return table.take(pa.array(order)), order


def _gather(folder: Staged, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The inputs of these staged rows, read block by block."""
    gathered: dict[str, NDArray[Any]] = {}
    size = folder.block_size
    for number in np.unique(rows // size):
        places = np.flatnonzero(rows // size == number)
        try:
            _read_block(folder.block(int(number)), rows % size, places, gathered)
        except (SafetensorError, OSError) as error:
            raise Invalid(
                f"{folder.block(int(number))} is missing or damaged; "
                "run `touchstone cohort ingest` again"
            ) from error
    return gathered


def _read_block(
    path: Path, rows: NDArray[np.int64], places: NDArray[np.int64], into: dict[str, NDArray[Any]]
) -> None:
    with safe_open(path, framework="numpy") as block:
        for name in block.keys():  # noqa: SIM118 - not a mapping
            part = block.get_slice(name)
            for place in places:
                row = part[int(rows[place])]
                if name not in into:
                    into[name] = np.empty((len(rows), *row.shape), dtype=row.dtype)
                into[name][place] = row


def _bytes_a_case(folder: Staged) -> int:
    first = _gather(folder, np.array([0]))
    return max(1, sum(array.nbytes for array in first.values()))


def put_object(
    writer: ObjectWriter,
    path: str,
    kind: ObjectKind,
    cases: int,
    plain: bytes,
    key: InputKey | ReferenceKey,
) -> SealedObject:
    """Encrypt one object, write it, and say what a manifest says of it."""
    sealed = encrypt(key, path, plain)
    writer.put(path, sealed)
    return SealedObject(
        path=path,
        kind=kind,
        cases=cases,
        size=len(sealed),
        sha256=sha256_bytes(sealed),
        plain_size=len(plain),
        plain_sha256=sha256_bytes(plain),
    )


def _description(folder: Staged, table: pa.Table, cohort: str, version: str) -> dict[str, Any]:
    counts, attributes = counts_of(table)
    groups = {
        attribute: {group: c.model_dump(mode="json") for group, c in of_attribute.items()}
        for attribute, of_attribute in attributes.items()
    }
    copied = ("title", "licence", "citation", "reference_standard", "contract_digest",
              "case_flow", "about")  # fmt: skip
    return {
        "schema_id": "touchstone/cohort/v1",
        "id": cohort,
        "version": version,
        "counts": counts.model_dump(mode="json"),
        "attributes": groups,
    } | {name: folder.meta[name] for name in (*copied, "structures") if name in folder.meta}
