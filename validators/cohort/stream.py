"""Read a sealed cohort: inputs shard by shard, or the reference standard; never both.

    >>> for shard in stream(manifest, store, input_key, before_decrypt=spend_the_attempt):
    ...     scores = model(shard.inputs)
    >>> table = read_reference(manifest, store, reference_key)

Rules
-----
1. What came out of every object is checked against the manifest, and nothing comes out that AES-GCM
   does not authenticate. The bytes as they are stored are hashed too, before they are decrypted,
   of the first shard and of the table; of further shards they follow: the cipher under a key and
   nonce that the content's digest gives has one output for one content (decision 27). The first
   object that does not match ends the reading with Tampered, which names it.
2. `before_decrypt` is called once, after the first shard was found intact and before it is
   decrypted: a damaged cohort spends no attempt.
3. The caller has compared `manifest.root` with the root in the record.
4. While the caller works on a shard, the next two are read, checked and decrypted in threads. Four
   are in memory at most, as long as the caller keeps none. Who leaves off early closes the
   generator, which waits for those two.
"""

from collections.abc import Callable, Generator, Iterable
from itertools import chain

import pyarrow as pa

from registry.trust.canonical import sha256_bytes
from registry.trust.errors import NotFound, Refused, Tampered
from validators.cohort.ahead import in_order
from validators.cohort.contents import MARKED, SALT, parse_shard, parse_table, shard_digests
from validators.cohort.envelope import Buffer, check_digest, decrypt, unlock
from validators.cohort.keys import InputKey, ReferenceKey
from validators.cohort.manifest import Manifest, SealedObject, check_manifest
from validators.cohort.objects import ObjectReader
from validators.cohort.shard import Shard

_AT_ONCE = 3


def stream(
    manifest: Manifest,
    reader: ObjectReader,
    input_key: InputKey,
    *,
    before_decrypt: Callable[[], None] = lambda: None,
    only: Iterable[int] | None = None,
) -> Generator[Shard]:
    """Yield the cohort's inputs, shard by shard, in the manifest's order.

    only: which shards instead of all, by their place in the manifest; each is asked for when its
    reading begins. Raises Tampered naming the object that is missing or changed, Refused for the
    wrong key.
    """
    opened = open_shards(manifest, reader, input_key, before_decrypt=before_decrypt, only=only)
    try:
        for shard, _ in opened:
            yield shard
            del shard
    finally:
        opened.close()


def open_shards(
    manifest: Manifest,
    reader: ObjectReader,
    input_key: InputKey,
    *,
    before_decrypt: Callable[[], None] = lambda: None,
    only: Iterable[int] | None = None,
) -> Generator[tuple[Shard, list[str]]]:
    """As `stream`, each shard with the digests of its cases' inputs, which were computed anyway."""
    check_input_key(manifest, input_key)
    check_manifest(manifest)
    shards = manifest.shards
    chosen = iter(range(len(shards)) if only is None else only)
    place = next(chosen, None)
    if place is None:
        return
    sealed_first: list[Buffer] = [read_sealed(shards[place], reader)]
    before_decrypt()

    def opened(numbered: tuple[int, int]) -> tuple[Shard, list[str]]:
        number, index = numbered
        entry = shards[index]
        sealed = sealed_first.pop() if number == 0 else _read(entry, reader)
        return open_shard(index, entry, input_key, sealed)

    yield from in_order(opened, enumerate(chain([place], chosen)), at_once=_AT_ONCE)


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
    sealed = _read(entry, reader)
    if sha256_bytes(sealed) != entry.sha256:
        raise _changed(entry)
    return sealed


def _read(entry: SealedObject, reader: ObjectReader) -> bytes:
    """What lies in an object's place, which is as long as the object; not hashed."""
    try:
        sealed = reader.get(entry.path)
    except NotFound as error:
        raise Tampered(f"{entry.path} is missing from the sealed cohort") from error
    if len(sealed) != entry.size:
        raise _changed(entry)
    return sealed


def _changed(entry: SealedObject) -> Tampered:
    return Tampered(f"{entry.path} was changed after it was sealed")


def open_shard(
    index: int, entry: SealedObject, key: InputKey, sealed: Buffer
) -> tuple[Shard, list[str]]:
    """The shard in sealed bytes, and the digests of its cases' inputs; Tampered, by name."""
    plain = unlock(key, entry.path, entry.plain_sha256, sealed)
    shard = parse_shard(index, entry.path, plain)
    digest, inputs = shard_digests(plain, shard.inputs)
    check_digest(entry.path, digest, entry.plain_sha256)
    if len(shard.cases) != entry.cases:
        raise Tampered(f"{entry.path} does not hold the {entry.cases} cases of the manifest")
    return shard, inputs


def check_input_key(manifest: Manifest, key: object) -> None:
    """Raise Refused unless it is the key of the cohort's inputs."""
    check_key(manifest, key, InputKey, manifest.keys.inputs)


def check_key(manifest: Manifest, key: object, kind: type, fingerprint: str) -> None:
    """Raise Refused unless this is the cohort's key of this kind."""
    if not isinstance(key, kind) or getattr(key, "fingerprint", None) != fingerprint:
        raise Refused(
            f"this is not the {kind.__name__} of cohort {manifest.id} version {manifest.version}"
        )
