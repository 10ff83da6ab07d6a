"""What became of the cases: the reference standard once it is there, and groups of the patients.

    >>> take_outcomes(state, certified, Path("outcomes.csv"))
    Taken(rows=212, references=205, attributes=('sex',))

    case,reference,patient,sex
    ACC-2026-00017,1,P-0042,F

Rules
-----
1. `case` and `reference` (0 or 1, or empty: not known yet) are needed; `patient` is the hospital's
   id of the patient. Both ids are hashed before anything is written; the file itself stays where
   it is, and is the hospital's to delete.
2. Of other columns only those are taken that are attributes of the certified summary, and of their
   values only its categories; any other value becomes `(others)`, an empty one is not known. So no
   free text and no birth date reaches the disk by mistake.
3. Rows are appended. Sequential tests use the first outcome of a case, so that nothing that was
   looked at can be changed afterwards; figures use the last one, so that corrections count.
"""

import datetime as dt
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.trust.errors import Invalid
from serving.pilot import day_files
from serving.pilot.certified import Certified
from serving.pilot.pseudonym import open_pseudonyms

OUTCOMES: Final = "outcomes"
OTHERS: Final = "(others)"
_REFERENCES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": None}


@dataclass(frozen=True)
class Taken:
    """What was taken of a file. left_out: columns that are no attribute of the summary."""

    rows: int
    references: int
    attributes: tuple[str, ...]
    left_out: tuple[str, ...]


def take_outcomes(state: Path, certified: Certified, file: Path, now: dt.datetime) -> Taken:
    """Append the outcomes in a CSV or Parquet file. Raises Invalid, and then took nothing."""
    import pyarrow as pa

    from validators.table_file import open_table

    table = open_table(file)
    for needed in ("case", "reference"):
        if needed not in table.names:
            # Without a header the first row's ids stand where the names should be.
            raise Invalid(f"{file.name} needs a column {needed!r} in its header line")
    known = certified.summary.attributes
    attributes = tuple(name for name in table.names if name in known)
    wanted = [name for name in ("case", "reference", "patient", *attributes) if name in table.names]
    columns = {
        name: of.to_pylist() for name, of in table.read({of: of for of in wanted}).items()
    }  # fmt: skip
    cases = columns["case"]
    _check(file, cases, columns["reference"])
    names = open_pseudonyms(state)
    patients = columns.get("patient") or [""] * len(cases)
    rows = [
        {
            "id": secrets.token_hex(16),
            "moment": now.astimezone(dt.UTC),
            "case": names.of_case(case),
            "patient": names.of_patient(patient) if patient.strip() else None,
            "reference": _REFERENCES[reference.strip()],
            "attributes": [
                (of, columns[of][at] if columns[of][at] in known[of] else OTHERS)
                for of in attributes
                if columns[of][at].strip()
            ],
        }
        for at, (case, patient, reference) in enumerate(
            zip(cases, patients, columns["reference"], strict=True)
        )
    ]
    day_files.append(
        state / OUTCOMES, day_files.day_of(now), pa.Table.from_pylist(rows, outcome_schema())
    )
    return Taken(
        rows=len(rows),
        references=sum(row["reference"] is not None for row in rows),
        attributes=attributes,
        left_out=tuple(name for name in table.names if name not in wanted),
    )


def outcome_schema() -> Any:
    """The columns of a file of outcomes."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("moment", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("case", pa.string(), nullable=False),
            ("patient", pa.string()),
            ("reference", pa.int8()),
            ("attributes", pa.map_(pa.string(), pa.string())),
        ]
    )


def _check(file: Path, cases: list[str], references: list[str]) -> None:
    if empty := sum(not of.strip() for of in cases):
        raise Invalid(f"{file.name}: {empty} rows have no case")
    if twice := len(cases) - len({of.strip() for of in cases}):
        raise Invalid(f"{file.name}: {twice} rows name a case that another row names; keep one")
    if odd := sum(of.strip() not in _REFERENCES for of in references):
        raise Invalid(f"{file.name}: the reference is neither 0, 1 nor empty in {odd} rows")
