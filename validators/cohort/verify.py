"""Check a sealed cohort again, from the outside or to the bottom.

    >>> verify(manifest, store, None)      # every object's bytes, and the root's arithmetic
    >>> verify(manifest, store, keys)      # also every case: inputs, patient, reference, counts

Raises Tampered, which names the object, at the first thing that is not what was sealed.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from registry.trust.errors import Tampered
from validators.cohort.ahead import in_order, threads
from validators.cohort.contents import counts_of, digests_of_cases
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import (
    Manifest,
    SealedObject,
    check_manifest,
    manifest_path,
)
from validators.cohort.objects import ObjectReader
from validators.cohort.reference_masks import check_masks
from validators.cohort.shard import Shard
from validators.cohort.stream import (
    check_input_key,
    open_shard,
    read_salted_reference,
    read_sealed,
)

BESIDE = ("manifest.json", "lock.json")
"""What lies in the folder besides the objects."""

_MORE = 8


def verify(manifest: Manifest, reader: ObjectReader, keys: CohortKeys | None) -> None:
    """Check the manifest against itself and every object against the manifest.

    With keys, everything is decrypted too, and the digests of all cases, the counts and so the
    root are computed anew from the content. Objects are checked in threads, on all cores.
    """
    check_manifest(manifest)
    if keys is None:
        checked = in_order(lambda entry: len(read_sealed(entry, reader)), manifest.objects,
                           at_once=1 + threads(), more=_MORE)  # fmt: skip
        sum(checked)
        return
    table = read_salted_reference(manifest, reader, keys.reference())
    if counts_of(table) != (manifest.counts, manifest.attributes):
        raise Tampered(f"{manifest.reference.path} does not have the counts of the manifest")
    if len(pc.unique(table["case"])) != len(table):
        raise Tampered(f"{manifest.reference.path} has a case twice")
    check_masks(manifest, reader, keys.reference(), table)
    key = keys.inputs()
    check_input_key(manifest, key)
    firsts = accumulate((entry.cases for entry in manifest.shards), initial=0)

    def check(numbered: tuple[int, tuple[SealedObject, int]]) -> None:
        index, (entry, first) = numbered
        shard, inputs = open_shard(index, entry, key, read_sealed(entry, reader))
        expected = manifest.case_digests[first : first + entry.cases]
        _check_cases(entry, shard, table.slice(first, entry.cases), inputs, expected)

    shards = enumerate(zip(manifest.shards, firsts, strict=False))
    for _ in in_order(check, shards, at_once=1 + threads(), more=_MORE):
        pass


def check_listed(manifest: Manifest, listed: Iterable[str]) -> None:
    """Raise Tampered, naming it, where the store holds an object that the manifest does not list.

    listed: every name below the cohort version's folder (a store's `names`). Nothing ever reads
    such an object; it shows that somebody wrote where only a seal writes, and so no run begins
    beside it.
    """
    folder = manifest_path(manifest.id, manifest.version).rpartition("/")[0]
    known = {entry.path for entry in manifest.objects}
    known |= {f"{folder}/{name}" for name in BESIDE}
    for path in listed:
        if path not in known:
            name = path if path.isascii() and path.isprintable() else ascii(path)
            raise Tampered(
                f"{name[:300]} was added to the sealed cohort: its manifest does not list it"
            )


def _check_cases(
    entry: SealedObject,
    shard: Shard,
    table: pa.Table,
    inputs: Sequence[str],
    expected: Sequence[str],
) -> None:
    same = list(shard.cases) == table["case"].to_pylist()
    if not same or digests_of_cases(table, inputs) != list(expected):
        raise Tampered(
            f"a case of {entry.path} is not the one that was sealed: its inputs, patient, "
            "reference standard or attributes were exchanged"
        )
