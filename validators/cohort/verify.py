"""Check a sealed cohort again, from the outside or to the bottom.

    >>> verify(manifest, store, None)      # every object's bytes, and the root's arithmetic
    >>> verify(manifest, store, keys)      # also every case: inputs, patient, reference, counts

Raises Tampered, which names the object, at the first thing that is not what was sealed.
"""

from collections.abc import Iterable
from typing import Any

from registry.trust.errors import Tampered
from validators.cohort.contents import MARKED, SALT, Shard, counts_of, input_digests
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import (
    Manifest,
    SealedObject,
    case_digest,
    check_manifest,
    manifest_path,
)
from validators.cohort.objects import ObjectReader
from validators.cohort.reference_masks import check_masks
from validators.cohort.stream import read_salted_reference, read_sealed, stream

BESIDE = ("manifest.json", "lock.json")
"""What lies in the folder besides the objects."""


def verify(manifest: Manifest, reader: ObjectReader, keys: CohortKeys | None) -> None:
    """Check the manifest against itself and every object against the manifest.

    With keys, everything is decrypted too, and the digests of all cases, the counts and so the
    root are computed anew from the content. One shard is in memory at a time.
    """
    check_manifest(manifest)
    if keys is None:
        for entry in manifest.objects:
            read_sealed(entry, reader)
        return
    table = read_salted_reference(manifest, reader, keys.reference())
    rows = table.to_pylist()
    if counts_of(table) != (manifest.counts, manifest.attributes):
        raise Tampered(f"{manifest.reference.path} does not have the counts of the manifest")
    if len({row["case"] for row in rows}) != len(rows):
        raise Tampered(f"{manifest.reference.path} has a case twice")
    check_masks(manifest, reader, keys.reference(), rows)
    first = 0
    for entry, shard in zip(manifest.shards, stream(manifest, reader, keys.inputs()), strict=True):
        last = first + entry.cases
        _check_cases(entry, shard, rows[first:last], manifest.case_digests[first:last])
        first = last


def check_listed(manifest: Manifest, listed: Iterable[str]) -> None:
    """Raise Tampered, naming it, where the store holds an object that the manifest does not list.

    listed: every path below the cohort version's folder. Nothing ever reads such an object; it
    shows that somebody wrote where only a seal writes.
    """
    folder = manifest_path(manifest.id, manifest.version).rpartition("/")[0]
    known = {entry.path for entry in manifest.objects}
    known |= {f"{folder}/{name}" for name in BESIDE}
    for path in listed:
        if path not in known:
            raise Tampered(f"{path} was added to the sealed cohort: its manifest does not list it")


def _check_cases(
    entry: SealedObject,
    shard: Shard,
    rows: list[dict[str, Any]],
    digests: tuple[str, ...],
) -> None:
    known = {"case", "patient", "reference", SALT, MARKED}
    for case, row, expected, inputs in zip(
        shard.cases, rows, digests, input_digests(shard.inputs), strict=True
    ):
        attributes = {name: value for name, value in row.items() if name not in known}
        found = case_digest(
            row["case"], row["patient"], row["reference"], attributes, inputs, row[SALT]
        )
        if case != row["case"] or found != expected:
            raise Tampered(
                f"a case of {entry.path} is not the one that was sealed: its inputs, patient, "
                "reference standard or attributes were exchanged"
            )
