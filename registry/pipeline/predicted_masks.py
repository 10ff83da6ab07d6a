"""Predicted masks between the run, which writes them, and the assess step, which reads them.

Rules
-----
1. A part is the masks of one shard, compressed, under its digest. The file of predictions lists
   case, failure and part; its digest, which the run writes down, so binds every mask.
2. A part is read by the digest that the list has; another one in its place is Tampered.
3. Reference and predicted masks are read side by side, a shard of each in memory, and compared case
   by case. Cases must be the same in the same order. No image is read here.
"""

import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from registry.pipeline.predictions import patient_codes
from registry.storage.store import ObjectStore
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
from registry.trust.errors import Tampered
from serving.answering import Answers
from validators.cohort.contents import parse_shard, shard_bytes
from validators.cohort.keys import ReferenceKey
from validators.cohort.manifest import Manifest
from validators.cohort.reference_masks import LABELS, stream_masks
from validators.metrics.segmentation_table import KINDS, SegmentationTable, segmentation_row
from validators.protocol.schema import Protocol

_LEVEL = 1
"""Of zlib: masks are mostly runs of one number."""
_KNOWN = ("case", "patient", "reference")


def listed(store: ObjectStore, submission: str, answers: Sequence[Answers]) -> bytes:
    """Keep the masks of some shards; the list of case, failure and object, as Parquet."""
    import pyarrow as pa

    cases: list[str] = []
    failures: list[str] = []
    parts: list[str] = []
    for of in answers:
        data = zlib.compress(shard_bytes(of.cases, {LABELS: of.values}), _LEVEL)
        digest = sha256_bytes(data)
        store.put(places.predicted_masks(submission, digest), data)
        cases += of.cases
        failures += [code or "" for code in of.failures]
        parts += [digest] * len(of.cases)
    return _file(pa.table({"case": cases, "failure": failures, "part": parts}))


def joined_lists(files: Iterable[bytes]) -> bytes:
    """One list of several, one after another."""
    import pyarrow as pa

    from validators.parquet import table_of

    return _file(pa.concat_tables(table_of(data) for data in files))


def _file(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()


def stored_masks(store: ObjectStore, submission: str, listed: bytes) -> Iterator[Answers]:
    """What was answered, part by part, in the order of the list. Raises Tampered."""
    from validators.parquet import table_of

    table = table_of(listed)
    columns = {name: table[name].to_pylist() for name in ("case", "failure", "part")}
    first = 0
    for index, (digest, group) in enumerate(groupby(columns["part"])):
        rows = range(first, first := first + sum(1 for _ in group))
        path = places.predicted_masks(submission, digest)
        data = store.get(path)
        if sha256_bytes(data) != digest:
            raise Tampered(f"{path} is not what the run wrote")
        shard = parse_shard(index, path, zlib.decompress(data))
        if list(shard.cases) != [columns["case"][row] for row in rows]:
            raise Tampered(f"{path} has other cases than its list")
        failures = tuple(columns["failure"][row] or None for row in rows)
        yield Answers(shard.cases, shard.inputs[LABELS], failures)


def segmentation_table(
    store: ObjectStore, submission: str, listed: bytes, reference: Any, protocol: Protocol,
    manifest: Manifest, key: ReferenceKey,
) -> SegmentationTable:  # fmt: skip
    """Predicted masks against the reference masks, case by case; Tampered unless they match."""
    import numpy as np

    settings = protocol.segmentation
    assert settings is not None, "the protocol's own check"
    labels = {of.name: manifest.structures[of.name] for of in settings.structures}
    rows: list[dict[str, float]] = []
    cases, codes = [], []
    predicted = _one_by_one(stored_masks(store, submission, listed))
    for shard in stream_masks(manifest, store, key):
        for case, truth, spacing in zip(shard.cases, shard.labels, shard.spacing, strict=True):
            named, code, found = next(predicted, ("", None, truth))
            if named != case or found.size != truth.size:
                raise Tampered("the predicted masks are not of the cases of this cohort")
            found = found.reshape(truth.shape)  # without the axis of one channel, if it has one
            cases.append(case)
            codes.append(code)
            if code is not None:
                rows.append({})
                continue
            rows.append(segmentation_row(
                {name: np.asarray(truth == label) for name, label in labels.items()},
                {name: np.asarray(found == label) for name, label in labels.items()},
                tuple(float(step) for step in spacing), settings,
            ))  # fmt: skip
    if next(predicted, None) is not None or cases != reference["case"].to_pylist():
        raise Tampered("the predicted masks are not of the cases of this cohort")
    failures = [code for code in codes if code]
    names = [f"{kind}_{name}" for name in labels for kind in KINDS]
    return SegmentationTable(
        values={name: np.array([row.get(name, np.nan) for row in rows]) for name in names},
        patient=patient_codes(reference) if protocol.cluster else None,
        attributes={
            name: np.array(reference[name].to_pylist(), dtype=str)
            for name in reference.column_names
            if name not in _KNOWN
        },
        failed_by_code={code: failures.count(code) for code in sorted(set(failures))},
        excluded=dict(manifest.case_flow),
    )


def _one_by_one(parts: Iterator[Answers]) -> Iterator[tuple[str, str | None, Any]]:
    for part in parts:
        yield from zip(part.cases, part.failures, part.values, strict=True)
