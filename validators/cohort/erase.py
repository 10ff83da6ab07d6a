"""A new version of a sealed cohort without some patients, made from the old one's sealed objects.

    >>> keys = create_keys(folder, "lidc-nodules", "2", after=old_keys)
    >>> manifest = erase(old, store, old_keys, store, keys, patients={"LIDC-IDRI-0007"})

Rules
-----
1. Patients are named by the source's ids; the old version's key for names finds them. Each one
   that is named must be there: a slip of the pen erases nobody and is said.
2. Every object of the old version is checked on the way, and every case keeps its inputs, reference
   standard, attributes and pseudonym. Salts are new, so no digest of a case is the old one's.
3. A few shards are in memory at a time (`stream`), and nothing in clear is on the disk.
4. The same old version, keys and patients give the same bytes: one that was killed is run again.
"""

from collections.abc import Callable, Collection
from functools import partial

import pyarrow as pa

from registry.trust.errors import Conflict, Invalid
from validators.cohort.contents import (
    SALT,
    counts_of,
    digests_of_cases,
    pseudonyms,
    salts,
    shard_bytes,
    shard_digests,
    table_bytes,
)
from validators.cohort.keys import CohortKeys
from validators.cohort.manifest import (
    KeyFingerprints,
    Manifest,
    SealedObject,
    check_manifest,
    description_of,
    reference_path,
    root_of,
    shard_path,
)
from validators.cohort.objects import ObjectReader, ObjectWriter
from validators.cohort.reference_masks import keep_masks
from validators.cohort.seal import put_object, put_shard
from validators.cohort.stream import read_salted_reference, stream

ERASED = "erased at a patient's request"


def erase(
    old: Manifest,
    reader: ObjectReader,
    old_keys: CohortKeys,
    writer: ObjectWriter,
    keys: CohortKeys,
    *,
    patients: Collection[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write the objects of `keys.version` and return its manifest, which the caller stores.

    patients: ids of the source. Raises Invalid where one is not in the old version or nobody would
    be left, Conflict for keys of another cohort, Tampered, naming the object, where the old version
    is not what was sealed.
    """
    if keys.cohort != old.id or keys.version == old.version or keys.names_of != old_keys.names_of:
        raise Conflict(f"these are no keys for a new version of {old.id} {old.version}")
    table = read_salted_reference(old, reader, old_keys.reference())
    names = keys.names()
    gone = set(pseudonyms(names, "patient", patients))
    of_rows = table["patient"].to_pylist()
    missing = len(gone - set(of_rows))
    if missing or not gone:
        raise Invalid(
            f"{missing} of {len(gone)} patients are not in {old.id} {old.version}; nobody was "
            "erased: check the file, one id of the source a line"
        )
    kept = [patient not in gone for patient in of_rows]
    erased = kept.count(False)
    salted = salts(names, (f"{keys.version}/{salt}" for salt in table[SALT].to_pylist()))
    table = table.set_column(table.column_names.index(SALT), SALT, pa.array(salted, pa.string()))
    left = table.take(pa.array([row for row, stays in enumerate(kept) if stays], pa.int64()))
    if not len(left):
        raise Invalid(f"nobody would be left of {old.id} {old.version}; retire it instead")
    objects: list[SealedObject] = []
    digests: list[str] = []
    input_key, first = keys.inputs(), 0
    for shard in stream(old, reader, old_keys.inputs()):
        here = kept[first : first + len(shard.cases)]
        first += len(shard.cases)
        rows = left.slice(len(digests), here.count(True))
        cases = [case for case, stays in zip(shard.cases, here, strict=True) if stays]
        if cases != rows["case"].to_pylist():
            raise Invalid(f"{shard.index} of {old.id} is not in the order of its table")
        if not cases:
            continue
        inputs = {name: array[here] for name, array in shard.inputs.items()}
        plain = shard_bytes(cases, inputs)
        of_plain, of_kept = shard_digests(plain, inputs)
        digests += digests_of_cases(rows, of_kept)
        path = shard_path(keys.cohort, keys.version, len(objects))
        objects.append(put_shard(writer, path, len(cases), plain, of_plain, input_key))
        progress(first, old.counts.cases)
    path, reference_key = reference_path(keys.cohort, keys.version), keys.reference()
    objects += keep_masks(
        old, reader, old_keys.reference(), kept, partial(put_object, writer, key=reference_key),
        cohort=keys.cohort, version=keys.version,
    )  # fmt: skip
    objects.append(
        put_object(writer, path, "reference", len(left), table_bytes(left), reference_key)
    )
    counts, groups = counts_of(left)
    description = description_of(old) | {
        "version": keys.version,
        "counts": counts.model_dump(mode="json"),
        "attributes": {
            name: {group: count.model_dump(mode="json") for group, count in of.items()}
            for name, of in groups.items()
        },
        "case_flow": old.case_flow | {ERASED: old.case_flow.get(ERASED, 0) + erased},
        "about": old.about | {"erased_from": old.version},
    }
    prints = KeyFingerprints(inputs=input_key.fingerprint, reference=reference_key.fingerprint)
    manifest = Manifest.model_validate(
        description
        | {
            "objects": objects,
            "case_digests": digests,
            "keys": prints,
            "root": root_of(description, objects, digests),
        }
    )
    check_manifest(manifest)
    return manifest
