"""Whether staged cases may be sealed: nothing outside the allow-list, nothing left to look at.

    >>> cleared = check_clear(open_staged(path))
    >>> cleared.reviewed, cleared.reviewers
    (12, ('A. Radiologist',))

Rules
-----
1. The folder holds what ingest writes and nothing else; its table the columns that ingest wrote,
   its blocks the contract's tensors; no file carries text of its own beside them.
2. An attribute's values are short words. What looks like a date, a name, an address, a number of
   a patient or a UID is refused, and so is an attribute that nearly tells the cases apart.
3. Each row of `review.csv` has the decision `keep` and the name of who decided. A case that is not
   to be kept is taken out of the source and ingested anew.
4. No message holds a value.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from registry.trust.errors import Invalid, Refused
from validators.cohort.ingest import KNOWN_COLUMNS, Staged
from validators.cohort.reference_masks import block_of, shapes_of
from validators.cohort.review import NAME, Row, digest_of_flags, read_review

_FILES = re.compile(
    r"cases\.parquet|meta\.json|quality\.(json|html)|(review|left_out|seen_before)\.csv|"
    r"(inputs|masks)-\d{5}\.safetensors"
)
_LONGEST = 64
_UNFIT = re.compile(
    r"\d{4}[-./]?[01]\d[-./]?[0-3]\d|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}"  # dates
    r"|\d{7,}|(\d+\.){4,}|\^|@|[\x00-\x1f\x7f]"  # numbers of people, UIDs, names, addresses
)
_MANY = 50


@dataclass(frozen=True)
class Cleared:
    """What was looked at, every row signed."""

    rows: tuple[Row, ...]

    @property
    def reviewed(self) -> int:
        """How many reasons."""
        return len(self.rows)

    @property
    def reviewers(self) -> tuple[str, ...]:
        """By whom."""
        return tuple(sorted({row.reviewer.strip() for row in self.rows}))


def check_clear(staged: Staged) -> Cleared:
    """Raise Refused unless the cases may be sealed; Invalid when the folder is damaged."""
    again = "run `touchstone cohort ingest` again"
    if not {"attributes", "tensors", "review"} <= set(staged.meta):
        raise Invalid(f"{staged.path} was staged by an older version; {again}")
    others = sorted(p.name for p in staged.path.iterdir() if not _FILES.fullmatch(p.name))
    if others:
        _refuse(f"the folder holds {len(others)} files that ingest did not write; {again}")
    raw = pq.read_schema(staged.path / "cases.parquet")
    if raw.metadata or any(field.metadata for field in raw):
        _refuse(f"cases.parquet carries text beside its columns; {again}")
    if set(raw.names) != {*KNOWN_COLUMNS, *staged.meta["attributes"]}:
        _refuse(f"cases.parquet has other columns than were kept at ingest; {again}")
    unfit = unfit_values(staged.table())
    if unfit:
        name, count = next(iter(unfit.items()))
        _refuse(
            f"the attribute {name} has {count} values that look like a date, a name or a number "
            "of a patient; group it, or ingest without it"
        )
    shapes = {name: shape for name, (_, shape) in staged.meta["tensors"].items()}
    for number, path in enumerate(staged.blocks()):
        _check_block(staged, number, path, shapes)
        if "structures" in staged.meta:
            _check_block(staged, number, block_of(staged, number), shapes_of(staged.meta))
    return _reviewed(staged)


def unfit_values(table: pa.Table) -> dict[str, int]:
    """How many cases have a value that must not be sealed, by attribute."""
    found = {}
    for name in table.column_names:
        if name in KNOWN_COLUMNS:
            continue
        cases = {of["values"]: of["counts"] for of in pc.value_counts(table[name]).to_pylist()}
        distinct = pa.array(list(cases), pa.string())
        is_id = {
            value
            for column in ("case", "patient")
            for value in table[column].filter(pc.is_in(table[column], distinct)).to_pylist()
        }
        count = sum(
            cases[v]
            for v in cases
            if len(v) > _LONGEST or v in is_id or _UNFIT.search(v) is not None
        )
        if not count and len(cases) > _MANY and len(cases) > len(table) / 2:
            count = len(table)
        if count:
            found[name] = count
    return found


def _check_block(staged: Staged, number: int, path: Path, expected: dict[str, Any]) -> None:
    rows = min(staged.block_size, staged.cases - number * staged.block_size)
    try:
        with safe_open(path, framework="numpy") as block:
            shapes = {n: block.get_slice(n).get_shape() for n in block.keys()}  # noqa: SIM118
            text = block.metadata()
    except (SafetensorError, OSError) as error:
        raise Invalid(
            f"{path} is missing or damaged; run `touchstone cohort ingest` again"
        ) from error
    if text or shapes != {n: [rows, *shape] for n, shape in expected.items()}:
        _refuse(f"{path.name} holds something other than the contract's tensors; ingest again")


def _reviewed(staged: Staged) -> Cleared:
    path, rows = staged.path / NAME, read_review(staged.path)
    if digest_of_flags(rows) != staged.meta["review"]:
        raise Refused(
            f"{path} does not hold the rows that ingest wrote; fill in `decision` and `reviewer` "
            "and leave the rest as it is",
            code="review_changed",
        )
    left = sum(not row.signed for row in rows)
    if left:
        raise Refused(
            f"{left} of {len(rows)} rows of {path} are not signed off: look at each case and "
            "write `keep` and your name, or take it out of the source and ingest again",
            code="not_reviewed",
        )
    return Cleared(rows)


def _refuse(reason: str) -> None:
    raise Refused(reason, code="not_deidentified")
