"""The plain bytes inside sealed objects: a shard of inputs, the table of reference standards.

Rules
-----
1. A shard is safetensors: the tensors of its cases, row by row, and their pseudonyms.
2. The table is Parquet: case, patient, reference, one column an attribute, and the salt of the
   case's digest. Its rows are in the order of the shards. Where masks are the reference standard,
   `reference` is the digest of each (`validators.cohort.reference_masks`).
3. Neither holds an id of the source: pseudonyms are HMAC-SHA-256 under the cohort's names key.
"""

import hashlib
import hmac
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from registry.trust.canonical import canonical
from registry.trust.errors import Tampered
from validators.cohort.keys import NamesKey
from validators.cohort.manifest import Counts

_CASES = "case pseudonyms"
"""Has a space, which no tensor's name in a contract may have."""
_PSEUDONYM = 16
SALT = "salt"
MARKED = "any structure marked"
"""Of a cohort of masks, whose reference standard is a digest: 1 where the mask is not empty."""


@dataclass(frozen=True)
class Shard:
    """Some cases and their inputs, row by row. `index` is the shard's place in the cohort."""

    index: int
    cases: tuple[str, ...] = field(repr=False)
    inputs: dict[str, NDArray[Any]] = field(repr=False)


def pseudonym(key: NamesKey, kind: str, name: str) -> str:
    """32 hex digits that stand for a case or patient in this cohort version alone."""
    secret = key.derive("pseudonym", kind)
    return hmac.new(secret, name.encode(), hashlib.sha256).hexdigest()[: 2 * _PSEUDONYM]


def salt_of(key: NamesKey, case: str) -> str:
    """The salt of a case's digest: 64 hex digits."""
    return hmac.new(key.derive("salt"), case.encode(), hashlib.sha256).hexdigest()


def input_digests(inputs: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """For each row, the digest over all its tensors: names, types, shapes and bytes."""
    names = sorted(inputs)
    rows = len(inputs[names[0]])
    shape = canonical([[n, str(inputs[n].dtype), list(inputs[n].shape[1:])] for n in names])
    for row in range(rows):
        digest = hashlib.sha256(shape)
        for name in names:
            digest.update(np.ascontiguousarray(inputs[name][row]).tobytes())
        yield "sha256:" + digest.hexdigest()


def shard_bytes(cases: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """A shard's plain bytes."""
    raw = np.frombuffer(bytes.fromhex("".join(cases)), dtype=np.uint8)
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    return bytes(save(arrays | {_CASES: raw.reshape(len(cases), _PSEUDONYM)}))


def parse_shard(index: int, path: str, plain: bytes) -> Shard:
    """The shard in plain bytes; Tampered when they are none, or rows and cases do not match."""
    try:
        arrays = load(plain)
        raw = arrays.pop(_CASES)
    except (SafetensorError, KeyError) as error:
        raise Tampered(f"{path} holds no shard of inputs") from error
    cases = tuple(row.tobytes().hex() for row in raw)
    if not arrays or any(len(array) != len(cases) for array in arrays.values()):
        raise Tampered(f"{path} has inputs that do not belong to its cases")
    return Shard(index, cases, arrays)


def table_bytes(table: pa.Table) -> bytes:
    """The table's plain bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def parse_table(path: str, plain: bytes) -> pa.Table:
    """The table in plain bytes; Tampered when they are none."""
    try:
        # In this thread alone: a command that ends at once would be aborted by pyarrow's others.
        return pq.ParquetFile(io.BytesIO(plain)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise Tampered(f"{path} holds no table of reference standards") from error


def attributes_of(table: pa.Table) -> list[str]:
    """The names of the table's attributes."""
    known = {"case", "patient", "reference", SALT, MARKED}
    return [name for name in table.column_names if name not in known]


def counts_of(table: pa.Table) -> tuple[Counts, dict[str, dict[str, Counts]]]:
    """Counts of the whole table, and of every group of every attribute.

    Where masks are the reference standard, a case is positive if its mask is not empty.
    """
    reference = table[MARKED if MARKED in table.column_names else "reference"].to_numpy()
    patients = np.array(table["patient"].to_pylist(), dtype=object)

    def counted(rows: NDArray[np.bool_]) -> Counts:
        positives = int(reference[rows].sum())
        cases = int(rows.sum())
        return Counts(
            cases=cases,
            patients=len(set(patients[rows])),
            positives=positives,
            negatives=cases - positives,
        )

    everything = counted(np.ones(len(reference), dtype=bool))
    groups: dict[str, dict[str, Counts]] = {}
    for attribute in attributes_of(table):
        values = np.array(table[attribute].to_pylist(), dtype=object)
        groups[attribute] = {
            group: counted(np.asarray(values == group)) for group in sorted(set(values))
        }
    return everything, groups
