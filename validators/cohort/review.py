"""What a person must look at before cases are sealed, and that they did: `review.csv`.

    >>> rows, fell_away = carried(flags, read_review(before))

Rules
-----
1. A row is a flag (case, reason, digest) with a decision and a reviewer. The digest is over the
   case's id, the reason, its staged inputs and the cases that it was held against: a flag of other
   pixels is another flag.
2. When cases are ingested again, a row keeps its decision and reviewer where its flag is the same.
   How many signed rows fell away is counted.
3. Signed is a row with the decision `keep` and a name. What is sealed names a digest over all rows
   with decisions and reviewers, so that the stewards' signatures on the root cover it.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from registry.trust.canonical import digest_of
from registry.trust.errors import Invalid

NAME = "review.csv"
COLUMNS = ("case", "reason", "flag", "decision", "reviewer")


@dataclass(frozen=True, order=True)
class Row:
    """One flag, and what was decided."""

    case: str = field(repr=False)
    reason: str
    flag: str
    decision: str = ""
    reviewer: str = field(default="", repr=False)

    @property
    def signed(self) -> bool:
        """Whether somebody looked and said that the case stays."""
        return self.decision.strip() == "keep" and bool(self.reviewer.strip())


def flag_of(case: str, reason: str, inputs: str, against: Iterable[str] = ()) -> Row:
    """A flag that nobody looked at yet. inputs: the digest of the case's staged inputs."""
    return Row(case, reason, digest_of([case, reason, inputs, sorted(set(against))]))


def read_review(folder: Path) -> tuple[Row, ...]:
    """The rows in the folder; none without a file. Raises Invalid where it can't be read.

    Rows that an older version wrote have no flag, so they are like no other.
    """
    path = folder / NAME
    if not path.exists():
        return ()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return tuple(
                Row(
                    row["case"] or "", row["reason"] or "", *(row.get(n) or "" for n in COLUMNS[2:])
                )
                for row in csv.DictReader(stream)
            )
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise Invalid(
            f"{path} can't be read; fill in its last two columns alone, and keep its commas"
        ) from error


def review_bytes(rows: Iterable[Row]) -> bytes:
    """The file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def digest_of_flags(rows: Iterable[Row]) -> str:
    """What no row can be taken from or put to without a change."""
    return digest_of(sorted([row.case, row.reason, row.flag] for row in rows))


def digest_of_review(rows: Iterable[Row], salt: str) -> str:
    """The digest of flags, decisions and reviewers. salt: a secret, for ids can be guessed."""
    return digest_of([salt, sorted(list(astuple(row)) for row in rows)])


def carried(flags: Sequence[Row], before: Sequence[Row]) -> tuple[list[Row], int]:
    """The flags with what was decided on them before, and how many signed rows have none now."""
    known = {(row.case, row.reason, row.flag): row for row in before}
    rows = [known.pop((row.case, row.reason, row.flag), row) for row in flags]
    return rows, sum(row.signed for row in known.values())
