"""Read a sealed cohort: inputs shard by shard, or the reference standard; never both.

    >>> for shard in stream(manifest, store, input_key, before_decrypt=spend_the_attempt):
    ...     scores = model(shard.inputs)
    >>> table = read_reference(manifest, store, reference_key)

Rules
-----
1. Every object is checked against the manifest before it is decrypted, and what came out after.
   The first that does not match ends the reading with Tampered, which names it.
2. `before_decrypt` is called once, after the first shard was found intact and before it is
   decrypted: a damaged cohort spends no attempt.
3. The caller has compared `manifest.root` with the root in the record.
4. One shard is in memory at a time, as long as the caller keeps none.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import NotFound, Refused, Tampered
from validators.cohort.contents import MARKED, SALT, Shard, parse_shard, parse_table
from validators.cohort.envelope import decrypt
from validators.cohort.keys import InputKey, ReferenceKey
from validators.cohort.manifest import Manifest, SealedObject, check_manifest
from validators.cohort.objects import ObjectReader


def stream(
    manifest: Manifest,
    reader: ObjectReader,
    input_key: InputKey,
    *,
    before_decrypt: Callable[[], None] = lambda: None,
) -> Iterator[Shard]:
    """Yield the cohort's inputs, shard by shard, in the manifest's order.

    Raises Tampered naming the object that is missing or changed, Refused for the wrong key.
    """
    check_key(manifest, input_key, InputKey, manifest.keys.inputs)
    check_manifest(manifest)
    for index, entry in enumerate(manifest.shards):
        sealed = read_sealed(entry, reader)
        if index == 0:
            before_decrypt()
        yield _opened(index, entry, input_key, sealed)


def read_reference(
    manifest: Manifest, reader: ObjectReader, reference_key: ReferenceKey
) -> pa.Table:
    """Columns case, patient, reference (0 or 1, or a mask's digest) and one of text an attribute.

    Raises Tampered naming the object when it is missing or changed, Refused for the wrong key.
    """
    table = read_salted_reference(manifest, reader, reference_key)
    return table.drop_columns([SALT, *([MARKED] if manifest.structures else [])])


def read_salted_reference(
    manifest: Manifest, reader: ObjectReader, reference_key: ReferenceKey
) -> pa.Table:
    """The same with the column `salt`, which checking the case digests needs."""
    check_key(manifest, reference_key, ReferenceKey, manifest.keys.reference)
    entry = manifest.reference
    plain = decrypt(reference_key, entry.path, entry.plain_sha256, read_sealed(entry, reader))
    table = parse_table(entry.path, plain)
    needed = {"case", "patient", "reference", SALT, *manifest.attributes}
    needed |= {MARKED} if manifest.structures else set()
    if set(table.column_names) != needed or len(table) != entry.cases:
        raise Tampered(f"{entry.path} is not the table that the manifest describes")
    return table


def read_sealed(entry: SealedObject, reader: ObjectReader) -> bytes:
    """An object's sealed bytes; Tampered unless they are those of the manifest."""
    try:
        sealed = reader.get(entry.path)
    except NotFound as error:
        raise Tampered(f"{entry.path} is missing from the sealed cohort") from error
    if len(sealed) != entry.size or sha256_bytes(sealed) != entry.sha256:
        raise Tampered(f"{entry.path} was changed after it was sealed")
    return sealed


def _opened(index: int, entry: SealedObject, key: InputKey, sealed: bytes) -> Shard:
    plain = decrypt(key, entry.path, entry.plain_sha256, sealed)
    shard = parse_shard(index, entry.path, plain)
    if len(shard.cases) != entry.cases:
        raise Tampered(f"{entry.path} does not hold the {entry.cases} cases of the manifest")
    return shard


def check_key(manifest: Manifest, key: object, kind: type, fingerprint: str) -> None:
    """Raise Refused unless this is the cohort's key of this kind."""
    if not isinstance(key, kind) or getattr(key, "fingerprint", None) != fingerprint:
        raise Refused(
            f"this is not the {kind.__name__} of cohort {manifest.id} version {manifest.version}"
        )
