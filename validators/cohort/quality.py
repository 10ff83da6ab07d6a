"""The quality report of staged cases: what is missing, doubtful or there twice.

    >>> write_quality(staged, table, meta, source, outcome)      # done by every ingest
    >>> read_quality(staged)["review"]
    {'a face may be shown': 12}

Rules
-----
1. `quality.json` and `quality.html` hold counts alone, no id. `left_out.csv` (file or case, reason)
   and `review.csv` (case, reason, decision, reviewer) name cases by the source's ids, for the
   facility's people; both are there only when they have a row.
2. What needs a look is in `review.csv`, and the digest of its cases and reasons in `meta.json`:
   no row can be lost before sealing.
3. Cases with the same pixels need a look; pictures that look alike are counted. Against another
   cohort both are found by `touchstone cohort leakage`.
4. The same staged cases give the same report.
"""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from registry.trust.canonical import canonical, digest_of
from registry.trust.errors import Invalid
from validators.cohort.clearance import unfit_values
from validators.cohort.ingest import KNOWN_COLUMNS, Staged
from validators.cohort.kept import UNKNOWN
from validators.cohort.pieces import Outcome, write_whole
from validators.cohort.quality_page import quality_page
from validators.cohort.reference_masks import masks_report
from validators.cohort.source import Source
from validators.leakage.perceptual import near_duplicates, perceptual_hash, picture_of
from validators.leakage.pixels import exact_duplicates, is_flat, pixel_digest

SAME_PIXELS = "it has the same pixels as another case"
FLAT = "its image is one constant value"
SMALL = 10
"""Positives or negatives below which a subgroup says little."""


def write_quality(
    staged: Staged, table: pa.Table, meta: dict[str, Any], source: Source, outcome: Outcome
) -> None:
    """Write the report into `staged`, whose blocks are there; adds `review` to `meta`."""
    review: dict[int, list[str]] = defaultdict(list)
    notes: Counter[str] = Counter(dict(source.notes))
    for row, position in enumerate(outcome.kept):
        review[row].extend(outcome.review.get(position, ()))
        notes.update(outcome.notes.get(position, ()))
    duplicates = _duplicates(staged, meta, review) if source.decodes else None
    names = table["case"].to_pylist()
    rows = sorted((names[row], reason) for row, of in review.items() for reason in set(of))
    report = {
        "schema_id": "touchstone/quality/v1",
        "cases": meta["cases"],
        "patients": meta["patients"],
        "positives": meta["positives"],
        "negatives": meta["negatives"],
        "left_out": meta["case_flow"],
        "noted": dict(sorted(notes.items())),
        "review": dict(sorted(Counter(reason for _, reason in rows).items())),
        "duplicates": duplicates,
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
        data = _table(("case", "reason", "decision", "reviewer"), [(*r, "", "") for r in rows])
        write_whole(staged.path / "review.csv", data)
    meta["review"] = digest_of([list(row) for row in rows])
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


def _duplicates(
    staged: Staged, meta: dict[str, Any], review: dict[int, list[str]]
) -> dict[str, int]:
    rows, digests, hashes = [], [], []
    row = 0
    for number in range(-(-meta["cases"] // meta["block"])):
        arrays = load_file(staged.block(number))
        images = [of for _, of in sorted(arrays.items()) if of.ndim in (4, 5)]
        for place in range(len(next(iter(arrays.values())))):
            if images and is_flat(images[0][place]):
                review[row].append(FLAT)
            elif images:
                rows.append(row)
                digests.append(pixel_digest(images[0][place]))
                if min(images[0].shape[-2:]) >= 2:
                    hashes.append(perceptual_hash(picture_of(images[0][place])))
            row += 1
    exact = exact_duplicates(digests)
    for first, second in exact.pairs_within:
        for place in (first, second):
            review[rows[place]].append(SAME_PIXELS)
    known = np.array([bits for bits in hashes if bits is not None], dtype=np.uint64)
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
