"""Masks as the reference standard of a cohort: staged, sealed, read and checked.

    >>> for shard in stream_masks(manifest, store, reference_key):
    ...     shard.labels.shape, shard.spacing.shape

Rules
-----
1. Staged masks stand beside the inputs: `masks-00000.safetensors` … with the blocks' cases.
2. Sealed masks are objects of their own (kind `reference-masks`) under the reference key; who runs
   a model never holds one. Their rows are in the order of the cases; each case has its labels
   (uint8 on the grid of its image) and its spacing (mm along each axis, float64).
3. The table's `reference` is the digest of labels and spacing, so the digest of a case binds its
   mask: two masks exchanged give another root.
4. A case is positive where its mask marks at least one voxel of any structure. The table says so in
   a column of its own, which `check_masks` computes anew.
5. One shard is in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from registry.trust.errors import Invalid, Tampered
from validators.cohort.contents import MARKED, input_digests, parse_shard, shard_bytes
from validators.cohort.envelope import Buffer, decrypt
from validators.cohort.keys import ReferenceKey
from validators.cohort.manifest import Manifest, ObjectKind, SealedObject, mask_path
from validators.cohort.objects import ObjectReader
from validators.cohort.source import Case
from validators.cohort.stream import check_key, read_sealed
from validators.contract.reference import grid_of
from validators.contract.schema import Contract

if TYPE_CHECKING:
    from validators.cohort.ingest import Staged

LABELS = "reference labels"
SPACING = "reference spacing"
"""Names with a space, which no tensor's name in a contract may have."""
NOTHING = "no structure: the mask is empty"
Put = Callable[[str, ObjectKind, int, Buffer], SealedObject]


@dataclass(frozen=True)
class MaskShard:
    """Some cases' masks, row by row: labels [cases, *grid], spacing [cases, axes of the grid]."""

    path: str
    cases: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.uint8] = field(repr=False)
    spacing: NDArray[np.float64] = field(repr=False)

    def digests(self) -> Iterator[str]:
        """For each case the digest of its labels and spacing: its reference standard."""
        return input_digests({LABELS: self.labels, SPACING: self.spacing})


def check_reference(reference: Mapping[str, NDArray[Any]] | None, contract: Contract) -> None:
    """Raise Invalid unless one case's reference standard is of the kind that the contract says."""
    asked = contract.reference
    if (asked is None) != (reference is None):
        raise Invalid(
            f"the contract {contract.id} takes masks as the reference standard, and this source "
            "has none"
        )
    if asked is None or reference is None:
        return
    grid = _grid(contract)
    labels, spacing = reference[LABELS], reference[SPACING]
    if labels.dtype != np.uint8 or labels.shape != grid or spacing.shape != (len(grid),):
        raise Invalid(f"the reference mask of a case is not on the grid {list(grid)}")
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise Invalid("the spacing of a reference mask is not above 0 mm")


def stacked(references: Sequence[Mapping[str, NDArray[Any]] | None]) -> dict[str, NDArray[Any]]:
    """Labels and spacing of some cases, row by row; nothing where they have no masks."""
    given = [reference for reference in references if reference is not None]
    names = (LABELS, SPACING) if given else ()
    return {name: np.stack([of[name] for of in given]) for name in names}


def split_masks(
    arrays: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The inputs among some cases' tensors, and their masks; none where they have no masks."""
    masks = {name: arrays[name] for name in (LABELS, SPACING) if name in arrays}
    return {name: array for name, array in arrays.items() if name not in masks}, masks


def block_of(staged: "Staged", number: int) -> Path:
    """The staged masks of the cases of a block."""
    return staged.path / f"masks-{number:05d}.safetensors"


def with_presence(cases: Sequence[Case], staged: "Staged", size: int) -> list[Case]:
    """The same cases, `reference` 1 where the staged mask marks something."""
    made = []
    for number in range(-(-len(cases) // size)):
        here = cases[number * size : (number + 1) * size]
        labels = _read_block(block_of(staged, number), np.arange(len(here)))[LABELS]
        made += [
            replace(case, reference=int(of.any())) for case, of in zip(here, labels, strict=True)
        ]
    return made


def masks_report(staged: "Staged", meta: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What a quality report says of the masks: cases of each structure, and of none."""
    structures: Mapping[str, int] = meta.get("structures", {})
    if not structures:
        return {}
    counts = dict.fromkeys(structures, 0) | {NOTHING: 0}
    size = meta["block"]
    for number in range(-(-meta["cases"] // size)):
        rows = np.arange(min(size, meta["cases"] - number * size))
        for labels in _read_block(block_of(staged, number), rows)[LABELS]:
            present = set(np.unique(labels).tolist())
            for name, label in structures.items():
                counts[name] += label in present
            counts[NOTHING] += present == {0}
    return {"masks": counts}


def shapes_of(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shapes of one case's staged labels and spacing."""
    return {LABELS: list(meta["grid"]), SPACING: [len(meta["grid"])]}


def said_of_masks(contract: Contract) -> dict[str, Any]:
    """What the staging folder says of masks; nothing where the reference standard is a class."""
    asked = contract.reference
    if asked is None:
        return {}
    return {"structures": dict(asked.structures), "grid": list(_grid(contract))}


def seal_masks(
    staged: "Staged", table: pa.Table, origin: NDArray[np.int64], step: int, put: Put, *,
    cohort: str, version: str,
) -> tuple[pa.Table, list[SealedObject]]:  # fmt: skip
    """Seal the masks of the staged rows `origin`, `step` cases an object.

    Returns the table with each mask's digest as its reference, and the objects; the table as it is
    and none where the cohort has no masks. Raises Invalid for a damaged staging folder.
    """
    if "structures" not in staged.meta:
        return table, []
    objects, digests, marked = [], [], []
    names, size = table["case"].to_pylist(), staged.block_size
    for number, start in enumerate(range(0, len(origin), step)):
        rows = origin[start : start + step]
        arrays: dict[str, NDArray[Any]] = {}
        for block in np.unique(rows // size):
            places = np.flatnonzero(rows // size == block)
            for name, part in _read_block(
                block_of(staged, int(block)), rows[places] % size
            ).items():
                arrays.setdefault(name, np.empty((len(rows), *part.shape[1:]), part.dtype))
                arrays[name][places] = part
        shard = _shard(mask_path(cohort, version, number), names[start : start + step], arrays)
        digests += list(shard.digests())
        marked += [int(labels.any()) for labels in shard.labels]
        plain = shard_bytes(shard.cases, {LABELS: shard.labels, SPACING: shard.spacing})
        objects.append(put(shard.path, "reference-masks", len(rows), plain))
    return _with_digests(table, digests, marked), objects


def keep_masks(
    old: Manifest, reader: ObjectReader, old_key: ReferenceKey, kept: Sequence[bool], put: Put, *,
    cohort: str, version: str,
) -> list[SealedObject]:  # fmt: skip
    """Seal those masks of a sealed cohort again whose case is `kept`, in their order."""
    objects: list[SealedObject] = []
    first = 0
    for shard in stream_masks(old, reader, old_key):
        here = np.array(kept[first : first + len(shard.cases)])
        first += len(shard.cases)
        cases = [case for case, stays in zip(shard.cases, here, strict=True) if stays]
        if cases:
            plain = shard_bytes(cases, {LABELS: shard.labels[here], SPACING: shard.spacing[here]})
            path = mask_path(cohort, version, len(objects))
            objects.append(put(path, "reference-masks", len(cases), plain))
    return objects


def stream_masks(
    manifest: Manifest, reader: ObjectReader, reference_key: ReferenceKey
) -> Iterator[MaskShard]:
    """Yield the cohort's reference masks, shard by shard, in the order of its cases.

    Raises Tampered naming the object that is missing or changed, Refused for the wrong key.
    """
    check_key(manifest, reference_key, ReferenceKey, manifest.keys.reference)
    for index, entry in enumerate(manifest.masks):
        plain = decrypt(reference_key, entry.path, entry.plain_sha256, read_sealed(entry, reader))
        shard = parse_shard(index, entry.path, plain)
        if set(shard.inputs) != {LABELS, SPACING} or len(shard.cases) != entry.cases:
            raise Tampered(f"{entry.path} does not hold the {entry.cases} masks of the manifest")
        yield _shard(entry.path, shard.cases, shard.inputs)


def check_masks(
    manifest: Manifest, reader: ObjectReader, reference_key: ReferenceKey,
    table: pa.Table,
) -> None:  # fmt: skip
    """Raise Tampered, naming the object, unless each row of the table has the mask it names."""
    first = 0
    for shard in stream_masks(manifest, reader, reference_key):
        of = table.slice(first, len(shard.cases)).select(["case", "reference", MARKED]).to_pylist()
        first += len(shard.cases)
        for case, labels, digest, row in zip(
            shard.cases, shard.labels, shard.digests(), of, strict=True
        ):
            if (case, digest, int(labels.any())) != (row["case"], row["reference"], row[MARKED]):
                raise Tampered(
                    f"a mask of {shard.path} is not the one that was sealed for its case: masks "
                    "were exchanged or changed"
                )


def _grid(contract: Contract) -> tuple[int, ...]:
    asked = contract.reference
    assert asked is not None
    return grid_of(next(t for t in contract.inputs if t.name == asked.grid_of))


def _shard(path: str, cases: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> MaskShard:
    return MaskShard(path, tuple(cases), arrays[LABELS], arrays[SPACING])


def _with_digests(table: pa.Table, digests: list[str], marked: list[int]) -> pa.Table:
    place = table.column_names.index("reference")
    table = table.set_column(place, "reference", pa.array(digests, pa.string()))
    return table.append_column(MARKED, pa.array(marked, pa.int8()))


def _read_block(path: Path, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as block:
            parts = {name: block.get_slice(name) for name in (LABELS, SPACING)}
            return {name: np.stack([of[int(row)] for row in rows]) for name, of in parts.items()}
    except (SafetensorError, OSError, ValueError, IndexError) as error:
        raise Invalid(
            f"{path} is missing or damaged; run `touchstone cohort ingest` again"
        ) from error
