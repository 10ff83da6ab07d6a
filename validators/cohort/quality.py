"""The quality report of staged cases: what is missing, doubtful or there twice.

    >>> write_quality(staged, table, meta, source, outcome)      # done by every ingest
    >>> read_quality(staged)["review"]
    {'a face may be shown': 12}

Rules
-----
1. `quality.json` and `quality.html` hold counts alone, no id. `left_out.csv` (file or case,
   reason), `review.csv` (`validators.cohort.review`) and `seen_before.csv` name cases by the
   source's ids, for the facility's people; each is there only when it has a row.
2. What needs a look is in `review.csv`, and the digest of its flags in `meta.json`: no row can be
   lost before sealing.
3. Cases with the same pixels need a look; pictures that look alike are counted. On the facility's
   machine, patients, pixels and look-alikes that lie in a cohort that was sealed here are counted
   by cohort and named in `seen_before.csv` (`validators.leakage.seen`).
4. The same staged cases give the same report, but for the count of sign-offs that were kept.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from registry.trust.canonical import canonical
from registry.trust.errors import Invalid
from validators.cohort.clearance import unfit_values
from validators.cohort.contents import input_digests
from validators.cohort.ingest import KNOWN_COLUMNS, Staged
from validators.cohort.kept import UNKNOWN
from validators.cohort.pieces import Outcome, write_whole
from validators.cohort.quality_page import quality_page
from validators.cohort.reference_masks import masks_report
from validators.cohort.review import (
    NAME,
    Row,
    carried,
    digest_of_flags,
    flag_of,
    review_bytes,
)
from validators.cohort.source import Source
from validators.leakage.links import links_of
from validators.leakage.perceptual import near_duplicates
from validators.leakage.pictures import Pictures, pictures_of
from validators.leakage.pixels import exact_duplicates
from validators.leakage.seen import COLUMNS, Known, seen_before

SAME_PIXELS = "it has the same pixels as another case"
FLAT = "its image is one constant value"
Reasons = dict[tuple[int, str], list[int]]
"""Row and reason of what needs a look, and the rows that it was held against."""
SMALL = 10
"""Positives or negatives below which a subgroup says little."""


def write_quality(
    staged: Staged, table: pa.Table, meta: dict[str, Any], source: Source, outcome: Outcome,
    before: Sequence[Row] = (), known: Known | None = None,
) -> None:  # fmt: skip
    """Write the report into `staged`, whose blocks are there; adds `review` to `meta`.

    before: the review of the staged cases that these take the place of. known: what the facility
    has sealed; without it the cases are held against nothing else.
    """
    review: Reasons = {}
    notes: Counter[str] = Counter(dict(source.notes))
    for row, position in enumerate(outcome.kept):
        for reason in outcome.review.get(position, ()):
            review[(row, reason)] = []
        notes.update(outcome.notes.get(position, ()))
    duplicates, seen = None, None
    names, patients = table["case"].to_pylist(), table["patient"].to_pylist()
    if source.decodes or known:
        pictures = pictures_of([staged.block(n) for n in range(-(-meta["cases"] // meta["block"]))])
        if source.decodes:
            duplicates = _duplicates(pictures, review)
        if known:
            seen = seen_before(links_of(known.index.key, patients, pictures), known)
    rows, fell_away = carried(_flags(staged, meta["block"], names, review), before)
    report = {
        "schema_id": "touchstone/quality/v1",
        "cases": meta["cases"],
        "patients": meta["patients"],
        "positives": meta["positives"],
        "negatives": meta["negatives"],
        "left_out": meta["case_flow"],
        "noted": dict(sorted(notes.items())),
        "review": dict(sorted(Counter(row.reason for row in rows).items())),
        "signed_off": {"kept": sum(row.signed for row in rows), "fell_away": fell_away},
        "duplicates": duplicates,
        "seen_before": None if seen is None else seen.report(),
        "attributes": _attributes(table),
        **masks_report(staged, meta),
        "outside_the_allow_list": unfit_values(table),
    }
    left_out = [*source.left_out, *(
        (source.cases[position].case, reason) for position, reason in outcome.refused.items()
    )]  # fmt: skip
    if left_out:
        data = _table(("file or case", "reason"), left_out)
        write_whole(staged.path / "left_out.csv", data)
    if rows:
        write_whole(staged.path / NAME, review_bytes(rows))
    if seen is not None and (found := seen.rows(names, patients)):
        write_whole(staged.path / "seen_before.csv", _table(COLUMNS, found))
    meta["review"] = digest_of_flags(rows)
    write_whole(staged.path / "quality.json", canonical(report))
    write_whole(staged.path / "quality.html", quality_page(meta["title"], report).encode())


def read_quality(staged: Staged) -> dict[str, Any]:
    """The report. Raises Invalid when the folder has none."""
    try:
        value: dict[str, Any] = json.loads((staged.path / "quality.json").read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{staged.path} has no quality report; run `touchstone cohort ingest` again"
        ) from error
    return value


def _flags(staged: Staged, size: int, names: list[str], review: Reasons) -> list[Row]:
    """Each flag, bound to the inputs of its case, in the order of cases and reasons."""
    digests: dict[int, str] = {}
    for number, rows in groupby(sorted({row for row, _ in review}), lambda row: row // size):
        arrays = load_file(staged.block(number))
        for row in rows:
            of_row = {n: array[row % size : row % size + 1] for n, array in arrays.items()}
            (digests[row],) = input_digests(of_row)
    return sorted(
        flag_of(names[row], reason, digests[row], (names[other] for other in others))
        for (row, reason), others in review.items()
    )


def _duplicates(pictures: Pictures, review: Reasons) -> dict[str, int]:
    for row in pictures.flat:
        review[(row, FLAT)] = []
    rows = [row for row, digest in enumerate(pictures.digests) if digest is not None]
    exact = exact_duplicates([digest for digest in pictures.digests if digest is not None])
    for pair in exact.pairs_within:
        for place, other in (pair, pair[::-1]):
            review.setdefault((rows[place], SAME_PIXELS), []).append(rows[other])
    known = np.array([bits for bits in pictures.hashes if bits is not None], dtype=np.uint64)
    return {"same_pixels": exact.within, "pairs_that_look_alike": near_duplicates(known).within}


def _attributes(table: pa.Table) -> dict[str, Any]:
    positive = np.array(table["reference"].to_pylist()) == 1
    unfit = unfit_values(table)
    found: dict[str, Any] = {}
    for name in table.column_names:
        if name in KNOWN_COLUMNS or name in unfit:
            continue
        values = np.array(table[name].to_pylist(), dtype=object)
        groups = {}
        for value in sorted(set(values)):
            of = values == value
            cases, positives = int(of.sum()), int((of & positive).sum())
            groups[value] = {
                "cases": cases, "positives": positives, "negatives": cases - positives,
                "small": min(positives, cases - positives) < SMALL,
            }  # fmt: skip
        known = int((values != UNKNOWN).sum())
        found[name] = {"known": known, "unknown": len(values) - known, "groups": groups}
    return found


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
