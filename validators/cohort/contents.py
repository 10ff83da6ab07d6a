"""The plain bytes inside sealed objects: a shard of inputs, the table of reference standards.

Rules
-----
1. A shard is safetensors: the pseudonyms of its cases, then their tensors, row by row. Its form is
   fixed to the byte by cases, names, types and shapes.
2. A shard's digest is the SHA-256 of everything before the tensors' bytes, and of the digest of
   each case's inputs: with rule 1 it names all plain bytes, which are hashed once.
3. The table is Parquet: case, patient, reference, one column an attribute, and the salt of the
   case's digest. Its rows are in the order of the shards. Where masks are the reference standard,
   `reference` is the digest of each (`validators.cohort.reference_masks`).
4. Neither holds an id of the source: pseudonyms are HMAC-SHA-256 under the cohort's names key.
"""

import hashlib
import hmac
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from registry.trust.canonical import canonical
from registry.trust.errors import Tampered
from validators.cohort.envelope import Buffer
from validators.cohort.keys import NamesKey
from validators.cohort.manifest import Counts, case_digest
from validators.cohort.shard import Shard
from validators.cohort.tensors import Placed, head_of, rows_of, tensors_in, view_of
from validators.parquet import table_of

_CASES = "case pseudonyms"
"""Has a space, which no tensor's name in a contract may have."""
_PSEUDONYM = 16
_SMALL = 2048
"""Bytes of a case up to which its tensors are laid together before they are hashed."""
_ROWS = 1 << 16
"""Rows a group of the table: writing holds one in memory."""
SALT = "salt"
MARKED = "any structure marked"
"""Of a cohort of masks, whose reference standard is a digest: 1 where the mask is not empty."""


def pseudonyms(key: NamesKey, kind: str, names: Iterable[str]) -> list[str]:
    """32 hex digits for each case or patient, which stand for it in this cohort version alone."""
    secret = key.derive("pseudonym", kind)
    digests = (hmac.digest(secret, name.encode(), "sha256") for name in names)
    return [digest[:_PSEUDONYM].hex() for digest in digests]


def salts(key: NamesKey, cases: Iterable[str]) -> list[str]:
    """The salt of each case's digest: 64 hex digits."""
    secret = key.derive("salt")
    return [hmac.digest(secret, case.encode(), "sha256").hex() for case in cases]


def input_digests(inputs: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """For each row, the digest over all its tensors: names, types, shapes and bytes."""
    return ("sha256:" + digest.hex() for digest in _row_digests(inputs))


def _row_digests(inputs: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    names = sorted(inputs)
    rows = len(inputs[names[0]])
    shape = canonical([[n, str(inputs[n].dtype), list(inputs[n].shape[1:])] for n in names])
    flat = [rows_of(inputs[name]) for name in names]
    sizes = [len(of) // max(1, rows) for of in flat]
    if len(flat) > 1 and sum(sizes) <= _SMALL:
        parts = [np.frombuffer(of, np.uint8).reshape(rows, -1) for of in flat]
        flat, sizes = [rows_of(np.concatenate(parts, axis=1))], [sum(sizes)]
    begun = hashlib.sha256(shape)
    for row in range(rows):
        digest = begun.copy()
        for of, size in zip(flat, sizes, strict=True):
            digest.update(of[row * size : (row + 1) * size])
        yield digest.digest()


def empty_shard(
    cases: Sequence[str], form: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[bytearray, dict[str, NDArray[Any]]]:
    """A shard's plain bytes, and its tensors as views into them, to be filled.

    form: type and shape of each tensor of a case.
    """
    placed = _placed(len(cases), form)
    head = head_of(placed) + bytes.fromhex("".join(cases))
    plain = bytearray(len(head) + sum(tensor.nbytes for tensor in placed[1:]))
    plain[: len(head)] = head
    return plain, {of.name: view_of(plain, of) for of in tensors_in(plain) if of.name != _CASES}


def shard_bytes(cases: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> bytearray:
    """A shard's plain bytes."""
    form = {name: (str(array.dtype), array.shape[1:]) for name, array in inputs.items()}
    plain, views = empty_shard(cases, form)
    for name, view in views.items():
        view[:] = inputs[name]
    return plain


def shard_digests(plain: Buffer, inputs: Mapping[str, NDArray[Any]]) -> tuple[str, list[str]]:
    """The digest of a shard's plain bytes, and of each case's inputs. Hashes each byte once."""
    tensors = sum(array.nbytes for array in inputs.values())
    digest = hashlib.sha256(memoryview(plain)[: len(plain) - tensors])
    of_rows = list(_row_digests(inputs))
    digest.update(b"".join(of_rows))
    return "sha256:" + digest.hexdigest(), ["sha256:" + of.hex() for of in of_rows]


def parse_shard(index: int, path: str, plain: Buffer) -> Shard:
    """The shard in plain bytes; Tampered unless they have the one form of its cases and inputs."""
    wrong = f"{path} holds no shard of inputs"
    try:
        placed = tensors_in(plain)
        arrays = {tensor.name: view_of(plain, tensor) for tensor in placed}
        raw = arrays.pop(_CASES)
    except (ValueError, KeyError) as error:
        raise Tampered(wrong) from error
    if raw.ndim != 2 or not arrays:
        raise Tampered(wrong)
    count = len(raw)
    if any(array.shape[:1] != (count,) for array in arrays.values()):
        raise Tampered(f"{path} has inputs that do not belong to its cases")
    form = {name: (str(array.dtype), array.shape[1:]) for name, array in arrays.items()}
    head = head_of(_placed(count, form))
    last = placed[-1]
    if bytes(memoryview(plain)[: len(head)]) != head or last.start + last.nbytes != len(plain):
        raise Tampered(wrong)
    digits = raw.tobytes().hex()
    step = 2 * _PSEUDONYM
    return Shard(index, tuple(digits[n : n + step] for n in range(0, len(digits), step)), arrays)


def _placed(cases: int, form: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[Placed]:
    """Pseudonyms first, then the widest types, so that each tensor lies on its own bounds."""
    tensors = [Placed(name, dtype, (cases, *shape)) for name, (dtype, shape) in form.items()]
    tensors.sort(key=lambda of: (-np.dtype(of.dtype).itemsize, of.name))
    return [Placed(_CASES, "uint8", (cases, _PSEUDONYM)), *tensors]


def table_bytes(table: pa.Table) -> bytes:
    """The table's plain bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_ROWS)
    return buffer.getvalue()


def parse_table(path: str, plain: Buffer) -> pa.Table:
    """The table in plain bytes; Tampered when they are none."""
    try:
        return table_of(plain)
    except (pa.ArrowException, OSError) as error:
        raise Tampered(f"{path} holds no table of reference standards") from error


def digests_of_cases(table: pa.Table, inputs: Sequence[str]) -> list[str]:
    """The digest of each row's case, of which `inputs` are the digests of the tensors."""
    names = attributes_of(table)
    known = [table[name].to_pylist() for name in ("case", "patient", "reference", SALT)]
    values = zip(*(table[name].to_pylist() for name in names), strict=True)
    rows = values if names else [()] * len(table)
    return [
        case_digest(case, patient, reference, dict(zip(names, of, strict=True)), digest, salt)
        for case, patient, reference, salt, of, digest in zip(*known, rows, inputs, strict=True)
    ]


def attributes_of(table: pa.Table) -> list[str]:
    """The names of the table's attributes."""
    known = {"case", "patient", "reference", SALT, MARKED}
    return [name for name in table.column_names if name not in known]


def counts_of(table: pa.Table) -> tuple[Counts, dict[str, dict[str, Counts]]]:
    """Counts of the whole table, and of every group of every attribute.

    Where masks are the reference standard, a case is positive if its mask is not empty.
    """
    everything = _counted(table, [])[()]
    groups = {}
    for attribute in attributes_of(table):
        found = _counted(table, [attribute])
        groups[attribute] = {group: found[(group,)] for (group,) in sorted(found)}
    return everything, groups


def _counted(table: pa.Table, by: list[str]) -> dict[tuple[str, ...], Counts]:
    # In this thread alone, as above.
    positive = MARKED if MARKED in table.column_names else "reference"
    grouped = table.group_by(by, use_threads=False).aggregate(
        [("case", "count"), (positive, "sum"), ("patient", "count_distinct")]
    )
    return {
        tuple(row[name] for name in by): Counts(
            cases=row["case_count"],
            patients=row["patient_count_distinct"],
            positives=row[f"{positive}_sum"],
            negatives=row["case_count"] - row[f"{positive}_sum"],
        )
        for row in grouped.to_pylist()
    }
